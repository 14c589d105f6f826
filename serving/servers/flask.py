"""Converts Flask's requests to ours, and our responses to Flask's. It contains no rules of its own.

A request or response of Flask's takes 10 µs or more to make. So ours become Flask's when they are first used; those
that a function only passes on never do.
"""

from typing import Any

import flask

from serving.core.http import Request, Response, status_line
from serving.servers import wsgi
from serving.servers.wsgi import Environ


class PlainRequest(flask.Request):
    """A request that has not been used; it becomes Flask's at the first use."""

    def __init__(self, plain: Request | Environ) -> None:
        self.__dict__["plain"] = plain

    def __getattr__(self, name: str) -> Any:  # only for attributes that do not exist yet
        _become_request(self)
        return getattr(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        _become_request(self)
        setattr(self, name, value)


class PlainResponse(flask.Response):
    """One of our responses that has not been used; it becomes Flask's at the first use."""

    def __init__(self, plain: Response) -> None:
        self.__dict__["plain"] = plain

    def __getattr__(self, name: str) -> Any:
        _become_response(self)
        return getattr(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        _become_response(self)
        setattr(self, name, value)


def _become(value: Any, kind: type, arguments: tuple[Any, ...]) -> None:
    object.__setattr__(value, "__class__", kind)
    kind.__init__(value, *arguments)  # type: ignore[misc]


def _become_request(value: PlainRequest) -> None:
    plain = value.__dict__.pop("plain")
    _become(value, flask.Request, (wsgi.to_environ(plain) if isinstance(plain, Request) else plain,))


def _become_response(value: PlainResponse) -> None:
    plain: Response = value.__dict__.pop("plain")
    _become(value, flask.Response, (plain.body, status_line(plain.status), None, None, plain.content_type))
    for name, text in plain.headers:
        value.headers[name] = text
    if plain.status == 204:
        del value.headers["Content-Type"]


def from_flask(request: flask.Request) -> Request:
    """Return the request, its body still unread, unless it has been read with `get_data` or `get_json`."""
    if type(request) is PlainRequest:
        untouched = request.__dict__["plain"]
        return untouched if isinstance(untouched, Request) else wsgi.to_request(untouched)
    plain = wsgi.to_request(request.environ)
    body = request.__dict__.get("_cached_data")
    if body is not None:
        return plain._replace(body=body, length=len(body))
    # functions-framework reads the body again after the answer: that must not fail, and not read a refused body.
    request._cached_data = b""
    return plain


def to_flask(response: Response) -> flask.Response:
    """Return the response."""
    return PlainResponse(response)
