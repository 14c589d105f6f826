"""A client that keeps its connection open and retries while a server is busy."""

import http.client
import socket
import time
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

SECONDS = 120.0  # for one answer, a cold start included
PATIENCE = 30.0  # seconds during which a refused request is sent again
BUSY = (429, 502, 503, 504)


class VerifyError(Exception):
    """Nothing can be verified; the message has the reason."""


class Case(NamedTuple):
    """One request."""

    name: str  # for people
    signature: str
    path: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = (("Content-Type", "application/json"),)


class Answer(NamedTuple):
    """What must be equal every time. Other headers may differ, as Date and Server-Timing do."""

    status: int
    content_type: str
    body: bytes


class Client:
    """One connection to one server; one thread at a time."""

    def __init__(self, url: str, headers: Mapping[str, str] | None = None) -> None:
        """`url` is http://HOST:PORT or https://HOST, `headers` go with every request."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise VerifyError(f"--url: expected http://HOST:PORT or https://HOST, got {url!r}")
        self.url = url.rstrip("/")
        self._prefix = parts.path.rstrip("/")
        self._more = dict(headers or {})
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection = kind(parts.hostname, parts.port, timeout=SECONDS)

    def get(self, path: str) -> Answer:
        """Send a GET, once."""
        return self._send("GET", path, None, {})[0]

    def post(self, case: Case) -> Answer:
        """Send a case; retry while a busy server asks for it."""
        end = time.monotonic() + PATIENCE
        while True:
            answer, again = self._send("POST", case.path, case.body, dict(case.headers))
            if not (again and answer.status in BUSY and time.monotonic() < end):
                return answer
            time.sleep(0.05)

    def _send(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> tuple[Answer, bool]:
        for attempt in (1, 2):
            reused = self._connection.sock is not None
            try:
                self._connection.request(method, self._prefix + path, body, {**headers, **self._more})
                response = self._connection.getresponse()
                answer = Answer(response.status, response.getheader("Content-Type") or "", response.read())
                return answer, response.getheader("Retry-After") is not None
            except (http.client.HTTPException, OSError) as error:
                self._connection.close()
                closed = isinstance(error, (http.client.RemoteDisconnected, ConnectionError))
                if attempt == 2 or not (reused and closed):  # a server may close a connection that nothing is on
                    raise VerifyError(f"no answer from {self.url}{path}: {error or type(error).__name__}") from None
        raise AssertionError

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()


def leave(url: str, data: bytes) -> None:
    """Send the beginning of a request and go away."""
    parts = urlsplit(url)
    if parts.scheme == "http":
        with socket.create_connection((parts.hostname or "", parts.port or 80), timeout=10) as connection:
            connection.sendall(data)
