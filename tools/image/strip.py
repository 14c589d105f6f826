"""Shared libraries without what no loader reads: debug information, the symbols for debuggers, section headers."""

import struct
from pathlib import Path

from tools.image.elf import Elf, Refused

WORTH = 0.9  # a library that would keep more than so much of its size stays as it is
SECTION_HEADERS, SECTION_COUNT, SECTION_NAMES = 40, 60, 62  # their offsets in the ELF header


def stripped(path: Path) -> bytes | None:
    """Return the library up to the end of its last segment; None where that gains little, or it is not understood.

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
