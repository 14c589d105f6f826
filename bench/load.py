"""Load over 16 connections from a process of its own: wrk where it is installed, otherwise this module.

    python -m bench.load PORT PATH BODY_FILE SECONDS HEADERS_AS_JSON

prints {"requests": ..., "seconds": ..., "errors": ...}, as bench/post.lua does for wrk.
"""

import json
import os
import selectors
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from bench.client import NONE, Headers, connect, length, post
from bench.models import ROOT

CONNECTIONS = 16


def generator() -> str:
    """Name what makes the load."""
    return "wrk" if shutil.which("wrk") else "bench/load.py"


@dataclass(frozen=True)
class Load:
    requests: int
    seconds: float
    errors: int


def load(port: int, path: str, body: Path, seconds: float, cores: set[int], headers: Headers = NONE) -> Load:
    """Ask as fast as the server answers."""
    told = json.dumps(dict(headers))
    lines = [f"{name}: {value}" for name, value in headers.items()]
    wrk = [
        "wrk", "--threads", "1", "--connections", str(CONNECTIONS), "--duration", f"{max(round(seconds), 1)}s",
        "--timeout", "60s", "--script", "bench/post.lua", f"http://127.0.0.1:{port}{path}", "--", str(body), *lines,
    ]  # fmt: skip
    own = [sys.executable, "-m", "bench.load", str(port), path, str(body), str(seconds), told]
    process = subprocess.run(
        wrk if generator() == "wrk" else own,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        check=True,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    return Load(**json.loads(process.stdout.splitlines()[-1]))


@dataclass(eq=False)
class Connection:
    """One client: sends a request as soon as the last was answered."""

    socket: socket.socket
    request: bytes
    unsent: memoryview = field(init=False)
    received: bytes = b""

    def ask(self) -> None:
        self.unsent, self.received = memoryview(self.request), b""
        self.send()

    def send(self) -> None:
        while self.unsent:
            try:
                self.unsent = self.unsent[self.socket.send(self.unsent) :]
            except BlockingIOError:
                return

    def waits_for(self) -> int:
        return selectors.EVENT_WRITE if self.unsent else selectors.EVENT_READ

    def receive(self) -> bytes | None:
        """Give the answer, None as long as it is not complete."""
        part = self.socket.recv(1 << 16)
        if not part:
            raise ConnectionResetError("closed before the answer was complete")
        self.received += part
        whole = length(self.received)
        return self.received if whole and len(self.received) >= whole else None


def main(port: str, path: str, body: str, seconds: str, headers: str) -> None:
    request = post(int(port), path, Path(body).read_bytes(), json.loads(headers))
    answers = errors = 0
    with selectors.DefaultSelector() as selector:
        for _ in range(CONNECTIONS):
            connection = Connection(connect(int(port)), request)
            connection.socket.setblocking(False)
            connection.ask()
            selector.register(connection.socket, connection.waits_for(), connection)
        started = time.perf_counter()
        while (now := time.perf_counter()) < started + float(seconds):
            for key, _ in selector.select(started + float(seconds) - now):
                connection = key.data
                if connection.unsent:
                    connection.send()
                elif answer := connection.receive():
                    answers += 1
                    errors += not answer.startswith(b"HTTP/1.1 200")
                    connection.ask()
                if key.events != connection.waits_for():
                    selector.modify(connection.socket, connection.waits_for(), connection)
    print(json.dumps({"requests": answers, "seconds": now - started, "errors": errors}))


if __name__ == "__main__":
    main(*sys.argv[1:])
