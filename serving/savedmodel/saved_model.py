"""saved_model.pb as every reader here takes it: opened safely, and checked to have one reading only."""

import mmap
import os
import weakref
from pathlib import Path

from serving.core import files
from serving.core.errors import LoadError
from serving.savedmodel import mistaken, strict

NAME = "saved_model.pb"
LARGEST = (1 << 31) - 1  # bytes; protobuf takes no more

# The file that was checked last, and its bytes while somebody holds them: a load reads it several times.
_checked: tuple[int, ...] | None = None
_mapped: "weakref.ref[mmap.mmap] | None" = None


def message(directory: Path) -> memoryview:
    """Return the serialized SavedModel; raise LoadError where there is none that can be read."""
    global _checked, _mapped
    try:
        file = files.opened(directory, NAME, LARGEST)
    except FileNotFoundError:
        raise LoadError(f"there is no {NAME}") from None
    with file:
        about = os.fstat(file.fileno())
        if about.st_size == 0:
            raise LoadError(f"{NAME} is empty")
        identity = (about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns)
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
            why = kind or f"or only part of one ({error})"
            raise LoadError(f"{NAME} is not a SavedModel, {f'but {why}' if kind else why}") from None
        _checked = identity
    _mapped = weakref.ref(data)
    return memoryview(data)
