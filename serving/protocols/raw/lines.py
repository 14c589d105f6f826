"""JSON lines <https://jsonlines.org>: an instance a line, as TensorFlow Serving's rows have them, keys included.

    {"key": 7, "x": 1.0}        answered, line for line:   {"key":7,"y":0.5}
    {"key": 8, "x": 2.0}                                   {"key":8,"y":1.0}

A line feed after the last line may be missing; an empty line before it is an error. With on_error=row a line that is
not JSON fails alone as well.
"""

from collections.abc import Callable, Sequence

from serving.core.http import BadRequest
from serving.protocols.call import MISSING, Call, Context, check_rows_apart, row_errors
from serving.protocols.json_tensors.document import Document
from serving.protocols.raw.bodies import BOM, LINES, SPACE, Form, joined, placed
from serving.protocols.sizes import check_rows
from serving.protocols.tensorflow_serving.inputs import ROW, decode_rows
from serving.savedmodel.signature import Signature


def decode(body: bytes, signature: Signature, context: Context) -> Call:
    """Return the call of a body of JSON lines."""
    lines = body.removeprefix(BOM).rstrip(SPACE).split(b"\n")
    if lines == [b""]:
        raise BadRequest("body: expected a JSON value a line, got nothing")
    check_rows(len(lines), "lines", context.limits)
    check_rows_apart(context, len(lines), "lines")
    return decode_lines(lines, signature, context)


def decode_lines(lines: Sequence[bytes], signature: Signature, context: Context, first: int = 1) -> Call:
    """Return the call of some lines, of which the first is line number `first` of its body or file."""

    def place(row: int | None) -> str:
        return "lines" if row is None else f"line {row + first}"

    apart = row_errors(context)
    document, problems = joined(lines, context.limits, every=apart)
    failed = {row: f"{place(row)}: {problem}" for row, problem in problems.items()}
    if failed and not apart:
        raise BadRequest(next(iter(failed.values())))
    form = Form(LINES, place, len(lines))
    good = [row for row in range(len(lines)) if row not in failed] if failed else range(len(lines))
    if not good:
        return Call(signature, {}, form, context, failed=failed)
    call = _rows(document, good, signature, context, place)
    keys = call.keys
    if keys is not None and failed:
        keys = [MISSING] * len(lines)
        for row, key in zip(good, call.keys or ()):
            keys[row] = key
    return call._replace(form=form, keys=keys, failed={**failed, **call.failed})


def _rows(
    document: Document, rows: Sequence[int], signature: Signature, context: Context, place: Callable[[int | None], str]
) -> Call:
    """Return the call of the lines that are JSON."""

    def with_lines(message: str) -> str:
        return placed(message, lambda row: place(None if row is None else rows[row]), len(rows))

    try:
        call = decode_rows(document, document.root[ROW], signature, context)
    except BadRequest as error:
        raise BadRequest(with_lines(str(error))) from None
    return call._replace(failed={rows[row]: with_lines(message) for row, message in call.failed.items()})
