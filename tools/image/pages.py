"""Lists the pages of TensorFlow's libraries that a first answer touches, in files beside the libraries.

On a new host the libraries are not in memory. Opening them touches some 6,000 pages of code, spread over the whole
file, and the kernel reads the surroundings of each page too: nearly the whole file. With a list of the pages, a process
can request them at once and read a fraction of the bytes. Done once, when an image is built:

    python -m tools.image.pages /opt/tensorflow --model model

opens the libraries of that folder, loads the model, runs each of its signatures once, and writes NAME.pages for each
library. `serving.runtime.opening.read_ahead` has the format and uses them. `make serve` and `make serve-fast` do it by
tools/image/cached.py, the image by tools/image/build.py, an upload by deploy/library.

The kernel knows which pages a process has mapped, but it maps 16 at a time: four times too many for scattered code. So
copies of the libraries are used whose code is not executable: the first execution of a page calls a signal handler,
which makes the page executable.
"""

import argparse
import contextlib
import ctypes
import mmap
import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from serving.core import settings
from serving.core.errors import RunError
from serving.runtime.model import Model
from serving.runtime.opening import HEAD
from serving.runtime.sessions import judge, open_session
from serving.runtime.tensorflow_c import TF_STRING, api
from serving.savedmodel.signature import TensorSpec
from serving.savedmodel.source import Source
from tools.image.bind import NAMES, ROOT, installed
from tools.image.elf import PF_X, PT_LOAD, Elf, Refused

# void handler(int, siginfo_t* info, void*) { mprotect(info->si_addr & ~4095, 4096, PROT_READ | PROT_EXEC); }
ALLOW = bytes.fromhex("488b7e10 4881e700f0ffff be00100000 ba05000000 b80a000000 0f05 c3")
TRACE = "import sys; from tools.image.pages import trace; trace(*sys.argv[1:])"

Ranges = list[tuple[int, int]]

PAGE = os.sysconf("SC_PAGESIZE")
NEAR = 4  # pages: ranges with at most this distance are read as one
SECONDS = 600
SA_SIGINFO, SA_NODEFER = 4, 0x40000000
PRESENT = np.uint64(63)  # the bit of a page's word in /proc/self/pagemap


def watch(library: Path, copy: Path) -> None:
    """Copy a library with its code made inaccessible."""
    shutil.copyfile(library, copy)
    elf = Elf(library)
    with copy.open("r+b") as file:
        for position, segment in zip(elf.segments_at, elf.segments):
            if segment.type == PT_LOAD and segment.flags & PF_X:
                file.seek(position + 4)
                file.write(struct.pack("<I", 0))


def allow() -> None:
    """Make a page executable on its first execution; any other fault then repeats forever."""
    code = mmap.mmap(-1, PAGE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(ALLOW)
    handler = ctypes.addressof(ctypes.c_char.from_buffer(code))
    libc = ctypes.CDLL(None)
    # struct sigaction: the handler, 128 bytes of mask, the flags, the restorer; libc fills in the last
    action = struct.pack("<Q128xi4xQ", handler, SA_SIGINFO | SA_NODEFER, 0)
    if libc.sigaction(signal.SIGSEGV, action, None):
        raise OSError(ctypes.get_errno(), "sigaction")
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(code))  # it is needed until the end of the process


def trace(directory: str, model: str) -> None:
    """List what using the watched copies in `directory` touches; in a process of its own."""
    allow()
    libraries = [Path(directory) / name for name in NAMES]
    use(libraries[0], Path(model) if model else None)
    for path in libraries:
        listed = b"".join(struct.pack("<QQ", *extent) for extent in touched(path))
        path.with_name(f"{path.name}.pages").write_bytes(listed)


def use(library: Path, model: Path | None) -> None:
    """Open the library, load the model and run each of its signatures once."""
    api(library)
    if model is None:
        return
    options = settings.current()._replace(tensorflow_library_dir=library.parent, runtime="c")
    source = Source(model, "model")
    judge(source, options)
    loaded = Model(source, open_session(source, options))
    for signature in source.signatures.values():
        if signature.refusal is None:
            with contextlib.suppress(RunError):  # its answer to such inputs does not matter
                loaded.run(signature, {spec.name: example(spec) for spec in signature.inputs.values()})


def example(spec: TensorSpec) -> np.ndarray[Any, Any]:
    """Return the smallest input that the spec allows: zeros, empty strings."""
    shape = [1 if size is None else size for size in spec.shape or (None,)] if spec.shape != () else []
    return np.full(shape, b"", object) if spec.dtype.code == TF_STRING else np.zeros(shape, spec.dtype.numpy)


def touched(path: Path) -> Ranges:
    """Return the ranges of a file that this process has mapped and in memory."""
    hot = np.zeros(-(-path.stat().st_size // PAGE), bool)
    with open("/proc/self/maps") as maps, open("/proc/self/pagemap", "rb", buffering=0) as map_of_pages:
        for line in maps:
            addresses, allowed, offset, _, _, *name = line.split(maxsplit=5)
            if not name or name[0].rstrip("\n") != str(path):
                continue
            start, end = (int(address, 16) // PAGE for address in addresses.split("-"))
            first = int(offset, 16) // PAGE
            here = hot[first : first + end - start]
            if "x" in allowed:
                here[:] = True
            else:
                map_of_pages.seek(8 * start)
                words = np.frombuffer(map_of_pages.read(8 * (end - start)), "<u8")
                here |= (words >> PRESENT).astype(bool)[: len(here)]
    return ranges(np.flatnonzero(hot))


def record(directory: Path, model: Path | None) -> list[Path]:
    """Write the lists of the libraries in the folder; raise Refused where the model cannot be run."""
    libraries = installed(directory)
    with tempfile.TemporaryDirectory(prefix=".pages-", dir=directory) as name:
        copies = Path(name).resolve()
        for library in libraries:
            watch(library, copies / library.name)
        command = [sys.executable, "-c", TRACE, str(copies), str(model.resolve() if model else "")]
        try:
            ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS)
        except subprocess.TimeoutExpired:
            raise Refused(f"nothing after {SECONDS} seconds") from None
        if ran.returncode:
            last = (ran.stderr.strip() or f"status {ran.returncode}").splitlines()[-1]
            raise Refused(f"the model cannot be run: {last}")
        lists = []
        for library in libraries:
            path = directory / f"{library.name}.pages"
            with library.open("rb") as file:
                path.write_bytes(file.read(HEAD) + (copies / path.name).read_bytes())
            lists.append(path)
        return lists


def ranges(pages: np.ndarray[Any, Any]) -> Ranges:
    """Return ascending numbers of pages as ranges of bytes, those that are near each other as one."""
    if not len(pages):
        return []
    breaks = np.flatnonzero(np.diff(pages) > NEAR)
    starts, ends = pages[np.r_[0, breaks + 1]], pages[np.r_[breaks, len(pages) - 1]] + 1
    return [(int(start) * PAGE, int(end - start) * PAGE) for start, end in zip(starts, ends)]


def main(arguments: Sequence[str] | None = None) -> int:
    """List the pages of the libraries in a folder that a model's first answer touches."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.image.pages",
        description="List the pages of TensorFlow's libraries that a first answer touches, for a quicker first start.",
        epilog="example: python -m tools.image.pages /opt/tensorflow --model model",
    )
    parser.add_argument("directory", type=Path, metavar="DIR", help="where the libraries are; the lists go there too")
    parser.add_argument("--model", type=Path, metavar="DIR", help="a SavedModel to load and run once")
    options = parser.parse_args(arguments)
    try:
        for path in record(options.directory, options.model):
            listed = list(struct.iter_unpack("<QQ", path.read_bytes()[HEAD:]))
            library = path.with_suffix("")
            size = sum(size for _, size in listed) / 1e6
            print(f"{library.name}: {size:.0f} MB of {library.stat().st_size / 1e6:.0f} in {len(listed)} ranges")
    except (Refused, OSError) as error:
        print(f"tools.image.pages: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
