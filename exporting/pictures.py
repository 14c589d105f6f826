"""Pictures of a batch decoded in the graph, each by itself, after a check of how many pixels all of them claim."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

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
    above = float(np.nextafter(np.float32(largest), np.float32(math.inf)))  # boundaries are float32
    begins = [above, *(UNKNOWN * number for number in range(1, 1 + len(REASONS)))]

    def measured() -> Any:
        pixels = tf.reduce_max(_each(claimed_pixels, files, tf.TensorSpec((), tf.float64)))
        claim = f"the picture is too large: at most {largest} pixels, the file claims "
        texts = tf.stack(["", claim + tf.strings.as_string(pixels, precision=0), *REASONS])
        return tf.raw_ops.Gather(params=texts, indices=tf.raw_ops.Bucketize(input=pixels, boundaries=begins))

    return tf.cond(are_small, lambda: tf.constant(""), measured)


def claimed_pixels(picture: Any) -> Any:
    """Return how many pixels the header of a PNG, JPEG, GIF or WebP claims, float64; 0 for other files.

    A multiple of UNKNOWN for a file that TensorFlow decodes although its size is not where it is looked for.
    """
    import tensorflow as tf

    # As one product, and all forms at once: an operation for each takes more time, above all at a start.
    weights = [*(form.mark for form in _FORMS), *(form.chunk for form in _FORMS)]
    weights += [*(form.width for form in _FORMS), *(form.height for form in _FORMS)]
    weights += [mark for mark, _, _ in _HIDDEN] + [_big(0, 3)]
    header = tf.cast(tf.io.decode_raw(picture, tf.uint8, fixed_length=_HEADER), tf.float64)
    numbers = tf.linalg.matvec(tf.constant(weights, tf.float64), header)
    count = len(_FORMS)
    marks, sides, hidden, jpeg = tf.split(numbers, [2 * count, 2 * count, len(_HIDDEN), 1])

    def of_jpeg() -> Any:
        return tf.cast(tf.reduce_prod(tf.io.extract_jpeg_shape(picture, tf.int64)[:2]), tf.float64)

    def of_others() -> Any:
        wanted = [*(form.is_marked for form in _FORMS), *(form.is_chunk for form in _FORMS)]
        ranges = [2.0 ** (14 if form.is_14_bits else 32) for form in _FORMS] * 2
        divisors = [1.0] * count + [2.0**14 if form.is_one_number else 1.0 for form in _FORMS]
        lacking = [1.0 if form.is_less_1 else 0.0 for form in _FORMS] * 2
        matches = tf.reduce_all(tf.reshape(tf.equal(marks, tf.constant(wanted, tf.float64)), (2, count)), 0)
        whole = tf.math.floormod(tf.floor(sides / divisors), tf.constant(ranges, tf.float64)) + lacking
        pixels = tf.reduce_prod(tf.reshape(whole, (2, count)), 0)
        unknown = tf.equal(hidden, tf.constant([mark for _, mark, _ in _HIDDEN], tf.float64))
        values = tf.constant([reason * UNKNOWN for _, _, reason in _HIDDEN], tf.float64)
        return tf.where(
            tf.reduce_any(matches),
            tf.reduce_sum(tf.where(matches, pixels, 0.0)),
            tf.reduce_max(tf.where(unknown, values, 0.0)),
        )

    return tf.cond(tf.equal(jpeg[0], float(0xFFD8FF)), of_jpeg, of_others)


def _big(at: int, size: int) -> list[float]:
    """Return the weights of the header's bytes in an integer of `size` bytes, the highest first."""
    return [256.0 ** (at + size - 1 - byte) if at <= byte < at + size else 0.0 for byte in range(_HEADER)]


def _little(at: int, size: int) -> list[float]:
    """Return the same for an integer whose lowest byte is first."""
    return [256.0 ** (byte - at) if at <= byte < at + size else 0.0 for byte in range(_HEADER)]


class _Form(NamedTuple):
    """Where the header of a form has its sides, behind a mark and the name of a chunk."""

    mark: list[float]
    is_marked: float
    chunk: list[float]
    is_chunk: float
    width: list[float]
    height: list[float]
    is_14_bits: bool = False
    is_one_number: bool = False  # the height is above the width
    is_less_1: bool = False


def _number(mark: bytes) -> float:
    return float(int.from_bytes(mark, "big"))


_FOUR, _CHUNK, _NONE = _big(0, 4), _big(12, 4), [0.0] * _HEADER
_RIFF = [begin * 2.0**32 + form for begin, form in zip(_big(0, 2), _big(8, 4), strict=True)]  # no other form begins so
_PNG, _WEBP = (_FOUR, _number(b"\x89PNG"), _CHUNK), (_RIFF, _number(b"RIWEBP"), _CHUNK)
_BITS = _little(21, 4)
_FORMS = (
    _Form(*_PNG, _number(b"IHDR"), _big(16, 4), _big(20, 4)),
    _Form(*_PNG, 0.0, _NONE, _NONE),  # the file ends before its size
    _Form(_FOUR, _number(b"GIF8"), _NONE, 0.0, _little(6, 2), _little(8, 2)),
    _Form(*_WEBP, _number(b"VP8 "), _little(26, 2), _little(28, 2), is_14_bits=True),
    _Form(*_WEBP, _number(b"VP8L"), _BITS, _BITS, is_14_bits=True, is_one_number=True, is_less_1=True),
    _Form(*_WEBP, _number(b"VP8X"), _little(24, 3), _little(27, 3), is_less_1=True),
)
# A mark of a file whose size is elsewhere if no form matches, and the number of the reason.
_HIDDEN = (
    (_FOUR, _number(b"\x89PNG"), 1),
    (_RIFF, _number(b"RIWEBP"), 2),
    (_big(0, 2), _number(b"\xff\x0a"), 3),
    (_big(0, 8), _number(b"\0\0\0\x0cJXL "), 3),
)
