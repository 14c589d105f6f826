"""TensorFlow's C library: finding and opening it, and which operations it has."""

import ctypes
import importlib.util
import os
import struct
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from serving.core.errors import LoadError, RunError
from serving.core.telemetry import phases
from serving.runtime.tensorflow_c.functions import Api, checked
from serving.savedmodel.protobuf import write_varint

NAME = "TensorFlow's C library"


def find(directory: Path | None = None) -> Path | None:
    """Return the library's path: in `directory`, else in the installed wheel; None where there is none."""
    if directory is None:
        spec = importlib.util.find_spec("tensorflow")  # does not import the package
        if spec is None or not spec.submodule_search_locations:
            return None
        directory = Path(spec.submodule_search_locations[0])
    path = directory / "libtensorflow_cc.so.2"
    return path if path.is_file() else None


@lru_cache(maxsize=1)
def api(path: Path) -> Api:
    """Open the library, once per process: 0.2 s, most of a cold start; raise LoadError where it cannot be opened."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # log errors only; the library reads it when it is opened
    try:
        with phases.measured("library"):
            _read_ahead(path)
            return Api(path)
    except (OSError, AttributeError) as error:
        raise LoadError(f"{path.name} cannot be opened: {error}") from error


def _read_ahead(path: Path) -> None:
    """Prefetch the pages that the first prediction needs, where the image lists them: one large read is faster.

    NAME.pages holds pairs of little-endian 64-bit integers: offset and size, in bytes, of a part of the file NAME.
    """
    for table in path.parent.glob("*.pages"):
        with suppress(OSError, struct.error), table.with_suffix("").open("rb") as file:
            for start, size in struct.iter_unpack("<QQ", table.read_bytes()):
                os.posix_fadvise(file.fileno(), start, size, os.POSIX_FADV_WILLNEED)


def load_custom_ops(tf: Api, libraries: Sequence[Path]) -> None:
    """Register the operations of custom-op libraries, once per process; raise LoadError where one cannot be loaded.

    A library stays loaded until the process ends.
    """
    for path in libraries:
        _load_custom_op(tf, path)


@cache
def _load_custom_op(tf: Api, path: Path) -> None:
    try:
        with checked(tf) as status:
            tf.TF_LoadLibrary(os.fsencode(path), status)
    except RunError as error:
        raise LoadError(f"the custom-op library {path.name} cannot be loaded: {error}") from None


def unregistered(tf: Api, ops: Iterable[str]) -> list[str]:
    """Return the operations that neither the library nor a loaded custom-op library registers."""
    listed = _bytes(tf, tf.TF_GetAllOpList())  # serialized OpDefs; field 1 is the name
    return [op for op in ops if b"\x0a" + write_varint(len(op.encode())) + op.encode() not in listed]


def without_kernel(tf: Api, ops: Iterable[str]) -> list[str]:
    """Return the operations that are registered but have no kernel for a CPU."""
    lacking = []
    for op in ops:
        with checked(tf) as status:
            kernels = _bytes(tf, tf.TF_GetRegisteredKernelsForOp(op.encode(), status))
        if not any(b"\x12" + write_varint(len(device)) + device in kernels for device in (b"CPU", b"DEFAULT")):
            lacking.append(op)
    return lacking


def _bytes(tf: Api, buffer: Any) -> bytes:
    """Return the bytes of a TF_Buffer, and free it."""
    try:
        return ctypes.string_at(buffer.contents.data, buffer.contents.length) if buffer.contents.length else b""
    finally:
        tf.TF_DeleteBuffer(buffer)
