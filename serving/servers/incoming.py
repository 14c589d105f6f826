"""Granian's requests to ours and back: a body is received without a thread, in READ_TIMEOUT, whole or not at all.

    desk = Desk(options)
    desk.schedule(watcher)      called by Granian for each request, in one of its threads

Granian's WSGI interface reads a body in the thread that answers, for as long as its client likes; hides that it broke
off; and writes `X_Field` like `X-Field`. Its ASGI interface does none of that, but asyncio would hand each request to
three threads. So its awaitables are used as what they are: each calls back, in a thread of Granian's, when it is done.
"""

import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

from serving.core.http import BadRequest, HttpError, Request, Response, Stream, TimedOut, TooLarge, Unavailable
from serving.core.record import Record
from serving.core.settings import Settings
from serving.core.telemetry.log import log
from serving.pipeline import limits, watchdog
from serving.pipeline.handler import handle
from serving.pipeline.layers import largest_body

TICK = 0.25  # seconds
GRACE = 4.0  # seconds for a body that is still coming when the server is told to end
LINGER, DROPPED = 2.0, 64 << 20  # seconds and bytes of a refused body that are read and dropped
CUTTABLE = 1.0  # seconds after which a body may have to make room for another

Scope = dict[str, Any]


class Headers:
    """Header fields as ASGI keeps them, by their names as they were sent: no underscore stands for a hyphen."""

    __slots__ = ("_fields",)

    def __init__(self, pairs: list[tuple[bytes, bytes]]) -> None:
        fields = dict(pairs)
        if len(fields) < len(pairs):
            fields = {name: b",".join(value for other, value in pairs if other == name) for name in fields}
        self._fields = fields

    def get(self, name: str) -> str | None:
        """Return a field by its name in any case."""
        value = self._fields.get(_key(name))
        return None if value is None else value.decode("latin-1")


@lru_cache(maxsize=64)
def _key(name: str) -> bytes:
    return name.lower().encode("latin-1")


class Loop:
    """What Granian asks of an event loop: to call back. There is none; it is done at once."""

    def call_soon_threadsafe(self, callback: Any, future: Any, context: Any = None) -> None:
        callback(future)

    def call_soon(self, callback: Any, future: Any, context: Any = None) -> None:
        callback.late = True  # the future was complete before it was waited for, or it has been cancelled


class Desk:
    """The requests of one worker, from their heads to their answers."""

    def __init__(self, options: Settings) -> None:
        self._options = options
        self._admission = limits.admission()
        self._coming: dict[_Incoming, float] = {}  # and when each must be there: whoever takes one out answers it
        self._leaving: dict[_Incoming, float] = {}  # answered, their bodies are dropped
        self._refusals = ThreadPoolExecutor(4, "refusals")
        self._end: float | None = None
        threading.Thread(target=self._watch, name="slow bodies", daemon=True).start()

    def schedule(self, watcher: Any) -> None:
        """Begin with a request of Granian's."""
        try:
            self._begin(watcher.scope, watcher.proto)
        except Exception:
            log("ERROR", "a request could not be begun", trace=traceback.format_exc())
            watcher.done()  # 500, where nothing was answered

    def _begin(self, scope: Scope, protocol: Any) -> None:
        headers = Headers(scope["headers"])
        length = _length(headers)
        exchange = _Exchange(scope, protocol, headers, length, Record())
        if length == 0:
            exchange.answer(b"")
            return
        most = largest_body(scope["path"])
        incoming = _Incoming(self, exchange, most)
        if length is not None and length > most:
            exchange.answer(_Failing(TooLarge, f"body: expected at most {most} bytes, got {length}"))
            if headers.get("expect") is None:
                self._leaving[incoming] = time.monotonic() + LINGER
                incoming.pump()
        else:
            self._coming[incoming] = time.monotonic() + self._options.read_timeout
            incoming.pump()

    def took(self, incoming: "_Incoming", message: dict[str, Any]) -> bool:
        """Take what came of a body; say whether nothing more is waited for."""
        if incoming in self._leaving:
            incoming.size += len(message.get("body", b""))
            if not message.get("more_body") or incoming.size > DROPPED:
                self._leaving.pop(incoming, None)
                return True
            return False
        if incoming not in self._coming:
            return True  # cut off
        ended = incoming.add(message)
        if ended is None:
            ended = self._claimed(incoming, len(message["body"]))
        if ended is None:
            return False
        if self._coming.pop(incoming, None) is not None:
            self._finish(incoming, ended)
        return True

    def _claimed(self, incoming: "_Incoming", size: int) -> Stream | None:
        """Count what a body that is still coming holds; where that is too much, the oldest ones make room."""
        now = time.monotonic()
        while True:
            try:
                self._admission.claim(size)
            except Unavailable as error:
                begun = now + self._options.read_timeout - CUTTABLE
                slow = next((one for one, until in list(self._coming.items()) if one.claimed and until < begun), None)
                if slow is None or slow is incoming:
                    return _Failing(Unavailable, str(error))
                self._cut(slow, Unavailable, "other bodies need the memory that this slow one holds; try again")
                continue
            incoming.claimed += size
            return None

    def _finish(self, incoming: "_Incoming", body: bytes | Stream) -> None:
        try:
            incoming.exchange.answer(body)
        finally:
            self._forget(incoming)

    def _forget(self, incoming: "_Incoming") -> None:
        claimed, incoming.claimed = incoming.claimed, 0
        incoming.parts.clear()
        if claimed:
            self._admission.give_back(claimed)

    def _cut(self, incoming: "_Incoming", kind: type[HttpError], why: str) -> None:
        """Answer a request whose body does not come."""
        if self._coming.pop(incoming, None) is not None:
            incoming.cancel()
            self._forget(incoming)
            self._refusals.submit(incoming.exchange.answer, _Failing(kind, why))

    def _watch(self) -> None:
        while True:
            time.sleep(TICK)
            try:
                self._end_late(time.monotonic())  # a loop here would hold the last of them, and its connection open
            except BaseException:  # a panic of Granian's is no Exception; without this thread no body is ever cut off
                log("ERROR", "slow bodies could not be cut off", trace=traceback.format_exc())

    def _end_late(self, now: float) -> None:
        if limits.stopping and self._end is None:
            self._end = now + GRACE
        hurry = self._end is not None and now > self._end
        for incoming, until in list(self._coming.items()):
            if not hurry and until > now:
                break  # they are in order
            self._cut(incoming, TimedOut, "body: did not come in time")
        for incoming, until in list(self._leaving.items()):
            if (hurry or until <= now) and self._leaving.pop(incoming, None) is not None:
                incoming.cancel()


class _Incoming:
    """A body that is coming, in the pieces that the server receives."""

    __slots__ = ("_desk", "_most", "claimed", "exchange", "future", "parts", "size")

    def __init__(self, desk: Desk, exchange: "_Exchange", most: int) -> None:
        self._desk, self.exchange, self._most = desk, exchange, most
        self.parts: list[bytes] = []
        self.size = self.claimed = 0
        self.future: Any = None

    def pump(self) -> None:
        """Take what is there, and go on when there is more."""
        while True:
            self.future = future = self.exchange.protocol.receive()
            called = _Next(self)
            future.add_done_callback(called)
            if not called.late or self.took(future):
                return

    def took(self, future: Any) -> bool:
        """Take what came; say whether nothing more is waited for."""
        self.future = None  # which holds what it calls back, and is no garbage that Python could collect
        return future.cancelled() or self._desk.took(self, future.result())

    def cancel(self) -> None:
        """Wait no longer."""
        future, self.future = self.future, None
        if future is not None:
            future.cancel()

    def add(self, message: dict[str, Any]) -> bytes | Stream | None:
        """Take a piece; return the body where that was its end, None where more is to come."""
        length = self.exchange.length
        if message["type"] != "http.request":
            sizes = f"Content-Length says {length} bytes, got {self.size}"
            return _Failing(BadRequest, f"body: {'ended before its last chunk' if length is None else sizes}")
        self.parts.append(message["body"])
        self.size += len(message["body"])
        if length is None:
            if message["more_body"] and self.size <= self._most:
                return None
        elif self.size < length:
            return None
        return self.parts[0] if len(self.parts) == 1 else b"".join(self.parts)


class _Next:
    """What is called when a piece is there."""

    __slots__ = ("_incoming", "late")

    def __init__(self, incoming: _Incoming) -> None:
        self._incoming = incoming
        self.late = False

    def __call__(self, future: Any) -> None:
        try:
            if not self._incoming.took(future):
                self._incoming.pump()
        except Exception:
            log("ERROR", "a request could not be received", trace=traceback.format_exc())


class _Exchange:
    """One request of Granian's, and its answer."""

    __slots__ = ("_headers", "_record", "_scope", "length", "protocol")

    def __init__(self, scope: Scope, protocol: Any, headers: Headers, length: int | None, record: Record) -> None:
        self._scope, self._headers, self._record = scope, headers, record
        self.protocol, self.length = protocol, length

    def answer(self, body: bytes | Stream) -> None:
        """Answer, once the body is there or is known not to come."""
        scope = self._scope
        method = scope["method"]
        watchdog.answers(self._send)
        response = handle(Request(
            method, scope["path"] or "/", scope["query_string"].decode("latin-1"), self._headers, body, self.length,
            self._record,
        ))  # fmt: skip
        watchdog.answered()
        # What is left of a body would be no request.
        self._send(response, () if isinstance(body, bytes) else ((b"connection", b"close"),))

    def _send(self, response: Response, more: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        send, body = self.protocol.send, b"" if self._scope["method"] == "HEAD" else response.body
        send({"type": "http.response.start", "status": response.status, "headers": [*_fields(response), *more]})
        send({"type": "http.response.body", "body": body})


def _fields(response: Response) -> list[tuple[bytes, bytes]]:
    fields = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in response.headers]
    if response.status != 204:
        fields.append((b"content-type", response.content_type.encode("latin-1")))
        fields.append((b"content-length", b"%d" % len(response.body)))
    return fields


def _length(headers: Headers) -> int | None:
    """Return the length of the body; None for one that tells its own end, in chunks."""
    if headers.get("transfer-encoding") is not None:
        return None
    text = (headers.get("content-length") or "0").partition(",")[0]  # the server lets equal ones alone pass
    return int(text[:19])


class _Failing:
    """A body that cannot be had. It does not hold its error, which holds the request until Python finds the cycle."""

    __slots__ = ("_kind", "_why")

    def __init__(self, kind: type[HttpError], why: str) -> None:
        self._kind, self._why = kind, why

    def read(self, _size: int) -> bytes:
        raise self._kind(self._why) if self._kind is not BadRequest else BadRequest(self._why, example=False)
