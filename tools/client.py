"""The least HTTP/1.1 that measures a server: one keep-alive connection, answers with a Content-Length."""

import socket
from collections.abc import Mapping

Headers = Mapping[str, str]
NONE: Headers = {}


class Refused(Exception):
    """The answer was not 200; carries its status and the beginning of its body."""


def post(port: int, path: str, body: bytes, headers: Headers = NONE) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def connect(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def length(received: bytes) -> int | None:
    """Give the whole length of the answer that begins so, None as long as its head is not complete."""
    head, end, _ = received.partition(b"\r\n\r\n")
    if not end:
        return None
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return len(head) + 4 + int(value)
    raise Refused(f"an answer without Content-Length: {head.decode(errors='replace')}")


def ask(connection: socket.socket, request: bytes) -> bytes:
    """Send one request and give the body of its answer."""
    return exchange(connection, request)[1]


def exchange(connection: socket.socket, request: bytes) -> tuple[bytes, bytes]:
    """Send one request and give the head and the body of its answer."""
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
