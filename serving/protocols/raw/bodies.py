"""Functions that the readers of bodies other than one JSON document share."""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import simdjson

from serving.core.http import BadRequest
from serving.protocols.json_tensors.dialect import parse_carefully, parse_short
from serving.protocols.json_tensors.document import Document
from serving.protocols.sizes import Limits
from serving.protocols.tensorflow_serving.inputs import ROW
from serving.savedmodel.signature import TensorSpec

Array = np.ndarray[Any, Any]

LINES = "lines"
BOM = b"\xef\xbb\xbf"
SPACE = b" \t\r\n"  # white space in JSON


class Form(NamedTuple):
    """How a call is answered (as rows, as columns or line by line), and the names of its rows in its body."""

    answer: str
    place: Callable[[int | None], str]
    lines: int = 0  # how many are answered line by line


# `; charset=utf-8`, `; boundary="a b"`; a backslash takes the next character as it is
_PARAMETER = re.compile(r';[ \t]*([^\s=;"]+)=(?:"((?:[^"\\]|\\.)*)"|([^\s;"]*))')


def parameter(value: str, name: str) -> str | None:
    """Return one parameter of a header field such as Content-Type, None where it is absent.

    One that appears twice is refused: of two readers, one would take the first and the other the last.
    """
    given = [match for match in _PARAMETER.finditer(value) if match[1].lower() == name]
    if not given:
        return None
    if len(given) > 1:
        raise BadRequest(f"the parameter {name!r} appears twice in {value[:200]!r}", example=False)
    (match,) = given
    return match[3] if match[2] is None else re.sub(r"\\([\"\\])", r"\1", match[2])


CHARSETS = {
    "utf-8": "utf-8", "utf8": "utf-8", "us-ascii": "ascii", "ascii": "ascii",
    "iso-8859-1": "latin-1", "latin-1": "latin-1", "latin1": "latin-1",
}  # fmt: skip


def to_text(body: bytes, content_type: str, place: str = "body") -> str:
    """Return the text of bytes, in the charset that the content type says, UTF-8 where it says none."""
    charset = parameter(content_type, "charset") or "utf-8"
    codec = CHARSETS.get(charset.lower())
    if codec is None:
        raise BadRequest(
            f"{place}: expected the charset utf-8, us-ascii or iso-8859-1, got {charset[:40]!r}", example=False
        )
    try:
        return (body.removeprefix(BOM) if codec == "utf-8" else body).decode(codec)
    except UnicodeDecodeError as error:
        raise BadRequest(f"{place}: not {charset[:40]} at byte {error.start}", example=False) from None


def bytes_shape(spec: TensorSpec) -> tuple[int, ...] | None:
    """Return the shape of a row that is one string, () for a scalar; None where a row is not one string."""
    if spec.dtype.kind != "S":
        return None
    row = (spec.shape or ())[1:]
    return (1,) * len(row) if all(size in (1, None) for size in row) else None


def to_strings(values: Iterable[bytes], shape: tuple[int, ...]) -> Array:
    """Return byte strings as an array of shape [len(values), *shape]; the product of `shape` is 1."""
    values = list(values)
    array = np.empty(len(values), object)
    array[:] = values
    return array.reshape(len(values), *shape)


NAN, INFINITY = b"NI"  # how they begin, as numbers: to look for bytes in bytes takes ten times as long


def joined(texts: Sequence[bytes], limits: Limits, *, every: bool = False) -> tuple[Document, dict[int, str]]:
    """Return the document {"instances": [...]} of the texts that are JSON values, and why others are not, by index.

    Without `every`, the first wrong text ends the reading. Each text is parsed alone too, since `1], "y": [2` is not
    JSON and yet fits in (a tenth of the time of the rows).
    """
    body = b",".join(texts)
    usual = not any(mark in body for mark in (b"N", b"I", BOM))
    parse = simdjson.Parser().parse
    failed: dict[int, str] = {}
    for index, text in enumerate(texts):
        try:
            if usual or not (NAN in text or INFINITY in text or text.startswith(BOM)):
                parse(text)
            else:
                parse_short(text, limits)
        except (ValueError, RuntimeError):
            if problem := json_problem(text, limits):
                failed[index] = problem
                if not every:
                    break
    if failed:
        body = b",".join([text for index, text in enumerate(texts) if index not in failed]) if every else b""
    return Document(b'{"%b":[%b]}' % (ROW.encode(), body), limits), failed


def json_problem(text: bytes, limits: Limits) -> str | None:
    """Return why a text is not a JSON value, None where it is."""
    if text.startswith(BOM):
        return "expected a JSON value, got a byte-order mark"
    try:
        simdjson.Parser().parse(text)
    except (ValueError, RuntimeError):
        pass  # it may be TensorFlow Serving's dialect
    else:
        return None
    if not text.strip(SPACE):
        return "expected a JSON value, got nothing"
    try:
        parse_carefully(text, limits)
    except BadRequest as error:
        return str(error).removeprefix("body: ").replace(" at line 1, column", " at column")
    return None


_INSTANCE = re.compile(r"(?:^|(?<= as in ))instances(?:\[([0-9]{1,9})\])?\.?")


def placed(message: str, place: Callable[[int | None], str], rows: int) -> str:
    """Return a message about `instances[3].x` with what row 3 is called in the body: `line 4, x`."""

    def name(match: re.Match[str]) -> str:
        row = None if match[1] is None else int(match[1])
        if row is not None and row >= rows:
            return match[0]  # text of the client
        return place(row) + ("" if message.startswith((":", ", "), match.end()) else ", ")

    return _INSTANCE.sub(name, message, count=2)
