"""Parses the bytes of one connection into requests, by httptools.

Its parser is llhttp, that of Node.js: it refuses a request whose end two parsers could see at different positions
(RFC 9112, 6.1 and 11.2). None of its lenient modes is enabled. This module adds limits: the size of a head, the number
of its fields, the bytes between two chunks of a body, and the number of requests that are parsed ahead.
"""

import socket
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from httptools import HttpParserCallbackError, HttpParserError, HttpParserInvalidMethodError, HttpParserUpgrade
from httptools import HttpRequestParser as Parser

from serving.core.http import BadRequest, HttpError, Request, Response, Stream, TooLarge, Unavailable
from serving.core.record import Record
from serving.pipeline import grpc
from serving.pipeline.layers import largest_body
from serving.servers.standalone.http1 import Failing, Fields, Refused, Target, head, refusal, target

if TYPE_CHECKING:
    from serving.servers.standalone.connection import Connection

SLICE = 1 << 12  # bytes parsed at once: they may hold several requests, which wait for their turn
MOST_FIELDS = 100
SMALL_PART = 1 << 10  # bytes of a body
TOKEN = frozenset(b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
NO_FIELDS = Fields({})
METHODS = "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"


class Exchange:
    """One request, from its head to its answer."""

    __slots__ = (
        "answered", "claimed", "connection", "fields", "is_asking", "keeps_open", "length", "method", "parts", "record",
        "refusal", "size", "target", "version",
    )  # fmt: skip

    def __init__(
        self, connection: "Connection", method: str, target: Target, fields: Fields, length: int | None, version: str,
        keeps_open: bool,
    ) -> None:  # fmt: skip
        self.connection, self.method, self.target, self.fields = connection, method, target, fields
        self.length, self.version, self.keeps_open = length, version, keeps_open
        self.record = Record()
        self.parts: list[bytes | bytearray] = []
        self.size = 0  # bytes of the body that have arrived
        self.claimed = 0  # those of them that count against the limit of all bodies
        self.is_asking = False  # waits for 100 Continue
        self.answered = False
        self.refusal: Response | None = None  # the answer to a malformed request, which the handler does not see

    def add(self, part: bytes) -> None:
        """Add bytes of the body. Small parts are joined: each would take 50 bytes of memory besides its own."""
        parts: list[bytes | bytearray] = self.parts
        self.size += len(part)
        if parts and len(part) < SMALL_PART:
            if isinstance(parts[-1], bytearray):
                parts[-1] += part
            else:
                parts.append(bytearray(part))
        else:
            parts.append(part)

    def with_body(self, body: bytes | Stream) -> Request:
        """Return the request for the handler."""
        path, query = self.target
        return Request(
            self.method, path, query, self.fields, body, self.length, self.record, client=self.connection.address
        )

    def give(self, response: Response) -> None:
        """Send an answer from another thread than the one that answers this request and may never finish."""
        if not self.answered:
            self.answered = True
            client = self.connection.socket
            client.send(head(response, False, self.version) + response.body, socket.MSG_DONTWAIT)
            client.shutdown(socket.SHUT_WR)


class Reader:
    """Parses bytes into requests. httptools calls the methods that begin with `on_`."""

    __slots__ = (
        "_begun", "_body_left", "_claim", "_connection", "_fields", "_most_header_bytes", "_parser", "_quiet",
        "_repeated", "_rest", "_url", "exchange", "is_stopped", "may_send", "ready",
    )  # fmt: skip

    def __init__(
        self, connection: "Connection", most_header_bytes: int, claim: Callable[[Exchange], str | None]
    ) -> None:
        """`claim` counts the bytes of a body, and returns a reason if no more are accepted, else None."""
        self._connection, self._most_header_bytes, self._claim = connection, most_header_bytes, claim
        self.ready: deque[tuple[Exchange, bytes | Stream]] = deque()  # requests that wait for their turn
        self.exchange: Exchange | None = None  # the request whose body is arriving
        self.is_stopped = False  # no more requests are accepted
        self.may_send = False  # the client may still send bytes, which are dropped
        self._rest = b""  # received and not parsed yet
        self._parser = Parser(self)
        self._fields: dict[bytes, bytes] = {}
        self._url = b""
        self._repeated = 0
        self._body_left = 0  # remaining bytes of a body, which bypass the parser
        self._quiet = 0  # bytes parsed since the end of the last request or the last chunk of a body
        self._begun = False

    def close(self) -> None:
        """Release the parser, which refers to this reader."""
        self._parser = self.exchange = None  # type: ignore[assignment]
        self.ready.clear()

    @property
    def wanted(self) -> int:
        """The bytes of a body that have not arrived, if its length is known; else 0."""
        return self._body_left

    @property
    def has_begun(self) -> bool:
        """Return whether a head is incomplete, with at least its first byte received."""
        return self._begun and self.exchange is None

    @property
    def is_empty(self) -> bool:
        """Return whether no byte of a request has been received."""
        return not (self.ready or self._rest or self._quiet or self.exchange)

    @property
    def is_in_head(self) -> bool:
        """Return whether an incomplete head, or line ends before one, have been received."""
        return self._quiet > 0 and self.exchange is None

    @property
    def is_asked(self) -> bool:
        """Return whether the client waits for 100 Continue before it sends a body."""
        return self.exchange is not None and self.exchange.is_asking and not self.exchange.size

    @property
    def has_rest(self) -> bool:
        """Return whether received bytes have not been parsed yet."""
        return bool(self._rest)

    # What httptools calls

    def on_message_begin(self) -> None:
        self._begun = True
        self._fields, self._url, self._repeated = {}, b"", 0

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        name, fields = name.lower(), self._fields
        if name in fields:
            if name == b"host":  # RFC 9112, 3.2: a proxy may have read the other one
                raise Refused(400, "Host: expected one, got more")
            value = fields[name] + b"," + value
            self._repeated += 1
        fields[name] = value

    def on_headers_complete(self) -> None:
        fields, parser = self._fields, self._parser
        self._fields = {}  # trailers are not fields of the request
        version, keeps_open = parser.get_http_version(), parser.should_keep_alive()
        if len(fields) + self._repeated > MOST_FIELDS:
            raise Refused(431, f"header: expected at most {MOST_FIELDS} fields, got more")
        if version != "1.1" and version != "1.0":
            raise Refused(400 if version == "0.9" else 505, f"expected version 1.1 or 1.0 of HTTP, got {version}")
        if version == "1.1" and b"host" not in fields:  # RFC 9112, 3.2
            raise Refused(400, "Host: expected one, got none")
        method = parser.get_method().decode()
        length: int | None = 0
        if b"transfer-encoding" in fields:
            length = None
            keeps_open = keeps_open and version == "1.1"
            if fields[b"transfer-encoding"].lower() != b"chunked":
                raise Refused(501, "Transfer-Encoding: expected chunked, got another coding")
        elif b"content-length" in fields:
            length = int(fields[b"content-length"])
        if method == "CONNECT":
            raise Refused(405, f"expected one of {METHODS}, got CONNECT: this server is not a proxy")
        if b"upgrade" in fields and length is None:
            raise Refused(501, "Upgrade: expected none with a chunked body")
        self.exchange = exchange = Exchange(
            self._connection, method, target(self._url), Fields(fields), length, version, keeps_open
        )
        if b"expect" in fields and version == "1.1":
            exchange.is_asking = fields[b"expect"].lower() == b"100-continue"

    def on_body(self, part: bytes) -> None:
        exchange = self.exchange
        assert exchange
        exchange.add(part)
        self._quiet = 0

    def on_message_complete(self) -> None:
        exchange = self.exchange
        # If the head names a protocol to upgrade to, the parser does not parse the body.
        if exchange is not None and (exchange.length or 0) <= exchange.size:
            self._complete(exchange)

    def _complete(self, exchange: Exchange) -> None:
        parts = exchange.parts
        body = bytes(parts[0]) if len(parts) == 1 else b"".join(parts)
        self.exchange = None
        self._begun, self._quiet = False, 0
        if not exchange.keeps_open:
            self.is_stopped = True
        self.ready.append((exchange, body))

    # What the connection calls

    def take(self, data: bytes) -> None:
        """Parse received bytes up to the end of the next request, and those in the same slice."""
        if self._rest:
            data, self._rest = self._rest + data, b""
        if self._body_left:
            data = self._take_body(data)
        limit = self._most_header_bytes
        while data and not self.ready and not self.is_stopped:
            size = min(SLICE, limit + 1 - self._quiet)
            data = self._parse(data, b"") if len(data) <= size else self._parse(data[:size], data[size:])
            if self._quiet > limit:
                self.refuse(refusal(431, f"header: expected at most {limit} bytes, got more"))
        if self.is_stopped:
            self.may_send = self.may_send or bool(data)
            data = b""
        self._rest = data

    def end(self) -> None:
        """Refuse an incomplete request whose client has closed its side of the connection."""
        exchange = self.exchange
        if exchange is None:
            self.refuse(refusal(400, "header: ended before its last line"))
        elif exchange.length is None:
            self.fail(BadRequest, "body: ended before its last chunk")
        else:
            self.fail(BadRequest, f"body: Content-Length says {exchange.length} bytes, got {exchange.size}")

    def fail(self, kind: type[HttpError], reason: str) -> None:
        """Refuse the request whose body is arriving and cannot be read; drop further bytes."""
        exchange = self.exchange
        assert exchange
        exchange.parts.clear()
        exchange.is_asking = exchange.keeps_open = False
        self._stop()
        self.ready.append((exchange, Failing(kind, reason)))

    def refuse(self, response: Response) -> None:
        """Send a response that ends the connection; drop further bytes."""
        exchange = Exchange(self._connection, "GET", Target("", ""), NO_FIELDS, 0, "1.1", keeps_open=False)
        exchange.refusal = response
        self._stop()
        self.ready.append((exchange, b""))

    def _stop(self) -> None:
        self.exchange, self._body_left, self._rest, self._quiet = None, 0, b"", 0
        self.is_stopped = self.may_send = True

    def _parse(self, data: bytes, rest: bytes) -> bytes:
        """Parse a slice; return the bytes to parse next."""
        self._quiet += len(data)
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade as upgrade:  # the upgrade is declined: a body or another request follows
            self._parser = Parser(self)
            rest = data[upgrade.args[0] :] + rest
        except HttpParserError as error:
            self._misread(error, data)
            return b""
        exchange = self.exchange
        if exchange is None:
            return rest
        length = exchange.length
        most = largest_body(exchange.target.path)
        if (exchange.size if length is None else length) > most:
            self.fail(TooLarge, f"body: expected at most {most} bytes, got {length or 'more'}")
            return b""
        if not self._may_go_on(exchange):
            return b""
        if length is None:
            return rest
        self._body_left = length - exchange.size
        self._parser = Parser(self)  # for the next request
        return self._take_body(rest)

    def _may_go_on(self, exchange: Exchange) -> bool:
        reason = self._claim(exchange)
        if reason is not None:
            self.fail(Unavailable, reason)
        return reason is None

    def _take_body(self, data: bytes) -> bytes:
        """Add bytes to the body; return those behind its end."""
        exchange, missing = self.exchange, self._body_left
        assert exchange
        part, rest = (data, b"") if len(data) <= missing else (data[:missing], data[missing:])
        if part:
            exchange.add(part)
            self._body_left = missing - len(part)
            if not self._body_left:
                self._complete(exchange)
            elif not self._may_go_on(exchange):
                return b""
        return rest

    def _misread(self, error: HttpParserError, data: bytes) -> None:
        """Refuse bytes that are not HTTP."""
        if self.is_stopped:  # they follow the last request of this connection
            self.may_send = True
        elif self.exchange is not None:
            self.fail(BadRequest, f"body: its chunks are malformed ({error})")
        elif isinstance(error, HttpParserCallbackError) and isinstance(error.__context__, Refused):
            self.refuse(refusal(error.__context__.status, str(error.__context__)))
        elif data.startswith(grpc.PREFACE):
            self.refuse(refusal(400, grpc.refused()))
        elif isinstance(error, HttpParserInvalidMethodError) and TOKEN.issuperset(data.split(b" ", 1)[0]):
            self.refuse(refusal(405, f"expected one of {METHODS}, got an unknown method", ("Allow", METHODS)))
        else:
            self.refuse(refusal(400, f"expected an HTTP request: {error}"))
