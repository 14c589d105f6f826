"""`image_bytes`: pictures become pixels in the graph, alone as in a batch, and none with too many pixels is decoded."""

import base64
import struct
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

from exporting import function, image_bytes
from exporting.pictures import REASONS, UNKNOWN, claimed_pixels
from tests.conftest import ROOT
from tests.models.pictures import behind_a_chunk
from tests.savedmodel.test_images import BARE, BETWEEN, BOXES, SPLIT

FILES = [file.read_bytes() for file in sorted((ROOT / "tests" / "data").glob("digit-*"))]


@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
def test_pictures_are_resized(tf: Any, resize: Any) -> None:
    identity = function(lambda pixels: pixels, {"pixels": tf.TensorSpec((None, 4, 6, 1), tf.uint8)})
    bright = tf.io.encode_png(np.full((10, 10, 1), 200, np.uint8))
    (pixels,) = image_bytes(identity, resize=resize, scale=0.5, offset=1.0).call(image=bright[tf.newaxis])["output"]
    assert pixels.dtype == tf.uint8
    sides = {"stretch": 101, "crop": 101, "pad": 1}
    assert pixels.numpy()[2, :, 0].tolist() == [sides[resize], 101, 101, 101, 101, sides[resize]]


@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_alone_gets_the_pixels_that_it_gets_in_a_batch(tf: Any, channels: int, resize: Any) -> None:
    identity = function(lambda pixels: pixels, {"pixels": tf.TensorSpec((None, 9, 7, channels))})
    wrapped = tf.function(
        image_bytes(identity, resize=resize, scale=1 / 255).call, autograph=False, reduce_retracing=True
    )
    files = [file for file in FILES if channels == 3 or not file.startswith((b"GIF", b"BM"))]  # they have 3 at least
    together = wrapped(image=tf.constant(files))["output"].numpy()
    assert together.shape == (len(files), 9, 7, channels)
    for file, pixels in zip(files, together, strict=True):
        (alone,) = wrapped(image=tf.constant([file]))["output"].numpy()
        assert alone.tobytes() == pixels.tobytes()
    assert wrapped(image=tf.zeros(0, tf.string))["output"].shape == (0, 9, 7, channels)


def png(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", width, height)


def written(form: str, width: int, height: int) -> bytes:
    file = BytesIO()
    Image.new("L", (width, height)).save(file, form)
    return file.getvalue()


LIMITS = [
    # form   width  height
    ("PNG",     60,     10),
    ("PNG",     10,     60),
    ("PNG",     24,     25),
    ("PNG",    600,      1),
    ("GIF",     60,     10),
    ("JPEG",    60,     10),
    ("WEBP",    60,     10),
]  # fmt: skip


@pytest.mark.parametrize("position", [0, 1, 2])
@pytest.mark.parametrize(("form", "width", "height"), LIMITS)
def test_a_picture_with_too_many_pixels_is_refused(tf: Any, form: str, width: int, height: int, position: int) -> None:
    identity = function(lambda pixels: pixels, {"pixels": tf.TensorSpec((None, 4, 4, 3))})
    files = [written("PNG", 3, 3), written("JPEG", 3, 3)]
    files.insert(position, written(form, width, height))
    assert image_bytes(identity, largest=600).call(image=tf.constant(files))["output"].shape == (3, 4, 4, 3)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"too large: at most 599 pixels, the file claims.*600"):
        image_bytes(identity, largest=599).call(image=tf.constant(files))


def test_a_picture_with_too_many_pixels_is_refused_before_it_is_decoded(tf: Any) -> None:
    identity = function(lambda pixels: pixels, {"pixels": tf.TensorSpec((None, 4, 4, 3))})
    with pytest.raises(tf.errors.InvalidArgumentError, match="too large"):  # the decoder would name the missing data
        image_bytes(identity).call(image=tf.constant([png(5793, 5793)]))


def webp(width: int, height: int, **options: Any) -> bytes:
    file = BytesIO()
    Image.new("RGB", (width, height), (9, 50, 99)).save(file, "WEBP", **options)
    return file.getvalue()


def without_its_chunk(file: bytes) -> bytes:
    return b"RIFF" + struct.pack("<I", len(file) - 16) + b"WEBP" + file[20:]


NOT_MEASURED = [
    # a file that TensorFlow decodes                     the reason
    (behind_a_chunk(written("PNG", 60, 10)),             REASONS[0]),
    (without_its_chunk(webp(60, 10)),                    REASONS[1]),
    (without_its_chunk(webp(60, 10, lossless=True)),     REASONS[1]),
    (base64.b64decode(BARE),                             REASONS[2]),
    *((base64.b64decode(file),                           REASONS[2]) for file in (BOXES, BETWEEN, *SPLIT)),
]  # fmt: skip


@pytest.mark.parametrize("position", [0, 1])
@pytest.mark.parametrize(("file", "reason"), NOT_MEASURED, ids=range(13))
def test_a_picture_whose_size_is_not_read_is_refused_in_words(tf: Any, file: bytes, reason: str, position: int) -> None:
    identity = function(lambda pixels: pixels, {"pixels": tf.TensorSpec((None, 4, 4, 3))})
    assert tf.io.decode_image(file, expand_animations=False).shape[:2] in ((10, 60), (37, 100))
    files = [written("PNG", 3, 3)]
    files.insert(position, file)
    with pytest.raises(tf.errors.InvalidArgumentError, match=reason):
        image_bytes(identity).call(image=tf.constant(files))


def test_pictures_are_decoded_without_a_loop(tf: Any) -> None:
    identity = function(lambda pixels: pixels, {"pixels": tf.TensorSpec((None, 4, 4, 3))})
    wrapped = tf.function(image_bytes(identity).call, autograph=False)
    graph = wrapped.get_concrete_function(image=tf.TensorSpec((None,), tf.string)).graph.as_graph_def()
    nodes = [*graph.node, *(node for called in graph.library.function for node in called.node_def)]
    assert [node.op for node in nodes if "While" in node.op] == []


# fmt: off
CLAIMED = [
    # title                  file                                             pixels
    ("a PNG",                written("PNG", 300, 7),                          2100),
    ("a large PNG",          png(70_000, 50_000),                             3_500_000_000),
    ("the largest PNG",      png(2**32 - 1, 2**32 - 1),                       float((2**32 - 1) ** 2)),
    ("a GIF",                written("GIF", 300, 7),                          2100),
    ("the largest GIF",      b"GIF89a" + struct.pack("<HH", 65535, 65535),    65535**2),
    ("a JPEG",               written("JPEG", 300, 7),                         2100),
    ("a BMP",                written("BMP", 300, 7),                          0),
    ("a PNG that hides it",  behind_a_chunk(written("PNG", 300, 7)),          UNKNOWN),
    ("a lossy WebP",         webp(300, 7),                                    2100),
    ("a lossless WebP",      webp(300, 7, lossless=True),                     2100),
    ("a WebP with features", webp(300, 7, exif=b"Exif"),                      2100),
    ("the largest WebP",     webp(16383, 1, lossless=True),                   16383),
    ("a WebP in a JPEG XL",  b"\xff\x0a" + bytes(6) + b"WEBPVP8 " + bytes(20),  3 * UNKNOWN),
    ("a sound",              b"RIFF" + bytes(4) + b"WAVEfmt " + bytes(99),    0),
    ("a PNG without a size", b"\x89PNG\r\n\x1a\n",                            0),
    ("no picture",           b"a letter to the reader, in plain text",        0),
    ("an empty file",        b"",                                             0),
]
# fmt: on


@pytest.mark.parametrize(("title", "file", "pixels"), CLAIMED, ids=[title for title, _, _ in CLAIMED])
def test_the_number_of_pixels_is_read_from_the_header(tf: Any, title: str, file: bytes, pixels: float) -> None:
    assert claimed_pixels(tf.constant(file)).numpy() == pixels
