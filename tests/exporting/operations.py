"""Models of which each signature uses some operations on rows of images, by whether the native codec takes their twins."""

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tests.exporting.odd import function, save

IMAGES = {  # every shape follows from the inputs' shapes, as it does in ROWS
    "convolutions": lambda x: tf.nn.depthwise_conv2d(conv(x, 3, 4), weights(2, 2, 4, 2), [1, 1, 1, 1], "SAME"),
    "pooling": lambda x: tf.nn.avg_pool2d(tf.nn.max_pool2d(conv(x, 1, 3), 2, 2, "SAME"), 2, 1, "VALID"),
    "padded": lambda x: tf.pad(x, [[0, 0], [1, 2], [0, 1], [0, 0]], constant_values=0.5),
    "mirrored": lambda x: tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], "REFLECT"),
    "resized": lambda x: tf.image.resize(x, [3, 7]),
    "nearest": lambda x: tf.image.resize(x, [8, 2], method="nearest"),
    "sliced": lambda x: tf.concat([x[:, 1:, ::2], x[:, :3, 1::2]], axis=3),
    "split": lambda x: tf.math.add_n(tf.split(x, 2, axis=3)),
    "deep": lambda x: tf.nn.depth_to_space(tf.nn.space_to_depth(x, 2), 2),
}
ROWS = {
    "dense": lambda x: tf.nn.softmax(tf.matmul(tf.reshape(x, [-1, 32]), weights(32, 5))),
    "flattened": lambda x: tf.reshape(x, tf.stack([tf.shape(x)[0], 4, 8])),
    "transposed": lambda x: tf.reshape(tf.transpose(x, [0, 2, 1, 3]), [-1, 32]),
    "reduced": lambda x: tf.stack([tf.reduce_mean(x, [1, 2, 3]), tf.reduce_max(x, [1, 2, 3])], axis=1),
    "chosen": lambda x: tf.gather(weights(3, 2), tf.cast(tf.argmax(x[:, 0, :, 0], axis=1) % 3, tf.int32)),
    "looked_up": lambda ids: tf.gather(weights(3, 2), ids),
    "compared": lambda x: tf.where(x > 0.5, tf.abs(x), tf.maximum(-x, 0.1)),
    "counted": lambda x: tf.cast(tf.argmax(tf.reshape(x, [-1, 32]), axis=1), tf.int32),
    "tiled": lambda x: tf.tile(tf.expand_dims(x[:, 0, 0], 1), [1, 3, 1]),
    "summed": lambda x: tf.cumsum(tf.reverse(x, [1]), axis=2),
    "one_hot": lambda x: tf.one_hot(tf.cast(tf.argmax(x[:, :, 0, 0], axis=1), tf.int32), 4),
}
LEFT = {  # a shape depends on values, or on what LiteRT takes for one
    "doubled": lambda x: tf.reshape(x, tf.stack([tf.shape(x)[0] * 2, 16])),
    "joined": lambda x: tf.reshape(tf.concat([x, x], 0), tf.stack([tf.shape(x)[0], 64])),
    "positive": lambda x: tf.boolean_mask(tf.reshape(x, [-1]), tf.reshape(x, [-1]) > 0),
    "best": lambda x: tf.math.top_k(tf.reshape(x, [-1, 32]), 3).values,
}
MODELS = {"images": (IMAGES, {}), "rows": (ROWS, LEFT)}  # by name: what is taken, and what is left to Python


def weights(*shape: int) -> Any:
    return tf.constant(np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32))


def conv(x: Any, size: int, channels: int) -> Any:
    return tf.nn.relu6(tf.nn.conv2d(x, weights(size, size, 2, channels), 1, "SAME"))


def make(path: Path) -> None:
    """Save the model of the path's name, whose first signature is the default too."""
    taken, left = MODELS[path.name]
    images, ids = tf.TensorSpec((None, 4, 4, 2), tf.float32, "x"), tf.TensorSpec((None,), tf.int32, "x")
    served = {
        name: function(ids if name == "looked_up" else images)(lambda x, work=work: {"y": work(x)})
        for name, work in {**taken, **left}.items()
    }
    save(path, **served, serving_default=next(iter(served.values())))
