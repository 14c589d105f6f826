"""Files of pictures that encoders do not write."""

import struct
import zlib


def behind_a_chunk(file: bytes, name: bytes = b"teSt") -> bytes:
    """Return a PNG whose header stands behind a chunk that has a width and a height of 1 in the header's place."""
    chunk = struct.pack(">4sII", name, 1, 1)
    return file[:8] + struct.pack(">I", 8) + chunk + struct.pack(">I", zlib.crc32(chunk)) + file[8:]
