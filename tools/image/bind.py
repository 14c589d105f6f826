"""TensorFlow's two libraries with their own symbols bound, so that opening them takes a fraction of the time.

Done once, when an image is built:

    python -m tools.image.bind /opt/tensorflow            # the two libraries of the installed wheel, bound
    TENSORFLOW_LIBRARY_DIR=/opt/tensorflow make serve   # serve with them

On a developer's machine, tools/image/cached.py does it once.

The loader spends most of its time on looking up symbols that the library itself defines. If no other library of the
process defines a symbol of that name, the result of the lookup is certain, and this tool stores it: the relocation
becomes a relative one. Names that another library defines too are not bound, so that objects that must be unique in the
process (a vague-linkage object, a replaced operator new) remain unique.

The other libraries are those that the two need and those of the Python that runs this tool: use the Python that will
serve. docs/image.md has the figures, and which further steps are not worth it.
"""

import argparse
import os
import re
import statistics
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from serving.runtime.tensorflow_c import find
from tools.image import elf
from tools.image.elf import Elf, Refused
from tools.image.rewrite import RELR_VERSION, decode, plan, tables, verify, write

NAMES = ("libtensorflow_cc.so.2", "libtensorflow_framework.so.2")
ROOT = Path(__file__).resolve().parents[2]
LOADER = "/lib64/ld-linux-x86-64.so.2"  # the address that the x86-64 ABI gives it
OPEN = (
    "import ctypes, os, sys, time; begin = time.perf_counter(); "
    "ctypes.CDLL(sys.argv[1], os.RTLD_NOW); print(time.perf_counter() - begin)"
)


def closure(path: Path) -> set[Path]:
    """Return the libraries that the loader says it would open for this one, without running any code."""
    if not Path(LOADER).exists():
        raise Refused(f"glibc's loader is not here: {LOADER}")
    listed = subprocess.run([LOADER, "--list", str(path)], capture_output=True, text=True)
    missing = re.search(r"([^\s:]+)(?: => not found|: cannot open shared object)", listed.stdout + listed.stderr)
    if missing:
        raise Refused(f"{path.name}: the library {missing[1]} that it needs is not found")
    if listed.returncode and "statically linked" not in listed.stdout + listed.stderr:
        raise Refused(
            f"{path.name}: {(listed.stderr.strip() or 'the loader does not list its libraries').splitlines()[0]}"
        )
    return {Path(file).resolve() for file in re.findall(r"(/.*) \(0x[0-9a-f]+\)$", listed.stdout, re.MULTILINE)}


def bind(libraries: Sequence[Path], directory: Path, relr: bool = True) -> list[Path]:
    """Write bound copies of libraries that are used together into the folder; raise Refused, and write none.

    With `relr`, relative relocations are packed if the C library supports it (glibc 2.36).
    """
    sources = [path.resolve() for path in libraries]
    if directory.resolve() in {path.parent for path in sources}:
        raise Refused(f"{directory}: the libraries themselves are there, and stay as they are")
    if directory.exists() and not directory.is_dir():
        raise Refused(f"{directory}: not a folder")
    try:
        return _bind(sources, [directory / path.name for path in libraries], relr)
    except (struct.error, ValueError, IndexError, OverflowError) as error:
        raise Refused(f"not understood: {error}") from error


def _bind(sources: Sequence[Path], finals: Sequence[Path], relr: bool) -> list[Path]:
    opened = [Elf(path) for path in sources]
    for library in opened:
        tables(library)
    python = Path(sys.executable).resolve()
    around = {python, *closure(python)}.union(*map(closure, sources)) - set(sources)
    others = [Elf(path) for path in sorted(around)]
    outside = frozenset(name for other in others for _, name in other.defined())
    relr = relr and any(other.path.name == "libc.so.6" and RELR_VERSION in other.strings() for other in others)
    own = [frozenset(name for _, name in library.defined()) for library in opened]
    drafts = [final.parent / f".{final.name}.{os.getpid()}" for final in finals]
    try:
        for position, (library, draft) in enumerate(zip(opened, drafts)):
            shared = outside.union(*own[:position], *own[position + 1 :])
            decided = plan(library, shared)
            draft.parent.mkdir(parents=True, exist_ok=True)
            write(library, decided, draft, relr)
            verify(library, draft, shared)
            draft.chmod(0o644)
        for draft, final in zip(drafts, finals):
            draft.replace(final)
    finally:
        for draft in drafts:
            draft.unlink(missing_ok=True)
    return list(finals)


def installed(directory: Path | None) -> list[Path]:
    """Return where the two libraries are: in `directory`, else in the installed wheel; raise Refused."""
    library = find(directory)
    sources = [library.parent / name for name in NAMES] if library else []
    if not sources or not all(path.is_file() for path in sources):
        raise Refused(f"{' and '.join(NAMES)} are not in {directory or 'the installed wheel'}")
    return sources


def kinds(path: Path) -> dict[str, int]:
    """Count a library's relocations by their meaning for the loader."""
    library = Elf(path)
    places, _, rest = decode(library)
    count = Counter(elf.RELOCATIONS[kind] for kind in rest["type"].tolist())
    packed = 8 * (library.tags.get(elf.DT_RELRSZ, 0) // 8)
    tables = library.tags[elf.DT_RELASZ] + library.tags.get(elf.DT_PLTRELSZ, 0) + packed
    return {"relative": len(places), **dict(sorted(count.items())), "bytes of tables": tables}


def seconds(libraries: Sequence[Path], runs: int) -> list[float]:
    """Return the median time to open each library in a fresh process, taken in turn, after one round not counted."""
    durations: list[list[float]] = [[] for _ in libraries]
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    for turn in range(runs + 1):
        for path, times in zip(libraries, durations):
            answer = subprocess.run(
                [sys.executable, "-I", "-c", OPEN, str(path)], env=environment, capture_output=True, text=True
            )
            if answer.returncode:
                raise Refused(f"{path} cannot be opened: {answer.stderr.strip().splitlines()[-1:]}")
            if turn:
                times.append(float(answer.stdout))
    return [statistics.median(times) for times in durations]


def report(sources: Sequence[Path], copies: Sequence[Path], runs: int) -> None:
    """Print the figures of the libraries before and after."""
    for before, after in zip(sources, copies):
        was, now = kinds(before), kinds(after)
        print(after.name)
        for kind in [*was, *(set(now) - set(was))]:
            print(f"  {kind:<16} {was.get(kind, 0):>12,} → {now.get(kind, 0):>12,}")
        print(f"  {'bytes of file':<16} {before.stat().st_size:>12,} → {after.stat().st_size:>12,}")
    if runs:
        was_taken, now_taken = seconds([sources[0], copies[0]], runs)
        ratio = f"{was_taken / now_taken:.1f} × faster, median of {runs} processes each, in turn, warm"
        print(f"seconds to open    {was_taken:>12.3f} → {now_taken:>12.3f}   {ratio}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Bind the two libraries of the installed wheel."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.image.bind",
        description="Copy TensorFlow's two libraries with their own symbols bound: they open several times faster.",
        epilog="example: python -m tools.image.bind /opt/tf && TENSORFLOW_LIBRARY_DIR=/opt/tf make serve",
    )
    parser.add_argument("out", type=Path, metavar="OUT_DIR", help="the folder for the copies")
    parser.add_argument(
        "--library-dir", type=Path, metavar="DIR", help="where the two libraries are (default: the installed wheel)"
    )
    parser.add_argument(
        "--no-relr",
        action="store_true",
        help="do not pack relative relocations: for a glibc older than 2.36 at run time",
    )
    parser.add_argument("--runs", type=int, default=5, metavar="N", help="time opening N times (default 5; 0: do not)")
    options = parser.parse_args(arguments)
    try:
        sources = installed(options.library_dir)
        begin = time.perf_counter()
        copies = bind(sources, options.out, relr=not options.no_relr)
        print(f"bound and verified in {time.perf_counter() - begin:.0f} s: {options.out}")
        report(sources, copies, options.runs)
    except (Refused, OSError) as error:
        print(f"tools.image.bind: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
