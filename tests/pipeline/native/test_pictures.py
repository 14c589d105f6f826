"""The limit of pixels, with the accelerator and without it: the same pictures are refused, in the same words."""

import base64
import io
import json
import struct
import zlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from serving.savedmodel import images
from tests.conftest import EMBEDDED
from tests.models.pictures import behind_a_chunk
from tests.pipeline.native.conftest import Ask, Question
from tests.pipeline.native.models import build

QUICK, SLOW = True, False
MOST = 600  # pixels


@cache
def picture(kind: str, width: int, height: int, **options: Any) -> bytes:
    file = io.BytesIO()
    image = (
        Image.effect_noise((width, height), 60) if options.pop("noise", False) else Image.new("L", (width, height), 90)
    )
    image.convert(options.pop("mode", "L")).save(file, kind, **options)
    return file.getvalue()


def png_saying(width: int, height: int) -> bytes:
    """Return a PNG whose header alone says so."""
    encoded = picture("PNG", 20, 20)
    header = struct.pack(">4sIIBBBBB", b"IHDR", width, height, 8, 0, 0, 0, 0)
    return encoded[:12] + header + struct.pack(">I", zlib.crc32(header)) + encoded[33:]


def jpeg_saying(width: int, height: int) -> bytes:
    encoded = picture("JPEG", 20, 20)
    at = encoded.index(b"\xff\xc0")
    return encoded[: at + 5] + struct.pack(">HH", height, width) + encoded[at + 9 :]


def jpeg_with(between: bytes, width: int = 20, height: int = 20, **options: Any) -> bytes:
    """Return a JPEG with something before its first segment."""
    encoded = picture("JPEG", width, height, **options)
    return encoded[:2] + between + encoded[2:]


def segment(marker: int, size: int = 0) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", size + 2) + bytes(size)


SIZES = [(1, 1), (20, 30), (30, 20), (1, 600), (600, 1), (25, 24), (601, 1), (1, 601), (25, 25), (2, 301)]
PICTURES: list[tuple[bytes, bool]] = [
    *((picture("PNG", *size), size[0] * size[1] <= MOST) for size in SIZES),
    *((picture("PNG", *size, mode="RGBA"), size[0] * size[1] <= MOST) for size in SIZES),
    *((picture("JPEG", *size), size[0] * size[1] <= MOST) for size in SIZES),
    *((picture("JPEG", *size, mode="RGB", progressive=True), size[0] * size[1] <= MOST) for size in SIZES),
    *((picture("JPEG", *size, mode="RGB", optimize=True, quality=3), size[0] * size[1] <= MOST) for size in SIZES),
    *((picture("JPEG", *size, comment=b"\xff\xc0\x00\x11\x08\xff\xff\xff\xff"), size[0] * size[1] <= MOST) for size in SIZES),
    *((picture(kind, *size), SLOW) for kind in ("GIF", "BMP", "WEBP") for size in SIZES[:1] + SIZES[-1:]),
    # what a header says, and no more
    *((png_saying(*size), SLOW) for size in ((1 << 16, 1 << 16), (1 << 31, 1), (1, 1 << 31), (0xFFFFFFFF, 0xFFFFFFFF), (0x80000000, 0x80000000))),
    *((png_saying(*size), QUICK) for size in ((0, 0), (0, 1000), (0x7FFFFFFF, 0), (600, 1))),
    *((behind_a_chunk(picture("PNG", 20, 20), name), SLOW) for name in (b"teSt", b"tEXt", b"IHDr", b"IDAT")),
    *((jpeg_saying(*size), size[0] * size[1] <= MOST) for size in ((65535, 65535), (601, 1), (600, 1), (0, 0), (65535, 0), (0, 65535))),
    # what stands before the frame
    *((jpeg_with(between, 20, high), high <= 30) for high in (30, 31) for between in (
        b"\xff" * 50, b"\0" * 50, b"\xff\0" * 50, b"\xff\x01" * 9, b"\xff\xd0\xff\xd7\xff\xd8", segment(0xFE), segment(0xE1, 5000),
        segment(0xC4), segment(0xC8), segment(0xCC, 1), segment(0xDB, 64), segment(0xFE, 65533), segment(0x02), segment(0xBF),
        segment(0xE0) * 4000, b"a text",
    )),
    *((jpeg_with(between, 20, 31), QUICK) for between in (b"\xff\xd9", segment(0xDA), b"\xff\xfe\xff\xff")),
    *((jpeg_with(bytes([0xFF, marker]) + struct.pack(">HBHH", 11, 8, 30, 21)), SLOW) for marker in range(0xC0, 0xD0) if marker not in (0xC4, 0xC8, 0xCC)),
    # what looks like a frame, in a segment or behind a marker that has no length
    *((jpeg_with(bytes([0xFF, marker]) + b"\0\x0b\xff\xc0\0\x0b\x08\0\x1f\0\x14"), marker not in (0, 1, 0xD0, 0xD7, 0xD8)) for marker in (
        0, 1, 2, 0xBF, 0xC4, 0xC8, 0xCC, 0xD0, 0xD7, 0xD8, 0xD9, 0xDA, 0xDB, 0xE0, 0xFE,
    )),
    (jpeg_with(segment(0xE0) * 5000), SLOW),
    (jpeg_with(segment(0xE0) * 70_000), SLOW),
    (jpeg_with(b"\xff\xd0" * 5000), SLOW),
    (jpeg_with(b"\xff\xd0" * 70_000), SLOW),
    # no pictures
    *((text, QUICK) for text in (
        b"a", b"\x89", b"\x89PN", b"\x89PNG\r\n\x1a\n", b"\x89PNG\n\x1a\n" + bytes(99), b"\x89png\r\n\x1a\n" + b"\xff" * 99, b"\xff",
        b"\xff\xd8", b"\xff\xd8\xff", b"\xff\xd8\xff\xff\xff", b"\xff\xd8no", b"\xff\xd9", b"\xd8\xff", b"B", b"bm", b"gif", b"GI", b"RIF", b"riff", b" BM",
        b"\0BM", b"text that says GIF", "é\x89PNG".encode(),
    )),
    *((text, SLOW) for text in (
        b"BM", b"BMW", b"GIF", b"GIF87a", b"GIFT", b"RIFF", b"RIFFRAFF", b"RIFF\0\0\0\0WEBP", b"BM" + bytes(99), b"GIF89a" + b"\xff" * 40,
    )),
]  # fmt: skip


def body(*strings: bytes, signature: str = "unread", **more: Any) -> bytes:
    encoded = [{"b64": base64.b64encode(content).decode()} for content in strings]
    return json.dumps({"signature_name": signature, "instances": encoded}).encode()


def check(compare: Ask, folder: Path, cases: Sequence[tuple[Question, bool]], most: int = MOST, **more: Any) -> None:
    came = compare(folder, [question for question, _ in cases], MAX_PIXELS=str(most), **more)
    wrong = [question for (question, way), (_, was_taken) in zip(cases, came, strict=True) if way is not was_taken]
    assert wrong == [], f"{len(wrong)}: {wrong[0]!r:.600}"


def test_pictures_that_are_only_measured(compare: Ask) -> None:
    check(compare, build() / "pictures", [(body(data), way) for data, way in PICTURES])


def test_pictures_that_are_decoded(compare: Ask) -> None:
    """One that is within the limit, and cannot be decoded, is refused by TensorFlow: the extension has run it."""
    check(compare, build() / "pictures", [(body(data, signature="serving_default"), way) for data, way in PICTURES])


def test_the_embedded_model(compare: Ask) -> None:
    check(compare, EMBEDDED, [(body(data, signature="serving_default"), way) for data, way in PICTURES])


@pytest.mark.parametrize("most", [1, 15, 16, 255, 256, 599, 601])
def test_the_native_code_measures_pictures_as_the_python_code_does(compare: Ask, most: int) -> None:
    kinds: list[dict[str, Any]] = [{"kind": "PNG"}, {"kind": "JPEG"}, {"kind": "JPEG", "progressive": True}]
    sizes = {
        (width, max(1, (most + more) // width)) for width in (1, 2, 3, 16, 255, 300) for more in (0, width, -width)
    }
    cases: list[tuple[Question, bool]] = []
    for size in sorted(sizes):
        for kind in kinds:
            data = picture(**kind, width=size[0], height=size[1])
            assert images.measure(data)[1:3] == size
            cases.append((body(data), size[0] * size[1] <= most))
    check(compare, build() / "pictures", cases, most)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "progressive", "segments"])
@pytest.mark.parametrize("height", [30, 31])
def test_pictures_with_truncated_headers_are_answered_alike(compare: Ask, kind: str, height: int) -> None:
    if kind == "PNG":
        data = picture("PNG", 20, height)
    elif kind == "segments":
        data = jpeg_with(segment(0xFE, 3) + b"\xff\xff\xd0" + segment(0xC4), 20, height)
    else:
        data = picture("JPEG", 20, height, mode="RGB", progressive=kind == "progressive")
    cases: list[tuple[Question, bool]] = []
    for size in range(1, min(len(data), 700) + 1):
        measured = images.measure(data[:size])
        way = measured is None or measured.pixels <= MOST
        cases.append((body(data[:size], b"a"), way))
        cases.append((body(b"a", data[:size]), way))
    check(compare, build() / "pictures", cases)
    assert {way for _, way in cases} == ({QUICK} if height == 30 else {QUICK, SLOW})


def test_pictures_with_a_changed_byte_are_answered_alike(compare: Ask) -> None:
    questions: list[Question] = []
    for data in (picture("PNG", 20, 30), picture("JPEG", 20, 30), jpeg_with(segment(0xFE, 2), 20, 30)):
        for position in range(min(len(data), 220)):
            for changed in (0, 1, 0x7F, 0x80, 0xC0, 0xC4, 0xD0, 0xDA, 0xFF, data[position] ^ 1):
                questions.append(body(data[:position] + bytes([changed]) + data[position + 1 :]))
    came = compare(build() / "pictures", questions, MAX_PIXELS=str(MOST))
    assert len(came) / 10 < sum(was_taken for _, was_taken in came) < len(came)


def test_several_pictures_are_counted_together(compare: Ask) -> None:
    small, half, whole = picture("PNG", 10, 10), picture("JPEG", 10, 30), picture("PNG", 20, 30)
    broken, gif = whole[:20], picture("GIF", 1, 1)
    cases: list[tuple[Question, bool]] = [
        (body(half, half), QUICK),
        (body(half, half, small), SLOW),
        (body(small, half, half), SLOW),
        (body(*[small] * 6), QUICK),
        (body(*[small] * 7), SLOW),
        (body(whole), QUICK),
        (body(whole, b"a text", b"", broken), QUICK),
        (body(whole, picture("PNG", 1, 1)), SLOW),
        (body(picture("PNG", 1, 1), whole), SLOW),
        (body(small, gif), SLOW),
        (body(gif), SLOW),
        (body(png_saying(0x7FFFFFFF, 0x7FFFFFFF), png_saying(0x7FFFFFFF, 0x7FFFFFFF), png_saying(0x7FFFFFFF, 0x7FFFFFFF)), SLOW),
    ]  # fmt: skip
    check(compare, build() / "pictures", cases)
    nested = [{"b64": base64.b64encode(content).decode()} for content in (half, half, small)]
    matrix = b'{"signature_name":"matrix","instances":%b}'
    check(
        compare,
        build() / "pictures",
        [
            (matrix % json.dumps([nested[:2]]).encode(), QUICK),
            (matrix % json.dumps([nested]).encode(), SLOW),
            (matrix % json.dumps([[entry] for entry in nested]).encode(), SLOW),
        ],
    )


def test_all_inputs_together_have_the_limit(compare: Ask) -> None:
    half, whole, beyond = (base64.b64encode(picture("PNG", 20, high)).decode() for high in (15, 30, 31))

    def two(a: str, *b: str) -> bytes:
        inputs = {"a": {"b64": a}, "b": [{"b64": content} for content in b]}
        return json.dumps({"signature_name": "two", "inputs": inputs}).encode()

    cases: list[tuple[Question, bool]] = [
        (two(half, half), QUICK), (two(half, half, half), SLOW), (two(whole, half), SLOW),
        (two(beyond, half), SLOW), (two(half, beyond), SLOW), (two(beyond, beyond), SLOW),
    ]  # fmt: skip
    check(compare, build() / "pictures", cases)


def test_pictures_of_the_open_inference_protocol(compare: Ask) -> None:
    cases: list[tuple[Question, bool]] = []
    for content, way in PICTURES:
        data = struct.pack("<I", len(content)) + content
        entry = {"name": "x", "datatype": "BYTES", "shape": [1]}
        text = json.dumps({"inputs": [{**entry, "parameters": {"binary_data_size": len(data)}}]}).encode()
        headers = {"content-type": "application/octet-stream", "inference-header-content-length": str(len(text))}
        cases.append(((text + data, "", headers), way))
        encoded = [{"b64": base64.b64encode(content).decode()}]
        cases.append((json.dumps({"inputs": [{**entry, "data": encoded}]}).encode(), way))
    check(compare, build() / "pictures", cases, path="/v2/models/model/infer")


def test_strings_of_a_model_without_pictures_are_not_measured(compare: Ask) -> None:
    def plain(string: bytes) -> bytes:
        return body(string, signature="raw")

    check(
        compare,
        build() / "strings",
        [(plain(string), QUICK) for string, _ in PICTURES if string and len(string) < 99_999],
        1,
    )


def test_texts_that_begin_like_a_picture_are_answered_alike(compare: Ask) -> None:
    texts = ["BM", "BMW", "GIF", "GIFT", "RIFF", "RIFFRAFF", "a BM", "GI", "RIF", "é", "\x89PNG", "\ufffd\ufffd"]
    cases: list[tuple[Question, bool]] = [
        (
            json.dumps({"signature_name": "unread", "instances": ["a", text]}).encode(),
            not text.startswith(("BM", "GIF", "RIFF")),
        )
        for text in texts
    ]
    check(compare, build() / "pictures", cases)
