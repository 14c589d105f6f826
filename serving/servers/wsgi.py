"""WSGI (PEP 3333): the handler as an application, `serving.servers.wsgi:app`, and calls of other applications.

It imports no web framework. functions.py and flask.py use it inside functions-framework.
"""

import io
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import lru_cache
from typing import Any

from serving.core.http import Request, Response, status_line
from serving.core.record import Record
from serving.core.telemetry import phases
from serving.pipeline.handler import handle

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
Application = Callable[[Environ, StartResponse], Iterable[bytes]]


def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Answer one request (PEP 3333)."""
    return respond(environ, start_response, handle(to_request(environ)))


def to_request(environ: Environ) -> Request:
    """Return the request, its body still unread."""
    path = environ.get("PATH_INFO") or "/"
    if not path.isascii():  # WSGI servers decode the path as Latin-1
        path = path.encode("latin-1").decode("utf-8", "replace")
    return Request(
        environ["REQUEST_METHOD"],
        path,
        environ.get("QUERY_STRING", ""),
        Headers(environ),
        environ["wsgi.input"],
        _length(environ),
        environ.get(RECORD) or Record(),
        client=environ.get("REMOTE_ADDR", ""),
    )


RECORD = "serving.record"  # the key of the request from which an environment was made


def to_environ(request: Request) -> Environ:
    """Return a request of the standalone server as a WSGI environment."""
    body = request.body
    environ: Environ = {
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": request.path.encode().decode("latin-1"),
        "QUERY_STRING": request.query,
        "REMOTE_ADDR": request.client,
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(body) if isinstance(body, bytes) else body,
        "wsgi.input_terminated": True,  # it is complete, although it arrived in chunks
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        RECORD: request.record,
    }
    fields: Any = request.headers
    for name, value in fields.items():
        if "_" not in name and name != "transfer-encoding":  # WSGI would confuse its underscore with a hyphen
            environ[_key(name)] = value
    if isinstance(body, bytes):
        environ["CONTENT_LENGTH"] = str(len(body))
    return environ


def through(application: Application, environ: Environ) -> Response:
    """Return an application's complete response to a request; to HEAD, the length of the body that it leaves out."""
    started: list[Any] = []
    parts: list[bytes] = []

    def start_response(status: str, headers: list[tuple[str, str]], _exception: Any = None) -> Any:
        started[:] = status, headers
        return parts.append

    pieces = application(environ, start_response)
    try:
        parts.extend(pieces)
    finally:
        if hasattr(pieces, "close"):
            pieces.close()
    status, headers = started
    named = {name.lower(): value for name, value in headers}
    taken = {"content-type"} if environ["REQUEST_METHOD"] == "HEAD" else {"content-type", "content-length"}
    others = tuple((name, value) for name, value in headers if name.lower() not in taken)
    return Response(int(status[:3]), b"".join(parts), named.get("content-type", ""), others)


def respond(environ: Environ, start_response: StartResponse, response: Response) -> Iterable[bytes]:
    """Return a response to the WSGI server."""
    size = str(len(response.body))
    headers = [("Content-Type", response.content_type), ("Content-Length", size), *response.headers]
    start_response(status_line(response.status), headers if response.status != 204 else headers[2:])
    body = [] if environ["REQUEST_METHOD"] == "HEAD" else [response.body]
    return body if response.status < 400 else and_drop(environ, response.status, body)


def and_drop(environ: Environ, status: int, answer: Iterable[bytes]) -> Iterable[bytes]:
    """Return the answer; after a refusal, the rest of the request's body is read and dropped."""
    length = _length(environ)
    if status >= 400 and (length is None or length > UNREAD) and "HTTP_EXPECT" not in environ:
        return _and_drop(answer, environ["wsgi.input"])
    return answer


UNREAD = 1 << 14  # bytes that the server has received already
DROPPED, PIECE = 64 << 20, 1 << 16  # bytes
LINGER = 2.0  # seconds


def _and_drop(answer: Iterable[bytes], rest: Any) -> Iterator[bytes]:
    """Yield the answer, then read and drop the rest of a refused body.

    A client that still sends when its connection is closed gets a reset, and may never see the answer.
    """
    yield from answer
    until, allowance = time.monotonic() + LINGER, DROPPED
    with suppress(Exception):  # servers raise different exceptions for a closed connection
        while allowance > 0 and (part := rest.read(PIECE)) and time.monotonic() < until:
            allowance -= len(part)


class Headers:
    """Header fields of a WSGI environment."""

    __slots__ = ("_environ",)

    def __init__(self, environ: Environ) -> None:
        self._environ = environ

    def get(self, name: str) -> str | None:
        """Return a field by its name in any case."""
        value: str | None = self._environ.get(_key(name))
        return value


@lru_cache(maxsize=64)
def _key(name: str) -> str:
    key = name.upper().replace("-", "_")
    return key if key == "CONTENT_TYPE" else f"HTTP_{key}"


def _length(environ: Environ) -> int | None:
    """Return the length of the body; None where it is chunked."""
    text: str = environ.get("CONTENT_LENGTH", "")
    if text.isdecimal():
        return int(text[:19])
    chunked = environ.get("wsgi.input_terminated") or "HTTP_TRANSFER_ENCODING" in environ
    return None if chunked else 0


phases.imported()
