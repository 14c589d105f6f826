"""The elements of an array: JSON's numbers, booleans, strings and base64 → NumPy's, in bulk or one by one.

Bytes are {"b64": "..."} in the standard alphabet <https://www.rfc-editor.org/rfc/rfc4648#section-4>; white space and
missing padding are accepted, as TensorFlow Serving does.
"""

import base64
import binascii
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from serving.core.dtypes import DType, is_extended
from serving.core.http import BadRequest
from serving.protocols.json_tensors.document import b64, kind

Array = np.ndarray[Any, Any]


FEW_NUMBERS = 1024
FLOAT32_LARGEST_SQUARE = float(np.finfo(np.float32).max) ** 2


class WrongElement(Exception):
    """The element or list at the indexes `path` is wrong."""

    def __init__(self, problem: str, path: Sequence[int] = ()) -> None:
        super().__init__(problem)
        self.path = path

    def at(self, place: str) -> BadRequest:
        """Return the error for the value at a place of the body."""
        return BadRequest(f"{place}{''.join(f'[{index}]' for index in self.path)}: {self}")


def indexes_of(position: int, shape: Sequence[int]) -> list[int]:
    """Return the index in each dimension of the element at a position of a flat array."""
    return [int(index) for index in np.unravel_index(position, shape)]


def to_elements(values: list[Any], dtype: DType, shape: Sequence[int]) -> Array:
    """Return the elements of an array of some shape, flat; raise WrongElement for the first that is wrong."""
    array = _in_bulk(values, dtype)
    if array is not None:
        return array
    elements: list[Any] = []
    wrong: WrongElement | None = None
    try:
        for value in values:
            elements.append(_element(value, dtype))
    except WrongElement as error:
        wrong = WrongElement(str(error), indexes_of(len(elements), shape))
    if dtype.kind == "f":
        array = _check_range(np.array(elements, np.float64), dtype, shape)
    if wrong:
        raise wrong
    if array is None:
        array = objects(elements) if dtype.kind == "S" else np.array(elements, dtype.numpy)
    return array


def narrow(wide: Array, dtype: DType) -> Array | None:
    """Return 64-bit numbers in the type `dtype`, None where one is beyond its range."""
    # The sum of the squares bounds each number; for one row this takes half the time of `errstate`.
    if dtype.numpy_name == "float32" and wide.size <= FEW_NUMBERS and wide.dot(wide) < FLOAT32_LARGEST_SQUARE:
        return wide.astype(np.float32)
    if wide.dtype == dtype.numpy:
        return wide
    if dtype.kind != "f":
        array = wide.astype(dtype.numpy)
        return array if (array == wide).all() else None
    try:
        with np.errstate(over="raise"):
            array = wide.astype(dtype.numpy)
    except FloatingPointError:
        return None
    # NumPy's own types raise; ml_dtypes' do not.
    return array if not is_extended(array.dtype) or (np.isfinite(array) | ~np.isfinite(wide)).all() else None


def _in_bulk(values: list[Any], dtype: DType) -> Array | None:
    """Return elements of the usual types as an array; None where each has to be looked at."""
    types = set(map(type, values))
    if dtype.kind == "f" and types <= {float, int}:
        try:
            return narrow(np.array(values, np.float64), dtype)
        except OverflowError:
            return None
    if dtype.kind in "iu" and types <= {int, float}:
        try:
            whole = list(map(int, values))
            return np.array(whole, dtype.numpy) if whole == values else None
        except (OverflowError, ValueError):  # beyond the type's range; NaN or infinite
            return None
    if dtype.kind == "b" and types == {bool}:
        return np.array(values, bool)
    if dtype.kind == "S" and types == {str}:
        return objects([value.encode() for value in values])
    return None


def _check_range(wide: Array, dtype: DType, shape: Sequence[int]) -> Array:
    """Return floats in the type `dtype`; raise WrongElement for the first that is beyond its range."""
    array = narrow(wide, dtype)
    if array is None:
        with np.errstate(over="ignore"):
            first = int(np.argmax(np.isinf(wide.astype(dtype.numpy)) & np.isfinite(wide)))
        problem = f"expected {dtype.label}, got {wide[first]:g}, which is out of its range"
        raise WrongElement(problem, indexes_of(first, shape))
    return array


def _element(value: Any, dtype: DType) -> Any:
    """Return one element as a Python value; raise WrongElement for any other type than JSON has for `dtype`."""
    value_type = type(value)
    if dtype.kind == "f" and value_type in (int, float):
        try:
            return float(value)
        except OverflowError:
            raise WrongElement(f"expected {dtype.label}, got {kind(value)}, which is out of its range") from None
    if dtype.kind in "iu" and (value_type is int or (value_type is float and value.is_integer())):
        value = int(value)  # 3.0 is an integer: protobuf's JSON, as Vertex AI sends it, has doubles alone
        least, most = limits(dtype)
        if not least <= value <= most:
            raise WrongElement(f"expected {dtype.label}, from {least} to {most}, got {kind(value)}")
        return value
    if dtype.kind == "b" and value_type is bool:
        return value
    if dtype.kind == "S":
        if value_type is str:
            return value.encode()
        if (text := b64(value)) is not None:
            return _from_base64(text)
    elif b64(value) is not None:
        raise WrongElement(f"expected {dtype.label}, got base64 bytes; only a string input takes them")
    wanted = 'a string or {"b64": "..."}' if dtype.kind == "S" else dtype.label
    raise WrongElement(f"expected {wanted}, got {kind(value)}")


@lru_cache(maxsize=16)
def limits(dtype: DType) -> tuple[int, int]:
    """Return the least and the greatest number of a type of integers."""
    info = np.iinfo(dtype.numpy)  # type: ignore[type-var]
    return int(info.min), int(info.max)


def bytes_of(value: Any, place: str) -> bytes:
    """Return the bytes of a string or of an object `{"b64": "..."}`; raise BadRequest where the base64 is wrong."""
    try:
        return value.encode() if isinstance(value, str) else _from_base64(b64(value) or "")
    except WrongElement as wrong:
        raise BadRequest(f"{place}: {wrong}") from None


_SPACE = str.maketrans("", "", " \t\r\n")


def _from_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        bare = text.translate(_SPACE).rstrip("=")
    if wrong := re.search(r"[^A-Za-z0-9+/]", bare):
        hint = "; it looks like the web-safe alphabet: use '+' and '/'" if wrong[0] in "-_" else ""
        raise WrongElement(f"expected base64, got the character {wrong[0]!r} in it{hint}")
    if len(bare) % 4 == 1:
        raise WrongElement(f"expected base64, got {len(bare)} characters, which no bytes are written as")
    return base64.b64decode(bare + "=" * (-len(bare) % 4))


def objects(elements: Sequence[bytes]) -> Array:
    """Return byte strings as an array of objects, of shape [len(elements)]."""
    array = np.empty(len(elements), object)
    array[:] = elements
    return array
