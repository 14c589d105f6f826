"""A server that records requests and gives prepared answers."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.server import serving


class Sink(ThreadingHTTPServer):
    """Keeps the requests that came: path, header fields in lower case, body."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.received: list[tuple[str, dict[str, str], bytes]] = []
        self.status = 202
        self.location = ""
        self.refused: set[str] = set()  # subjects of events that are answered 503
        self.address = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        sink = self.server
        assert isinstance(sink, Sink)
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        sink.received.append((self.path, headers, body))
        self.send_response(503 if headers.get("ce-subject") in sink.refused else sink.status)
        self.send_header("Content-Length", "2")
        if sink.location:
            self.send_header("Location", sink.location)
        self.end_headers()
        self.wfile.write(b"{}")

    def do_GET(self) -> None:
        """Answer a client that has followed a redirect."""
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def mail_server(clients: int) -> Iterator[str]:
    """Greet clients as a mail server does, which is not HTTP, at an address that looks like HTTP."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet() -> None:
            for _ in range(clients):
                connection, _ = listener.accept()
                with connection:
                    connection.recv(1 << 16)
                    connection.sendall(b"220 hello\r\n")

        thread = threading.Thread(target=greet)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread.join()


@contextmanager
def sink(server: Sink | None = None) -> Iterator[Sink]:
    """Run a sink on a free port."""
    server = server or Sink()
    with serving(server):
        yield server
