"""Opens saved_model.pb safely for every reader here, and checks that all parsers read it alike."""

import mmap
import os
import weakref
from pathlib import Path

from serving.core import files
from serving.core.errors import LoadError
from serving.savedmodel import mistaken, strict

NAME = "saved_model.pb"
LARGEST = (1 << 31) - 1  # bytes; protobuf takes no more

# The file that was checked last, and its bytes while a view of them exists: a load reads it several times.
_checked: tuple[int, ...] | None = None
_mapped: "weakref.ref[mmap.mmap] | None" = None


def message(directory: Path) -> memoryview:
    """Return the serialized SavedModel, memory-mapped; raise LoadError where it is missing, too large or malformed."""
    global _checked, _mapped
    try:
        file = files.opened(directory, NAME, LARGEST)
    except FileNotFoundError:
        raise LoadError(f"there is no {NAME}") from None
    with file:
        status = os.fstat(file.fileno())
        if status.st_size == 0:
            raise LoadError(f"{NAME} is empty")
        identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        mapped = _mapped() if _mapped else None
        if identity == _checked and mapped is not None:
            return memoryview(mapped)
        # Closed when the last view of it goes; closing it here would fail while an error still holds one.
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if identity != _checked:
        try:
            strict.check(data)
        except ValueError as error:
            kind = mistaken.content(data[:64])
            reason = kind or f"or only part of one ({error})"
            raise LoadError(f"{NAME} is not a SavedModel, {f'but {reason}' if kind else reason}") from None
        _checked = identity
    _mapped = weakref.ref(data)
    return memoryview(data)
