"""One connection: it parses requests, has each answered, and sends the answers.

A connection belongs to the loop's thread. While another thread answers one of its requests (`busy`), the loop does not
read from it: pipelined requests are answered in their order, and further bytes wait in the kernel's buffer.
"""

import socket
import time
from contextlib import suppress
from select import EPOLLIN as IN
from select import EPOLLOUT as OUT
from typing import TYPE_CHECKING

from serving.core.http import HttpError, Response, Unavailable
from serving.core.telemetry.log import log
from serving.servers.connections import MAX_HEADER_BYTES
from serving.servers.standalone.http1 import CONTINUE, head, refusal
from serving.servers.standalone.reading import Exchange, Reader

if TYPE_CHECKING:
    from serving.servers.standalone.loop import Deadlines, Loop

RECEIVED = 1 << 14  # bytes read at once: all small requests in them are answered before another connection's
PIECE = 1 << 20  # bytes read at once of a body with a known length, which is one request
JOINED = 1 << 16  # bytes: a body up to this size is copied behind its head, which costs less than sending two pieces
TURN = 0.001  # seconds that pipelined requests are answered before other connections have their turn
KEPT_ALIVE = 65  # seconds that an idle connection stays open: longer than load balancers keep it
DROPPED = 64 << 20  # bytes of a refused body that are read and dropped


class Connection:
    """A client's connection."""

    __slots__ = (
        "_dropped", "_loop", "_reader", "_unsent", "address", "busy", "closes", "descriptor", "finished", "idle_since",
        "interest", "is_closed", "lingers", "socket", "timer",
    )  # fmt: skip

    def __init__(self, loop: "Loop", accepted: socket.socket, address: str) -> None:
        self._loop, self.socket, self.descriptor = loop, accepted, accepted.fileno()
        self.address = address  # of the client
        self._reader = Reader(self, MAX_HEADER_BYTES, loop.claim)
        self.busy: Exchange | None = None  # the request that another thread answers
        self.finished: Exchange | None = None  # the last request that another thread answered
        self.interest = 0  # what the loop polls for; nothing where something came while the connection was busy
        self.closes = self.lingers = self.is_closed = False
        self.idle_since = time.monotonic()  # when it was accepted or its last answer was sent
        self.timer: Deadlines | None = None  # the deadlines that include this connection
        self._unsent: memoryview | None = None
        self._dropped = 0

    @property
    def is_idle(self) -> bool:
        """Return whether no byte of a request has arrived and no answer is pending."""
        return self.busy is None and self.timer is None and self._unsent is None and self.interest != 0

    @property
    def holds_body(self) -> bool:
        """Return whether a body is arriving whose bytes are counted."""
        exchange = self._reader.exchange
        return exchange is not None and exchange.claimed > 0

    # What the loop calls

    def on_event(self, _event: int) -> None:
        """Handle an event of the poll."""
        if self.busy is not None:
            self._loop.watch(self, 0)
            if self.busy is None:  # answered meanwhile
                self.resume()
            return
        if not self.interest:  # its turn has ended
            return
        if self._unsent is not None:
            self._send_on()
            return
        try:
            data = self.socket.recv(min(self._reader.wanted, PIECE) or RECEIVED)
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        if self.lingers:
            self._dropped += len(data)
            if not data or self._dropped > DROPPED:
                self.close()
        elif data:
            self._reader.take(data)
            self._advance()
        elif self._reader.exchange is not None or self._reader.has_begun:
            self._reader.end()
            self._advance()
        else:
            self.close()

    def resume(self) -> None:
        """Continue after another thread has answered a request of this connection, or with its next turn."""
        if self.busy is not None:
            if self.finished is not self.busy:
                return
            self.busy = None
        if self.is_closed:
            return
        if self._unsent is not None:
            self._await_room()
            return
        self._loop.watch(self, IN)
        self._advance()

    def close(self) -> None:
        """Close the connection, which must not be busy."""
        if self.is_closed:
            return
        self.is_closed = True
        if self._reader.exchange is not None:
            self._loop.give_back(self._reader.exchange)
        self._reader.close()
        self._unsent = self.finished = None
        self._loop.remove(self)
        self.socket.close()

    def cut(self, kind: type[HttpError], reason: str) -> None:
        """Answer the request whose body did not arrive."""
        exchange = self._reader.exchange
        assert exchange
        self._loop.give_back(exchange)
        self._reader.fail(kind, reason)
        self._advance()

    def expire(self) -> None:
        """Answer the request whose head did not arrive in time."""
        if self._reader.has_begun:
            self._reader.refuse(refusal(408, "header: did not arrive in time"))
            self._advance()
        else:
            self.close()

    # Answering

    def _advance(self) -> None:
        """Answer the complete requests in order, until one is answered by another thread or is incomplete.

        A client that sends many at once takes turns with the others.
        """
        reader, until = self._reader, 0.0
        while self.busy is None and self._unsent is None and not self.is_closed:
            if self.closes:
                self._finish()
                return
            if until and (reader.ready or reader.has_rest) and time.monotonic() >= until:
                self._loop.watch(self, 0)
                self._loop.post(self)
                return
            if reader.ready:
                if self.timer is not None:
                    self.timer.remove(self)
                exchange, body = reader.ready.popleft()
                if exchange.refusal is not None:
                    self.send(exchange, exchange.refusal)
                else:
                    self._loop.answer(exchange, body)
                until = until or time.monotonic() + TURN
            elif reader.has_rest:
                reader.take(b"")
            elif reader.is_asked and reader.exchange and (reason := self._loop.why_refused(reader.exchange)):
                reader.fail(Unavailable, reason)
            else:
                self._wait()
                return

    def _wait(self) -> None:
        """Set the deadline for the rest of a request."""
        exchange = self._reader.exchange
        if exchange is not None:
            if self._reader.is_asked:
                with suppress(OSError):
                    self.socket.send(CONTINUE)
            exchange.is_asking = False
            self._loop.bodies.add(self)
        elif self._reader.is_in_head:
            self._loop.heads.add(self)
        elif self.timer is not None:
            self.timer.remove(self)

    def send(self, exchange: Exchange, response: Response) -> bool:
        """Send as much of an answer as the kernel takes at once; return whether it is sent and the connection is free.

        The loop's thread calls it, or the one that answers while the connection is busy.
        """
        if exchange.answered:  # by the watchdog
            self.closes = True
            return False
        exchange.answered = True
        keeps_open = exchange.keeps_open and not (self._loop.is_stopping and self._reader.is_empty)
        if not keeps_open:
            self.closes = True
            self._reader.may_send = self._reader.may_send or exchange.keeps_open  # its client does not know yet
        try:
            start = head(response, keeps_open, exchange.version)
        except ValueError as error:  # a field that cannot be sent
            log("ERROR", f"an answer cannot be sent: {error}", path=exchange.target.path)
            response = refusal(500, "internal error; the log has the reason")
            start = head(response, keeps_open, exchange.version)
        body = b"" if exchange.method == "HEAD" else response.body
        try:
            sent = self.socket.send(start + body) if len(body) <= JOINED else self.socket.sendmsg((start, body))
        except BlockingIOError:
            sent = 0
        except OSError:
            self.closes, self._reader.may_send = True, False
            return False
        self.idle_since = time.monotonic()
        if sent < len(start) + len(body):
            rest = memoryview(start + body)[sent:] if sent < len(start) else memoryview(body)[sent - len(start) :]
            self._unsent = rest
            if self.busy is None:
                self._await_room()
            return False
        return keeps_open and self._reader.is_empty

    def _await_room(self) -> None:
        self._loop.watch(self, OUT)
        self._loop.sending.add(self)

    def _send_on(self) -> None:
        """Send more of an answer that the kernel did not take at once."""
        assert self._unsent is not None
        try:
            sent = self.socket.send(self._unsent[:PIECE])
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        self._unsent = self._unsent[sent:] if sent < len(self._unsent) else None
        if self._unsent is not None:
            self._loop.sending.add(self)
            return
        self._loop.sending.remove(self)
        self._loop.watch(self, IN)
        self._advance()

    def _finish(self) -> None:
        """End the connection after its last answer; what its client may still be sending is read and dropped first.

        A client that sends when its connection is closed gets a reset, and may lose the answer.
        """
        if not self._reader.may_send or self.lingers:
            self.close()
            return
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            self.close()
            return
        self.lingers = True
        self._loop.lingering.add(self)
