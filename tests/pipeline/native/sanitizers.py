"""The extension compiled so that a sanitizer watches it, and the environment of a process that loads it."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from serving.pipeline.native import build
from tests.conftest import plain_environment

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Sanitizer:
    """Flags of the compiler, libraries that come with it and are loaded first, and what its options are."""

    flags: tuple[str, ...]
    libraries: tuple[str, ...]
    options: dict[str, str]
    compiler: tuple[str, ...] = ()  # where it is another than that of the build


# Compiled without optimization, it takes 10 seconds of CPU instead of 43, and its checks are the same.
WATCHED = ("-O0", "-U_FORTIFY_SOURCE", "-g1", "-fno-omit-frame-pointer")
ADDRESS = Sanitizer(
    ("-fsanitize=address,undefined", "-fno-sanitize=vptr", "-fno-sanitize-recover=all", *WATCHED),
    ("libasan.so", "libubsan.so"),
    {"ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1"},
)
# Python's own locks and TensorFlow's are not of interest; the native code has none.
THREAD = Sanitizer(
    ("-fsanitize=thread", *WATCHED),
    ("libtsan.so",),
    {"TSAN_OPTIONS": f"exitcode=66:report_mutex_bugs=0:suppressions={HERE / 'tensorflow.supp'}"},
)
# For libFuzzer: the extension reports to it what it covers.
FUZZER = Sanitizer(
    (
        "-fsanitize=address,undefined,fuzzer-no-link",
        "-fno-sanitize=vptr",
        "-fno-sanitize-recover=all",
        "-shared-libasan",
        "-O1",
        "-g",
        "-fno-omit-frame-pointer",
    ),
    ("libclang_rt.asan-x86_64.so",),
    {"ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1:verify_asan_link_order=0"},
    ("clang++",),
)


def environment(sanitizer: Sanitizer, first: Sequence[Path] = ()) -> dict[str, str]:
    """Return the environment of a process that loads what `sanitizer` watches; raise Refused where it is not installed.

    The libraries `first` are loaded before all others.
    """
    paths = [library(sanitizer, name) for name in sanitizer.libraries]
    return plain_environment(
        LD_PRELOAD=":".join(map(str, [*first, *paths])), PYTHONMALLOC="malloc", **sanitizer.options
    )


def library(sanitizer: Sanitizer, name: str) -> Path:
    """Return the path of a library that comes with the compiler; raise Refused."""
    path = build.run([*(sanitizer.compiler or build.compiler()), f"-print-file-name={name}"], "the compiler").strip()
    if not os.path.isabs(path):
        raise build.Refused(f"the compiler comes without {name}")
    return Path(path)


def extension(sanitizer: Sanitizer, folder: Path, first: Sequence[Path] = ()) -> Path:
    """Compile the extension into a folder; raise Refused."""
    return build.build(folder, sanitizer.flags, environment(sanitizer, first), sanitizer.compiler)
