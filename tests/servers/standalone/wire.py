"""A connection of the standalone server without a network, and a loop that answers it."""

import json
import socket
from contextlib import suppress
from typing import Any

import h11

from serving.core.http import HttpError, Response, receive
from serving.servers.standalone import connection as connections
from serving.servers.standalone.connection import Connection
from serving.servers.standalone.loop import Loop
from serving.servers.standalone.reading import Exchange

LIMIT = 64  # bytes of a body
GET = b"GET /a HTTP/1.1\r\nHost: x\r\n"
POST = b"POST /a HTTP/1.1\r\nHost: x\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


def length(size: int, more: bytes = b"") -> bytes:
    return POST + more + b"Content-Length: %d\r\n\r\n" % size


class Wire:
    """A connection of the server without its loop's turns: each part that is sent is received by itself."""

    def __init__(self, loop: Loop) -> None:
        self.client, accepted = socket.socketpair()
        accepted.setblocking(False)
        self.client.settimeout(10)
        self.connection = Connection(loop, accepted, "127.0.0.1")
        loop._connections[self.connection.descriptor] = self.connection
        loop.watch(self.connection, connections.IN)

    def send(self, part: bytes) -> None:
        with suppress(OSError):
            self.client.sendall(part)
        if not self.connection.is_closed:
            self.connection.on_event(connections.IN)

    def end(self) -> None:
        with suppress(OSError):
            self.client.shutdown(socket.SHUT_WR)
        for _ in range(100):
            if not self.connection.is_closed:
                self.connection.on_event(connections.IN)

    def answers(self) -> bytes:
        """Return what has been sent; the connection is closed by now, or waits for more."""
        received = b""
        self.client.setblocking(False)
        with suppress(BlockingIOError):
            while part := self.client.recv(1 << 16):
                received += part
        return received

    def close(self) -> None:
        self.connection.close()
        self.client.close()


def echo(exchange: Exchange, body: Any) -> None:
    """Answer with the request itself."""
    request = exchange.with_body(body)
    try:
        data = receive(body, request.length, LIMIT)
        description = [
            request.method,
            request.path,
            request.query,
            data.decode("latin-1"),
            request.headers.get("x-field"),
        ]
        response = Response(200, json.dumps(description).encode())
    except HttpError as error:
        response = Response(error.status, json.dumps({"error": str(error)}).encode())
    exchange.connection.send(exchange, response)
    exchange.connection._loop.give_back(exchange)


def responses(data: bytes, method: str = "POST") -> list[tuple[int, bytes]]:
    """Read answers as h11 does; interim ones are statuses with an empty body."""
    received: list[tuple[int, bytes]] = []
    while data:
        client = h11.Connection(h11.CLIENT)
        client.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
        client.send(h11.EndOfMessage())
        client.receive_data(data)
        body, status = b"", 0
        while not isinstance(event := client.next_event(), h11.EndOfMessage):
            assert not isinstance(event, type(h11.NEED_DATA)), data
            if isinstance(event, h11.InformationalResponse):
                received.append((event.status_code, b""))
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
        received.append((status, body))
        data = client.trailing_data[0]
    return received


def answered(loop: Loop, parts: list[bytes]) -> bytes:
    wire = Wire(loop)
    try:
        for part in parts:
            wire.send(part)
        wire.end()
        return wire.answers()
    finally:
        wire.close()
