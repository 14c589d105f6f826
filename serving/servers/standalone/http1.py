"""Bytes of HTTP/1.1 to values and back, without a socket: fields, targets, heads of responses."""

import time
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from serving.core.http import BadRequest, HttpError, Response, status_line, to_json

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LONGEST_CACHED = 256  # bytes of a target


class Fields:
    """Header fields by lower-case name; an underscore does not stand for a hyphen."""

    __slots__ = ("_fields",)

    def __init__(self, fields: dict[bytes, bytes]) -> None:
        self._fields = fields

    def get(self, name: str) -> str | None:
        """Return a field by its name in any case."""
        value = self._fields.get(_key(name))
        return None if value is None else value.decode("latin-1")

    def items(self) -> Iterator[tuple[str, str]]:
        """Yield each field with its name in lower case."""
        return ((name.decode("latin-1"), value.decode("latin-1")) for name, value in self._fields.items())


@lru_cache(maxsize=64)
def _key(name: str) -> bytes:
    return name.lower().encode("latin-1")


class Target(NamedTuple):
    """What a request line names: the path, percent-decoded, and the query as it was sent."""

    path: str
    query: str


def target(url: bytes) -> Target:
    """Read the target of a request line: /path?query, or the absolute form http://host/path?query."""
    return _cached_target(url) if len(url) <= LONGEST_CACHED else _target(url)


def _target(url: bytes) -> Target:
    if not url.startswith(b"/"):
        _, scheme, after = url.partition(b"://")
        if scheme:
            host_length = min((index for index in map(after.find, (b"/", b"?")) if index >= 0), default=len(after))
            url = after[host_length:]
            if not url.startswith(b"/"):
                url = b"/" + url
    path, _, query = url.partition(b"#")[0].partition(b"?")
    if b"%" in path:
        from urllib.parse import unquote_to_bytes  # most paths are as they are

        path = unquote_to_bytes(path)
    return Target(path.decode("utf-8", "replace"), query.decode("latin-1"))


_cached_target = lru_cache(maxsize=256)(_target)


def head(response: Response, keeps_open: bool, version: str) -> bytes:
    """Return the head of a response; raise ValueError where one of its fields holds a line end.

    HTTP/1.0 closes a connection by default, HTTP/1.1 keeps it open.
    """
    start = _start(response.status, response.content_type, keeps_open, version == "1.0")
    fields = response.headers
    more = "".join([f"{name}: {value}\r\n" for name, value in fields])
    if more.count("\n") != len(fields) or more.count("\r") != len(fields):
        raise ValueError("a header field of the response holds a line end")
    size = len(response.body)
    # An application may have left out the body of an answer to HEAD, whose length it gives.
    is_given = not size and fields and any(name.lower() == "content-length" for name, _ in fields)
    length = "" if response.status == 204 or is_given else f"Content-Length: {size}\r\n"
    return f"{start}{_date()}{length}{more}\r\n".encode("latin-1")


@lru_cache(maxsize=256)
def _start(status: int, content_type: str, keeps_open: bool, is_old: bool) -> str:
    content = "" if status == 204 or not content_type else f"Content-Type: {content_type}\r\n"
    connection = "" if keeps_open and not is_old else f"Connection: {'keep-alive' if keeps_open else 'close'}\r\n"
    return f"HTTP/1.1 {status_line(status)}\r\n{content}{connection}"


_dated = (0, "")  # the second, and its field


def _date() -> str:
    global _dated
    now = int(time.time())
    if _dated[0] != now:
        _dated = now, time.strftime("Date: %a, %d %b %Y %H:%M:%S GMT\r\n", time.gmtime(now))
    return _dated[1]


def refusal(status: int, message: str, *headers: tuple[str, str]) -> Response:
    """Return the response to bytes that are not a request for the handler."""
    return Response(status, to_json({"error": message}), headers=headers)


class Refused(Exception):
    """The head is valid HTTP and is not accepted."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Failing:
    """A body that cannot be read: `read` raises the reason.

    It does not keep the exception, which would keep the request alive in a reference cycle.
    """

    __slots__ = ("_kind", "_reason")

    def __init__(self, kind: type[HttpError], reason: str) -> None:
        self._kind, self._reason = kind, reason

    def read(self, _size: int = -1) -> bytes:
        raise self._kind(self._reason) if self._kind is not BadRequest else BadRequest(self._reason, example=False)
