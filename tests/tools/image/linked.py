"""Two small libraries, one of which uses the other, and a program that calls them."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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
""".replace("POINTERS", ", ".join(f"&table[{(37 * number) % 256}]" for number in range(256)))

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
    "test_pointers": sum((37 * number) % 256 * (number % 7) for number in range(256)),
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
    command = [sys.executable, "-I", "-c", CALL, str(folder / "libone.so"), str(mode), *EXPECTED]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert not ran.returncode, f"{ran.returncode}: {ran.stderr}"
    answers: dict[str, int] = json.loads(ran.stdout)
    return answers
