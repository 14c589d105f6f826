"""CSV <https://www.rfc-editor.org/rfc/rfc4180>: a column is an input, by the name in the first line.

    age,name,x[0],x[1]
    3,"Kim, A.",0.5,1.5

A vector, an input of shape [?, n], has a column for each element: x[0], x[1], or x.0, x.1. Where it is the only input
the header may hold n names of the user's own, none of them a number: their order is the vector's. A column of the
key's name holds keys. `Content-Type: text/csv; header=absent` says that the first line is a row; then the signature
needs one input.

Cells are typed by the spec: numbers as JSON writes them, NaN, Infinity and -Infinity, and true or false (True, TRUE:
as pandas and spreadsheets write them); white space is not let pass. Strings are what stands there, and alone may be
empty. Every line has as many cells as the header; an empty line is an error unless it is at the end.
"""

import csv
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from serving.core.dtypes import DType
from serving.core.errors import did_you_mean
from serving.core.http import BadRequest
from serving.protocols.bodies import LINES, Array, Form, parameter, to_strings, to_text
from serving.protocols.call import MISSING, Call, Context, check_rows_apart, row_errors
from serving.protocols.json_tensors.document import Document
from serving.protocols.json_tensors.elements import limits
from serving.protocols.json_tensors.reader import nest_to_array
from serving.protocols.sizes import DEFAULTS, check_rows
from serving.savedmodel.signature import Signature, TensorSpec, check, shape_text

Rows = Sequence[Sequence[str]]
Place = Callable[[int | None], str]


class Header(NamedTuple):
    """Where the columns of each input stand, in the order of its elements, and the column of the keys."""

    names: Sequence[str]
    inputs: Mapping[str, Sequence[int]]
    vectors: frozenset[str]  # the inputs that have a dimension for their columns
    key: int | None


def decode(body: bytes, signature: Signature, context: Context) -> Call:
    """Return the call of a body of CSV."""
    content_type = context.headers.get("content-type") or ""
    text = to_text(body, content_type).rstrip("\r\n")
    if not text:
        raise BadRequest("body: expected lines of CSV, got nothing")
    rows, line_of = _parse(text)
    header, first = read_header(rows[0], signature, context)
    rows = rows[first:]
    if not rows:
        raise BadRequest("line 2: expected a row, got only a header")
    check_rows(len(rows), "lines", context.limits)
    check_rows_apart(context, len(rows), "lines")

    def place(row: int | None) -> str:
        return "lines" if row is None else f"line {line_of(row + first)}"

    return decode_table(rows, header, place, signature, context)


def read_header(cells: Sequence[str], signature: Signature, context: Context) -> tuple[Header, int]:
    """Return where the inputs stand, and how many rows the header takes: 1, or 0 where the first row is data."""
    headless = parameter(context.headers.get("content-type") or "", "header")
    if headless not in (None, "present", "absent"):
        raise BadRequest(f"Content-Type: expected header=present or header=absent, got {headless[:40]!r}")
    if headless == "absent":
        return _no_header(cells, signature), 0
    return _header(cells, signature, context), 1


def decode_table(rows: Rows, header: Header, place: Place, signature: Signature, context: Context) -> Call:
    """Return the call of some rows below a header; `place` names a row."""
    tell = row_errors(context)
    failed = _other_widths(rows, header, place, tell)
    arrays, more = _typed(rows, header, signature, place, tell, failed)
    keys = None
    if header.key is not None:
        keys = [row[header.key] if len(row) == len(header.names) else MISSING for row in rows]
    failed.update(more)
    if more and len(failed) < len(rows):
        arrays, _ = _typed(rows, header, signature, place, tell, failed)
    inputs = {} if len(failed) == len(rows) else _inputs(arrays, header, signature)
    return Call(signature, inputs, Form(LINES, place, len(rows)), context, keys, dict(sorted(failed.items())))


def _parse(text: str) -> tuple[list[list[str]], Callable[[int], int]]:
    """Return the rows, and a function from a row to the line that it begins on."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        rows = list(reader)
    except csv.Error as error:
        told = "a quotation mark is not closed" if "end of data" in str(error) else str(error)
        raise BadRequest(f"line {_begins(text)[-1]}: not CSV: {told}") from None
    if reader.line_num == len(rows):
        return rows, lambda row: row + 1
    begins: list[int] = []

    def line_of(row: int) -> int:
        if not begins:
            begins.extend(_begins(text))
        return begins[row]

    return rows, line_of


def _begins(text: str) -> list[int]:
    """Return the line that each row begins on, up to the first row that is malformed."""
    reader, begins = csv.reader(io.StringIO(text, newline=""), strict=True), [1]
    try:
        for _ in reader:
            begins.append(reader.line_num + 1)
    except csv.Error:
        pass
    return begins


_ELEMENT = re.compile(r"(.+?)(?:\[([0-9]{1,7})\]|\.([0-9]{1,7}))", re.DOTALL)
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|NaN|-?Infinity")
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]*)")


def _header(names: Sequence[str], signature: Signature, context: Context) -> Header:
    specs = signature.inputs
    key = None
    whole: dict[str, int] = {}
    elements: dict[str, dict[int, int]] = {}
    others: dict[str, int] = {}
    for position, name in enumerate(names):
        found = _ELEMENT.fullmatch(name)
        if name == context.key and name not in specs:
            twice, key = key is not None, position
        elif name in specs:
            twice = name in whole
            whole[name] = position
        elif found and found[1] in specs:
            index = int(found[2] or found[3])
            twice = index in elements.setdefault(found[1], {})
            elements[found[1]][index] = position
        else:
            twice = name in others
            others[name] = position
        if twice:
            raise BadRequest(f"line 1: the column {name[:200]!r} stands twice")
    if others:
        return Header(names, _own_names(others, signature, whole, elements), frozenset(specs), key)
    inputs = {
        name: _positions(spec, whole.get(name), elements.get(name, {}))
        for name, spec in specs.items()
        if name in signature.required or name in whole or name in elements
    }
    if not inputs:
        raise BadRequest("line 1: the signature has no inputs, so it has no rows; send JSON")
    return Header(names, inputs, frozenset(elements), key)


def _own_names(
    others: Mapping[str, int], signature: Signature, whole: Mapping[str, int], elements: Mapping[str, Any]
) -> Mapping[str, Sequence[int]]:
    """Return the columns of the only input, a vector, whose elements have names of their own."""
    specs = list(signature.inputs.values())
    name = next(iter(others))
    if not name:
        raise BadRequest(f"line 1: the column {others[name] + 1} has no name (pandas: index=False)")
    number = next((other for other in others if _NUMBER.fullmatch(other)), None)
    if number is not None:
        raise BadRequest(
            f"line 1: expected names, got the number {number[:40]}; where the first line is a row, "
            "say Content-Type: text/csv; header=absent"
        )
    vector = len(specs) == 1 and specs[0].shape is not None and len(specs[0].shape) == 2 and specs[0].shape[1]
    if vector and not whole and not elements:
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
        raise BadRequest(f"line 1: the input {spec.name!r} stands there whole and in elements")
    rank = None if spec.shape is None else len(spec.shape)
    size = spec.shape[1] if spec.shape and rank == 2 else None
    if whole is not None:
        if rank == 2 and size not in (1, None):
            raise BadRequest(f"line 1: {spec.name!r} has shape {shape_text(spec.shape)}; expected {_wanted(spec)}")
        return [whole]
    if rank == 1:
        raise BadRequest(f"line 1: {spec.name!r} has one value a row; expected {_wanted(spec)}")
    count = len(elements) if size is None else size
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


def _no_header(cells: Sequence[str], signature: Signature) -> Header:
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


def _other_widths(rows: Rows, header: Header, place: Place, tell: bool) -> dict[int, str]:
    """Return the rows that have not as many cells as the header."""
    width = len(header.names)
    if set(map(len, rows)) == {width}:
        return {}
    failed = {}
    for index, row in enumerate(rows):
        if len(row) != width:
            came = len(row) or "an empty line"
            failed[index] = f"{place(index)}: expected {width} values, got {came}"
            if not tell:
                raise BadRequest(failed[index])
    return failed


def _typed(
    rows: Rows, header: Header, signature: Signature, place: Place, tell: bool, failed: Mapping[int, str]
) -> tuple[dict[str, Array], dict[int, str]]:
    """Return the inputs as arrays without the rows that failed; or, of cells that are wrong, which and why.

    An array has one dimension for the rows and one for the columns of its input.
    """
    kept = [index for index in range(len(rows)) if index not in failed] if failed else range(len(rows))
    arrays: dict[str, Array] = {}
    wrong: dict[int, str] = {}
    for name, positions in header.inputs.items():
        cells = [rows[index][position] for index in kept for position in positions]
        array, problems = _cells(cells, signature.inputs[name].dtype, every=tell)
        if array is not None:
            arrays[name] = array.reshape(len(kept), len(positions))
        for cell, problem in problems.items():
            row, column = kept[cell // len(positions)], header.names[positions[cell % len(positions)]][:200]
            wrong.setdefault(row, f"{place(row)}, column {column}: {problem}")
    if wrong and not tell:
        raise BadRequest(wrong[min(wrong)])
    return arrays, wrong


def _inputs(arrays: Mapping[str, Array], header: Header, signature: Signature) -> dict[str, Array]:
    inputs: dict[str, Array] = {}
    for name, array in arrays.items():
        spec = signature.inputs[name]
        if array.shape[1] == 1 and name not in header.vectors and (spec.shape is None or len(spec.shape) == 1):
            array = array[:, 0]
        if problem := check(spec, array.shape):
            raise BadRequest(f"lines, {name}: {problem}")
        inputs[name] = array
    return inputs


BOOLEANS = {text: value for value in (True, False) for text in (str(value), str(value).lower(), str(value).upper())}
_DECIMAL = str.maketrans("", "", "0123456789+-.eE")
_WHOLE = str.maketrans("", "", "0123456789-")


def _cells(cells: Sequence[str], dtype: DType, *, every: bool) -> tuple[Array | None, dict[int, str]]:
    """Return cells as an array; or those that are wrong by their place, the first of them or `every` one."""
    if dtype.kind == "S":
        return to_strings([cell.encode() for cell in cells], ()), {}
    if dtype.kind != "b" and (array := _numbers(cells, dtype)) is not None:
        return array, {}
    with np.errstate(over="ignore"):
        wrong = {cell: problem for cell in set(cells) if (problem := _problem(cell, dtype))}
        if wrong:
            problems = ((index, wrong[cell]) for index, cell in enumerate(cells) if cell in wrong)
            return None, dict(problems if every else [next(problems)])
        if dtype.kind == "b":
            return np.array([BOOLEANS[cell] for cell in cells], bool), {}
        wide = [float(cell) for cell in cells] if dtype.kind == "f" else [int(cell) for cell in cells]
        return np.array(wide, np.float64 if dtype.kind == "f" else dtype.numpy).astype(dtype.numpy), {}


def _numbers(cells: Sequence[str], dtype: DType) -> Array | None:
    """Return cells as numbers through the JSON parser (a fifth of the time), or None where one is anything else."""
    text = ",".join(cells)
    if text.translate(_WHOLE if dtype.kind in "iu" else _DECIMAL) != "," * (len(cells) - 1):
        return None
    try:
        document = Document(b'{"column":[%b]}' % text.encode(), DEFAULTS)
        array = nest_to_array(document, document.root["column"], dtype, "column")
    except BadRequest:
        return None
    return array if len(array) == len(cells) else None  # a single empty cell is no number


_NOT_FINITE = frozenset({"nan", "na", "inf", "+inf", "-inf", "infinity", "+infinity", "-infinity"})


def _problem(cell: str, dtype: DType) -> str | None:
    """Say what is wrong with one cell, None where it is right."""
    if not cell:
        return f"expected {dtype.label}, got an empty cell"
    if dtype.kind == "b":
        return None if cell in BOOLEANS else f"expected true or false, got {_shown(cell)}"
    if not _NUMBER.fullmatch(cell):
        hint = "; write NaN, Infinity or -Infinity" if dtype.kind == "f" and cell.lower() in _NOT_FINITE else ""
        return f"expected {dtype.label}, got {_shown(cell)}{hint}"
    if dtype.kind == "f":
        value = float(cell)
        if cell[-1] in "Ny" or (math.isfinite(value) and math.isfinite(float(dtype.numpy.type(value)))):
            return None
        return f"expected {dtype.label}, got {cell[:40]}, which is out of its range"
    if not _INTEGER.fullmatch(cell):
        return f"expected {dtype.label}, got {cell[:40]}"
    least, most = limits(dtype)
    if len(cell) > 40 or not least <= int(cell) <= most:
        return f"expected {dtype.label}, from {least} to {most}, got {cell[:40]}"
    return None


def _shown(cell: str) -> str:
    return repr(cell if len(cell) <= 40 else cell[:40] + "...")
