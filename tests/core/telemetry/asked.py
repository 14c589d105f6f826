"""What the tests of telemetry ask, and how they read the log."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from serving.servers import wsgi
from tests.server import serving
from tests.servers.test_wsgi import environ

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"


def ask(method: str, path: str, body: bytes = b"", **more: str) -> tuple[int, dict[str, str]]:
    """Send a request to the handler of this process; return the status and the headers."""
    started: list[Any] = []
    request = environ(method, "/", body, **more)
    request["PATH_INFO"] = path
    b"".join(wsgi.app(request, lambda status, headers: started.append((int(status[:3]), dict(headers)))))
    return started[0]


def entries(text: str) -> list[dict[str, Any]]:
    """Read a log whose every line has to be a JSON object, but for what TensorFlow itself writes."""
    lines = [line for line in text.split("\n") if line and not re.match(r"WARNING: All log|[IWE]0000 ", line)]
    return [json.loads(line) for line in lines]


def of_requests(text: str) -> list[dict[str, Any]]:
    return [entry for entry in entries(text) if "httpRequest" in entry]


def scraped(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Read metrics as Prometheus' own library does: name and labels → value."""
    parser = pytest.importorskip("prometheus_client.parser")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parser.text_string_to_metric_families(text)
        for sample in family.samples
    }


def exposed() -> str:
    parts: list[bytes] = []
    answer = wsgi.app(environ("GET", "/metrics"), lambda status, headers: parts.append(status.encode()))
    text = b"".join(answer).decode()
    assert parts == [b"200 OK"], text
    return text


@contextmanager
def collector(receive: Callable[[str, bytes], None]) -> Iterator[str]:
    """Run an HTTP server that hands each POST's path and body to `receive`; give its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            receive(self.path, self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    with serving(server):
        yield f"http://127.0.0.1:{server.server_port}"
