"""Strips from shared libraries what no loader reads: debug information, debugger symbols, section headers."""

import struct
from pathlib import Path

from tools.image.elf import Elf, Refused

WORTH = 0.9  # a library that would keep more than this share of its size is not changed
SECTION_HEADERS, SECTION_COUNT = 40, 60  # their offsets in the ELF header


def stripped(path: Path) -> bytes | None:
    """Return the library up to the end of its last segment; None if that saves little, or if the file is unknown.

    A loader works by segments, and by the dynamic section in them, which stay byte for byte.
    """
    try:
        library = Elf(path)
    except Refused:
        return None
    end = max(library.segments_at.stop, *(segment.offset + segment.file_size for segment in library.segments))
    if end > WORTH * len(library.data):
        return None
    data = bytearray(library.data[:end])
    struct.pack_into("<Q", data, SECTION_HEADERS, 0)
    struct.pack_into("<HH", data, SECTION_COUNT, 0, 0)
    return bytes(data)
