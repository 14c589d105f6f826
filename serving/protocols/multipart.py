"""Forms <https://www.rfc-editor.org/rfc/rfc7578>: a part is an input, by its name.

    curl ADDRESS -F image=@a.png -F image=@b.png        two rows of the string input `image`
    curl ADDRESS -F image=@a.png -F 'box=[0, 0, 8, 8]'  one row of two inputs
    answered:   {"predictions": [...]}

Parts of the same name are the rows of a batch, in their order. A part for a string input is its bytes; one for any
other input, or for a row of several strings, is the row in JSON. A part of the key's name is the key of its row.

The standard library's parser takes a line feed inside a picture for the end of a line; this one is exact.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from serving.core.errors import did_you_mean
from serving.core.http import BadRequest
from serving.protocols.bodies import (
    Array,
    Form,
    bytes_shape,
    joined,
    parameter,
    placed,
    to_strings,
    to_text,
)
from serving.protocols.call import Call, Context
from serving.protocols.json_tensors.reader import rows_to_array, to_array
from serving.protocols.sizes import Limits
from serving.protocols.tensorflow_serving.inputs import COLUMN, ROW
from serving.savedmodel.signature import Signature, TensorSpec, check

MOST_PARTS = 1000
LARGEST_HEAD = 8192  # bytes of the header fields of one part
LONGEST_BOUNDARY = 70  # RFC 2046, 5.1.1


class Part(NamedTuple):
    """One part of a form; the first has the number 1."""

    number: int
    name: str
    content_type: str
    data: bytes


def decode(body: bytes, signature: Signature, context: Context) -> Call:
    """Return the call that a form describes."""
    named: dict[str, list[Part]] = {}
    single = all(_is_single(spec) for spec in signature.inputs.values())  # no rows, so no keys
    for part in split(body, context.headers.get("content-type") or ""):
        if part.name not in signature.inputs and (single or part.name != context.key):
            known = [name for name in signature.inputs if name not in named]
            raise BadRequest(
                f"part {part.number}: the signature has no input {part.name[:200]!r}"
                f"{did_you_mean(part.name, known or signature.inputs)}"
            )
        named.setdefault(part.name, []).append(part)
    for name in signature.required:
        if name not in named:
            wanted = ", ".join(map(repr, signature.inputs))
            raise BadRequest(f"parts: the input {name!r} is missing; expected {wanted}")
    batched = {name: parts for name, parts in named.items() if not _is_single(signature.inputs.get(name))}
    if len({len(parts) for parts in batched.values()}) > 1:
        told = ", ".join(f"{name!r} {len(parts)}" for name, parts in batched.items())
        raise BadRequest(f"parts: expected as many of one input as of the others, one a row, got {told}")
    inputs = {
        name: _input(spec, named[name], context.limits) for name, spec in signature.inputs.items() if name in named
    }
    keys = None
    if context.key not in signature.inputs and context.key in named:
        keys = [to_text(part.data, part.content_type, f"part {part.number}") for part in named[context.key]]
    if single:
        return Call(signature, inputs, Form(COLUMN, _place(named)), context)
    return Call(signature, inputs, Form(ROW, _place(batched)), context, keys)


def _is_single(spec: TensorSpec | None) -> bool:
    return spec is not None and spec.shape == ()


def _place(named: Mapping[str, list[Part]]) -> Callable[[int | None], str]:
    def place(row: int | None) -> str:
        if row is None:
            return "parts"
        told = [f"part {parts[row].number}" for parts in named.values() if row < len(parts)]
        return " and ".join(told[:3]) or "parts"

    return place


def _input(spec: TensorSpec, parts: list[Part], limits: Limits) -> Array:
    single = _is_single(spec)
    if single and len(parts) > 1:
        raise BadRequest(
            f"part {parts[1].number}: the input {spec.name!r} has no batch dimension: expected one part, "
            f"got {len(parts)}"
        )
    shape = bytes_shape(spec)
    if shape is None:
        return _from_json(spec, parts, limits)
    array = to_strings([_string(part) for part in parts], shape)
    if single:
        return array.reshape(())
    if problem := check(spec, array.shape):
        raise BadRequest(f"parts, {spec.name}: {problem}")
    return array


def _string(part: Part) -> bytes:
    """Return the bytes of a part; text that says its charset becomes UTF-8."""
    if part.content_type.lower().startswith("text/") and parameter(part.content_type, "charset"):
        return to_text(part.data, part.content_type, f"part {part.number}").encode()
    return part.data


def _from_json(spec: TensorSpec, parts: list[Part], limits: Limits) -> Array:
    document, problems = joined([part.data for part in parts], limits)
    for index, problem in problems.items():
        raise BadRequest(f"part {parts[index].number}, {spec.name}: expected {spec.dtype.label} in JSON: {problem}")
    rows = document.root[ROW]
    try:
        if _is_single(spec):
            return to_array(document, rows[0], spec, f"{ROW}[0].{spec.name}")
        return rows_to_array(document, rows, spec, ROW, f".{spec.name}")
    except BadRequest as error:
        raise BadRequest(placed(str(error), _place({spec.name: parts}), len(parts))) from None


def split(body: bytes, content_type: str) -> Iterator[Part]:
    """Yield the parts of a form; raise BadRequest where it is malformed."""
    boundary = parameter(content_type, "boundary")
    if not boundary:
        raise BadRequest("Content-Type: expected a boundary, got none; let the client write this header itself")
    if len(boundary) > LONGEST_BOUNDARY or not boundary.isascii():
        raise BadRequest(f"Content-Type: expected a boundary of at most {LONGEST_BOUNDARY} ASCII characters")
    if not body.strip(b"\r\n"):
        raise BadRequest("body: expected parts, got nothing")
    delimiter = b"\r\n--" + boundary.encode()
    start = 0 if body.startswith(b"\r\n") else -2  # the first delimiter needs no line before it
    begin, last = _after(body, start + len(delimiter))
    if begin < 0 or not body.startswith(delimiter[2:], start + 2):
        raise BadRequest(f"body: expected it to begin with the boundary, --{boundary}")
    number = 0
    while not last:
        number += 1
        if number > MOST_PARTS:
            raise BadRequest(f"body: expected at most {MOST_PARTS} parts, got more")
        name, kind, data = _head(body, begin, number)
        # RFC 2046 lets the empty line of a part without content be the one that the delimiter begins with.
        end, begin, last = _find(body, delimiter, data - 2, number)
        yield Part(number, name, kind, body[data:end])
    if body[begin:].strip(b"\r\n"):
        raise BadRequest("body: there is something after the last part")
    if not number:
        raise BadRequest("body: expected parts, got none")


def _find(body: bytes, delimiter: bytes, position: int, number: int) -> tuple[int, int, bool]:
    """Return where the next delimiter begins, where what follows it does, and whether it was the last."""
    while (end := body.find(delimiter, position)) >= 0:
        following, last = _after(body, end + len(delimiter))
        if following >= 0:
            return end, following, last
        position = end + 2  # content that only begins like it
    raise BadRequest(f"part {number}: the body ends before the boundary that closes it")


def _after(body: bytes, position: int) -> tuple[int, bool]:
    """Return where the line of a delimiter ends, -1 where it is none, and whether it is the last of the form."""
    found = _LINE.match(body, position)
    if not found or not (found["last"] or found["end"]):
        return -1, False
    return found.end(), bool(found["last"])


_LINE = re.compile(rb"(?P<last>--)?[ \t]*(?P<end>\r\n|\Z)")  # of a delimiter, behind the boundary


# obs-fold is none of these: RFC 7578 knows no folded fields
_FIELD = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n\0]*)")
_ESCAPES = {"%22": '"', "%0D": "\r", "%0A": "\n"}  # as browsers write them: https://url.spec.whatwg.org


def _head(body: bytes, begin: int, number: int) -> tuple[str, str, int]:
    """Return the name and the content type of the part that begins at `begin`, and where its content does."""
    at = f"part {number}"
    blank = begin - 2 if body.startswith(b"\r\n", begin) else body.find(b"\r\n\r\n", begin, begin + LARGEST_HEAD)
    if blank < 0:
        raise BadRequest(f"{at}: expected header fields and an empty line, in at most {LARGEST_HEAD} bytes")
    try:
        head = body[begin : max(blank, begin)].decode()
    except UnicodeDecodeError:
        raise BadRequest(f"{at}: its header fields are not UTF-8") from None
    fields: dict[str, str] = {}
    for line in head.split("\r\n") if head else ():
        found = _FIELD.fullmatch(line)
        if not found:
            raise BadRequest(f"{at}: expected a header field, got {line[:60]!r}")
        if found[1].lower() in fields:
            raise BadRequest(f"{at}: the header field {found[1][:60]!r} stands twice")
        fields[found[1].lower()] = found[2].strip()
    disposition = fields.get("content-disposition", "")
    if disposition.partition(";")[0].strip().lower() != "form-data":
        raise BadRequest(f'{at}: expected Content-Disposition: form-data; name="...", got {disposition[:60] or "none"}')
    name = parameter(disposition, "name")
    if not name:
        raise BadRequest(f"{at}: expected a name in its Content-Disposition, got {disposition[:60]}")
    coding = fields.get("content-transfer-encoding", "binary").lower()
    if coding not in ("binary", "8bit", "7bit"):
        raise BadRequest(f"{at}: expected the Content-Transfer-Encoding binary, got {coding[:40]!r}")
    content_type = fields.get("content-type", "")
    if content_type.lower().startswith("multipart/"):
        raise BadRequest(f"{at}: expected the content of one input, got a form inside the form")
    name = re.sub("%22|%0D|%0A", lambda escape: _ESCAPES[escape[0]], name)
    return name, content_type, blank + 4
