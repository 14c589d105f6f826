"""Real servers for the tests, each a process of its own on a free port of the loopback interface."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tests.conftest import EMBEDDED, ROOT, plain_environment

BIN = Path(sys.executable).parent

# How each door is started; {port} is filled in.
DOORS = {
    "functions-framework": [str(BIN / "functions-framework"), "--target", "predict", "--port", "{port}"],
    "predict_event": [str(BIN / "functions-framework"), "--target", "predict_event", "--port", "{port}"],
    "standalone": [sys.executable, "-m", "serving.servers.standalone"],
}


class Answer(NamedTuple):
    """What came back; header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Server:
    """A running server."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
        self.process, self.port, self._log = process, port, log

    @property
    def log(self) -> str:
        """Return what it has written so far."""
        return self._log.read_text(errors="replace")

    def ask(self, method: str, path: str, body: Any = b"", timeout: float = 30, **headers: str) -> Answer:
        """Send one request on a connection of its own."""
        if not isinstance(body, (bytes, Iterator)):
            body = json.dumps(body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body or None, named)
            response = connection.getresponse()
            return Answer(
                response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
            )
        finally:
            connection.close()

    def raw(self, data: bytes, timeout: float = 10) -> bytes:
        """Send bytes as they are, and return what comes until the server closes or stops talking."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout) as connection:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            received = b""
            while part := connection.recv(1 << 16):
                received += part
            return received


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def running(
    door: str = "functions-framework", directory: Path = EMBEDDED, source: Path = ROOT, **environment: str
) -> Iterator[Server]:
    """Start a door on `directory`, wait until its port is open, and end it afterwards."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [part.format(port=port) for part in DOORS[door]],
                cwd=source,
                env=plain_environment(MODEL_DIR=str(directory), PORT=str(port), **environment),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        server = Server(process, port, log)
        try:
            _wait(server)
            yield server
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
                try:
                    process.wait(15)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()


def _wait(server: Server, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if server.process.poll() is not None:
            raise AssertionError(f"the server ended with status {server.process.returncode}:\n{server.log}")
        try:
            socket.create_connection(("127.0.0.1", server.port), 1).close()
            return
        except OSError:
            time.sleep(0.02)
    raise AssertionError(f"the server did not open its port:\n{server.log}")
