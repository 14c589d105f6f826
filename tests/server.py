"""Real servers for the tests, each a process of its own on a free port of the loopback interface."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from tests.conftest import EMBEDDED, ROOT, plain_environment
from tools import server
from tools.server import StartError, free_port, spawn

BIN = Path(sys.executable).parent

# The command that starts each kind of server; {port} is filled in.
COMMANDS = {
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


class Server(server.Server):
    """A running server, and clients that ask it."""

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


@contextmanager
def running(
    kind: str = "functions-framework", directory: Path = EMBEDDED, source: Path = ROOT, **environment: str
) -> Iterator[Server]:
    """Start a kind of server on `directory`, wait until its port is open, and stop it afterwards."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        command = [part.format(port=port) for part in COMMANDS[kind]]
        settings = plain_environment(MODEL_DIR=str(directory), PORT=str(port), **environment)
        running_server = Server(spawn(command, settings, log, source), port, log)
        try:
            running_server.wait_for_port()
            yield running_server
        except StartError:
            print(running_server.log)  # which pytest shows
            raise
        finally:
            if running_server.process.poll() is None:
                os.killpg(running_server.process.pid, signal.SIGTERM)
                with suppress(subprocess.TimeoutExpired):
                    running_server.process.wait(15)
            running_server.kill()


@contextmanager
def serving(server: Any) -> Iterator[None]:
    """Have a server of the standard library answer in a thread of its own."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
