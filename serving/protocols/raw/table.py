"""CSV <https://www.rfc-editor.org/rfc/rfc4180>: a column is an input, by the name in the first line.

    age,name,x[0],x[1]
    3,"Kim, A.",0.5,1.5

A vector, an input of shape [?, n], has a column for each element: x[0], x[1], or x.0, x.1. Where it is the only input
the header may hold n names of the user's own, none of them a number: their order is the vector's. A column of the
key's name holds keys. `Content-Type: text/csv; header=absent` says that the first line is a row; then the signature
needs one input.

Cells are typed by the spec: numbers as JSON writes them, NaN, Infinity and -Infinity, and true or false (True, TRUE:
as pandas and spreadsheets write them); white space is refused. Strings are the text of a cell, and alone may be
empty. Every line has as many cells as the header; an empty line is an error unless it is at the end.
"""

import csv
import io
import sys
from collections.abc import Callable, Mapping, Sequence

from serving.core.http import BadRequest
from serving.protocols.call import MISSING, Call, Context, check_rows_apart, row_errors
from serving.protocols.raw.bodies import LINES, Array, Form, to_text
from serving.protocols.raw.cells import to_elements
from serving.protocols.raw.columns import Header, read_header
from serving.protocols.sizes import check_rows
from serving.savedmodel.signature import Signature, check

csv.field_size_limit(sys.maxsize)  # of a cell: 128 KiB otherwise; what is read is limited as a whole

Rows = Sequence[Sequence[str]]
Place = Callable[[int | None], str]


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


def decode_table(rows: Rows, header: Header, place: Place, signature: Signature, context: Context) -> Call:
    """Return the call of some rows below a header; `place` names a row."""
    apart = row_errors(context)
    failed = _other_widths(rows, header, place, apart)
    arrays, wrong = _typed(rows, header, signature, place, apart, failed)
    keys = None
    if header.key is not None:
        keys = [row[header.key] if len(row) == len(header.names) else MISSING for row in rows]
    failed.update(wrong)
    if wrong and len(failed) < len(rows):
        arrays, _ = _typed(rows, header, signature, place, apart, failed)
    inputs = {} if len(failed) == len(rows) else _inputs(arrays, header, signature)
    return Call(signature, inputs, Form(LINES, place, len(rows)), context, keys, dict(sorted(failed.items())))


def _parse(text: str) -> tuple[list[list[str]], Callable[[int], int]]:
    """Return the rows, and a function from a row to the line that it begins on."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        rows = list(reader)
    except csv.Error as error:
        problem = "a quotation mark is not closed" if "end of data" in str(error) else str(error)
        raise BadRequest(f"line {_begins(text)[-1]}: not CSV: {problem}") from None
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


def _other_widths(rows: Rows, header: Header, place: Place, apart: bool) -> dict[int, str]:
    """Return the rows that have not as many cells as the header."""
    width = len(header.names)
    if set(map(len, rows)) == {width}:
        return {}
    failed = {}
    for index, row in enumerate(rows):
        if len(row) != width:
            came = len(row) or "an empty line"
            failed[index] = f"{place(index)}: expected {width} values, got {came}"
            if not apart:
                raise BadRequest(failed[index])
    return failed


def _typed(
    rows: Rows, header: Header, signature: Signature, place: Place, apart: bool, failed: Mapping[int, str]
) -> tuple[dict[str, Array], dict[int, str]]:
    """Return the inputs without the rows that failed, and why rows with wrong cells are wrong, by their index.

    Each array has the shape [rows, columns of the input].
    """
    kept = [index for index in range(len(rows)) if index not in failed] if failed else range(len(rows))
    arrays: dict[str, Array] = {}
    wrong: dict[int, str] = {}
    for name, positions in header.inputs.items():
        cells = [rows[index][position] for index in kept for position in positions]
        array, problems = to_elements(cells, signature.inputs[name].dtype, every=apart)
        if array is not None:
            arrays[name] = array.reshape(len(kept), len(positions))
        for cell, problem in problems.items():
            row, column = kept[cell // len(positions)], header.names[positions[cell % len(positions)]][:200]
            wrong.setdefault(row, f"{place(row)}, column {column}: {problem}")
    if wrong and not apart:
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
