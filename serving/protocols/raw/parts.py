"""The parts of a form <https://www.rfc-editor.org/rfc/rfc7578>, cut at its boundary <https://www.rfc-editor.org/rfc/rfc2046>.

The standard library's parser takes a line feed inside a picture for the end of a line; this parser is exact.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from serving.core.http import BadRequest
from serving.protocols.raw.bodies import parameter

MOST_PARTS = 1000
LARGEST_HEAD = 8192  # bytes of the header fields of one part
LONGEST_BOUNDARY = 70  # RFC 2046, 5.1.1


class Part(NamedTuple):
    """One part of a form; the first has the number 1."""

    number: int
    name: str
    content_type: str
    data: bytes


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
    line = _LINE.match(body, position)
    if not line or not (line["last"] or line["end"]):
        return -1, False
    return line.end(), bool(line["last"])


_LINE = re.compile(rb"(?P<last>--)?[ \t]*(?P<end>\r\n|\Z)")  # of a delimiter, behind the boundary


# obs-fold is none of these: RFC 7578 knows no folded fields
_FIELD = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n\0]*)")
_ESCAPES = {"%22": '"', "%0D": "\r", "%0A": "\n"}  # as browsers write them: https://url.spec.whatwg.org


def _head(body: bytes, begin: int, number: int) -> tuple[str, str, int]:
    """Return the name and the content type of the part that begins at `begin`, and where its content does."""
    place = f"part {number}"
    blank = begin - 2 if body.startswith(b"\r\n", begin) else body.find(b"\r\n\r\n", begin, begin + LARGEST_HEAD)
    if blank < 0:
        raise BadRequest(f"{place}: expected header fields and an empty line, in at most {LARGEST_HEAD} bytes")
    fields = _header_fields(body[begin : max(blank, begin)], place)
    disposition = fields.get("content-disposition", "")
    if disposition.partition(";")[0].strip().lower() != "form-data":
        expected = 'Content-Disposition: form-data; name="..."'
        raise BadRequest(f"{place}: expected {expected}, got {disposition[:60] or 'none'}")
    name = parameter(disposition, "name")
    if not name:
        raise BadRequest(f"{place}: expected a name in its Content-Disposition, got {disposition[:60]}")
    coding = fields.get("content-transfer-encoding", "binary").lower()
    if coding not in ("binary", "8bit", "7bit"):
        raise BadRequest(f"{place}: expected the Content-Transfer-Encoding binary, got {coding[:40]!r}")
    content_type = fields.get("content-type", "")
    if content_type.lower().startswith("multipart/"):
        raise BadRequest(f"{place}: expected the content of one input, got a form inside the form")
    name = re.sub("%22|%0D|%0A", lambda escape: _ESCAPES[escape[0]], name)
    return name, content_type, blank + 4


def _header_fields(head: bytes, place: str) -> dict[str, str]:
    """Return header fields by their names in lower case; raise BadRequest for one that is malformed or twice there."""
    try:
        lines = head.decode().split("\r\n") if head else []
    except UnicodeDecodeError:
        raise BadRequest(f"{place}: its header fields are not UTF-8") from None
    fields: dict[str, str] = {}
    for line in lines:
        field = _FIELD.fullmatch(line)
        if not field:
            raise BadRequest(f"{place}: expected a header field, got {line[:60]!r}")
        name = field[1].lower()
        if name in fields:
            raise BadRequest(f"{place}: the header field {field[1][:60]!r} appears twice")
        fields[name] = field[2].strip()
    return fields
