"""Scans of digits as picture files, the way callers send them: any format, size, colour and polarity.

`python -m examples.digits.pictures` writes the pictures of tests/data, each from a scan held out of the training.
"""

import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from examples.digits.data import Digits, Scans, load, split

FOLDER = Path(__file__).parents[2] / "tests" / "data"


def paint(scan: Scans, side: int = 8, margin: int = 0, dark_on_light: bool = False) -> Image.Image:
    """Return a scan, values 0..16, as a grey picture of that side, smooth where enlarged, with a margin around it."""
    grey = Image.fromarray(np.round(scan * (255 / 16)).astype(np.uint8))
    if side != grey.width:
        grey = grey.resize((side, side), Image.Resampling.BICUBIC)
    grey = ImageOps.expand(grey, margin, fill=0)
    return ImageOps.invert(grey) if dark_on_light else grey


def encode(picture: Image.Image, format: str = "PNG", **options: object) -> bytes:
    """Return the bytes of the picture as a file."""
    file = BytesIO()
    picture.save(file, format, **options)
    return file.getvalue()


def smallest_png(scan: Scans) -> bytes:
    """Return a scan, values 0..16, as a grey PNG of 8x8 without a byte that could be left out."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    rows = b"".join(b"\0" + row.tobytes() for row in np.round(scan * (255 / 16)).astype(np.uint8))
    header = struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


def black_on_paper(scan: Scans) -> bytes:
    return encode(paint(scan, 72, margin=14, dark_on_light=True).convert("RGB"), optimize=True)


def blue_ink_photograph(scan: Scans) -> bytes:
    grey = ImageOps.expand(paint(scan, 80), (50, 30, 20, 10), fill=0)
    return encode(ImageOps.colorize(grey, black=(236, 228, 204), white=(24, 40, 120)), "JPEG", quality=80)


def drawn_on_nothing(scan: Scans) -> bytes:
    drawn = Image.new("RGBA", (96, 96), (0, 0, 0, 0))
    drawn.putalpha(paint(scan, 64, margin=16))
    return encode(drawn, optimize=True)


def sixteen_bits(scan: Scans) -> bytes:
    return encode(Image.fromarray(np.asarray(paint(scan, 32, margin=4), np.uint16) * 257), optimize=True)


def chalk_palette(scan: Scans) -> bytes:
    grey = paint(scan, 64, margin=8)
    return encode(ImageOps.colorize(grey, black=(20, 60, 40), white=(250, 250, 240)).quantize(16), optimize=True)


def one_bit(scan: Scans) -> bytes:
    grey = paint(scan, 64, margin=8, dark_on_light=True)
    return encode(grey.point(lambda value: 255 * (value > 127)).convert("1"), optimize=True)


# fmt: off
PICTURES: tuple[tuple[str, int, Callable[[Scans], bytes]], ...] = (
    # file              digit  how it is made
    ("digit-3.png",         3, black_on_paper),
    ("digit-7.jpg",         7, blue_ink_photograph),
    ("digit-5-alpha.png",   5, drawn_on_nothing),
    ("digit-0-16bit.png",   0, sixteen_bits),
    ("digit-4-palette.png", 4, chalk_palette),
    ("digit-8-1bit.png",    8, one_bit),
    ("digit-2.gif",         2, lambda scan: encode(paint(scan, 48, margin=8, dark_on_light=True), "GIF")),
    ("digit-6.bmp",         6, lambda scan: encode(paint(scan, 24, margin=4), "BMP")),
    ("digit-9-8x8.png",     9, smallest_png),
)
# fmt: on


def draw(held_out: Digits) -> dict[str, bytes]:
    """Return every picture by its file's name, each of the first scan of its digit."""
    return {name: make(held_out.scans[held_out.labels == digit][0]) for name, digit, make in PICTURES}


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, content in draw(split(load())[1]).items():
        (FOLDER / name).write_bytes(content)
        print(f"{name}: {len(content)} bytes")
