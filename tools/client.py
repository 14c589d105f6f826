"""A minimal HTTP/1.1 client for measurements: one keep-alive connection, responses with a Content-Length."""

import socket
from collections.abc import Mapping

Headers = Mapping[str, str]
NONE: Headers = {}


class Refused(Exception):
    """The answer was not 200; carries its status and the beginning of its body."""


def post(port: int, path: str, body: bytes, headers: Headers = NONE) -> bytes:
    """Return the bytes of a POST request with a JSON body."""
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def connect(port: int) -> socket.socket:
    """Return a connection to a port of this machine, without Nagle's delay."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def length(received: bytes) -> int | None:
    """Return the total length of the response with this beginning, None while its head is incomplete."""
    head, end, _ = received.partition(b"\r\n\r\n")
    if not end:
        return None
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return len(head) + 4 + int(value)
    raise Refused(f"an answer without Content-Length: {head.decode(errors='replace')}")


def ask(connection: socket.socket, request: bytes) -> bytes:
    """Send one request and return the body of its response."""
    return exchange(connection, request)[1]


def exchange(connection: socket.socket, request: bytes) -> tuple[bytes, bytes]:
    """Send one request and return the head and the body of its response."""
    connection.sendall(request)
    received = b""
    whole = None
    while whole is None or len(received) < whole:
        part = connection.recv(1 << 16)
        if not part:
            raise ConnectionResetError("closed before the answer was complete")
        received += part
        whole = whole or length(received)
    head, _, body = received.partition(b"\r\n\r\n")
    status = head.split(b" ", 2)[1]
    if status != b"200":
        raise Refused(f"status {status.decode()}: {body[:300].decode(errors='replace')}")
    return head, body
