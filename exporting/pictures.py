"""Pictures of a batch decoded in the graph, each by itself, after a check of how many pixels all of them claim."""

import math
from collections.abc import Callable
from typing import Any

LARGEST = 2**25  # pixels; a file of a few kilobytes may claim billions, and the decoder would allocate them
_HEADER = 24  # bytes of a picture file that say its size, where it does not change from file to file


def each_picture(decode: Callable[[Any], Any], files: Any, spec: Any, largest: int = LARGEST) -> Any:
    """Return the pictures [rows, ...] of files, strings [rows]; `decode` makes `spec` of one file, a scalar.

    A batch with a file that claims more than `largest` pixels fails before anything is allocated for its pixels.
    """
    import tensorflow as tf

    claimed = _largest_claim(files, largest)
    too_large = f"the picture is too large: at most {largest} pixels, the file claims"
    # Without tf.Assert's two branches, which take the time of four operations.
    fits = tf.raw_ops.Assert(condition=claimed <= largest, data=[too_large, claimed], summarize=3)
    with tf.control_dependencies([fits]):
        return _each(decode, tf.identity(files), spec)


def _each(make: Callable[[Any], Any], files: Any, spec: Any) -> Any:
    """Return what `make` makes of each file, `spec`, stacked.

    One operation calls the function for all rows: tf.map_fn's loop takes some sixty. There are as many calls
    at once as the session has threads for operations side by side: one, unless INTER_OP_THREADS says more.
    """
    import tensorflow as tf

    def made(file: Any) -> Any:
        return tf.ensure_shape(make(file), spec.shape)

    function = tf.function(made, autograph=False).get_concrete_function(tf.TensorSpec((), tf.string))
    (rows,) = tf.raw_ops.MapDefun(
        arguments=[files],
        captured_inputs=function.captured_inputs,
        output_types=[spec.dtype],
        output_shapes=[spec.shape],
        f=function,
    )
    return rows


def decode_picture(file: Any, channels: int) -> Any:
    """Return the pixels [height, width, channels] of a file, uint8; 0 channels: those that it has."""
    import tensorflow as tf

    return tf.io.decode_image(file, channels=channels, expand_animations=False)


def _largest_claim(files: Any, largest: int) -> Any:
    """Return the most pixels that one of the files claims, float64; 0 where all are PNG files of few enough.

    A PNG whose two sides are at most the square root of `largest` is seen to fit by six comparisons.
    """
    import tensorflow as tf

    side, free = math.isqrt(largest), (tf.int32.min, tf.int32.max)
    png, header = ((int.from_bytes(mark, "big", signed=True),) * 2 for mark in (b"\x89PNG", b"IHDR"))
    least, most = zip(png, free, free, header, (0, side), (0, side), strict=True)  # of its first six integers
    integers = tf.io.decode_raw(files, tf.int32, little_endian=False, fixed_length=_HEADER)
    small = tf.reduce_all((integers >= least) & (integers <= most))
    each = tf.TensorSpec((), tf.float64)
    return tf.cond(
        small, lambda: tf.constant(0.0, tf.float64), lambda: tf.reduce_max(_each(claimed_pixels, files, each))
    )


def claimed_pixels(picture: Any) -> Any:
    """Return how many pixels the header of a PNG, GIF or JPEG claims, float64; 0 for other files.

    Infinity for a PNG that begins with another chunk than its header: TensorFlow's decoder skips it.
    """
    import tensorflow as tf

    def number(at: int, size: int, little: bool = False) -> list[float]:
        """Return the weights of the header's bytes in an integer of `size` bytes."""
        positions = range(at, at + size) if little else range(at + size - 1, at - 1, -1)
        return [256.0 ** positions.index(position) if position in positions else 0.0 for position in range(_HEADER)]

    # Width, height and the first bytes of PNG, GIF and JPEG, and the name of a PNG's first chunk, as one product: an
    # operation for each takes more time.
    none = [0.0] * _HEADER
    fields = (
        (number(16, 4), number(6, 2, little=True), none),
        (number(20, 4), number(8, 2, little=True), none),
        (number(0, 4), number(0, 4), number(0, 3)),
        (number(12, 4), none, none),
    )
    marks = [float(int.from_bytes(mark, "big")) for mark in (b"\x89PNG", b"GIF8", b"\xff\xd8\xff")]
    header = tf.cast(tf.io.decode_raw(picture, tf.uint8, fixed_length=_HEADER), tf.float64)
    width, height, mark, chunk = tf.unstack(tf.linalg.matvec(tf.constant(fields, tf.float64), header))
    kinds = tf.equal(mark, tf.constant(marks, tf.float64))
    known = tf.cast(kinds, tf.float64)
    is_hidden = kinds[0] & (chunk[0] > 0) & (chunk[0] != float(int.from_bytes(b"IHDR", "big")))
    return tf.cond(
        kinds[2],
        lambda: tf.cast(tf.reduce_prod(tf.io.extract_jpeg_shape(picture, tf.int64)[:2]), tf.float64),
        lambda: tf.where(is_hidden, tf.constant(math.inf, tf.float64), tf.reduce_sum(known * width * height)),
    )
