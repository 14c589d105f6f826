"""A JSON value → an array of a declared dtype and shape, strictly: values of another JSON type are not converted.

Two ways to an array. Numbers are read as one buffer, without a Python object for each, where the brackets of the body
are rectangular: an image of 224 × 224 × 3 takes an eighth of the time of `json.loads` and `numpy.asarray`. Everything
else is walked level by level, which names the first element that is wrong:
`instances[3].x[0][2]: expected float32, got null`.
"""

import math
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import simdjson

from serving.core.dtypes import DType
from serving.core.http import BadRequest
from serving.protocols.json_tensors.brackets import MAX_RANK
from serving.protocols.json_tensors.document import LISTS, Document, kind
from serving.protocols.json_tensors.elements import WrongElement, indexes_of, narrow, to_elements
from serving.savedmodel.signature import TensorSpec, check, shape_text

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]

# The kind of a dtype: simdjson's name for its buffer of such numbers, and NumPy's type of them
_BUFFERS: dict[str, tuple[Any, Any]] = {"f": ("d", np.float64), "i": ("i", np.int64), "u": ("u", np.uint64)}
_LIST_TYPES = frozenset(LISTS)


def to_array(document: Document, value: Any, spec: TensorSpec, place: str) -> Array:
    """Return the tensor `spec` from one JSON value, all dimensions included; raise BadRequest naming what is wrong."""
    array = nest_to_array(document, value, spec.dtype, place)
    if problem := check(spec, array.shape):
        raise BadRequest(f"{place}: {problem}")
    return array


def nest_to_array(document: Document, value: Any, dtype: DType, place: str) -> Array:
    """Return one JSON value as an array of the shape that it has; raise BadRequest naming what is wrong."""
    try:
        return _read(document, value, dtype)
    except WrongElement as wrong:
        raise wrong.at(place) from None


def rows_to_array(document: Document, rows: Any, spec: TensorSpec, place: str, name: str = "") -> Array:
    """Return the tensor `spec` from one JSON value for each index of its first dimension.

    Raise BadRequest; in its message `name` follows the row: `instances[3].x`.
    """
    try:
        array = _read(document, rows, spec.dtype)
    except WrongElement as wrong:
        raise _row_error(rows, wrong, spec, place, name) from None
    if problem := check(spec, array.shape):
        raise BadRequest(_row_problem(spec, array.shape[1:], f"{place}[0]{name}") or f"{place}{name}: {problem}")
    return array


def _read(document: Document, value: Any, dtype: DType) -> Array:
    array = _read_buffer(document, value, dtype) if dtype.kind in _BUFFERS else None
    return _walk(value, dtype) if array is None else array


def _read_buffer(document: Document, value: Any, dtype: DType) -> Array | None:
    """Return a nest of numbers, or a list of such nests, as an array; None where it has to be walked."""
    letter, wide = _BUFFERS[dtype.kind]
    shape = _nest_shape(value)
    if shape is None or len(shape) > MAX_RANK or not document.rectangular:
        return None
    try:
        if isinstance(value, list):
            numbers = np.frombuffer(b"".join([nest.as_buffer(of_type=letter) for nest in value]), wide)
        else:
            numbers = np.frombuffer(value.as_buffer(of_type=letter), wide)
    except (TypeError, ValueError):  # something else than numbers of this kind
        return None
    if numbers.size != math.prod(shape):  # an empty list beside others
        return None
    array = narrow(numbers, dtype)
    return None if array is None else array.reshape(shape)


def _nest_shape(value: Any) -> Shape | None:
    """Return the shape of a nest, or of a list of nests of one shape; None for anything else."""
    if isinstance(value, simdjson.Array):
        return _leading_shape(value)
    if not isinstance(value, list) or set(map(type, value)) != {simdjson.Array}:
        return None
    shapes = set(map(_leading_shape, value))  # one nest from each row of a body
    return (len(value), *shapes.pop()) if len(shapes) == 1 else None


def _leading_shape(value: Any) -> Shape:
    """Return the shape of lists of lists by the first element of each; () for any other value."""
    shape: list[int] = []
    while isinstance(value, LISTS) and len(shape) <= MAX_RANK:
        size = len(value)
        shape.append(size)
        value = value[0] if size else None
    return tuple(shape)


def _walk(value: Any, dtype: DType) -> Array:
    """Return any JSON value as an array; raise WrongElement for the first that is wrong, in the order of the body.

    Level by level: all lists of one level are checked and opened together. After the first that is wrong nothing more
    is looked at, but elements before it may still be wrong further inside.
    """
    if dtype.kind == "c":
        raise WrongElement(f"{dtype.label} has no JSON form")
    values: list[Any] = [value]
    shape: list[int] = []
    wrong: WrongElement | None = None
    while values and isinstance(values[0], LISTS):
        if len(shape) == MAX_RANK:
            raise WrongElement(f"expected lists nested at most {MAX_RANK} deep, got more")
        size = len(values[0])
        if not set(map(type, values)) <= _LIST_TYPES or set(map(len, values)) != {size}:
            first = next(index for index, item in enumerate(values) if not isinstance(item, LISTS) or len(item) != size)
            wrong = WrongElement(_unlike(values[first], size), indexes_of(first, shape))
            del values[first:]
        values = list(chain.from_iterable(values))
        shape.append(size)
    array = to_elements(values, dtype, shape)
    if wrong:
        raise wrong
    return array.reshape(shape)


def _unlike(value: Any, size: int) -> str:
    if not isinstance(value, LISTS):
        return f"expected a list of {size} as its neighbours are, got {kind(value)}"
    return f"expected {size} elements as in the first of its neighbours, got {len(value)}"


def _row_error(rows: Sequence[Any], wrong: WrongElement, spec: TensorSpec, place: str, name: str) -> BadRequest:
    """Return the error of the first wrong row: what is wrong in it, or how it differs from the first row."""
    if not wrong.path:
        return wrong.at(f"{place}[0]{name}")  # of every row
    index, first_shape = wrong.path[0], _leading_shape(rows[0])
    if index and (problem := _row_problem(spec, first_shape, f"{place}[0]{name}")):
        return BadRequest(problem)
    row = f"{place}[{index}]{name}"
    try:
        shape = _walk(rows[index], spec.dtype).shape
    except WrongElement as inside:
        return inside.at(row)
    as_first = f"expected shape {shape_text(first_shape)} as in {place}[0]{name}, got {shape_text(shape)}"
    return BadRequest(_row_problem(spec, shape, row) or f"{row}: {as_first}")


def _row_problem(spec: TensorSpec, shape: Shape, place: str) -> str | None:
    """Return how one row's shape differs from the declared one, None where it fits."""
    if spec.shape is None:
        return None
    if not spec.shape:
        return f"{place}: {spec.name!r} has no batch dimension, so it cannot be sent as rows; send it as a column"
    row_shape = spec.shape[1:]
    problem = check(TensorSpec(spec.name, spec.dtype, row_shape, spec.tensor), shape)
    if problem and len(shape) == len(row_shape) - 1:
        problem += "; a single row needs its own brackets"
    return problem and f"{place}: {problem}"
