"""The sizes of pictures, read from their headers, compared with what Pillow reads."""

import base64
import io
import json
import struct
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st
from PIL import Image

from serving.runtime import loading
from serving.savedmodel import images
from serving.savedmodel.protobuf import write_field as string
from tests.conftest import Serve
from tests.fuzz import rounds
from tests.models.pictures import behind_a_chunk
from tests.models.zoo import build


def png(width: int, height: int) -> bytes:
    """Return a PNG's beginning: what it declares, and not the pixels."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))


def gif(width: int, height: int, frames: int) -> bytes:
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x4c\x01\x00"
    return b"GIF89a" + struct.pack("<HHBBB", 8, 8, 0, 0, 0) + frame * frames + b";"


def saved(form: str, size: tuple[int, int], frames: int = 1, **options: Any) -> bytes:
    file = io.BytesIO()
    pictures = [Image.new("RGB", size, (7 * frame, 50, 99)) for frame in range(frames)]
    more = {"save_all": True, "append_images": pictures[1:]} if frames > 1 else {}
    pictures[0].save(file, form, **more, **options)
    return file.getvalue()


PICTURES = [
    # format   size        frames  options
    ("PNG",    (640, 480), 1,      {}),
    ("JPEG",   (640, 480), 1,      {}),
    ("JPEG",   (33, 4097), 1,      {"progressive": True, "exif": b"Exif\0\0" + b"\xff\xc0" * 99, "comment": b"\xff\xc0"}),
    ("GIF",    (640, 480), 1,      {}),
    ("GIF",    (64, 48),   7,      {}),
    ("BMP",    (640, 480), 1,      {}),
    ("WEBP",   (640, 480), 1,      {}),
    ("WEBP",   (640, 480), 1,      {"lossless": True}),
    ("WEBP",   (640, 480), 1,      {"exif": b"Exif\0\0"}),
    ("WEBP",   (64, 48),   5,      {}),
]  # fmt: skip


@pytest.mark.parametrize(("form", "size", "frames", "options"), PICTURES)
def test_the_header_gives_the_size_that_pillow_reads(
    form: str, size: tuple[int, int], frames: int, options: dict[str, Any]
) -> None:
    data = saved(form, size, frames, **options)
    with Image.open(io.BytesIO(data)) as read_by_pillow:
        wanted = (*read_by_pillow.size, getattr(read_by_pillow, "n_frames", 1))
    measured = images.measure(data)
    assert measured is not None
    assert (measured.width, measured.height, measured.frames) == wanted
    assert images.measure(data[:-3]) is None or form != "PNG" or measured.pixels  # what breaks off does not raise


def test_a_png_that_hides_its_size_counts_as_too_large(serve: Serve) -> None:
    body = json.dumps(
        {"instances": [{"b64": base64.b64encode(behind_a_chunk(saved("PNG", (60, 10), 1))).decode()}]}
    ).encode()
    answer = serve()("POST", "/", body)
    assert answer.status == 413
    assert b"a PNG whose size cannot be read: its first chunk is not IHDR" in answer.body


@hypothesis(max_examples=rounds(200), deadline=None)
@given(
    st.sampled_from([b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"BM", b"RIFF....WEBPVP8X", b""]), st.binary()
)
def test_measuring_any_bytes_raises_nothing(begin: bytes, rest: bytes) -> None:
    measured = images.measure(begin + rest)
    assert measured is None or measured.pixels >= 0


def test_the_decoders_of_a_graph_are_found(serve: Serve) -> None:
    serve()
    assert loading.cache().source().pictures == {"image"}
    serve(build() / "many_named")
    assert loading.cache().source().pictures == frozenset()
    assert images.operations(b"..DecodePng..ParseExampleV2..DecodeBase64") == {"image", "example", "base64"}
    assert images.operations(b"..ParseExampleV2..DecodeBase64") == frozenset()
    assert images.operations(b"..DecodeJxl..") == {"image"}


def example(*values: bytes, sequence: bool = False) -> bytes:
    """Return a serialized tf.Example, or a tf.SequenceExample, with these strings in one feature."""
    feature = string(1, *(string(1, value) for value in values))
    if sequence:
        return string(2, string(1, string(1, b"images"), string(2, string(1, feature))))
    return string(1, string(1, string(1, b"images"), string(2, feature)))


# fmt: off
JXL = b"\xff\x0a" + (8999 << 3 | 2 << 1 | 1 << 21).to_bytes(4, "little")  # 9000 x 9000, a bare codestream
INSIDE = [
    # string                                                 what the graph does               widths
    (png(9000, 9),                                           {"image"},                        [9000]),
    (example(png(9000, 9)),                                  {"image"},                        []),
    (example(png(9000, 9)),                                  {"image", "example"},             [9000]),
    (example(*[png(1, 1)] * 64, png(9000, 9)),               {"image", "example"},             [1] * 64 + [9000]),
    (example(png(9000, 9), sequence=True),                   {"image", "example"},             [9000]),
    (example(JXL),                                           {"image", "example"},             [9000]),
    (base64.urlsafe_b64encode(png(9000, 9)),                        {"image", "base64"},              [9000]),
    (example(base64.urlsafe_b64encode(png(9000, 9))),               {"image", "base64", "example"},   [9000]),
    (base64.urlsafe_b64encode(example(png(9000, 9))),               {"image", "base64", "example"},   [9000]),
    (example(png(9000, 9)) + b"\x0b",                        {"image", "example"},             [1 << 16]),  # broken
    (b"no example at all",                                   {"image", "example"},             []),
]
# fmt: on


@pytest.mark.parametrize(("data", "kinds", "widths"), INSIDE, ids=map(str, range(len(INSIDE))))
def test_pictures_are_measured_in_every_encoding_that_the_graph_decodes(
    data: bytes, kinds: set[str], widths: list[int]
) -> None:
    assert [measured.width for measured in images.pictures(data, frozenset(kinds))] == widths


# 100 × 37, written by libjxl: a bare codestream, and one in a file of boxes.
BARE = b"/wogAcaApLgRABOIAgD4ALWfIAAAFSqjjBu8nOv58kOHxbSN6wxttW1hCWOzvTBICIAKkfF41yhOQAAAuBOKwSJkAFgURE0sCqBwspIE"
BOXES = b"AAAADEpYTCANCocKAAAAFGZ0eXBqeGwgAAAAAGp4bCAAAABWanhsY" + b"/8KIAHGgKS4EQATiAIA+AC1nyAAABUqo4wbvJzr+fJDh8W0jesMbbVtYQljs70wSAiACpHxeNcoTkAAALgTisEiZABYFERNLAqgcLKSBA=="  # fmt: skip


def in_two_boxes(first: int, between: bytes = b"") -> bytes:
    """Return BOXES with its codestream in two parts, the first one of so many bytes."""
    codestream, boxes = base64.b64decode(BARE), base64.b64decode(BOXES)
    parts = [bytes(4) + codestream[:first], b"\x80\0\0\1" + codestream[first:]]
    former, latter = (struct.pack(">I4s", 8 + len(part), b"jxlp") + part for part in parts)
    return base64.b64encode(boxes[: boxes.index(b"jxlc") - 4] + former + between + latter)


SPLIT = [in_two_boxes(first) for first in (0, 1, 2, 3, 4, 7, 14)]
BETWEEN = in_two_boxes(3, struct.pack(">I4s", 12, b"test") + b"abcd")


@pytest.mark.parametrize("written", [BARE, BOXES, *SPLIT, BETWEEN], ids=range(10))
def test_the_size_of_a_jpeg_xl_is_read(serve: Serve, written: bytes) -> None:
    data = base64.b64decode(written)
    assert images.measure(data) == images.Picture("JPEG XL", 100, 37, 1)
    for size in range(len(data)):
        images.measure(data[:size])  # raises nothing
    body = json.dumps({"instances": [{"b64": written.decode()}]}).encode()
    answer = serve(MAX_PIXELS="3699")("POST", "/", body)
    assert (answer.status, b"100 x 37 (JPEG XL)" in answer.body) == (413, True)
    assert b"the picture is a JPEG XL" in serve(MAX_PIXELS="3700")("POST", "/", body).body  # the model's own refusal


@pytest.mark.parametrize("lossless", [False, True])
def test_a_webp_without_a_chunk_around_its_data_is_refused(serve: Serve, lossless: bool) -> None:
    chunk = saved("WEBP", (300, 200), lossless=lossless)
    bare = b"RIFF" + struct.pack("<I", len(chunk) - 16) + b"WEBP" + chunk[20:]
    body = json.dumps({"instances": [{"b64": base64.b64encode(bare).decode()}]}).encode()
    answer = serve()("POST", "/", body)
    assert (answer.status, b"its first chunk is none of VP8, VP8L and VP8X" in answer.body) == (413, True), answer.body
