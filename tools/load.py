"""A load generator: it sends requests to a server from a separate process on its own cores.

    python -m tools.load PORT PATH BODY_FILE SECONDS CONNECTIONS RATE HEADERS_AS_JSON

RATE 0 is a closed loop: each connection sends a request as soon as the last one is answered. Any other RATE is an open
loop: so many requests per second at fixed times, independently of the answers, over at most CONNECTIONS connections; a
request that finds all of them busy counts as failed. Times begin when a request is due. It prints a `Load` as JSON.
"""

import json
import os
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from serving.core.settings import ROOT
from tools.client import NONE, Headers, connect, length, post

PATIENCE = 5.0  # seconds for the last answers
SHARES = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 1.0)


@dataclass(frozen=True)
class Load:
    """The result of a load: counts, and the times of the answers in milliseconds."""

    per_second: float  # answers with status 200 that arrived before the end
    p50_ms: float
    p99_ms: float
    answered: int  # with status 200
    refused: int  # with status 429 or 503
    refused_p50_ms: float
    refused_p99_ms: float
    failed: int  # with any other status, or without an answer
    busy: float  # share of a core that the load itself took: near 1, it was the limit
    quantiles_ms: tuple[float, ...]  # of the answers with status 200, at SHARES


def load(
    port: int, path: str, body: Path, seconds: float, cores: set[int],
    *, connections: int = 16, rate: float = 0, headers: Headers = NONE,
) -> Load:  # fmt: skip
    """Put load on a server from a process that runs on these cores."""
    values = (port, path, body, seconds, connections, rate, json.dumps(dict(headers)))
    done = subprocess.run(
        [sys.executable, "-m", "tools.load", *map(str, values)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        check=True,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    return Load(**json.loads(done.stdout))


@dataclass(eq=False)
class Connection:
    """One client, with one request at a time."""

    socket: socket.socket
    request: bytes
    due: float = 0.0  # when the request was due; 0: no request is in flight
    unsent: memoryview = field(default_factory=lambda: memoryview(b""))
    received: bytes = b""

    def ask(self, due: float) -> None:
        self.due, self.unsent, self.received = due, memoryview(self.request), b""
        self.send()

    def send(self) -> None:
        while self.unsent:
            try:
                self.unsent = self.unsent[self.socket.send(self.unsent) :]
            except BlockingIOError:
                return

    def receive(self) -> bytes | None:
        """Return the answer, None while it is incomplete."""
        part = self.socket.recv(1 << 16)
        if not part:
            raise ConnectionResetError("closed before the answer was complete")
        self.received += part
        whole = length(self.received)
        return self.received if whole and len(self.received) >= whole else None


class Clients:
    """The connections to a server, and the results of their requests."""

    def __init__(self, port: int, request: bytes, connections: int) -> None:
        self.port, self.request, self.most = port, request, connections
        self.selector = selectors.DefaultSelector()
        self.idle: list[Connection] = []
        self.open = self.busy = self.lost = 0
        self.answers: list[tuple[int, float, float]] = []  # status (0: broken off), milliseconds, when

    def ask(self, due: float) -> None:
        """Send a request on an idle connection, or on a new one."""
        if self.idle:
            connection = self.idle.pop()
        elif self.open < self.most:
            try:
                connection = Connection(connect(self.port), self.request)
            except OSError:
                self.answers.append((0, 0.0, due))
                return
            connection.socket.setblocking(False)
            self.selector.register(connection.socket, selectors.EVENT_READ, connection)
            self.open += 1
        else:
            self.lost += 1
            return
        self.busy += 1
        try:
            connection.ask(due)
        except OSError:
            self._end(connection, 0)
        else:
            if connection.unsent:
                self.selector.modify(connection.socket, selectors.EVENT_WRITE, connection)

    def _end(self, connection: Connection, status: int) -> None:
        """Record the result of a request; keep the connection if it was answered."""
        if connection.due:
            now = time.perf_counter()
            self.answers.append((status, 1000 * (now - connection.due), now))
            self.busy -= 1
            connection.due = 0.0
        elif connection in self.idle:  # the server closed it
            self.idle.remove(connection)
        if status and b"connection: close" not in connection.received[:500].lower():
            self.idle.append(connection)
            return
        self.selector.unregister(connection.socket)
        connection.socket.close()
        self.open -= 1

    def wait(self, seconds: float) -> None:
        """Send and receive for at most this time."""
        for key, events in self.selector.select(max(seconds, 0)):
            connection: Connection = key.data
            try:
                if events & selectors.EVENT_WRITE:
                    connection.send()
                    if not connection.unsent:
                        self.selector.modify(connection.socket, selectors.EVENT_READ, connection)
                elif answer := connection.receive():
                    self._end(connection, int(answer[9:12]))
            except OSError:
                self._end(connection, 0)

    def summary(self, seconds: float, end: float, busy: float) -> Load:
        good = sorted(taken for status, taken, _ in self.answers if status == 200)
        refused = sorted(taken for status, taken, _ in self.answers if status in (429, 503))
        return Load(
            per_second=sum(status == 200 and at <= end for status, _, at in self.answers) / seconds,
            p50_ms=quantile(good, 0.5),
            p99_ms=quantile(good, 0.99),
            answered=len(good),
            refused=len(refused),
            refused_p50_ms=quantile(refused, 0.5),
            refused_p99_ms=quantile(refused, 0.99),
            failed=len(self.answers) - len(good) - len(refused) + self.lost + self.busy,
            busy=busy,
            quantiles_ms=tuple(quantile(good, share) for share in SHARES),
        )


def quantile(ordered: list[float], share: float) -> float:
    """Return the quantile of ascending values, 0 where there are none."""
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else 0.0


def main(arguments: Iterable[str]) -> None:
    """Put load on a server as the command line says, and print a `Load` as JSON."""
    port, path, body, duration, connections, frequency, headers = arguments
    seconds, rate = float(duration), float(frequency)
    clients = Clients(int(port), post(int(port), path, Path(body).read_bytes(), json.loads(headers)), int(connections))
    began = due = time.perf_counter()
    used = time.process_time()
    end = began + seconds
    while (now := time.perf_counter()) < end:
        if rate:
            while due <= now:
                clients.ask(due)
                due += 1 / rate
            clients.wait(due - time.perf_counter())
        else:
            for _ in range(clients.most - clients.busy):
                clients.ask(time.perf_counter())
            clients.wait(end - now)
    busy = (time.process_time() - used) / seconds
    last = time.perf_counter() + PATIENCE
    while clients.busy and time.perf_counter() < last:
        clients.wait(0.1)
    print(json.dumps(asdict(clients.summary(seconds, end, busy))))


if __name__ == "__main__":
    main(sys.argv[1:])
