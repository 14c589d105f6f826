"""What cannot be bound is refused in one line, and damage is found."""

import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tools.image.test_bind import Change
from tools.image import bind as binding
from tools.image import elf
from tools.image.bind import bind, main
from tools.image.elf import Elf, Refused
from tools.image.rewrite import decode


def put(offset: int, value: bytes) -> Change:
    def change(data: bytearray) -> None:
        data[offset : offset + len(value)] = value

    return change


def tag(old: int, new: int) -> Change:
    """Change a tag of the dynamic section."""

    def change(data: bytearray) -> None:
        offset = dynamic(data)
        while struct.unpack_from("<Q", data, offset)[0] != old:
            offset += 16
        struct.pack_into("<Q", data, offset, new)

    return change


def value(which: int, change_to: Callable[[int], int]) -> Change:
    def change(data: bytearray) -> None:
        offset = dynamic(data)
        while struct.unpack_from("<Q", data, offset)[0] != which:
            offset += 16
        struct.pack_into("<Q", data, offset + 8, change_to(struct.unpack_from("<Q", data, offset + 8)[0]))

    return change


def dynamic(data: bytearray) -> int:
    start, count = struct.unpack_from("<Q", data, 32)[0], struct.unpack_from("<H", data, 56)[0]
    for offset in range(start, start + 56 * count, 56):
        if struct.unpack_from("<I", data, offset)[0] == elf.PT_DYNAMIC:
            return int(struct.unpack_from("<Q", data, offset + 8)[0])
    raise AssertionError


def relocation(field: int, form: str, new: int) -> Change:
    """Change a field of the last relocation of .rela.dyn."""

    def change(data: bytearray) -> None:
        offset = dynamic(data)
        tags = dict(struct.iter_unpack("<QQ", data[offset : offset + 16 * 26]))
        struct.pack_into(form, data, tags[elf.DT_RELA] + tags[elf.DT_RELASZ] - 24 + field, new)

    return change


def cut(size: int) -> Change:
    def change(data: bytearray) -> None:
        del data[size:]

    return change


REFUSALS = [
    # what is changed in libone.so               one line
    (put(0, b"#!/bin/sh"),                       "not an ELF file"),
    (cut(0),                                     "cannot be read"),
    (cut(40),                                    "not a 64-bit little-endian ELF file"),
    (put(4, b"\x01"),                            "not a 64-bit little-endian ELF file"),
    (put(5, b"\x02"),                            "not a 64-bit little-endian ELF file"),
    (put(18, b"\xb7"),                           "made for another architecture: expected x86-64 (62), got 183"),
    (put(16, b"\x02"),                           "not a shared library: expected the type 3, got 2"),
    (put(54, b"\x20"),                           "its program headers are not where they should be"),
    (put(58, b"\x28"),                           "its section headers have another size"),
    (cut(8192),                                  "not where they should be"),
    (tag(elf.DT_RELA, 0x12345678),               "without DT_RELA in its dynamic section"),
    (tag(elf.DT_SYMTAB, 0x12345678),             "without DT_SYMTAB in its dynamic section"),
    (tag(elf.DT_GNU_HASH, 0x12345678),           "without DT_GNU_HASH or DT_HASH in its dynamic section"),
    (tag(elf.DT_RELACOUNT, elf.DT_RELR),         "DT_RELR already: bound before?"),
    (tag(elf.DT_RELACOUNT, elf.DT_REL),          "relocations of the kind DT_REL"),
    (value(elf.DT_PLTREL, lambda _: elf.DT_REL), "its PLT has relocations of the kind DT_REL"),
    (value(elf.DT_RELAENT, lambda _: 12),        "its relocations have another size"),
    (value(elf.DT_SYMENT, lambda _: 12),         "its symbols have another size"),
    (value(elf.DT_RELASZ, lambda size: size - 8), "its relocations are not where they should be"),
    (value(elf.DT_RELASZ, lambda size: size + 24), "its two tables of relocations overlap"),
    (value(elf.DT_RELA, lambda _: 1 << 40),      "nothing in the file for the address 0x10000000000"),
    (relocation(8, "<I", 99),                    "relocations of the unknown type 99"),
    (relocation(8, "<I", 5),                     "relocations of the unknown type 5"),
    (relocation(12, "<I", 1 << 20),              "a relocation names a symbol that is not there"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "line"), REFUSALS, ids=[line for _, line in REFUSALS])
def test_an_unknown_elf_structure_is_refused_with_one_line(
    pair: list[Path], tmp_path: Path, change: Change, line: str
) -> None:
    for path in pair:
        shutil.copy(path, tmp_path)
    data = bytearray(pair[0].read_bytes())
    change(data)
    (tmp_path / "libone.so").write_bytes(data)
    with pytest.raises(Refused) as refused:
        bind([tmp_path / "libone.so", tmp_path / "libtwo.so"], tmp_path / "out")
    assert line in str(refused.value)
    assert str(refused.value).startswith("libone.so: ")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_a_bound_library_is_not_bound_again(pair: list[Path], tmp_path: Path) -> None:
    for relr in (True, False):
        once = bind(pair, tmp_path / f"once-{relr}", relr)
        with pytest.raises(Refused, match="bound before"):
            bind(once, tmp_path / "twice")


def test_the_libraries_own_folder_is_never_written_to(pair: list[Path], tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(pair[0].parent)
    before = {path: path.read_bytes() for path in pair[0].parent.iterdir()}
    for folder in (pair[0].parent, tmp_path / "link", pair[0].parent / ".." / pair[0].parent.name):
        with pytest.raises(Refused, match="the libraries themselves are there"):
            bind(pair, folder)
    assert {path: path.read_bytes() for path in pair[0].parent.iterdir()} == before


def test_a_file_in_the_place_of_the_folder_is_refused(pair: list[Path], tmp_path: Path) -> None:
    (tmp_path / "out").write_text("here")
    with pytest.raises(Refused, match="out: not a folder"):
        bind(pair, tmp_path / "out")
    assert (tmp_path / "out").read_text() == "here"


def test_a_library_that_lacks_another_is_refused(pair: list[Path], tmp_path: Path) -> None:
    shutil.copy(pair[0], tmp_path)
    with pytest.raises(Refused, match=r"libone.so: the library libtwo.so that it needs is not found"):
        bind([tmp_path / "libone.so"], tmp_path / "out")


def test_the_check_finds_every_flipped_byte(pair: list[Path], tmp_path: Path) -> None:
    """Flip one byte of a bound copy at a time: no flip in what is loaded passes the proof."""
    copy, _ = bind(pair, tmp_path)
    library = Elf(pair[0])
    shared = frozenset(name for path in (pair[1],) for _, name in Elf(path).defined())
    good = copy.read_bytes()
    after = Elf(copy)
    places = [
        after.at(after.tags[elf.DT_RELR]), after.at(after.tags[elf.DT_RELA]), after.at(after.tags[elf.DT_RELA]) + 16,
        after.at(after.tags[elf.DT_SYMTAB]) + 32, after.segments[-1].offset, int(decode(after)[0][30]) - 0x1000,
        *range(0x1000, 0x1400, 97),
    ]  # fmt: skip
    for position in places:
        data = bytearray(good)
        data[position] ^= 0x10
        (tmp_path / "damaged.so").write_bytes(data)
        with pytest.raises((Refused, ValueError, IndexError)):
            binding.verify(library, tmp_path / "damaged.so", shared)


COMMANDS = [
    # arguments                                     status  on standard error
    (["--library-dir", "/nowhere", "out"],          1,      "libtensorflow_cc.so.2 and libtensorflow_framework.so.2 are not in /nowhere"),
    ([],                                            2,      "the following arguments are required: OUT_DIR"),
    (["--cached", "out"],                           2,      "unrecognized arguments: --cached"),
    (["--runs", "many", "out"],                     2,      "invalid int value: 'many'"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "status", "line"), COMMANDS)
def test_the_command_reports_a_wrong_argument(
    arguments: list[str], status: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        got = main(arguments)
    except SystemExit as stop:
        got = int(str(stop.code))
    assert got == status
    assert line in capsys.readouterr().err.splitlines()[-1]


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "example: python -m tools.image.bind /opt/tf" in " ".join(capsys.readouterr().out.split())
