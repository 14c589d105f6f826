"""The header of a table: the columns of each input, and the column of the keys."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from serving.core.errors import did_you_mean
from serving.core.http import BadRequest
from serving.protocols.call import Context
from serving.protocols.raw.bodies import parameter
from serving.protocols.raw.cells import NUMBER
from serving.savedmodel.signature import Signature, TensorSpec, shape_text

_ELEMENT = re.compile(r"(.+?)(?:\[([0-9]{1,7})\]|\.([0-9]{1,7}))", re.DOTALL)


class Header(NamedTuple):
    """Where the columns of each input stand, in the order of its elements, and the column of the keys."""

    names: Sequence[str]
    inputs: Mapping[str, Sequence[int]]
    vectors: frozenset[str]  # the inputs that have a dimension for their columns
    key: int | None


def read_header(cells: Sequence[str], signature: Signature, context: Context) -> tuple[Header, int]:
    """Return the columns of the inputs, and the number of header rows: 1, or 0 if the first row is data."""
    headless = parameter(context.headers.get("content-type") or "", "header")
    if headless not in (None, "present", "absent"):
        raise BadRequest(f"Content-Type: expected header=present or header=absent, got {headless[:40]!r}")
    if headless == "absent":
        return _unnamed_columns(cells, signature), 0
    return _named_columns(cells, signature, context), 1


class _Columns:
    """The positions of a header's columns by what their names mean."""

    def __init__(self) -> None:
        self.key: int | None = None
        self.whole: dict[str, int] = {}  # inputs by their names
        self.elements: dict[str, dict[int, int]] = {}  # the elements of an input, x[0], by their index
        self.others: dict[str, int] = {}  # names that the signature does not have

    def add(self, name: str, position: int, specs: Mapping[str, TensorSpec], key: str) -> bool:
        """Add a column; return whether its name appears twice."""
        element = _ELEMENT.fullmatch(name)
        if name == key and name not in specs:
            twice, self.key = self.key is not None, position
            return twice
        if name in specs:
            return _add(self.whole, name, position)
        if element and element[1] in specs:
            return _add(self.elements.setdefault(element[1], {}), int(element[2] or element[3]), position)
        return _add(self.others, name, position)


def _add(positions: dict[Any, int], name: Any, position: int) -> bool:
    twice = name in positions
    positions[name] = position
    return twice


def _named_columns(names: Sequence[str], signature: Signature, context: Context) -> Header:
    specs = signature.inputs
    columns = _Columns()
    for position, name in enumerate(names):
        if columns.add(name, position, specs, context.key):
            raise BadRequest(f"line 1: the column {name[:200]!r} appears twice")
    if columns.others:
        return Header(names, _own_names(columns, signature), frozenset(specs), columns.key)
    inputs = {
        name: _positions(spec, columns.whole.get(name), columns.elements.get(name, {}))
        for name, spec in specs.items()
        if name in signature.required or name in columns.whole or name in columns.elements
    }
    if not inputs:
        raise BadRequest("line 1: the signature has no inputs, so it has no rows; send JSON")
    return Header(names, inputs, frozenset(columns.elements), columns.key)


def _own_names(columns: _Columns, signature: Signature) -> Mapping[str, Sequence[int]]:
    """Return the columns of the only input, a vector, whose elements have names of their own."""
    specs, others = list(signature.inputs.values()), columns.others
    name = next(iter(others))
    if not name:
        raise BadRequest(f"line 1: the column {others[name] + 1} has no name (pandas: index=False)")
    number = next((other for other in others if NUMBER.fullmatch(other)), None)
    if number is not None:
        raise BadRequest(
            f"line 1: expected names, got the number {number[:40]}; if the first line is a row, "
            "send Content-Type: text/csv; header=absent"
        )
    vector = len(specs) == 1 and specs[0].shape is not None and len(specs[0].shape) == 2 and specs[0].shape[1]
    if vector and not columns.whole and not columns.elements:
        if len(others) == vector:
            return {specs[0].name: list(others.values())}
        raise BadRequest(f"line 1: expected {_wanted(specs[0])}, or {vector} names, got {len(others)}")
    wanted = "; expected the columns " + ", ".join(map(_wanted, specs)) if specs else ""
    raise BadRequest(f"line 1: the signature has no input {name[:200]!r}{did_you_mean(name, signature.inputs)}{wanted}")


def _wanted(spec: TensorSpec) -> str:
    """Name the columns of an input."""
    size = spec.shape[1] if spec.shape and len(spec.shape) == 2 else 1
    if size == 1:
        return spec.name
    return f"{spec.name}[0], {spec.name}[1], ..." + (f", {spec.name}[{size - 1}]" if size else "")


def _positions(spec: TensorSpec, whole: int | None, elements: Mapping[int, int]) -> Sequence[int]:
    """Return the columns of one input, in the order of its elements."""
    if problem := _unfit(spec):
        raise BadRequest(f"line 1: {problem}")
    if whole is None and not elements:
        raise BadRequest(f"line 1: the input {spec.name!r} is missing; expected {_wanted(spec)}")
    if whole is not None and elements:
        raise BadRequest(f"line 1: the input {spec.name!r} is given both whole and by element")
    rank = None if spec.shape is None else len(spec.shape)
    size = spec.shape[1] if spec.shape and rank == 2 else None
    if whole is not None:
        if rank == 2 and size not in (1, None):
            raise BadRequest(f"line 1: {spec.name!r} has shape {shape_text(spec.shape)}; expected {_wanted(spec)}")
        return [whole]
    if rank == 1:
        raise BadRequest(f"line 1: {spec.name!r} has one value a row; expected {_wanted(spec)}")
    return _elements(spec, elements, len(elements) if size is None else size)


def _elements(spec: TensorSpec, elements: Mapping[int, int], count: int) -> Sequence[int]:
    """Return the columns of a vector of `count` elements; raise BadRequest for one that is missing or too many."""
    for index in range(count):
        if index not in elements:
            raise BadRequest(f"line 1: {spec.name}[{index}] is missing; expected {_wanted(spec)}")
    if len(elements) > count:
        surplus = next(index for index in elements if index >= count)
        raise BadRequest(f"line 1: {spec.name!r} has {count} elements a row, got {spec.name}[{surplus}]")
    return [elements[index] for index in range(count)]


def _unfit(spec: TensorSpec) -> str | None:
    if spec.dtype.kind == "c":
        return f"the input {spec.name!r} is {spec.dtype.label}, which has no CSV form"
    if spec.shape == ():
        return f"{spec.name!r} has no batch dimension, so it cannot be sent as rows; send JSON"
    if spec.shape and len(spec.shape) > 2:
        return f"the rows of {spec.name!r} have shape {shape_text(spec.shape[1:])}, which has no CSV form; send JSON"
    return None


def _unnamed_columns(cells: Sequence[str], signature: Signature) -> Header:
    """Return the columns of a signature's one input, which the body does not name."""
    spec = signature.only
    if spec is None:
        wanted = ", ".join(map(repr, signature.inputs)) or "none"
        raise BadRequest(f"line 1: expected a header with the inputs {wanted}; header=absent is for a single one")
    if problem := _unfit(spec):
        raise BadRequest(f"line 1: {problem}")
    vector = spec.shape is not None and len(spec.shape) == 2
    size = (spec.shape[1] if vector and spec.shape else 1) or len(cells)
    if len(cells) != size or not cells:
        raise BadRequest(f"line 1: expected {size or 'some'} values, got {len(cells) or 'an empty line'}")
    names = [f"{spec.name}[{index}]" for index in range(size)] if vector else [spec.name]
    return Header(names, {spec.name: range(size)}, frozenset({spec.name} if vector else ()), None)
