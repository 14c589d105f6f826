"""Compiles the native codec, which needs only a C++ compiler and Python's headers.

    python -m serving.pipeline.native.build FOLDER      writes FOLDER/_accelerator.abi3.so; it is found beside this
    python -m serving.pipeline.native.build --cached    builds it once on this machine and prints where, for ACCELERATOR

CXX names another compiler than c++. What was compiled holds the C++ library's few functions that it uses, needs glibc
alone, and is loaded once before it is left behind. It serves CPython 3.10 and later, whichever compiled it.
"""

import argparse
import fcntl
import hashlib
import os
import platform
import shlex
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from serving.core.settings import ACCELERATOR, ROOT

NAME = "serving.pipeline.native.build"
SOURCE = Path(__file__).with_name("accelerator.cc")
FLAGS = (
    "-std=c++17", "-O2", "-fPIC", "-shared", "-fno-exceptions", "-fno-rtti",
    "-Wall", "-Wextra", "-Wconversion",
    "-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=2", "-fstack-protector-strong", "-Wl,-z,relro,-z,now",
    # Nothing of the C++ library's is shared with TensorFlow's copy, nor looked for on the machine that serves.
    "-static-libstdc++", "-static-libgcc", "-fvisibility=hidden", "-Wl,--gc-sections",
)  # fmt: skip
STRIPPED = ("-s",)  # without the names of functions and lines
EXPORTED = "{ global: PyInit__accelerator; local: *; };\n"
LOAD = (
    "import importlib.machinery as machinery, importlib.util as util, sys; "
    "loader = machinery.ExtensionFileLoader('_accelerator', sys.argv[1]); "
    "module = util.module_from_spec(util.spec_from_loader('_accelerator', loader)); "
    "loader.exec_module(module); module.Predictor"
)


class Refused(Exception):
    """It cannot be built here; the text says why."""


def build(
    folder: Path,
    flags: Sequence[str] = STRIPPED,
    environment: Mapping[str, str] | None = None,
    command: Sequence[str] | None = None,
) -> Path:
    """Compile the extension into a folder and load it once; return its path. Raise Refused.

    `flags` come behind FLAGS; `environment` is that of the process that loads it; `command` names another compiler.
    """
    headers = Path(sysconfig.get_path("include"))
    if not (headers / "Python.h").is_file():
        raise Refused(f"Python's headers are not installed: there is no {headers / 'Python.h'}")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        exported, out = Path(scratch) / "exported.map", Path(scratch) / ACCELERATOR.name
        exported.write_text(EXPORTED)
        compile_: list[str | Path] = [
            *(command or compiler()),
            *FLAGS,
            *flags,
            f"-Wl,--version-script={exported}",
            f"-I{headers}",
            SOURCE,
            "-o",
            out,
        ]
        run(compile_, "the compiler")
        run([sys.executable, "-c", LOAD, out], "what was compiled cannot be loaded", environment)
        return out.rename(folder / ACCELERATOR.name)


def cached() -> Path:
    """Return the extension, compiled now unless that was done before; raise Refused."""
    version = run([*compiler(), "--version"], "the compiler")
    by = (compiler(), version, platform.machine(), sysconfig.get_path("include"), sys.version_info[:2])
    sources = [path.read_bytes() for path in sorted(SOURCE.parent.rglob("[!.]*.[ch]*"))]
    recipe = repr((sources, FLAGS, STRIPPED, EXPORTED, by))
    folder = ROOT / ".cache" / f"accelerator-{hashlib.sha256(recipe.encode()).hexdigest()[:16]}"
    path = folder / ACCELERATOR.name
    if not path.is_file():
        folder.parent.mkdir(exist_ok=True)
        with (folder.parent / "accelerator.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.is_file():
                print(f"{NAME}: compiling, once, which takes up to a minute", file=sys.stderr, flush=True)
                build(folder)
    return path


def compiler() -> list[str]:
    """Return the command of the C++ compiler: CXX, or c++; raise Refused."""
    text = os.environ.get("CXX") or "c++"
    try:
        return shlex.split(text)
    except ValueError as error:
        raise Refused(f"CXX: expected a command, got {text!r}: {error}") from None


def run(command: Sequence[str | Path], who: str, environment: Mapping[str, str] | None = None) -> str:
    """Run a command of the build; return its output. Raise Refused with the line that says why it failed."""
    try:
        ran = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=environment)
    except OSError as error:
        raise Refused(f"there is no C++ compiler: {error}") from None
    if ran.returncode:
        lines = (ran.stderr.strip() or f"it ended with status {ran.returncode}").splitlines()
        raise Refused(f"{who}: {next((line for line in lines if 'error' in line), lines[-1])}")
    return ran.stdout


def main(arguments: Sequence[str] | None = None) -> int:
    """Build it; return the exit status."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {NAME}",
        description="Compile the accelerator, which answers plain requests in a third of the time.",
        epilog="example: ACCELERATOR=$(python -m serving.pipeline.native.build --cached) make serve",
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("folder", nargs="?", type=Path, metavar="FOLDER", help="the folder to write it to")
    where.add_argument(
        "--cached", action="store_true", help="build it once on this machine; print its path, off where it cannot be"
    )
    options = parser.parse_args(arguments)
    try:
        print(cached() if options.cached else build(options.folder))
    except (Refused, OSError) as error:
        if options.cached:
            print(f"{NAME}: no native codec, so plain requests take twice as long: {error}", file=sys.stderr)
            print("off")
            return 0
        print(f"{NAME}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
