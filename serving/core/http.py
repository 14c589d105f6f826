"""Requests and responses as values, bodies with their encodings, and the errors for clients, each with its status."""

import re
import zlib
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

from serving.core.record import UNWATCHED, Record

JSON = "application/json"  # without a charset: clients compare the whole value


class Headers(Protocol):
    """Header fields by case-insensitive name."""

    def get(self, name: str, /) -> str | None: ...


class Changed(NamedTuple):
    """Header fields with changes, by name in lower case; None removes a field."""

    headers: Headers
    changes: Mapping[str, str | None]

    def get(self, name: str, /) -> str | None:
        """Return a field by its name in any case."""
        name = name.lower()
        return self.changes[name] if name in self.changes else self.headers.get(name)


class Stream(Protocol):
    """A body that is not read yet."""

    def read(self, size: int, /) -> bytes: ...


class Request(NamedTuple):
    """A request from any server. The body is bytes, or a stream that has not been read from."""

    method: str
    path: str  # percent-decoded
    query: str = ""
    headers: Headers = {}  # noqa: RUF012 - never written to
    body: bytes | Stream = b""
    length: int | None = None  # a stream's Content-Length
    record: Record = UNWATCHED
    deliver: Any = None  # the function that acts on the events of this request; None: that of serving.events
    client: str = ""  # the address that it came from, where the server says it


class Response(NamedTuple):
    """A response for any server."""

    status: int
    body: bytes
    content_type: str = JSON
    headers: tuple[tuple[str, str], ...] = ()


@lru_cache(maxsize=64)
def status_line(status: int) -> str:
    """Return the status with its reason phrase: 404 Not Found."""
    if status == 200:
        return "200 OK"  # the first answer needs no table
    from http import HTTPStatus

    return f"{status} {HTTPStatus(status).phrase}"


class HttpError(Exception):
    """An error for the client; the text is its message."""

    status = 500
    headers: tuple[tuple[str, str], ...] = ()


class BadRequest(HttpError):
    """The body is wrong. `signature` names the one that was called, if that is known: the error then has an example."""

    status = 400

    def __init__(self, message: str, signature: str | None = None, *, example: bool = True) -> None:
        super().__init__(message)
        self.signature = signature
        self.example = example


class Unauthorized(HttpError):
    """The client is not authenticated; for layers of the user's own."""

    status = 401


class Forbidden(HttpError):
    status = 403


class NotFound(HttpError):
    status = 404


class MethodNotAllowed(HttpError):
    status = 405

    def __init__(self, message: str, allowed: str) -> None:
        super().__init__(message)
        self.headers = (("Allow", allowed),)


class TimedOut(HttpError):
    status = 408


class TooLarge(HttpError):
    status = 413


class ModelFault(HttpError):
    """The model's outputs do not fit its signature; the text is for the client and the log."""


class UnsupportedEncoding(HttpError):
    status = 415
    headers = (("Accept-Encoding", "gzip, deflate"),)


class NotImplementedHere(HttpError):
    status = 501


class Unavailable(HttpError):
    status = 503
    headers = (("Retry-After", "1"),)


class DeadlinePassed(HttpError):
    status = 504


class StillLoading(DeadlinePassed):
    headers = (("Retry-After", "1"),)


class UnsupportedMediaType(HttpError):
    status = 415


def to_json(value: Any) -> bytes:
    """Return a value as JSON; arrays become nested lists."""
    import orjson  # the first answer of the native codec does without

    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def to_line(value: Any) -> bytes:
    """Return a value as a line of JSON, with its line feed, for a list of many.

    It is a copy: the bytes that orjson returns keep the 4 KiB in which it began to write, however short they are.
    """
    import orjson

    options = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z
    return bytes(memoryview(orjson.dumps(value, option=options)))


def read_body(request: Request, limit: int) -> bytes:
    """Return the body, decompressed, of at most `limit` bytes; raise TooLarge without reading further."""
    return unpack(receive(request.body, request.length, limit), request.headers, limit)


def receive(body: bytes | Stream, length: int | None, limit: int) -> bytes:
    """Return a body as it was sent; raise TooLarge without reading further than `limit` bytes."""
    if not isinstance(body, bytes):
        return _read(body, length, limit)
    if len(body) > limit:
        raise _too_large(limit, f"{len(body)}")
    return body


def unpack(body: bytes, headers: Headers, limit: int) -> bytes:
    """Return a body without its Content-Encoding; raise TooLarge as soon as it exceeds `limit` bytes."""
    encoding = headers.get("content-encoding")
    if encoding and encoding.strip().lower() != "identity":
        return _unpack(body, encoding.strip().lower(), limit)
    return body


CHUNK = 1 << 20


def _read(stream: Stream, length: int | None, limit: int) -> bytes:
    if length is not None and length > limit:
        raise _too_large(limit, f"{length}")
    remaining = limit + 1 if length is None else length
    parts: list[bytes] = []
    while remaining:
        try:
            part = stream.read(remaining if length is not None else min(remaining, CHUNK))
        except HttpError:
            raise
        except TimeoutError:
            raise TimedOut("body: did not arrive in time") from None
        except Exception as error:  # each server has its own: malformed chunks, a client that disconnected
            raise BadRequest(f"body: cannot be read ({type(error).__name__})", example=False) from None
        if len(part) == length:
            return part
        if not part:
            break
        parts.append(part)
        remaining -= len(part)
    body = parts[0] if len(parts) == 1 else b"".join(parts)
    if len(body) > limit:
        raise _too_large(limit, "more")
    if length is not None and len(body) < length:
        raise BadRequest(f"body: Content-Length says {length} bytes, got {len(body)}", example=False)
    return body


def _too_large(limit: int, size: str) -> TooLarge:
    return TooLarge(f"body: expected at most {limit} bytes (MAX_BODY_BYTES), got {size}")


def _unpack(body: bytes, encoding: str, limit: int) -> bytes:
    """Decompress gzip, or deflate in zlib's form, without ever holding more than `limit` bytes of output."""
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise UnsupportedEncoding(f"Content-Encoding: expected gzip or deflate, got {encoding[:40]!r}")
    parts: list[bytes] = []
    position, remaining = 0, limit
    while position < len(body) or not position:
        if position and (encoding == "deflate" or not body.startswith(GZIP, position)):
            raise BadRequest(f"body: there is something after the {encoding} data", example=False)
        position, remaining = _unpack_member(memoryview(body), position, encoding, remaining, parts)
        if remaining < 0:
            raise TooLarge(f"body: expected at most {limit} bytes unpacked (MAX_BODY_BYTES), got more")
    return parts[0] if len(parts) == 1 else b"".join(parts)


GZIP = b"\x1f\x8b"  # the first bytes of a member
FIRST_PIECE = 512  # bytes of a further member; the next piece is twice as large


def _unpack_member(
    body: memoryview, position: int, encoding: str, remaining: int, parts: list[bytes]
) -> tuple[int, int]:
    """Decompress the gzip member (RFC 1952, 2.2) at `position`; return its end, and how many more bytes are allowed.

    That number is below 0 where the member is too large.

    zlib copies the input that follows a member's end, so further members get their input in pieces: otherwise many
    small members would take quadratic time.
    """
    unpacker = zlib.decompressobj(zlib.MAX_WBITS if encoding == "deflate" else zlib.MAX_WBITS | 16)
    size = FIRST_PIECE if position else len(body)
    while not unpacker.eof:
        piece = body[position : position + size]
        if not piece:
            raise BadRequest(f"body: the {encoding} data ends too early", example=False)
        try:
            part = unpacker.decompress(piece, remaining + 1)
        except zlib.error:
            raise BadRequest(f"body: not {encoding}, though Content-Encoding says so", example=False) from None
        remaining -= len(part)
        if part:
            parts.append(part)
        if remaining < 0:
            break
        position += len(piece) - len(unpacker.unused_data)
        size *= 2
    return position, remaining


def media_type(headers: Headers | Mapping[str, str]) -> str:
    """Return the content type in lower case, without its parameters."""
    return (headers.get("content-type") or "").partition(";")[0].strip().lower()


def varied(response: Response, field: str) -> Response:
    """Return the response with one more field in its `Vary`, on which the answer of an address depends."""
    names = [text for name, text in response.headers if name == "Vary"]
    others = [header for header in response.headers if header[0] != "Vary"]
    return response._replace(headers=(*others, ("Vary", ", ".join([*names, field]))))


SMALLEST_COMPRESSED = 1 << 10  # bytes: compressing fewer saves no packet and takes as long as a small model's run
LONGEST_ACCEPT = 256


def compress(response: Response, accept: str | None) -> Response:
    """Return the response in gzip or deflate (zlib's form) if the client's Accept-Encoding names one of them.

    The level is the fastest: it halves JSON numbers at 120 MB/s, where the best level leaves 0.4 at 20 MB/s. The bytes
    depend only on the body.
    """
    if not accept or len(response.body) < SMALLEST_COMPRESSED or response.status != 200:
        return response
    encoding = _accepted_encoding(accept[:LONGEST_ACCEPT])
    if encoding is None:
        return response
    packer = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS if encoding == "deflate" else zlib.MAX_WBITS | 16)
    packed = packer.compress(response.body) + packer.flush()
    if len(packed) >= len(response.body):
        return response
    headers = (*response.headers, ("Content-Encoding", encoding))
    return varied(response._replace(body=packed, headers=headers), "Accept-Encoding")


@lru_cache(maxsize=64)
def _accepted_encoding(accept: str) -> str | None:
    """Return gzip or deflate, the one with the greater weight, else gzip; None where neither is accepted."""
    weights = {"gzip": 0.0, "deflate": 0.0}
    for part in accept.lower().split(","):
        name, _, parameter = part.partition(";")
        weight = re.fullmatch(r"q=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)", parameter.strip().replace(" ", ""))
        if name.strip() in weights:
            weights[name.strip()] = float(weight[1]) if weight else 0.0 if parameter.strip() else 1.0
    best = max(weights, key=lambda name: weights[name])
    return best if weights[best] else None
