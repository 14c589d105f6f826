"""TensorFlow's C library: opening it, and which operations it has. `runtime.opening` finds it."""

import ctypes
import os
from collections.abc import Iterable, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from serving.core.errors import LoadError, RunError
from serving.runtime.opening import opened
from serving.runtime.tensorflow_c.functions import Api, checked
from serving.savedmodel.protobuf import write_varint

NAME = "TensorFlow's C library"


@lru_cache(maxsize=1)
def api(path: Path) -> Api:
    """Open the library, or wait until the thread that opens it has; raise LoadError where it cannot be opened."""
    return opened(Api, path)


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
