"""Pictures of a batch decoded in the graph, each by itself, after a check of how many pixels all of them claim."""

import math
from collections.abc import Callable
from typing import Any

LARGEST = 2**25  # pixels; a file of a few kilobytes may claim billions, and the decoder would allocate them
_PNG_HEADER = 24  # bytes of a PNG that say its size
_HEADER = 30  # bytes of a picture that say its size, where it does not change from file to file
# Why the size of a picture is not known; the first reason counts as UNKNOWN pixels, which no header claims, and so on.
UNKNOWN = 2.0**65
REASONS = (
    "the size of the picture cannot be read: another chunk stands before the header of the PNG",
    "the size of the picture cannot be read: the first chunk of the WebP is none of VP8, VP8L and VP8X",
    "the picture is a JPEG XL: expected a PNG, JPEG, GIF, BMP or WebP",
)


def each_picture(decode: Callable[[Any], Any], files: Any, spec: Any, largest: int = LARGEST) -> Any:
    """Return the pictures [rows, ...] of files, strings [rows]; `decode` makes `spec` of one file, a scalar.

    A batch with a file that claims more than `largest` pixels fails before anything is allocated for its pixels.
    """
    import tensorflow as tf

    reason = _refusal(files, largest)
    # Without tf.Assert's two branches, which take the time of four operations.
    fits = tf.raw_ops.Assert(condition=tf.equal(reason, ""), data=[reason])
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


def _refusal(files: Any, largest: int) -> Any:
    """Return why one of the files is refused, a string; empty where none is.

    A PNG whose two sides are at most the square root of `largest` is seen to fit by six comparisons.
    """
    import tensorflow as tf

    side, free = math.isqrt(largest), (tf.int32.min, tf.int32.max)
    png, header = ((int.from_bytes(mark, "big", signed=True),) * 2 for mark in (b"\x89PNG", b"IHDR"))
    least, most = zip(png, free, free, header, (0, side), (0, side), strict=True)  # of its first six integers
    integers = tf.io.decode_raw(files, tf.int32, little_endian=False, fixed_length=_PNG_HEADER)
    are_small = tf.reduce_all((integers >= least) & (integers <= most))

    def measured() -> Any:
        pixels = tf.reduce_max(_each(claimed_pixels, files, tf.TensorSpec((), tf.float64)))
        claim = f"the picture is too large: at most {largest} pixels, the file claims "
        reasons = tf.stack([claim + tf.strings.as_string(pixels, precision=0), *REASONS])
        return tf.where(pixels <= largest, "", reasons[tf.cast(pixels / UNKNOWN, tf.int32)])

    return tf.cond(are_small, lambda: tf.constant(""), measured)


def claimed_pixels(picture: Any) -> Any:
    """Return how many pixels the header of a PNG, JPEG, GIF or WebP claims, float64; 0 for other files.

    A multiple of UNKNOWN for a file that TensorFlow decodes although its size is not where it is looked for.
    """
    import tensorflow as tf

    # As one product: an operation for each number takes more time.
    fields = [*(_big(*at) for at in _MARKS), *(_big(*at) for at in _PNG), *(_little(*at) for at in _GIF + _WEBP)]
    header = tf.cast(tf.io.decode_raw(picture, tf.uint8, fixed_length=_HEADER), tf.float64)
    numbers = tf.unstack(tf.linalg.matvec(tf.constant(fields, tf.float64), header))
    begin, short, long, box, form, chunk, width, height, gif_width, gif_height, *webp = numbers

    def marked(number: Any, mark: bytes) -> Any:
        return tf.equal(number, float(int.from_bytes(mark, "big")))

    def of_jpeg() -> Any:
        return tf.cast(tf.reduce_prod(tf.io.extract_jpeg_shape(picture, tf.int64)[:2]), tf.float64)

    def of_others() -> Any:
        is_png = marked(chunk, b"IHDR") | marked(chunk, b"\0\0\0\0")  # the file ends before it
        forms = (
            (marked(long, b"\x89PNG"), tf.where(is_png, width * height, _unknown(1))),
            (marked(long, b"GIF8"), gif_width * gif_height),
            (marked(long, b"RIFF") & marked(form, b"WEBP"), _webp_pixels(chunk, marked, *webp)),
            (marked(begin, b"\xff\x0a") | marked(box, b"\0\0\0\x0cJXL "), _unknown(3)),
        )
        pixels: Any = tf.constant(0.0, tf.float64)
        for is_of_form, claimed in forms:
            pixels = tf.where(is_of_form, claimed, pixels)
        return pixels

    return tf.cond(marked(short, b"\xff\xd8\xff"), of_jpeg, of_others)


# Numbers in a header: their positions, and how many bytes they have.
_MARKS = ((0, 2), (0, 3), (0, 4), (0, 8), (8, 4), (12, 4))
_PNG = ((16, 4), (20, 4))
_GIF = ((6, 2), (8, 2))
_WEBP = ((26, 2), (28, 2), (21, 4), (24, 3), (27, 3))


def _webp_pixels(chunk: Any, marked: Callable[[Any, bytes], Any], *numbers: Any) -> Any:
    """Return the pixels of a WebP by its first chunk: lossy, lossless, or one with features."""
    import tensorflow as tf

    width, height, bits, canvas_width, canvas_height = numbers
    side = 2.0**14
    lossless = (tf.math.floormod(bits, side) + 1) * (tf.math.floormod(tf.floor(bits / side), side) + 1)
    lossy = tf.math.floormod(width, side) * tf.math.floormod(height, side)
    canvas = (canvas_width + 1) * (canvas_height + 1)
    others = tf.where(marked(chunk, b"VP8X"), canvas, _unknown(2))
    return tf.where(marked(chunk, b"VP8 "), lossy, tf.where(marked(chunk, b"VP8L"), lossless, others))


def _unknown(reason: int) -> Any:
    import tensorflow as tf

    return tf.constant(reason * UNKNOWN, tf.float64)


def _big(at: int, size: int) -> list[float]:
    """Return the weights of the header's bytes in an integer of `size` bytes, the highest first."""
    return [256.0 ** (at + size - 1 - byte) if at <= byte < at + size else 0.0 for byte in range(_HEADER)]


def _little(at: int, size: int) -> list[float]:
    """Return the same for an integer whose lowest byte is first."""
    return [256.0 ** (byte - at) if at <= byte < at + size else 0.0 for byte in range(_HEADER)]
