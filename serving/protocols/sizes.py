"""The size limits of a request, and the checks of rows and of decoded tensors."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from serving.core import machine
from serving.core.http import TooLarge

if TYPE_CHECKING:
    import numpy as np


class Limits(Protocol):
    """The limits of one request. The server's settings are such limits: each has the name of its variable."""

    @property
    def max_body_bytes(self) -> int: ...
    @property
    def max_rows(self) -> int: ...
    @property
    def max_elements(self) -> int: ...
    @property
    def max_string_bytes(self) -> int: ...
    @property
    def max_nesting(self) -> int: ...


class DefaultLimits(NamedTuple):
    """The limits without settings; a test compares them with the defaults of the settings."""

    max_body_bytes: int = 8 << 20
    max_rows: int = 1 << 40
    max_elements: int = 16 << 20
    max_string_bytes: int = 8 << 20
    max_nesting: int = 32


DEFAULTS: Limits = DefaultLimits()
MAX_NUMBER_LENGTH = 40  # characters of a number that does not fit into 64 bits
MAX_ID_LENGTH = 256  # characters of the `id` of a request
STRING_OVERHEAD = 64  # bytes of memory that a string takes beyond its own


def check_rows(count: int, place: str, limits: Limits) -> None:
    """Raise TooLarge for too many rows, before they are decoded."""
    if count > limits.max_rows:
        raise TooLarge(f"{place}: expected at most {limits.max_rows} rows (MAX_ROWS), got {count}")


def check_arrays(inputs: "Mapping[str, np.ndarray[Any, Any]]", limits: Limits) -> int:
    """Return the bytes that decoded inputs take; raise TooLarge for too many rows or elements, and too long strings."""
    elements = size = 0
    for name, array in inputs.items():
        elements += array.size
        size += array.nbytes
        if array.ndim and len(array) > limits.max_rows and array.size:
            check_rows(len(array), name, limits)
        if array.dtype == object:
            lengths = [*map(len, array.flat)]
            longest = max(lengths, default=0)
            size += sum(lengths) + STRING_OVERHEAD * len(lengths)
            if longest > limits.max_string_bytes:
                raise TooLarge(
                    f"{name}: expected strings of at most {limits.max_string_bytes} bytes (MAX_STRING_BYTES), "
                    f"got one of {longest}"
                )
    if elements > limits.max_elements:
        raise TooLarge(f"expected at most {limits.max_elements} elements (MAX_ELEMENTS), got {elements}")
    return size


def check_memory(size: int) -> None:
    """Raise TooLarge for decoded inputs of `size` bytes where that is more than their share of the memory."""
    if size > (most := machine.memory_share()):
        raise TooLarge(
            f"expected inputs of at most {most} bytes (1/{machine.SHARE} of the container's memory), got {size}"
        )


def check_pictures(
    inputs: "Mapping[str, np.ndarray[Any, Any]]", operations: frozenset[str], max_pixels: int
) -> tuple[str, str] | None:
    """Return the input whose pictures exceed `max_pixels` together with those before it, and the problem.

    The sizes are read from the pictures' headers; `operations` are the graph's (`savedmodel.images.operations`).
    """
    from serving.savedmodel import images  # only models that take pictures need it

    total = 0
    for name, array in inputs.items():
        for value in array.flat if array.dtype == object else ():
            for picture in images.pictures(value, operations):
                total += picture.pixels
                if picture.unknown:
                    size = f"a {picture.kind} whose size cannot be read: {picture.unknown}"
                elif total > max_pixels:
                    size = f"{picture.width} x {picture.height} ({picture.kind})"
                    size += f" in {picture.frames} frames" if picture.frames > 1 else ""
                    size += "" if total == picture.pixels else f", {total} with those before it"
                else:
                    continue
                return name, f"expected at most {max_pixels} pixels (MAX_PIXELS), got {size}"
    return None
