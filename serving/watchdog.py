"""Ends a process whose run does not end: some kernels loop for ever on some values, and hold a core and a place.

TensorFlow cannot be told to stop. So the request gets 504 where its connection is known, those beside it have a little
time to end, and the process ends, for its server to start another.
"""

import os
import socket
import threading
import time
from contextlib import suppress

from serving import inflight, limits
from serving.http import JSON, to_json
from serving.log import log
from serving.settings import Settings

TICK = 1.0  # seconds
GRACE = 3.0  # seconds for the requests beside it

_connections: dict[int, socket.socket] = {}  # thread -> the connection whose request it answers
_watching: int | None = None  # the process that has a thread for it


def answers(connection: socket.socket) -> None:
    """Say that this thread answers a request of a connection, until it says so of another."""
    _connections[threading.get_ident()] = connection


def watch(options: Settings) -> None:
    """Have the runs of this process watched; called when it takes requests, after a fork."""
    global _watching
    if _watching != os.getpid():
        _watching = os.getpid()
        threading.Thread(target=_watch, args=(options.run_timeout,), name="watchdog", daemon=True).start()


def _watch(seconds: int) -> None:
    while not (overdue := inflight.begun_before(time.monotonic() - seconds)):
        time.sleep(TICK)
    reason = f"the model has run for more than {seconds} s (RUN_TIMEOUT)"
    log("ERROR", f"this worker ends: {reason}", runs=[run.text for run in overdue])
    limits.stop(reason)
    for run in overdue:
        if connection := _connections.get(run.thread):
            _answer(connection, reason)
    until = time.monotonic() + GRACE
    while len(inflight.begun_before(time.monotonic())) > len(overdue) and time.monotonic() < until:
        time.sleep(0.05)
    limits.end(reason)


def _answer(connection: socket.socket, reason: str) -> None:
    """Give 504 on a connection whose thread will never come back to it."""
    body = to_json({"error": reason})
    fields = f"Connection: close\r\nContent-Type: {JSON}\r\nContent-Length: {len(body)}"
    head = f"HTTP/1.1 504 Gateway Timeout\r\n{fields}\r\n\r\n"
    with suppress(OSError):
        connection.send(head.encode() + body, socket.MSG_DONTWAIT)
        connection.shutdown(socket.SHUT_WR)
