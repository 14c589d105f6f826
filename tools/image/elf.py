"""Reads the parts of a shared library that the dynamic loader uses: segments, dynamic section, symbols, relocations.

ELF64, little-endian, x86-64 only; <https://gabi.xinuos.com>, <https://gitlab.com/x86-psABIs/x86-64-ABI>. Everything
else, and every inconsistency, is refused with one line.
"""

import mmap
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

# fmt: off
SYMBOL     = np.dtype([("name", "<u4"), ("info", "u1"), ("other", "u1"), ("section", "<u2"),
                       ("value", "<u8"), ("size", "<u8")])
RELOCATION = np.dtype([("offset", "<u8"), ("type", "<u4"), ("symbol", "<u4"), ("addend", "<i8")])
SECTION    = np.dtype([("name", "<u4"), ("type", "<u4"), ("flags", "<u8"), ("address", "<u8"), ("offset", "<u8"),
                       ("size", "<u8"), ("link", "<u4"), ("info", "<u4"), ("align", "<u8"), ("entry", "<u8")])

# The supported relocation types: R_X86_64_...
RELOCATIONS = {
    0: "NONE", 1: "64", 6: "GLOB_DAT", 7: "JUMP_SLOT", 8: "RELATIVE",
    16: "DTPMOD64", 17: "DTPOFF64", 18: "TPOFF64", 36: "TLSDESC", 37: "IRELATIVE",
}
R_64, R_GLOB_DAT, R_JUMP_SLOT, R_RELATIVE = 1, 6, 7, 8

DT_NULL, DT_NEEDED, DT_PLTRELSZ, DT_HASH, DT_STRTAB, DT_SYMTAB, DT_RELA, DT_RELASZ = 0, 1, 2, 4, 5, 6, 7, 8
DT_RELAENT, DT_STRSZ, DT_SYMENT, DT_SONAME, DT_REL, DT_PLTREL, DT_JMPREL = 9, 10, 11, 14, 17, 20, 23
DT_RELRSZ, DT_RELR, DT_RELRENT = 35, 36, 37
DT_GNU_HASH, DT_RELACOUNT = 0x6FFFFEF5, 0x6FFFFFF9
DT_VERDEF, DT_VERDEFNUM, DT_VERNEED, DT_VERNEEDNUM = 0x6FFFFFFC, 0x6FFFFFFD, 0x6FFFFFFE, 0x6FFFFFFF

SHT_SYMTAB, SHT_STRTAB, SHT_NOBITS, SHT_RELR = 2, 3, 8, 19
SHF_ALLOC = 2
SHN_LORESERVE = 0xFF00
STB_GNU_UNIQUE, STT_TLS, STT_GNU_IFUNC = 10, 6, 10
PT_LOAD, PT_DYNAMIC, PT_INTERP = 1, 2, 3
PF_X, PF_W = 1, 2
# fmt: on


class Refused(Exception):
    """The operation cannot be done safely; the message is one line."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One program header."""

    type: int
    flags: int
    offset: int
    address: int
    file_size: int
    memory_size: int


@dataclass(frozen=True, slots=True)
class Need:
    """The versions that a library needs of another one: (hash, flags, index, where its name is in the strings)."""

    file: int
    versions: tuple[tuple[int, int, int, int], ...]


class Elf:
    """A shared library, mapped for reading."""

    def __init__(self, path: Path) -> None:
        """Map the file; raise Refused where it is not a library that this module understands."""
        self.path = path
        try:
            with path.open("rb") as file:
                self.data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise Refused(f"{path.name}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
        self.bytes = np.frombuffer(self.data, np.uint8)
        self._header()
        self.dynamic = self._dynamic()
        self.tags: Mapping[int, int] = dict(self.dynamic)

    def refuse(self, reason: str) -> Refused:
        """Return the exception that says why this file is refused."""
        return Refused(f"{self.path.name}: {reason}")

    def _header(self) -> None:
        data = self.data
        if data[:4] != b"\x7fELF":
            raise self.refuse("not an ELF file")
        if len(data) < 64 or data[4:7] != b"\x02\x01\x01":
            raise self.refuse("not a 64-bit little-endian ELF file of version 1")
        self.kind, machine = struct.unpack_from("<HH", data, 16)
        if machine != 62:
            raise self.refuse(f"made for another architecture: expected x86-64 (62), got {machine}")
        start, self.sections_at = struct.unpack_from("<QQ", data, 32)
        size, count, section_size, section_count, self.section_names = struct.unpack_from("<5H", data, 54)
        if size != 56 or start + size * count > len(data):
            raise self.refuse("its program headers are not where they should be")
        self.segments_at = range(start, start + size * count, size)
        self.segments = [
            Segment(kind, flags, offset, address, file_size, memory_size)
            for kind, flags, offset, address, _, file_size, memory_size, _ in struct.iter_unpack(
                "<IIQQQQQQ", data[start : start + size * count]
            )
        ]
        if section_count and section_size != SECTION.itemsize:
            raise self.refuse("its section headers have another size")
        self.sections = self.table(self.sections_at, section_count * SECTION.itemsize, SECTION, "section headers")
        if any(segment.offset + segment.file_size > len(data) for segment in self.segments):
            raise self.refuse("cut short")

    def _dynamic(self) -> list[tuple[int, int]]:
        for segment in self.segments:
            if segment.type == PT_DYNAMIC:
                self.dynamic_at, self.dynamic_slots = segment.offset, segment.file_size // 16
                entries = struct.iter_unpack(
                    "<QQ", self.data[segment.offset : segment.offset + segment.file_size // 16 * 16]
                )
                pairs: list[tuple[int, int]] = []
                for tag, value in entries:
                    if tag == DT_NULL:
                        return pairs
                    pairs.append((tag, value))
        raise self.refuse("without a dynamic section")

    def at(self, address: int) -> int:
        """Return the file offset of the byte at `address`."""
        for segment in self.segments:
            if segment.type == PT_LOAD and segment.address <= address < segment.address + segment.file_size:
                return address - segment.address + segment.offset
        raise self.refuse(f"nothing in the file for the address {address:#x}")

    def table(self, offset: int, size: int, kind: np.dtype[Any], name: str) -> Array:
        """Return the file's bytes from `offset` as entries of `kind`."""
        if size % kind.itemsize or offset + size > len(self.data):
            raise self.refuse(f"its {name} are not where they should be")
        return np.frombuffer(self.data, kind, size // kind.itemsize, offset)

    def need(self, tag: int, name: str) -> int:
        """Return the value of an entry of the dynamic section."""
        if tag not in self.tags:
            raise self.refuse(f"without {name} in its dynamic section")
        return self.tags[tag]

    def relocations(self, start: int, size: int) -> Array:
        """Return a table of relocations; raise Refused where one is of an unknown type."""
        table = self.table(self.at(start) if size else 0, size, RELOCATION, "relocations")
        unknown = set(np.unique(table["type"]).tolist()) - set(RELOCATIONS)
        if unknown:
            raise self.refuse(f"relocations of the unknown type {min(unknown)}")
        return table

    def symbols(self) -> Array:
        """Return the dynamic symbols; their number is that of the hash table's entries."""
        start = self.at(self.need(DT_SYMTAB, "DT_SYMTAB"))
        if self.need(DT_SYMENT, "DT_SYMENT") != SYMBOL.itemsize:
            raise self.refuse("its symbols have another size")
        word = np.dtype("<u4")
        if DT_GNU_HASH in self.tags:
            offset = self.at(self.tags[DT_GNU_HASH])
            buckets, count, bloom, _ = struct.unpack_from("<4I", self.data, offset)
            offset += 16 + 8 * bloom
            last = int(self.table(offset, 4 * buckets, word, "hash buckets").max(initial=0))
            if last >= count:
                offset += 4 * buckets + 4 * (last - count)
                while not struct.unpack_from("<I", self.data, offset)[0] & 1:
                    last, offset = last + 1, offset + 4
                count = last + 1
        else:
            offset = self.at(self.need(DT_HASH, "DT_GNU_HASH or DT_HASH"))
            _, count = struct.unpack_from("<2I", self.data, offset)
        return self.table(start, count * SYMBOL.itemsize, SYMBOL, "symbols")

    def strings(self) -> bytes:
        """Return the table that names of symbols and libraries are in."""
        start = self.at(self.need(DT_STRTAB, "DT_STRTAB"))
        return self.data[start : start + self.need(DT_STRSZ, "DT_STRSZ")]

    def defined(self) -> Iterator[tuple[int, bytes]]:
        """Yield the index and the name of each symbol that the library defines."""
        symbols, strings = self.symbols(), self.strings()
        indices = np.flatnonzero(symbols["section"])
        for index, start in zip(indices.tolist(), symbols["name"][indices].tolist()):
            yield index, strings[start : strings.index(b"\0", start)]

    def needs(self) -> list[Need]:
        """Return the versions of other libraries that this one needs."""
        if DT_VERNEED not in self.tags:
            return []
        offset, needs = self.at(self.tags[DT_VERNEED]), []
        for _ in range(self.need(DT_VERNEEDNUM, "DT_VERNEEDNUM")):
            version, count, file, first, following = struct.unpack_from("<HHIII", self.data, offset)
            if version != 1:
                raise self.refuse(f"version needs of the unknown revision {version}")
            versions, entry = [], offset + first
            for _ in range(count):
                *fields, step = struct.unpack_from("<IHHII", self.data, entry)
                versions.append(tuple(fields))
                entry += step
            needs.append(Need(file, tuple(versions)))
            offset += following
        return needs

    def defined_versions(self) -> list[int]:
        """Return the indices of the versions that this library defines."""
        if DT_VERDEF not in self.tags:
            return []
        offset, indices = self.at(self.tags[DT_VERDEF]), []
        for _ in range(self.need(DT_VERDEFNUM, "DT_VERDEFNUM")):
            indices.append(struct.unpack_from("<H", self.data, offset + 4)[0])
            offset += struct.unpack_from("<I", self.data, offset + 16)[0]
        return indices

    def section_name(self, index: int) -> bytes:
        """Return the name of a section."""
        start = int(self.sections[self.section_names]["offset"]) + int(self.sections[index]["name"])
        return self.data[start : self.data.find(b"\0", start)]


def write_needs(needs: list[Need]) -> bytes:
    """Return the table of needed versions, as `Elf.needs` reads it."""
    table = b""
    for position, need in enumerate(needs):
        size = 16 * (1 + len(need.versions))
        table += struct.pack("<HHIII", 1, len(need.versions), need.file, 16, size if position + 1 < len(needs) else 0)
        for number, version in enumerate(need.versions, 1):
            table += struct.pack("<IHHII", *version, 16 if number < len(need.versions) else 0)
    return table


def hash_of(name: bytes) -> int:
    """Return the ELF hash of a version's name."""
    value = 0
    for byte in name:
        value = (value << 4) + byte
        high = value & 0xF0000000
        value = (value ^ high >> 24) & ~high
    return value


def pack(offsets: list[int]) -> Array:
    """Return relative relocations at these ascending multiples of 8 as a DT_RELR table.

    An even word is a place; the bits of an odd one, above its lowest, say which of the next 63 words are places too.
    """
    words: list[int] = []
    position, count = 0, len(offsets)
    while position < count:
        base = offsets[position]
        words.append(base)
        position, base = position + 1, base + 8
        while True:
            bits = 0
            while position < count and offsets[position] < base + 63 * 8:
                bits |= 1 << (offsets[position] - base) // 8
                position += 1
            if not bits:
                break
            words.append(bits << 1 | 1)
            base += 63 * 8
    return np.array(words, np.uint64)


def unpack(words: Array) -> Array:
    """Return the places of a DT_RELR table."""
    places: list[Array] = []
    bit, base = np.arange(63, dtype=np.uint64), 0
    for word in words.tolist():
        if word & 1:
            set_bits = (np.uint64(word >> 1) >> bit & np.uint64(1)).astype(bool)
            places.append(base + 8 * np.flatnonzero(set_bits).astype(np.uint64))
            base += 63 * 8
        else:
            places.append(np.array([word], np.uint64))
            base = word + 8
    return np.concatenate(places) if places else np.empty(0, np.uint64)
