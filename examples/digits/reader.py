"""The function that is served: bytes of a picture, or the pixels of a scan, to a digit.

Everything between the wire and the class is in the graph, in TensorFlow's own operations, so that a caller in any
language sends the file it has and nothing about the preparation can differ between training and serving:

    picture --decode--> grey --ink--> 0 paper .. 1 ink --fit--> scan, 8x8 --classify--> label, probabilities
"""

from collections.abc import Callable

import tensorflow as tf

from exporting.pictures import decode_picture, each_picture

SIDE = 8  # a scan is 8x8 ...
DEPTH = 16.0  # ... and each value the count of inked dots in a block of 4x4
FINEST = 96  # a picture's longer side is averaged down to this before any arithmetic in floating point
INKED = 0.3  # of full contrast: what counts as stroke when the digit is looked for

Outputs = dict[str, tf.Tensor]


def decode(picture: tf.Tensor) -> tf.Tensor:
    """Return a PNG, JPEG, GIF or BMP as grey [height, width], 0 black .. 1 white, no side longer than FINEST."""
    pixels = decode_picture(picture, channels=0)
    shape = tf.cast(tf.shape(pixels), tf.float32)
    size = tf.maximum(tf.round(shape[:2] * tf.minimum(1.0, FINEST / tf.reduce_max(shape[:2]))), 1.0)
    pixels = tf.raw_ops.ResizeArea(images=tf.expand_dims(pixels, 0), size=tf.cast(size, tf.int32))
    pixels = tf.squeeze(pixels, 0) / 255.0
    # Grey, grey + alpha, RGB, RGB + alpha: an even number of channels ends in alpha, and the product of none is 1.
    colours = tf.bitwise.bitwise_or(tf.shape(pixels)[-1] - 1, 1)
    solid, alpha = tf.split(pixels, tf.stack([colours, -1]), axis=-1)
    grey, alpha = tf.reduce_mean(solid, axis=-1), tf.reduce_prod(alpha, axis=-1)
    return 1.0 - alpha * (1.0 - grey)  # over white paper


def ink(grey: tf.Tensor) -> tf.Tensor:
    """Return how much ink is on each pixel, 0 .. 1, whether the digit is dark on light or light on dark."""
    low, high = tf.reduce_min(grey), tf.reduce_max(grey)
    border = tf.concat([grey[0], grey[-1], grey[:, 0], grey[:, -1]], axis=0)
    dark_on_light = tf.reduce_mean(border) > (low + high) / 2.0
    paper = tf.where(dark_on_light, high, low)
    return tf.math.divide_no_nan(tf.abs(grey - paper), high - low)


def fit(inked: tf.Tensor) -> tf.Tensor:
    """Return the digit as a scan: its strokes over the full height (or width), centred, each block averaged.

    What has the size of a scan already is one: it keeps its place.
    """
    strokes = inked > INKED
    lines = [tf.reduce_any(strokes, axis=1 - axis) for axis in (0, 1)]
    first = tf.stack([tf.argmax(along, output_type=tf.int32) for along in lines])
    after = tf.stack([tf.argmax(along[::-1], output_type=tf.int32) for along in lines])
    begin, end = tf.cast(first, tf.float32), tf.cast(tf.shape(inked) - after, tf.float32)
    is_drawn = tf.reduce_any(tf.shape(inked) != SIDE)
    scale = tf.where(is_drawn, SIDE / tf.reduce_max(end - begin), 1.0)
    translation = (SIDE / 2.0 - scale * (begin + end) / 2.0) * tf.cast(is_drawn, tf.float32)
    scan = tf.raw_ops.ScaleAndTranslate(
        images=tf.expand_dims(tf.expand_dims(inked, 0), -1),
        size=(SIDE, SIDE),
        scale=tf.stack([scale, scale]),
        translation=translation,
        kernel_type="box",
        antialias=True,
    )
    return tf.reshape(scan, (SIDE, SIDE)) * DEPTH


def normalize(scans: tf.Tensor) -> tf.Tensor:
    """Return scans as the network takes them, [n, 8, 8, 1], the darkest block of each 1.

    A thin pen leaves pale blocks once they are averaged; so does pale ink.
    """
    return tf.expand_dims(tf.math.divide_no_nan(scans, tf.reduce_max(scans, axis=(1, 2), keepdims=True)), -1)


class Reader(tf.Module):
    """The trained network with its two signatures."""

    def __init__(self, network: Callable[[tf.Tensor], tf.Tensor]) -> None:
        super().__init__()
        self.network = tf.function(network, autograph=False, input_signature=[tf.TensorSpec((None, SIDE, SIDE, 1))])

    def classify(self, scans: tf.Tensor) -> Outputs:
        # A convolution over no rows at all fails in TensorFlow's CPU kernels: an empty batch borrows a blank scan.
        rows = tf.shape(scans)[0]
        scans = tf.concat([scans, tf.zeros((tf.maximum(1 - rows, 0), SIDE, SIDE))], axis=0)
        probabilities = tf.nn.softmax(self.network(normalize(scans))[:rows])
        labels = tf.constant([str(digit) for digit in range(10)])
        return {
            "label": tf.gather(labels, tf.argmax(probabilities, axis=-1), name="label"),
            "probability": tf.reduce_max(probabilities, axis=-1, name="probability"),
            "probabilities": tf.identity(probabilities, name="probabilities"),
        }

    @tf.function(autograph=False, input_signature=[tf.TensorSpec((None, SIDE, SIDE), tf.float32, name="pixels")])
    def read_pixels(self, pixels: tf.Tensor) -> Outputs:
        return self.classify(pixels)

    @tf.function(autograph=False, input_signature=[tf.TensorSpec((None,), tf.string, name="image")])
    def read_image(self, image: tf.Tensor) -> Outputs:
        spec = tf.TensorSpec((SIDE, SIDE), tf.float32)
        scans = each_picture(lambda picture: fit(ink(decode(picture))), image, spec)
        return self.classify(scans)
