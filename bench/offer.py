"""Requests at a fixed rate, whether the last was answered or not, from a process of its own.

    python -m bench.offer PORT PATH BODY_FILE SECONDS RATE [CONNECTIONS]

With the rate 0: from 8 connections, or as many as said, each as soon as it is answered. It prints {"seconds": ..., "answers": [[status,
milliseconds, whether within the time], ...], "lost": ...}. A time counts from when a request was due, not from when
the generator got round to it; status 0 stands for a connection that broke.
"""

import json
import selectors
import sys
import time
from pathlib import Path

from bench.client import connect, post
from bench.load import Connection

CLOSED = 8  # connections
MOST = 400  # connections of an open loop; a request that finds all of them busy is lost
PATIENCE = 5.0  # seconds for the last answers


class Offer:
    """The requests that are under way, and what came back."""

    def __init__(self, port: int, request: bytes) -> None:
        self.port, self.request = port, request
        self.selector = selectors.DefaultSelector()
        self.idle: list[Connection] = []
        self.due: dict[Connection, float] = {}  # of those that wait for an answer
        self.open = self.lost = 0
        self.answers: list[tuple[int, float, float]] = []  # status, milliseconds, when

    def ask(self, due: float) -> None:
        """Send a request on an idle connection, or on a new one."""
        if self.idle:
            connection = self.idle.pop()
        elif self.open < MOST:
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
        self.due[connection] = due
        try:
            connection.ask()
        except OSError:
            self.end(connection, 0)
            return
        self.watch(connection)

    def watch(self, connection: Connection) -> None:
        self.selector.modify(connection.socket, connection.waits_for(), connection)

    def end(self, connection: Connection, status: int) -> None:
        """Note what became of a request; keep the connection where there was an answer."""
        now, due = time.perf_counter(), self.due.pop(connection, None)
        if due is not None:
            self.answers.append((status, 1000 * (now - due), now))
        if status and b"connection: close" not in connection.received[:500].lower():
            self.idle.append(connection)
            return
        if connection in self.idle:
            self.idle.remove(connection)
        self.selector.unregister(connection.socket)
        connection.socket.close()
        self.open -= 1

    def wait(self, seconds: float) -> None:
        """Send and receive what can be, for as long."""
        for key, _ in self.selector.select(max(seconds, 0)):
            connection: Connection = key.data
            try:
                if connection in self.due and connection.unsent:
                    connection.send()
                    self.watch(connection)
                elif answer := connection.receive():
                    self.end(connection, int(answer[9:12]))
            except OSError:
                self.end(connection, 0)


def main(port: str, path: str, body: str, seconds: str, rate: str, closed: str = str(CLOSED)) -> None:
    offer = Offer(int(port), post(int(port), path, Path(body).read_bytes()))
    began = due = time.perf_counter()
    end = began + float(seconds)
    while (now := time.perf_counter()) < end:
        if float(rate):
            while due <= now:
                offer.ask(due)
                due += 1 / float(rate)
            offer.wait(due - time.perf_counter())
        else:
            while len(offer.due) < int(closed):
                offer.ask(time.perf_counter())
            offer.wait(0.1)
    last = time.perf_counter() + PATIENCE
    while offer.due and time.perf_counter() < last:
        offer.wait(0.1)
    told = [(status, milliseconds, at <= end) for status, milliseconds, at in offer.answers]
    print(json.dumps({"seconds": float(seconds), "answers": told, "lost": offer.lost + len(offer.due)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
