"""Opens the library that runs the model. This takes most of a start, so it is done beside the imports.

This module imports little, so that it can begin at once.
"""

import ctypes
import importlib.util
import os
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from serving.core.settings import Settings
from serving.core.telemetry import phases
from serving.runtime import heap

Library = TypeVar("Library")


def beside(options: Settings, imports: Callable[[], None]) -> None:
    """Open the library while a thread runs `imports`; return when both have ended.

    The main thread opens it, whose heap is the one that can be in huge pages. A library that cannot be opened is
    reported by the load. A module that cannot be imported is imported again where it is used, and the error is raised
    there.
    """
    heap.reserve(options)
    thread = threading.Thread(target=_quietly, args=(imports,), name="imports", daemon=True)
    thread.start()
    began = time.perf_counter()
    _open(options)
    phases.took("library", time.perf_counter() - began)
    thread.join()


def _quietly(imports: Callable[[], None]) -> None:
    with suppress(Exception):
        imports()


def _open(options: Settings) -> None:
    if is_light(options):
        if options.accelerator and (path := find_litert()):
            dlopen(path)
            return
        with suppress(ImportError):
            from ai_edge_litert import interpreter  # noqa: F401 - the load uses it
    elif options.runtime != "python" and (path := find(options.tensorflow_library_dir)):
        dlopen(path)


def is_native(options: Settings) -> bool:
    """Say whether the native codec may answer, which it does without what Python's answers need."""
    return options.accelerator is not None and (not is_light(options) or find_litert() is not None)


def is_light(options: Settings) -> bool:
    """Return whether the model is a twin for LiteRT."""
    directory = options.model_dir
    if options.runtime == "litert":
        return True
    if isinstance(directory, str) or (directory / "saved_model.pb").exists():
        return False
    from serving.core.errors import LoadError
    from serving.savedmodel.folder import twin, versions  # for a folder of versions, or a twin

    with suppress(OSError, LoadError):  # the load reports it
        return twin.holds(versions.chosen(directory).directory)
    return False


def opened(library: Callable[[Path], Library], path: Path) -> Library:
    """Return the functions of a library, opened by `library`; raise LoadError where one is missing or it cannot be."""
    from serving.core.errors import LoadError

    try:
        with phases.measured("library"):
            return library(path)
    except (OSError, AttributeError) as error:
        reason = str(error).removeprefix(f"{path}: ")  # clients read it: no paths
        raise LoadError(f"{path.name} cannot be opened: {reason}") from error


def find(directory: Path | None = None) -> Path | None:
    """Return the path of TensorFlow's library, in `directory` or else in the installed wheel, or None."""
    if directory is None:
        spec = importlib.util.find_spec("tensorflow")  # does not import the package
        if spec is None or not spec.submodule_search_locations:
            return None
        directory = Path(spec.submodule_search_locations[0])
    path = directory / "libtensorflow_cc.so.2"
    return path if path.is_file() else None


LITERT_VERSIONS = ("2.3.0",)  # of which serving.runtime.litert_c knows the interface; tests compare their answers


def find_litert() -> Path | None:
    """Return the path of LiteRT's library in the installed wheel; None where it is not of LITERT_VERSIONS."""
    spec = importlib.util.find_spec("ai_edge_litert")  # does not import the package
    if spec is None or not spec.submodule_search_locations:
        return None
    directory = Path(spec.submodule_search_locations[0])
    path = directory / "libLiteRt.so"
    with suppress(OSError), (directory / "__init__.py").open() as file:
        version = file.readline().partition("=")[2].strip().strip("\"'")
        return path if version in LITERT_VERSIONS and path.is_file() else None
    return None


def dlopen(path: Path) -> int | None:
    """Open a library and return its handle, None where it cannot be opened; 0.2 s at the first call."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # log errors only; the library reads it when it is opened
    read_ahead(path)
    # RTLD_LOCAL: with global symbols, importing numpy.random crashes. RTLD_LAZY: a function is looked up at its first
    # call; looking up all of them takes a third of the time. dlopen is called as a foreign function, which releases
    # the interpreter's lock meanwhile, so that other threads can import.
    function = ctypes.CDLL(None).dlopen
    function.restype, function.argtypes = ctypes.c_void_p, (ctypes.c_char_p, ctypes.c_int)
    handle: int | None = function(os.fsencode(path), os.RTLD_LOCAL | os.RTLD_LAZY)
    return handle


SAMPLED = 64  # parts at most; if they are in memory, the others are taken to be
HEAD = 4096  # bytes of a library: the addresses in them differ where it was built or bound in another way


def read_ahead(library: Path) -> None:
    """Prefetch what a first answer reads of a library and its neighbours, where it is listed.

    NAME.pages holds the first HEAD bytes of the file NAME, then pairs of little-endian 64-bit integers: offset and
    size, in bytes, of a part of it (tools/image/pages.py). A list of another library is not used.
    """
    for table in library.parent.glob("*.pages"):
        with suppress(OSError, OverflowError, struct.error):
            _read_ahead(table.with_suffix(""), table.read_bytes())


def _read_ahead(library: Path, listed: bytes) -> None:
    with library.open("rb") as file:
        if listed[:HEAD] != file.read(HEAD):
            return
        parts = [*struct.iter_unpack("<QQ", listed[HEAD:])]
        if not all(_is_in_memory(file.fileno(), start) for start, _ in parts[:: len(parts) // SAMPLED + 1]):
            for start, size in parts:
                os.posix_fadvise(file.fileno(), start, size, os.POSIX_FADV_WILLNEED)


def _is_in_memory(descriptor: int, position: int) -> bool:
    """Return whether a byte of a file can be read without the disk; false where the system cannot tell."""
    try:
        return os.preadv(descriptor, [bytearray(1)], position, os.RWF_NOWAIT) == 1
    except (OSError, AttributeError):
        return False
