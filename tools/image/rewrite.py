"""Rewrites a shared library with some of its relocations bound, and proves that nothing else changed.

All addresses stay; only the space of the two relocation tables is arranged differently:

    before   .dynstr | .rela.dyn                                   | .rela.plt |
    after    .dynstr   + | versions needed | .rela.dyn | .relr.dyn | (nothing) |   with DT_RELR
             .dynstr | .rela.dyn, the relative ones first                      |   without

The rest of .rela.plt moves to .rela.dyn: a library without DT_JMPREL has no lazy binding, and the three entries that
described the table make room for those of DT_RELR. The static symbol table, which no loader reads, is left out.
"""

import io
import mmap
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tools.image import elf
from tools.image.elf import Array, Elf, Need

RELR_VERSION = b"GLIBC_ABI_DT_RELR"
REPLACED = (
    elf.DT_JMPREL, elf.DT_PLTRELSZ, elf.DT_PLTREL, elf.DT_RELACOUNT, elf.DT_RELR, elf.DT_RELRSZ, elf.DT_RELRENT,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Plan:
    """The new form of each relocation of a library."""

    room: tuple[int, int]  # the address range of the tables
    places: Array  # of the relative relocations, ascending
    targets: Array
    kept: Array  # the others, in their order


def tables(library: Elf) -> tuple[Array, Array, tuple[int, int]]:
    """Return .rela.dyn, .rela.plt and the addresses that they fill; raise Refused where they are not as expected."""
    tags = library.tags
    if elf.DT_RELR in tags:
        raise library.refuse("has relative relocations in DT_RELR already: bound before?")
    if elf.DT_REL in tags:
        raise library.refuse("has relocations of the kind DT_REL")
    if library.kind != 3:
        raise library.refuse(f"not a shared library: expected the type 3, got {library.kind}")
    if library.need(elf.DT_RELA, "DT_RELA") and library.need(elf.DT_RELAENT, "DT_RELAENT") != elf.RELOCATION.itemsize:
        raise library.refuse("its relocations have another size")
    if tags.get(elf.DT_PLTREL, elf.DT_RELA) != elf.DT_RELA:
        raise library.refuse("its PLT has relocations of the kind DT_REL")
    start, size = tags[elf.DT_RELA], library.need(elf.DT_RELASZ, "DT_RELASZ")
    first, second = tags.get(elf.DT_JMPREL, start + size), tags.get(elf.DT_PLTRELSZ, 0)
    if start <= first < start + size:
        raise library.refuse("its two tables of relocations overlap")
    end = start + size
    if first == end:
        end += second
    return library.relocations(start, size), library.relocations(first, second), (start, end)


def bindable(library: Elf, shared: frozenset[bytes]) -> Array:
    """Return for each symbol of the library whether its address is certain: defined here, and nowhere in `shared`."""
    symbols = library.symbols()
    kind, scope, section = symbols["info"] & 15, symbols["info"] >> 4, symbols["section"]
    decided: Array = (section != 0) & (section < elf.SHN_LORESERVE)
    decided &= (kind != elf.STT_TLS) & (kind != elf.STT_GNU_IFUNC) & (scope < elf.STB_GNU_UNIQUE)
    for index, name in library.defined():
        if name in shared:
            decided[index] = False
    return decided


def plan(library: Elf, shared: frozenset[bytes]) -> Plan:
    """Decide about every relocation of the library; raise Refused where none can be bound."""
    dynamic, plt, room = tables(library)
    every = np.concatenate([dynamic, plt])
    symbols, decided = library.symbols(), bindable(library, shared)
    if int(every["symbol"].max(initial=0)) >= len(symbols):
        raise library.refuse("a relocation names a symbol that is not there")
    symbolic = np.isin(every["type"], (elf.R_64, elf.R_GLOB_DAT, elf.R_JUMP_SLOT))
    bound = symbolic & decided[every["symbol"]]
    if not bound.any():
        raise library.refuse("nothing to bind: bound before?")
    targets = np.where(every["type"] == elf.R_64, every["addend"], 0) + np.where(
        bound, symbols["value"][every["symbol"]].astype(np.int64), 0
    )
    relative = every["type"] == elf.R_RELATIVE
    targets = np.where(relative, every["addend"], targets)
    relative |= bound
    order = np.argsort(every["offset"][relative], kind="stable")
    places = every["offset"][relative][order]
    if len(np.unique(every["offset"])) < len(every):
        raise library.refuse("two relocations of one place")
    return Plan(room, places, targets[relative][order].astype(np.int64), every[~relative])


def write(library: Elf, decided: Plan, path: Path, relr: bool) -> bool:
    """Write the bound library to `path`; return whether its relative relocations are packed as DT_RELR.

    They are not where `relr` is False, or the library does not need libc.so.6, or its tables have no room.
    """
    layout = _packed(library, decided) if relr else None
    entries, sections, blocks, words = layout or _plain(library, decided)
    if len(entries) >= library.dynamic_slots:
        raise library.refuse("its dynamic section has no room")
    table = b"".join(struct.pack("<QQ", *entry) for entry in entries)
    table = table.ljust(16 * library.dynamic_slots, b"\0")
    loaded = max(segment.offset + segment.file_size for segment in library.segments if segment.type == elf.PT_LOAD)
    start = library.at(decided.room[0])
    room = decided.room[1] - decided.room[0]
    with path.open("w+b") as file:
        view = memoryview(library.data)
        file.write(view[:start])
        for address, block in blocks:
            file.seek(library.at(address))
            file.write(block)
        file.seek(start + room)  # the rest of the space is a hole in the file
        file.write(view[start + room : loaded])
        header = bytearray(library.data[:64])
        _write_sections(library, file, loaded, sections, header)
        file.flush()
        with mmap.mmap(file.fileno(), 0) as data:
            data[:64] = bytes(header)
            data[library.dynamic_at : library.dynamic_at + len(table)] = table
            places, values = words
            if len(places):
                np.frombuffer(data, "<i8", len(data) // 8)[offsets(library, places) // 8] = values
    return layout is not None


Layout = tuple[list[tuple[int, int]], dict[bytes, dict[str, int]], list[tuple[int, bytes]], tuple[Array, Array]]


def _entries(library: Elf, changed: dict[int, int]) -> list[tuple[int, int]]:
    """Return the dynamic section's entries with some changed, those in REPLACED gone, and new ones at the end."""
    entries = [(tag, changed.pop(tag, value)) for tag, value in library.dynamic if tag not in REPLACED]
    return entries + list(changed.items())


def _rela(decided: Plan, listed: Array) -> bytes:
    relative = np.zeros(int(listed.sum()), elf.RELOCATION)
    relative["offset"], relative["addend"] = decided.places[listed], decided.targets[listed]
    relative["type"] = elf.R_RELATIVE
    return relative.tobytes() + decided.kept.tobytes()


def _plain(library: Elf, decided: Plan) -> Layout:
    everyone = np.ones(len(decided.places), bool)
    start, end = decided.room
    rela = _rela(decided, everyone)
    if len(rela) > end - start:
        raise library.refuse("its two tables of relocations do not touch")
    entries = _entries(library, {elf.DT_RELASZ: len(rela), elf.DT_RELACOUNT: len(everyone)})
    sections = {
        b".rela.dyn": {"size": len(rela)},
        b".rela.plt": {"address": start + len(rela), "offset": library.at(start) + len(rela), "size": 0},
    }
    nothing = np.empty(0, np.int64)
    return entries, sections, [(start, rela)], (nothing, nothing)


def _packable(library: Elf, decided: Plan) -> Array:
    """Return which addresses can be in DT_RELR: aligned, and in the file of a writable segment."""
    packed = np.zeros(len(decided.places), bool)
    for segment in library.segments:
        if segment.type == elf.PT_LOAD and segment.flags & elf.PF_W:
            packed |= (decided.places >= segment.address) & (decided.places + 8 <= segment.address + segment.file_size)
    packed &= decided.places % 8 == 0
    return packed


def _packed(library: Elf, decided: Plan) -> Layout | None:
    """Lay out the tables with DT_RELR, whose addends are at the addresses themselves; None if that is impossible."""
    needs = library.needs()
    names = library.strings()
    libc = [names.startswith(b"libc.so.6\0", need.file) for need in needs]
    start, end = decided.room
    strings = library.tags[elf.DT_STRTAB]
    if not any(libc) or start < strings:
        return None
    # glibc refuses DT_RELR in a library that does not need this version of it: an older one would crash.
    name = RELR_VERSION + b"\0"
    indices = [version[2] & 0x7FFF for need in needs for version in need.versions] + library.defined_versions()
    new = (elf.hash_of(RELR_VERSION), 0, max(indices, default=1) + 1, start - strings)
    needs[libc.index(True)] = Need(needs[libc.index(True)].file, (*needs[libc.index(True)].versions, new))
    versions = elf.write_needs(needs)

    packed = _packable(library, decided)
    rela, relr = _rela(decided, ~packed), elf.pack(decided.places[packed].tolist()).tobytes()

    blocks, address = [], start
    for block in (name, versions, rela, relr):
        blocks.append((address, block))
        address += -(-len(block) // 8) * 8
    if address > end:
        return None
    _, (needs_at, _), (rela_at, _), (relr_at, _) = blocks
    listed = int((~packed).sum())
    entries = _entries(
        library,
        {
            elf.DT_STRSZ: start - strings + len(name),
            elf.DT_VERNEED: needs_at,
            elf.DT_RELA: rela_at,
            elf.DT_RELASZ: len(rela),
            elf.DT_RELR: relr_at,
            elf.DT_RELRSZ: len(relr),
            elf.DT_RELRENT: 8,
        }
        | ({elf.DT_RELACOUNT: listed} if listed else {}),
    )
    sections = {
        b".dynstr": {"size": start - strings + len(name)},
        b".gnu.version_r": {"address": needs_at, "offset": library.at(needs_at), "size": len(versions)},
        b".rela.dyn": {"address": rela_at, "offset": library.at(rela_at), "size": len(rela)},
        b".rela.plt": {
            "type": elf.SHT_RELR, "flags": elf.SHF_ALLOC, "address": relr_at, "offset": library.at(relr_at),
            "size": len(relr), "link": 0, "info": 0, "align": 8, "entry": 8,
        },
    }  # fmt: skip
    return entries, sections, blocks, (decided.places[packed], decided.targets[packed])


def _write_sections(
    library: Elf, file: io.BufferedRandom, end: int, changed: dict[bytes, dict[str, int]], header: bytearray
) -> None:
    """Write the sections' names and headers, which no loader reads, without the static symbol table."""
    if not len(library.sections):
        return
    sections = library.sections.copy()
    dropped = {0}
    for index, section in enumerate(library.sections):
        if section["type"] == elf.SHT_SYMTAB:
            dropped |= {index, int(section["link"])}
    dropped -= {library.section_names}
    names, offset = b"\0", end
    for index, section in enumerate(sections):
        if index in dropped:
            sections[index] = 0
            continue
        name = library.section_name(index)
        for field, value in changed.get(name, {}).items():
            section[field] = value
        if section["type"] == elf.SHT_RELR:
            name = b".relr.dyn"
        section["name"] = len(names)
        names += name + b"\0"
    for index, section in enumerate(sections):
        if not section["type"] or section["flags"] & elf.SHF_ALLOC or section["type"] == elf.SHT_NOBITS:
            continue
        body = names
        if index != library.section_names:
            start = int(section["offset"])
            body = library.data[start : start + int(section["size"])]
        align = max(1, int(section["align"]))
        offset = -(-offset // align) * align
        section["offset"], section["size"] = offset, len(body)
        file.seek(offset)
        file.write(body)
        offset += len(body)
    offset = -(-offset // 8) * 8
    file.seek(offset)
    file.write(sections.tobytes())
    struct.pack_into("<Q", header, 40, offset)


def offsets(library: Elf, places: Array) -> Array:
    """Return the file offsets of these addresses, all of which are in the file."""
    positions = np.zeros(len(places), np.int64)
    for segment in library.segments:
        if segment.type == elf.PT_LOAD:
            inside = (places >= segment.address) & (places < segment.address + segment.file_size)
            positions[inside] = places[inside].astype(np.int64) - segment.address + segment.offset
    return positions


def decode(library: Elf) -> tuple[Array, Array, Array]:
    """Return the relocations of a written library: addresses and targets of the relative ones, and all others."""
    tags = library.tags
    rest = library.relocations(tags[elf.DT_RELA], tags[elf.DT_RELASZ])
    if elf.DT_JMPREL in tags:
        rest = np.concatenate([rest, library.relocations(tags[elf.DT_JMPREL], tags[elf.DT_PLTRELSZ])])
    count = tags.get(elf.DT_RELACOUNT, 0)
    if not (rest["type"][:count] == elf.R_RELATIVE).all():
        raise library.refuse("its DT_RELACOUNT is wrong")
    relative = rest["type"] == elf.R_RELATIVE
    places, targets, rest = rest["offset"][relative], rest["addend"][relative], rest[~relative]
    if elf.DT_RELR in tags:
        packed = elf.unpack(
            library.table(library.at(tags[elf.DT_RELR]), tags[elf.DT_RELRSZ], np.dtype("<u8"), "DT_RELR")
        )
        inside = np.frombuffer(library.data, "<i8", len(library.data) // 8)[offsets(library, packed) // 8]
        places, targets = np.concatenate([places, packed]), np.concatenate([targets, inside])
    return places, targets, rest


def verify(library: Elf, path: Path, shared: frozenset[bytes]) -> None:
    """Raise Refused unless the library at `path` is `library` with only bindable relocations bound."""
    written = Elf(path)
    places, targets, rest = decode(written)
    dynamic, plt, (start, end) = tables(library)
    before = np.concatenate([dynamic, plt])
    before = before[np.argsort(before["offset"])]
    if len(places) + len(rest) != len(before):
        raise written.refuse(f"{len(places) + len(rest)} relocations, expected {len(before)}")
    rest = rest[np.argsort(rest["offset"])]
    same = np.isin(before["offset"], rest["offset"])
    if not np.array_equal(before[same], rest):
        raise written.refuse("a relocation that should be the same is another")
    bound = before[~same]
    symbols, decided = library.symbols(), bindable(library, shared)
    relative = bound["type"] == elf.R_RELATIVE
    if not (relative | decided[bound["symbol"]]).all():
        raise written.refuse("a relocation is bound that should not be")
    own = symbols["value"][bound["symbol"]].astype(np.int64)
    expected = np.where(relative, bound["addend"], own + np.where(bound["type"] == elf.R_64, bound["addend"], 0))
    order = np.argsort(places)
    if not (np.array_equal(places[order], bound["offset"]) and np.array_equal(targets[order], expected)):
        raise written.refuse("a relocation is bound to the wrong place")
    if elf.DT_RELR in written.tags:
        packed = elf.unpack(
            written.table(
                written.at(written.tags[elf.DT_RELR]), written.tags[elf.DT_RELRSZ], np.dtype("<u8"), "DT_RELR"
            )
        )
    else:
        packed = np.empty(0, np.uint64)
    words = np.sort(offsets(library, packed)) // 8
    may = [(0, 64), (library.at(start), library.at(start) + end - start)]
    may.append((library.dynamic_at, library.dynamic_at + 16 * library.dynamic_slots))
    _same(library, written, may, words)


def _same(library: Elf, written: Elf, may: Iterable[tuple[int, int]], words: Array) -> None:
    loaded = max(segment.offset + segment.file_size for segment in library.segments if segment.type == elf.PT_LOAD)
    for start in range(0, loaded, 1 << 24):
        end = min(start + (1 << 24), loaded)
        places = start + np.flatnonzero(library.bytes[start:end] != written.bytes[start:end])
        for first, last in may:
            places = places[(places < first) | (places >= last)]
        if not np.isin(places // 8, words).all():
            raise written.refuse(f"the byte {int(places[0])} differs")
