"""Make some of the models that `bench.bake` bakes: `python -m bench.bake_models NAME FOLDER`.

In FOLDER: saved_model/, and inputs.npz, one row by the names of serving_default's inputs.
"""

import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

LENGTH, WORDS, WIDTH, LAYERS = 64, 8000, 256, 4
STEPS, UNITS = 32, 64


def transformer(folder: Path) -> dict[str, Any]:
    """Four encoder layers of width 256 over 64 words of 8000, with a class for the sentence: 5.3 million numbers."""
    import keras

    keras.utils.set_random_seed(1)
    layers = keras.layers
    words = keras.Input((LENGTH,), dtype="int32", name="words")
    places = layers.Embedding(LENGTH, WIDTH)(keras.ops.arange(LENGTH))
    x = layers.Embedding(WORDS, WIDTH)(words) + places
    for _ in range(LAYERS):
        y = layers.LayerNormalization()(x)
        x = x + layers.MultiHeadAttention(4, WIDTH // 4)(y, y)
        y = layers.LayerNormalization()(x)
        x = x + layers.Dense(WIDTH)(layers.Dense(4 * WIDTH, "gelu")(y))
    classes = layers.Dense(10, "softmax", name="classes")(layers.GlobalAveragePooling1D()(x))
    keras.Model(words, classes).export(str(folder / "saved_model"), verbose=False)
    return {"words": np.random.default_rng(1).integers(0, WORDS, (1, LENGTH)).astype(np.int32)}


def loop(folder: Path) -> dict[str, Any]:
    """A recurrent network in TensorFlow 1's graph and while loop, with reference variables, as old models are."""
    v1 = tf.compat.v1
    random = np.random.default_rng(1)
    with tf.Graph().as_default(), v1.Session() as session:
        v1.disable_control_flow_v2()
        x = v1.placeholder(tf.float32, [None, STEPS, UNITS], "x")
        weights = v1.get_variable(
            "w", initializer=random.normal(0, 0.1, (2 * UNITS, UNITS)).astype("f"), use_resource=False
        )
        offset = v1.get_variable("b", initializer=np.zeros(UNITS, np.float32), use_resource=False)

        def step(at: Any, state: Any) -> Any:
            return at + 1, tf.tanh(tf.matmul(tf.concat([x[:, at], state], 1), weights) + offset)

        _, state = tf.while_loop(lambda at, _: at < STEPS, step, (0, tf.zeros_like(x[:, 0])))
        y = tf.identity(state, "y")
        session.run(v1.global_variables_initializer())
        v1.saved_model.simple_save(session, str(folder / "saved_model"), {"x": x}, {"y": y})
    return {"x": random.random((1, STEPS, UNITS)).astype(np.float32)}


def dense(megabytes: int, folder: Path) -> dict[str, Any]:
    """Square layers of 16 MB each, in which nothing can be computed ahead."""
    random = np.random.default_rng(1)
    module = tf.Module()
    module.layers = [
        tf.Variable(random.standard_normal((SIDE, SIDE), np.float32) / SIDE**0.5) for _ in range(megabytes // 16)
    ]

    @tf.function(input_signature=[tf.TensorSpec([None, SIDE], tf.float32, "x")])
    def serve(x: Any) -> Any:
        for layer in module.layers:
            x = tf.nn.relu(x @ layer)
        return {"y": x[:, :10]}

    tf.saved_model.save(module, str(folder / "saved_model"), signatures=serve)
    return {"x": random.random((1, SIDE), np.float32)}


SIDE = 2000
MAKERS = {"transformer": transformer, "loop": loop, "dense16": partial(dense, 16), "dense96": partial(dense, 96)}


def main(name: str, folder: str) -> None:
    inputs = MAKERS[name](Path(folder))
    np.savez(Path(folder) / "inputs.npz", **inputs)


if __name__ == "__main__":
    main(*sys.argv[1:])
