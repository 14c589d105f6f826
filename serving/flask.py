"""The door of functions-framework: Flask's request and response, to ours and back. It decides nothing."""

import flask

from serving.http import Request, Response, status_line
from serving.record import Record


def from_flask(request: flask.Request) -> Request:
    """Return the request, its body still unread."""
    stream = request.stream
    # functions-framework asks for the body again after the answer. That must neither read what was refused nor fail.
    request._cached_data = b""
    return Request(
        request.method,
        request.path,
        request.query_string.decode("latin-1"),
        request.headers,
        stream,
        request.content_length,
        Record(),
    )


def to_flask(response: Response) -> flask.Response:
    """Return the response."""
    answer = flask.Response(response.body, status_line(response.status), content_type=response.content_type)
    for name, value in response.headers:
        answer.headers[name] = value
    if response.status == 204:
        del answer.headers["Content-Type"]
    return answer
