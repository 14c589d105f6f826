"""The bound libraries behave as the shipped ones do: small ones made with gcc, then TensorFlow's own."""

import json
import os
import pickle
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.core import settings
from serving.core.errors import LoadError, RunError
from serving.runtime.model import Model
from serving.runtime.sessions import open_session
from serving.savedmodel.source import Source
from tests.models.zoo import BROKEN, IMPURE, ZOO, build, cases
from tools.image import bind as binding
from tools.image import elf, pages
from tools.image.bind import bind, bound, main
from tools.image.elf import Elf, Refused
from tools.image.rewrite import decode

ROOT = Path(__file__).resolve().parents[3]

# --- Small libraries -------------------------------------------------------------------------------------------------

HEADER = r"""
#include <stdexcept>
#include <string>
struct Shape { virtual ~Shape() {} virtual int area() const; virtual int sides() const { return 0; } };
struct Inline : std::runtime_error { using std::runtime_error::runtime_error; };  // vague linkage: typeinfo in both
struct Declared : std::exception { const char* what() const noexcept override; };  // defined in two
inline int& unique() { static int counter = 100; return counter; }  // GNU_UNIQUE
inline int* vague() { static int value = 7; return &value; }
extern thread_local int tls_of_two;
extern "C" {
  int both(), only_one(int), only_two(int), weak_one(), fallback();
  void throw_declared(), throw_string();
  int catch_inline(void (*)());
  extern int data_of_two[4];
}
"""

TWO = r"""
#include "common.h"
int Shape::area() const { return 2; }
const char* Declared::what() const noexcept { return "declared"; }
thread_local int tls_of_two = 40;
extern "C" {
  int data_of_two[4] = {1, 2, 3, 4};
  int* inside_two[2] = {&data_of_two[1], &data_of_two[3]};
  int both() { return 2; }
  int two_calls_both() { return both(); }
  int (*two_points_to_both)() = both;
  int two_calls_pointer() { return two_points_to_both(); }
  int weak_one() { return 22; }  // strong here, weak in one
  int only_two(int x) { return x * 2; }
  int two_data() { return *inside_two[0] * 10 + *inside_two[1]; }
  void* two_sees_only_one() { return (void*)only_one; }  // undefined here: one has it
  void throw_declared() { throw Declared(); }
  void throw_string() { throw std::string("thrown by two"); }
  int catch_inline(void (*f)()) { try { f(); } catch (const Inline& e) { return std::string(e.what()).size(); } return -1; }
  int* two_unique() { return &unique(); }
  int* two_vague() { return vague(); }
  int two_tls(int x) { tls_of_two += x; return tls_of_two; }
}
"""

ONE = r"""
#include "common.h"
#include <typeinfo>
struct Square : Shape { int area() const override { return side * side; } int sides() const override { return 4; } int side = 3; };
struct Plain : Shape {};
Shape* make(int kind) { return kind ? static_cast<Shape*>(new Square) : new Plain; }
extern "C" {
  int both() { return 1; }
  __attribute__((weak)) int weak_one() { return 11; }
  __attribute__((weak)) int nowhere();
  int add_one(int x) { return x + 1; }
  int only_one(int x) { return add_one(add_one(x)); }
  int getpid() { return -5; }  // libc has one too, and comes first
  int table[256];
  int* pointers[256] = { POINTERS };
  int (*functions[])(int) = {add_one, only_one, only_two, nullptr};
  typedef int (*Chosen)(int);
  static int chosen_here(int x) { return x - 5; }
  static Chosen resolve() { return chosen_here; }
  int chosen(int) __attribute__((ifunc("resolve")));
  int (*pointer_to_chosen)(int) = chosen;
  static void throw_inline() { throw Inline("four"); }

  int test_calls() { return only_one(40); }
  int test_libc() { return getpid() == -5; }
  int test_other() { return only_two(21); }
  int test_both() { return both(); }
  int two_calls_both(); int two_calls_pointer(); int two_data(); int two_tls(int);
  void* two_sees_only_one(); int* two_unique(); int* two_vague();
  int test_two_calls_both() { return two_calls_both(); }
  int test_two_calls_pointer() { return two_calls_pointer(); }
  int test_weak() { return weak_one(); }
  int test_weak_undefined() { return nowhere ? nowhere() : -1; }
  int test_pointers() { int s = 0; for (int i = 0; i < 256; i++) s += int(pointers[i] - table) * (i % 7); return s; }
  int test_functions() { int s = 0; for (auto f = functions; *f; f++) s = s * 100 + (*f)(7); return s; }
  int test_virtual() { Shape* a = make(0); Shape* b = make(1); return a->area() * 1000 + a->sides() * 100 + b->area() * 10 + b->sides(); }
  int test_cast() { Shape* a = make(1); return dynamic_cast<Square*>(a) != nullptr && typeid(*a) == typeid(Square); }
  int test_ifunc() { return chosen(10) * 100 + pointer_to_chosen(12); }
  int test_tls() { tls_of_two++; return two_tls(1); }
  int test_declared() { try { throw_declared(); } catch (const Declared& e) { return e.what()[0]; } return -1; }
  int test_string() { try { throw_string(); } catch (const std::string& s) { return s.size(); } return -1; }
  int test_inline() { return catch_inline(throw_inline); }
  int test_unique() { unique()++; return &unique() == two_unique() ? *two_unique() : -1; }
  int test_vague() { return vague() == two_vague() ? *vague() : -1; }
  int test_address() { return two_sees_only_one() == (void*)only_one; }
  int test_data() { data_of_two[1] = 9; return two_data(); }
}
""".replace("POINTERS", ", ".join(f"&table[{(37 * place) % 256}]" for place in range(256)))

CALL = """
import ctypes, json, os, sys
library = ctypes.CDLL(sys.argv[1], os.RTLD_LOCAL | int(sys.argv[2]))
print(json.dumps({name: getattr(library, name)() for name in sys.argv[3:]}))
"""

# fmt: off
EXPECTED = {
    "test_calls": 42, "test_libc": 0, "test_other": 42, "test_both": 1, "test_two_calls_both": 1, "test_two_calls_pointer": 1,
    "test_weak": 11, "test_weak_undefined": -1, "test_functions": 80914, "test_virtual": 2094, "test_cast": 1,
    "test_ifunc": 507, "test_tls": 42, "test_declared": ord("d"), "test_string": 13, "test_inline": 4,
    "test_unique": 101, "test_vague": 7, "test_address": 1, "test_data": 94,
    "test_pointers": sum((37 * place) % 256 * (place % 7) for place in range(256)),
}
VERSIONED = EXPECTED | {"test_two_calls_both": 2, "test_two_calls_pointer": 2, "test_libc": 1}
STAYS = ("both", "getpid", "weak_one", "chosen", "_ZZ6uniquevE7counter", "_ZTI6Inline")  # names in both, or of a kind apart

LINKING = {
    "plain":    (),
    "now":      ("-Wl,-z,now",),
    "lazy":     ("-Wl,-z,lazy", "-Wl,-z,norelro"),
    "no_plt":   ("-fno-plt",),
    "both":     ("-Wl,--hash-style=both", "-Wl,-O2"),
    "sysv":     ("-Wl,--hash-style=sysv",),
    "versions": ("-Wl,--default-symver",),
    "stripped": ("-s",),
    "gold":     ("-fuse-ld=gold",),
    "lld":      ("-fuse-ld=lld",),
}
# fmt: on


def compile_pair(folder: Path, flags: tuple[str, ...] = ()) -> list[Path]:
    """Make libone.so, which needs libtwo.so; skip where there is no compiler, or not that linker."""
    if shutil.which("g++") is None:
        pytest.skip("needs g++")
    (folder / "common.h").write_text(HEADER)
    for name, source, needs in (("two", TWO, ()), ("one", ONE, ("-L.", "-ltwo"))):
        (folder / f"{name}.cc").write_text(source)
        command = [
            "g++", "-shared", "-fPIC", "-O1", "-o", f"lib{name}.so", f"-Wl,-soname,lib{name}.so", "-Wl,-rpath,$ORIGIN",
            *flags, f"{name}.cc", *needs,
        ]  # fmt: skip
        made = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        if made.returncode and "cannot find" in made.stderr and "ld" in made.stderr:
            pytest.skip(f"needs the linker of {flags}")
        assert not made.returncode, made.stderr
    return [folder / "libone.so", folder / "libtwo.so"]


def call(folder: Path, mode: int) -> dict[str, int]:
    command = [sys.executable, "-I", "-c", CALL, folder / "libone.so", str(mode), *EXPECTED]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert not ran.returncode, f"{ran.returncode}: {ran.stderr}"
    answers: dict[str, int] = json.loads(ran.stdout)
    return answers


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return compile_pair(tmp_path_factory.mktemp("pair"))


@pytest.mark.parametrize("relr", [True, False], ids=["relr", "rela"])
@pytest.mark.parametrize("flags", LINKING.values(), ids=LINKING)
def test_a_bound_library_behaves_as_it_did(tmp_path: Path, flags: tuple[str, ...], relr: bool) -> None:
    libraries = compile_pair(tmp_path, flags)
    expected = call(tmp_path, os.RTLD_NOW)
    assert expected == (VERSIONED if flags == LINKING["versions"] else EXPECTED)
    shipped = [path.read_bytes() for path in libraries]
    bind(libraries, tmp_path / "bound", relr)
    assert call(tmp_path / "bound", os.RTLD_NOW) == expected
    assert call(tmp_path / "bound", os.RTLD_LAZY) == expected
    assert [path.read_bytes() for path in libraries] == shipped
    assert sorted(path.name for path in (tmp_path / "bound").iterdir()) == ["libone.so", "libtwo.so"]


def test_own_symbols_are_bound_and_shared_names_stay_symbolic(pair: list[Path], tmp_path: Path) -> None:
    copy, _ = bind(pair, tmp_path)
    before, after = Elf(pair[0]), Elf(copy)
    assert elf.DT_RELR in after.tags
    assert elf.DT_JMPREL not in after.tags  # so nothing is left to bind lazily
    assert after.tags[elf.DT_SONAME] == before.tags[elf.DT_SONAME]
    strings, symbols = after.strings(), after.symbols()
    names = {
        strings[start : strings.index(b"\0", start)].decode() for start in symbols["name"][decode(after)[2]["symbol"]]
    }
    assert names.issuperset(STAYS)
    assert not names & {"add_one", "only_one", "pointers", "_ZTV6Square", "_ZTI6Square"}
    assert len(decode(after)[0]) > len(decode(before)[0]) + 20


def test_tools_still_read_a_bound_library(pair: list[Path], tmp_path: Path) -> None:
    if shutil.which("readelf") is None:
        pytest.skip("needs readelf")
    copy, _ = bind(pair, tmp_path)
    read = subprocess.run(["readelf", "--wide", "--all", copy], capture_output=True, text=True)
    assert (read.returncode, read.stderr) == (0, "")
    assert "GLIBC_ABI_DT_RELR" in read.stdout
    assert ".relr.dyn" in read.stdout
    assert ".symtab" not in read.stdout


# --- Refusals --------------------------------------------------------------------------------------------------------

Change = Callable[[bytearray], None]


def put(place: int, value: bytes) -> Change:
    def change(data: bytearray) -> None:
        data[place : place + len(value)] = value

    return change


def tag(old: int, new: int) -> Change:
    """Change a tag of the dynamic section."""

    def change(data: bytearray) -> None:
        place = dynamic(data)
        while struct.unpack_from("<Q", data, place)[0] != old:
            place += 16
        struct.pack_into("<Q", data, place, new)

    return change


def value(which: int, change_to: Callable[[int], int]) -> Change:
    def change(data: bytearray) -> None:
        place = dynamic(data)
        while struct.unpack_from("<Q", data, place)[0] != which:
            place += 16
        struct.pack_into("<Q", data, place + 8, change_to(struct.unpack_from("<Q", data, place + 8)[0]))

    return change


def dynamic(data: bytearray) -> int:
    start, count = struct.unpack_from("<Q", data, 32)[0], struct.unpack_from("<H", data, 56)[0]
    for place in range(start, start + 56 * count, 56):
        if struct.unpack_from("<I", data, place)[0] == elf.PT_DYNAMIC:
            return int(struct.unpack_from("<Q", data, place + 8)[0])
    raise AssertionError


def relocation(field: int, form: str, new: int) -> Change:
    """Change a field of the last relocation of .rela.dyn."""

    def change(data: bytearray) -> None:
        place = dynamic(data)
        tags = dict(struct.iter_unpack("<QQ", data[place : place + 16 * 26]))
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
def test_what_is_not_understood_is_refused_with_one_line(
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


def test_damage_is_found(pair: list[Path], tmp_path: Path) -> None:
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
    for place in places:
        data = bytearray(good)
        data[place] ^= 0x10
        (tmp_path / "damaged.so").write_bytes(data)
        with pytest.raises((Refused, ValueError, IndexError)):
            binding.verify(library, tmp_path / "damaged.so", shared)


COMMANDS = [
    # arguments                                     status  on standard error
    (["--library-dir", "/nowhere", "out"],          1,      "libtensorflow_cc.so.2 and libtensorflow_framework.so.2 are not in /nowhere"),
    ([],                                            2,      "expected OUT_DIR, or --cached alone"),
    (["--cached", "out"],                           2,      "expected OUT_DIR, or --cached alone"),
    (["--runs", "many", "out"],                     2,      "invalid int value: 'many'"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "status", "line"), COMMANDS)
def test_the_command_says_what_is_wrong(
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


# --- TensorFlow's own ------------------------------------------------------------------------------------------------

Answer = tuple[str, Any]


def answers(out: str) -> None:
    """Run every case of the zoo, in this process, with the library that the environment names; pickle what came."""
    options = settings.current()
    zoo, found = build(), {}
    for name in [*ZOO, *(f"broken/{name}" for name in BROKEN)]:
        if (zoo / name).is_dir():
            found[name] = list(answer(zoo / name, name, options))
    with ThreadPoolExecutor(8) as threads:
        for name in ("keras_convolution", "keras_text", "failures", "lookup_table"):
            model = load(zoo / name, name, options)
            some = cases(name) * 10
            found[f"{name} in parallel"] = list(threads.map(lambda case, model=model: run(model, case), some))  # type: ignore[misc]
    library = [line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "libtensorflow" in line]
    Path(out).write_bytes(pickle.dumps((sorted(set(library)), found)))


def load(directory: Path, name: str, options: settings.Settings) -> Model:
    libraries = tuple(sorted(directory.glob("*.so")))
    options = options._replace(custom_op_libraries=libraries)
    source = Source(directory, name)
    return Model(source, open_session(source, options))


def answer(directory: Path, name: str, options: settings.Settings) -> Iterator[Answer]:
    try:
        model = load(directory, name, options)
    except LoadError as error:
        yield "LoadError", str(error)
        return
    for case in [] if name.startswith("broken/") else cases(name):
        yield run(model, case)
    model.close()


def run(model: Model, case: Any) -> Answer:
    try:
        outputs = model.run(model.signatures[case["signature"]], case["inputs"])
    except RunError as error:
        return error.code, str(error)
    except Exception as error:
        return type(error).__name__, str(error)
    return "OK", {
        name: (str(array.dtype), array.shape, array.tolist() if array.dtype == object else array.tobytes())
        for name, array in outputs.items()
    }


@pytest.fixture(scope="module")
def library() -> Path:
    try:
        return bound()
    except Refused as refused:
        pytest.skip(str(refused))


def test_tensorflow_answers_and_fails_alike_with_its_symbols_bound(library: Path, tmp_path: Path) -> None:
    build()
    started = []
    for name, folder in (("shipped", ""), ("bound", str(library))):
        environment = os.environ | {"TENSORFLOW_LIBRARY_DIR": folder, "RUNTIME": "c"}
        code = f"from tests.tools.image.test_bind import answers; answers({str(tmp_path / name)!r})"
        started.append(
            subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environment, stderr=subprocess.PIPE)
        )
    for process in started:
        _, errors = process.communicate(timeout=300)
        assert not process.returncode, errors.decode()[-2000:]
    (used, shipped), (used_bound, found) = [
        pickle.loads((tmp_path / name).read_bytes()) for name in ("shipped", "bound")
    ]
    assert used_bound == [str(library / name) for name in binding.NAMES]
    assert not set(used) & set(used_bound)
    assert shipped.keys() == found.keys()
    assert len(shipped) > 50
    statuses = {status for many in shipped.values() for status, _ in many}
    assert statuses >= {"OK", "INVALID_ARGUMENT", "LoadError"}
    for name in shipped:
        if name in IMPURE or "random" in name:
            assert [status for status, _ in shipped[name]] == [status for status, _ in found[name]], name
        elif name == "py_function":  # TensorFlow lists the attributes in an order that changes with every process
            words = [sorted(re.split(r"[\s,\[\]]+", str(one[name]))) for one in (shipped, found)]
            assert words[0] == words[1]
        else:
            assert shipped[name] == found[name], name
    for name in ("keras_convolution", "keras_text", "lookup_table"):
        assert found[f"{name} in parallel"] == found[name] * 10


LOOKED_UP = ("64", "GLOB_DAT", "JUMP_SLOT")


@pytest.mark.parametrize("name", binding.NAMES)
def test_the_loader_looks_up_a_third_of_the_symbols(library: Path, name: str) -> None:
    """What opening costs is looking symbols up by name: of TensorFlow's, those of C++ that others share remain."""
    shipped, ours = binding.installed(None)[0].parent / name, library / name
    looked_up = [sum(binding.kinds(path).get(kind, 0) for kind in LOOKED_UP) for path in (shipped, ours)]
    assert looked_up[1] < looked_up[0] / 3
    assert binding.kinds(ours)["bytes of tables"] < binding.kinds(shipped)["bytes of tables"] / 3


# --- Pages -----------------------------------------------------------------------------------------------------------

RANGES = [
    # pages                  ranges of pages
    ([],                     []),
    ([0],                    [(0, 1)]),
    ([3, 4, 5],              [(3, 3)]),
    ([3, 7, 12],             [(3, 5), (12, 1)]),
    ([1, 1000],              [(1, 1), (1000, 1)]),
]  # fmt: skip


@pytest.mark.parametrize(("numbers", "expected"), RANGES)
def test_near_pages_are_asked_for_as_one(numbers: list[int], expected: list[tuple[int, int]]) -> None:
    size = pages.PAGE
    assert pages.ranges(np.array(numbers, np.int64)) == [(start * size, count * size) for start, count in expected]


@pytest.fixture
def linked(library: Path, tmp_path: Path) -> Path:
    for name in binding.NAMES:
        (tmp_path / name).symlink_to(library / name)
    return tmp_path


def test_the_pages_of_a_first_answer_are_listed(linked: Path) -> None:
    lists = pages.record(linked, ROOT / "model")
    assert sorted(path.name for path in linked.iterdir()) == sorted([*binding.NAMES, *(path.name for path in lists)])
    for path in lists:
        size = path.with_suffix("").stat().st_size
        found = list(struct.iter_unpack("<QQ", path.read_bytes()))
        assert found == sorted(found)
        assert all(start % pages.PAGE == 0 and start < size for start, _ in found)
        assert sum(length for _, length in found) < size * 0.6
    pages.read_ahead(linked / binding.NAMES[0])


def test_lists_that_fit_no_more_do_no_harm(tmp_path: Path) -> None:
    library = tmp_path / "library.so"
    library.write_bytes(b"short")
    (tmp_path / "library.so.pages").write_bytes(struct.pack("<QQ", 1 << 40, 1 << 30))
    pages.read_ahead(library)
    (tmp_path / "gone.so.pages").write_bytes(struct.pack("<QQ", 0, 4096))
    pages.read_ahead(library)
    (tmp_path / "library.so.pages").write_bytes(b"junk")
    pages.read_ahead(library)


def test_pages_of_a_model_that_cannot_be_loaded_are_refused(linked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pages.main([str(linked), "--model", str(linked / "nowhere")]) == 1
    error = capsys.readouterr().err
    reason = "the model cannot be run: serving.core.errors.LoadError: there is no such folder"
    assert error == f"tools.image.pages: {reason}\n"
    assert sorted(path.name for path in linked.iterdir()) == sorted(binding.NAMES)
