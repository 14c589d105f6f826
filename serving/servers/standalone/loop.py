"""The event loop of one worker: one thread accepts, receives, and checks deadlines. It never blocks on one client.

The threads of `answering` do what may block; they call `post` to resume a connection.
"""

import errno
import os
import select
import socket
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from serving.core.http import HttpError, Response, TimedOut, Unavailable
from serving.core.settings import Settings
from serving.pipeline import admission, origins, routes, watchdog
from serving.servers import connections
from serving.servers.standalone.answering import Answering, Handle
from serving.servers.standalone.connection import KEPT_ALIVE, Connection
from serving.servers.standalone.http1 import Failing
from serving.servers.standalone.reading import Exchange

if TYPE_CHECKING:
    Queue = dict[Connection, float]
else:
    Queue = dict

GRACE = 4.0  # seconds for requests that are still arriving after SIGTERM
DRAINED = 0.5  # seconds after SIGTERM that a connection stays open since its last use: its client may be sending
LINGER = 2.0  # seconds during which the rest of a refused request is read and dropped
CUTTABLE = 1.0  # seconds after which an idle connection or a slow request may be closed to make room
SWEEP = 5.0  # seconds between two checks of idle connections
FULL = 0.25  # seconds between two attempts of a full server to close connections
EVENTS = 64  # events of one turn
UNREAD = Failing(Unavailable, "the body has not been asked for")
ACCEPTED = 64  # connections that are accepted in one turn


class Resumable(Protocol):
    """What goes on in the loop's thread."""

    def resume(self) -> None: ...


class Deadlines(Queue):
    """Connections in one state, each with its deadline in seconds of time.monotonic, the earliest first."""

    def __init__(self, loop: "Loop", seconds: float) -> None:
        super().__init__()
        self._loop, self._seconds = loop, seconds

    def add(self, connection: Connection) -> None:
        """Start a connection's deadline; one that is in a head or body already keeps its deadline."""
        if connection.timer is self and self is not self._loop.sending:
            return
        if connection.timer is not None:
            connection.timer.remove(connection)
        connection.timer = self
        self[connection] = deadline = time.monotonic() + self._seconds
        if deadline < self._loop.next_look:
            self._loop.next_look = deadline

    def remove(self, connection: Connection) -> None:
        """Remove a connection's deadline."""
        self.pop(connection, None)
        connection.timer = None

    def overdue(self, now: float) -> list[Connection]:
        """Return the connections whose deadline has passed."""
        passed = []
        for connection, deadline in self.items():
            if deadline > now:
                break
            passed.append(connection)
        return passed


class Loop:
    """The connections of one worker."""

    def __init__(
        self, options: Settings, listener: socket.socket, parent: int, handle: Handle, *,
        may_block: bool = False, is_shared: bool = False,
    ) -> None:  # fmt: skip
        """Take the listener, a pipe's descriptor that is at its end when the parent is gone, and what answers.

        `may_block`: `handle` may wait for something outside this process. `is_shared`: other workers accept from the
        same listener, and each takes one connection at a time.
        """
        self.options = options
        self.is_stopping = False
        self.is_alone = False  # this turn has one event, of one connection
        self.next_look = float("inf")
        self.heads = Deadlines(self, options.read_timeout)
        self.bodies = Deadlines(self, options.read_timeout)
        self.sending = Deadlines(self, options.read_timeout)
        self.lingering = Deadlines(self, LINGER)
        self._answering = Answering(options, self, handle, may_block=may_block)
        self.answer, self._end_turn = self._answering.answer, self._answering.end_turn
        self._admission = admission.current()
        self._connections: dict[int, Connection] = {}
        self._most = connections.most()
        self._poll = select.epoll()
        self._listener, self._is_full = listener, False
        self._accepted_at_once = 1 if is_shared else ACCEPTED
        listener.setblocking(False)
        self._poll.register(listener, select.EPOLLIN)
        self._parent = parent
        self._poll.register(parent, select.EPOLLIN)
        self._posted: deque[Resumable] = deque()
        self._waking, self._wake = os.pipe()
        for descriptor in (self._waking, self._wake):
            os.set_blocking(descriptor, False)
        self._poll.register(self._waking, select.EPOLLIN)
        self._next_sweep = self._next_room = 0.0
        self._end = float("inf")
        watchdog.serves(self.answer_rest)

    @property
    def waker(self) -> int:
        """The descriptor that wakes the loop when a byte is written into it."""
        return self._wake

    def run(self) -> None:
        """Serve until the process is stopped and no request is left."""
        poll, connections_, clock = self._poll.poll, self._connections, time.monotonic
        while not self.is_stopping or self._connections:
            self._end_turn()
            timeout = self.next_look - clock()
            events = poll(timeout if timeout < 3600 else -1, EVENTS) if timeout > 0 else ()
            self.is_alone = len(events) == 1
            for descriptor, event in events:
                connection = connections_.get(descriptor)
                if connection is not None:
                    connection.on_event(event)
                else:
                    self._on_event(descriptor)
            if clock() >= self.next_look:
                self._look(clock())
            if admission.stopping and not self.is_stopping:
                self._stop()

    def _on_event(self, descriptor: int) -> None:
        if descriptor == self._waking:
            self.is_alone = False
            with suppress(BlockingIOError):
                os.read(self._waking, 1 << 12)
            for _ in range(len(self._posted)):  # what is posted meanwhile has the next turn
                self._posted.popleft().resume()
        elif descriptor == self._parent:
            self._poll.unregister(self._parent)
            admission.stop()
        elif not self.is_stopping:
            self._accept(time.monotonic())

    def post(self, waiting: Resumable) -> None:
        """Resume a connection, or what else waits for the loop's thread, in it; any thread may call this."""
        self._posted.append(waiting)
        with suppress(BlockingIOError):  # full: it wakes anyway
            os.write(self._wake, b"\0")

    def watch(self, connection: Connection, interest: int) -> None:
        """Poll a connection for these events, 0 for none."""
        if connection.interest == interest:
            return
        if not connection.interest:
            self._poll.register(connection.descriptor, interest)
        elif interest:
            self._poll.modify(connection.descriptor, interest)
        else:
            self._poll.unregister(connection.descriptor)
        connection.interest = interest

    def remove(self, connection: Connection) -> None:
        """Forget a connection that is about to be closed."""
        self.watch(connection, 0)
        if connection.timer is not None:
            connection.timer.remove(connection)
        self._connections.pop(connection.descriptor, None)
        if self._is_full and not self.is_stopping:
            self._is_full = False
            self._poll.register(self._listener, select.EPOLLIN)

    def why_refused(self, exchange: Exchange) -> str:
        """Return why a request for a prediction is refused without its body; an empty text where it is not."""
        request = exchange.with_body(UNREAD)
        if routes.is_prediction(request.method, request.path):
            try:
                self._admission.slots(request).expect(request.headers)
            except Unavailable as error:
                return str(error)
            except HttpError:
                pass  # which the handler answers
        return ""

    def answer_rest(self, response: Response) -> None:
        """Give this answer to every request that another thread answers; from any thread, as the last thing."""
        for connection in [*self._connections.values()]:
            if (exchange := connection.busy) is not None:
                with suppress(OSError):  # its client went away
                    exchange.give(origins.with_fields(response, exchange.fields))

    # Connections

    def _accept(self, now: float) -> bool:
        """Accept new connections; return whether more may be waiting."""
        for _ in range(self._accepted_at_once):
            if len(self._connections) >= self._most and not self._make_room(now):
                self._refrain(now)
                return False
            try:
                accepted, address = self._listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return False
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    self._refrain(now)
                return False
            accepted.setblocking(False)
            connection = Connection(self, accepted, address[0])
            self._connections[connection.descriptor] = connection
            self.watch(connection, select.EPOLLIN)
        if self._next_sweep < now:
            self._next_sweep = now + SWEEP
            self.next_look = min(self.next_look, self._next_sweep)
        return True

    def _refrain(self, now: float) -> None:
        """Leave new connections in the system's queue until one is closed, or for a while."""
        if not self._is_full:
            self._is_full = True
            self._poll.unregister(self._listener)
        self._next_room = now + FULL
        self.next_look = min(self.next_look, self._next_room)

    def _make_room(self, now: float) -> bool:
        """Close the longest idle connections, or else the slowest requests; return whether there is room."""
        if now < self._next_room:
            return False
        share = max(1, self._most // 16)
        before = now - CUTTABLE  # newer ones may be about to send a request
        idle = [other for other in self._connections.values() if other.is_idle and other.idle_since < before]
        idle.sort(key=lambda connection: connection.idle_since)
        for connection in idle[:share]:
            connection.close()
        if not idle:
            self._next_room = now + FULL
            then = now + self.options.read_timeout - CUTTABLE  # the deadline of what began so long ago
            for connection in [*self.lingering, *self.heads.overdue(then)][:share]:
                connection.close()
            for connection in self.bodies.overdue(then)[: share if len(self._connections) >= self._most else 0]:
                connection.cut(Unavailable, "others need the connection that this slow body holds; try again")
        return len(self._connections) < self._most

    # Time

    def _look(self, now: float) -> None:
        """Close connections past their deadline, and set the time of the next check."""
        is_last = now >= self._end
        for connection in [*self.lingering] if is_last else self.lingering.overdue(now):
            connection.close()
        for connection in self.sending.overdue(now):
            connection.close()
        self._answering.expire(now)
        for connection in [*self.heads] if is_last else self.heads.overdue(now):
            connection.expire()
        for connection in [*self.bodies] if is_last else self.bodies.overdue(now):
            connection.cut(TimedOut, "body: did not arrive in time")
        self.next_look = self._end if not is_last else now + FULL if self.is_stopping else float("inf")
        if self._connections:
            if now >= self._next_sweep:
                self._sweep(now)
            self.next_look = min(self.next_look, self._next_sweep)
        if self._is_full and now >= self._next_room and not self.is_stopping:
            self._is_full = False
            self._poll.register(self._listener, select.EPOLLIN)
        for waiting in (self.lingering, self.sending, self.heads, self.bodies):
            if waiting:
                self.next_look = min(self.next_look, next(iter(waiting.values())))
        self.next_look = min(self.next_look, self._answering.next_expiry)
        if self._is_full:
            self.next_look = min(self.next_look, self._next_room)

    def _sweep(self, now: float) -> None:
        """Close connections that have been idle for long, and set the time of the next check."""
        kept, pause = (DRAINED, FULL) if self.is_stopping else (KEPT_ALIVE, SWEEP)
        for connection in [*self._connections.values()]:
            if connection.idle_since + kept <= now and connection.is_idle:
                connection.close()
        self._next_sweep = now + pause

    def _stop(self) -> None:
        """Accept the connections that wait already, no others, and close those that are not in use.

        A client that has just been answered, or has just connected, may be sending its next request: it is answered,
        and the answer says that the connection ends.
        """
        now = time.monotonic()
        while self._accept(now):
            pass
        self.is_stopping = True
        with suppress(KeyError, FileNotFoundError, ValueError):
            if not self._is_full:
                self._poll.unregister(self._listener)
        self._listener.close()
        for connection in [*self._connections.values()]:
            if connection.is_idle:
                connection.on_event(select.EPOLLIN)  # a request may have arrived just now
        self._sweep(now)
        self._end = now + GRACE
        self.next_look = min(self.next_look, self._end, self._next_sweep)

    # Bytes of bodies that are coming

    def claim(self, exchange: Exchange) -> str | None:
        """Count the bytes of a body; where they are too many, cut the oldest. Return why it is refused, or None."""
        size = exchange.size - exchange.claimed
        while size:
            try:
                self._admission.claim(size)
            except Unavailable as error:
                slow = self.bodies.overdue(time.monotonic() + self.options.read_timeout - CUTTABLE)
                oldest = next((other for other in slow if other.holds_body), None)
                if oldest is None or oldest is exchange.connection:
                    self.give_back(exchange)
                    return str(error)
                oldest.cut(Unavailable, "other bodies need the memory that this slow one holds; try again")
                continue
            exchange.claimed += size
            break
        return None

    def give_back(self, exchange: Exchange) -> None:
        """Release the counted bytes of a body that is no longer needed; any thread may call this."""
        claimed, exchange.claimed = exchange.claimed, 0
        exchange.parts.clear()
        if claimed:
            self._admission.give_back(claimed)
