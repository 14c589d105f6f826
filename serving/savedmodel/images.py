"""The size of an encoded picture, read from its header: a decoder allocates that much memory before it reads on.

A GIF of 773 kB may take 3.2 GB. The formats are those of TensorFlow's decoders, which choose by the first bytes, not by
the name of the operation: PNG, JPEG, JPEG XL, GIF, BMP, WebP. TensorFlow reports data that is no picture, or a broken
one.
"""

import binascii
import re
import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

MOST_BLOCKS = 1 << 16  # of a file: no encoder writes more, and each takes time to skip

# The names of the operations as they stand in saved_model.pb.
OPERATIONS = re.compile(
    rb"Decode(?:Image|Png|Jpeg|Jxl|Gif|Bmp|WebP|AndCropJpeg)|(?P<base64>DecodeBase64)"
    rb"|(?P<example>Parse(?:Single)?(?:Sequence)?Example)"
)
_BEGINS = re.compile(rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|GIF8|RIFF....WEBP|\0\0\0\x0cJXL |\xff\x0a", re.DOTALL)


class Picture(NamedTuple):
    """The size that a header declares, in pixels, and the number of frames."""

    kind: str
    width: int
    height: int
    frames: int = 1
    unknown: str = ""  # why the size cannot be read, if it cannot; the picture then counts as too large

    @property
    def pixels(self) -> int:
        return self.width * self.height * self.frames


def operations(graph: bytes | memoryview) -> frozenset[str]:
    """Return how a graph reads encoded pictures: "image", and "base64" and "example" for what is around them.

    Return an empty set where it decodes none.
    """
    kinds = {match.lastgroup or "image" for match in OPERATIONS.finditer(graph)}
    return frozenset(kinds) if "image" in kinds else frozenset()


def pictures(data: bytes, kinds: frozenset[str]) -> list[Picture]:
    """Return the pictures in one input string: the string itself, and those inside it if the graph unpacks it.

    `kinds` is the result of `operations`.
    """
    decoded = _from_base64 if "base64" in kinds else lambda _: []
    strings = [data, *decoded(data)]
    for string in strings[:] if "example" in kinds else ():
        try:
            values = [*_values(string)]
        except ValueError:
            # TensorFlow refuses malformed examples. Data that it might still parse must not hide a picture.
            if string is data and measure(data) is None and _BEGINS.search(data):
                return [_unknown("tf.Example", "it is malformed, with a picture in it")]
            continue
        strings += [*values, *(inside for value in values for inside in decoded(value))]
    return [picture for string in strings if (picture := measure(string)) is not None]


def _values(example: bytes) -> Iterator[bytes]:
    """Yield the strings of a tf.Example or a tf.SequenceExample, from all entries of its maps."""
    for features in _inside(example, 1):
        for entry in _inside(features, 1):
            yield from _strings(_inside(entry, 2))
    for lists in _inside(example, 2):
        for entry in _inside(lists, 1):
            for feature_list in _inside(entry, 2):
                yield from _strings(_inside(feature_list, 1))


def _strings(features: Iterable[memoryview]) -> Iterator[bytes]:
    for feature in features:
        for values in _inside(feature, 1):
            yield from map(bytes, _inside(values, 1))


def _inside(message: bytes | memoryview, field_number: int) -> Iterator[memoryview]:
    """Yield the strings and messages of one field; raise ValueError where the message is not protobuf."""
    data, position = memoryview(message), 0

    def number() -> int:
        nonlocal position
        value = 0
        for shift in range(0, 70, 7):
            if position >= len(data):
                break
            byte = data[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise ValueError("no number")

    while position < len(data):
        key = number()
        kind = key & 7
        if kind == 0:
            number()
            continue
        if kind not in (1, 2, 5):
            raise ValueError("no field")
        size = number() if kind == 2 else 8 if kind == 1 else 4
        if size > len(data) - position:
            raise ValueError("it breaks off")
        if kind == 2 and key >> 3 == field_number:
            yield data[position : position + size]
        position += size


def _from_base64(data: bytes) -> list[bytes]:
    try:  # TensorFlow's operation takes the web-safe alphabet
        import base64  # few graphs decode it

        return [base64.urlsafe_b64decode(data + b"=" * (-len(data) % 4))]
    except (binascii.Error, ValueError):
        return []


def measure(data: bytes) -> Picture | None:
    """Return the size of a picture, None where the data is no picture or ends before its size."""
    for begin, reader in _READERS:
        if data.startswith(begin):
            try:
                return reader(data)
            except (struct.error, IndexError):
                return None
    return None


def _unknown(kind: str, why: str) -> Picture:
    return Picture(kind, 1 << 16, 1 << 16, unknown=why)


def _png(data: bytes) -> Picture:
    chunk, width, height = struct.unpack_from(">4sII", data, 12)
    # TensorFlow's decoder skips another chunk before the header, though the format has none.
    return Picture("PNG", width, height) if chunk == b"IHDR" else _unknown("PNG", "its first chunk is not IHDR")


def _bmp(data: bytes) -> Picture | None:
    size, width, height = struct.unpack_from("<Iii", data, 14)
    if size not in (12, 40, 52, 56, 64, 108, 124):
        return None  # text that begins with BM
    return Picture("BMP", abs(width), abs(height)) if size > 12 else None


def _jpeg(data: bytes) -> Picture | None:
    """Find the frame header, as libjpeg does: bytes between two markers are skipped."""
    position = 2
    for _ in range(MOST_BLOCKS):
        position = data.find(b"\xff", position)
        if position < 0:
            return None
        while data[position] == 0xFF:
            position += 1
        marker, position = data[position], position + 1
        if marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD8:
            continue  # no length follows
        if marker in (0xD9, 0xDA):
            return None  # the end, or the picture's data, without a size before it
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, position + 3)
            return Picture("JPEG", width, height)
        position += struct.unpack_from(">H", data, position)[0]
    return _unknown("JPEG", f"more than {MOST_BLOCKS} segments stand before it")


def _gif(data: bytes) -> Picture | None:
    """Count the frames; TensorFlow gives each of them the size of the largest."""
    position = 13 + _colours(data[10])
    width = height = frames = blocks = 0
    try:
        while True:
            kind, position = data[position], position + 1
            if kind == 0x2C:  # a frame
                wide, high, flags = struct.unpack_from("<HHB", data, position + 4)
                width, height, frames = max(width, wide), max(height, high), frames + 1
                position += 10 + _colours(flags)
            elif kind == 0x21:  # an extension
                position += 1
            else:
                break
            while size := data[position]:
                position += 1 + size
                blocks += 1
                if blocks > MOST_BLOCKS:
                    return _unknown("GIF", f"it has more than {MOST_BLOCKS} blocks")
            position += 1
    except (IndexError, struct.error):
        pass  # truncated: the frames up to there count
    return Picture("GIF", width, height, frames) if frames else None


def _colours(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _webp(data: bytes) -> Picture | None:
    kind = data[12:16]
    if data[8:12] != b"WEBP" or len(kind) < 4:
        return None
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return Picture("WebP", width & 0x3FFF, height & 0x3FFF)
    if kind == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        return Picture("WebP", (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
        animated = data[20] & 2
        return Picture("WebP", width, height, max(1, data.count(b"ANMF")) if animated else 1)
    # TensorFlow's decoder takes the data of a picture without a chunk around it, too.
    return _unknown("WebP", "its first chunk is none of VP8, VP8L and VP8X")


_RATIOS = (None, (1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))  # width to height


def _jpeg_xl(data: bytes) -> Picture | None:
    """Read the SizeHeader of a codestream, ISO/IEC 18181-1, whose bits come lowest first."""
    if len(data) < 4:
        return None
    bits = int.from_bytes(data[2:14], "little")

    def take(count: int) -> int:
        nonlocal bits
        value, bits = bits & ((1 << count) - 1), bits >> count
        return value

    eighths = take(1)

    def size() -> int:
        return 8 * (1 + take(5)) if eighths else 1 + take((9, 13, 18, 30)[take(2)])

    height = size()
    ratio = _RATIOS[take(3)]
    return Picture("JPEG XL", height * ratio[0] // ratio[1] if ratio else size(), height)


_SIZE_HEADER = 14  # bytes of a codestream in which its size is


def _jpeg_xl_boxes(data: bytes) -> Picture | None:
    """Read the size from the codestream in a file of boxes; it may be in parts, of which the first may be empty."""
    position, codestream = 0, b""
    for _ in range(MOST_BLOCKS):
        if len(codestream) >= _SIZE_HEADER or position + 8 > len(data):
            return _jpeg_xl(codestream)
        size, kind = struct.unpack_from(">I4s", data, position)
        start = position + 8
        if size == 1:
            size, start = struct.unpack_from(">Q", data, start)[0], start + 8
        end = position + size if size else len(data)  # 0: the last box
        if end < start:
            return None
        if kind in (b"jxlc", b"jxlp"):
            start += 4 if kind == b"jxlp" else 0
            codestream += data[start : min(end, start + _SIZE_HEADER)]
        position = end
    return _unknown("JPEG XL", f"more than {MOST_BLOCKS} boxes stand before it")


_READERS = (
    (b"\x89PNG\r\n\x1a\n", _png),
    (b"\xff\xd8", _jpeg),
    (b"\xff\x0a", _jpeg_xl),
    (b"\0\0\0\x0cJXL ", _jpeg_xl_boxes),
    (b"GIF", _gif),
    (b"BM", _bmp),
    (b"RIFF", _webp),
)
