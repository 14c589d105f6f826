"""Admission control: some requests run, others wait for their turn, further ones get 503 at once.

    control = admission.current()
    until = control.expect(headers)       refuses a request that would wait too long; the time by which it must begin
    began = control.enter(until)          waits for a slot; refuses when that time has passed
    try: ...
    finally: control.leave(began)

The wait is estimated from the length of the queue and from the time that the last requests ran. THREADS requests are
always admitted, however long they run. A server has more threads than may run and wait, so that one is free to refuse
the next request. A graph that runs cannot be interrupted: a deadline decides whether it begins.
"""

import os
import re
import threading
import time
from collections import deque
from typing import Any

from serving.core import machine, settings
from serving.core.errors import DeadlineError
from serving.core.http import BadRequest, Headers, Request, Stream, Unavailable
from serving.core.settings import Settings
from serving.core.telemetry.log import log

HEADER = "X-Request-Timeout"
SMALL_BODY = 1 << 18  # bytes: smaller bodies are not counted
PIECE = 1 << 20  # bytes that are counted before they are read
MOST_WAITING = 256  # requests, each of which holds a thread of the server
SPARE = 64  # threads of the server beyond those, for clients that are slow to send and to refuse others quickly
MOST_BODIES = 16  # of the largest size, that may be in memory at once
LEARNED = 32  # requests whose times make the mean
KNOWN = 8  # requests whose times must be known before one is refused for its wait
OUTLIER = 8  # times the mean: a longer time counts as this, so that one stall of the machine refuses no request

stopping = ""  # why this process is shutting down; empty: it is not
_closed = False  # no more requests for the model are admitted


def server_threads(options: Settings) -> int:
    """Return how many threads a server needs: more than requests may run and wait."""
    most = max(options.threads, MOST_WAITING, 2 * options.batch_rows) if options.batch_rows else options.threads
    return most + MOST_WAITING + SPARE  # where runs are shared, each of their requests may have a slot


class Admission:
    """The slots and the queue of a process: the requests without a slot wait in order, for about MAX_WAIT seconds."""

    def __init__(self, options: Settings) -> None:
        """Take the limits from the settings."""
        self._options = options
        # More slots than cores would make every request slower, refusals too; one more than cores, so that a large
        # request does not hold up every small one.
        self._free = min(options.threads, machine.cores() + 1)
        self._running = self._free
        self._may_wait = options.threads - self._free  # however long
        self._most_bytes = min(MOST_BODIES * options.max_body_bytes, machine.memory_share())
        self._lock = threading.Lock()
        self._queue: deque[_Turn] = deque()  # empty while a slot is free
        self._bytes = 0  # of large bodies, read or about to be
        self._done = 0
        self._known = 0  # times in the mean, up to LEARNED
        self._mean = 0.0  # seconds that a request holds its slot

    def widen(self, least: int) -> None:
        """Let at least so many requests run at once: those that share a run all have to be there."""
        with self._lock:
            more = max(0, least - self._running)
            self._running += more
            self._may_wait = max(0, self._options.threads - self._running)
            granted = [self._queue.popleft() for _ in range(min(more, len(self._queue)))]
            self._free += more - len(granted)
            for turn in granted:
                turn.granted = True
        for turn in granted:
            turn.lock.release()

    def expect(self, headers: Headers, *, has_entered: bool = False) -> float:
        """Return the time (time.monotonic) by which the model must begin; raise Unavailable for too long a wait."""
        if _closed:
            raise Unavailable(f"this worker ends: {stopping}; try again")
        if not self._free and not has_entered:
            self._check_wait()
        timeout = self._options.request_timeout
        requested = headers.get("x-request-timeout")
        return time.monotonic() + (timeout if requested is None else min(timeout, _seconds(requested)))

    def try_enter(self, *, shares_run: bool = False) -> float | None:
        """Take a free slot and return the time, as `enter` does; return None where the request would have to wait.

        There are more slots for requests that share runs, which need no thread each, while they are held briefly.
        """
        if _closed:
            return None
        if not self._free and shares_run and self._known >= KNOWN and 4 * self._mean < self._options.max_wait:
            self.widen(min(2 * self._running, MOST_WAITING))
        if not self._free:
            return None
        with self._lock:
            if not self._free:
                return None
            self._free -= 1
        return time.monotonic()

    def enter(self, until: float) -> float:
        """Wait for a slot and return the time; raise Unavailable where the wait would be too long.

        Raise DeadlineError where `until` passes first.
        """
        now = time.monotonic()
        if now > until:
            raise DeadlineError("the time for this request had passed before the model began")
        with self._lock:
            if self._free:
                self._free -= 1
                return now
            self._check_wait()
            turn, done = _Turn(), self._done
            self._queue.append(turn)
        try:
            turn.lock.acquire(timeout=max(0.0, until - now))
        except BaseException:  # a signal's: the slot must not be lost with the request
            if not self._keeps(turn):
                raise
            self.leave(None)
            raise
        if self._keeps(turn):
            return time.monotonic()
        if self._done == done and until - now >= 0.9 * self._options.request_timeout:
            end(f"{self._running} requests run and none has ended in {until - now:.0f} s")
        raise DeadlineError("the time for this request passed while it waited for others; the model did not begin")

    def _check_wait(self) -> None:
        """Refuse a request that would wait too long for its turn."""
        waiting = len(self._queue)
        if waiting < self._may_wait:
            return
        wait = (waiting + 1) * self._mean / self._running
        if waiting >= MOST_WAITING or (wait > self._options.max_wait and self._known >= KNOWN):
            most = f"{self._options.max_wait:g} s (MAX_WAIT)"
            raise Unavailable(f"expected to begin within {most}, but {waiting} requests wait already, "
                              f"which will take {wait:.3g} s; try again")  # fmt: skip

    def _learn(self, took: float) -> None:
        self._known = min(self._known + 1, LEARNED)
        if self._known >= KNOWN:
            took = min(took, OUTLIER * self._mean)
        self._mean += (took - self._mean) / self._known

    def _keeps(self, turn: "_Turn") -> bool:
        """Return whether the request has a slot; it waits no longer in either case."""
        with self._lock:
            if not turn.granted:
                self._queue.remove(turn)
            return turn.granted

    def leave(self, began: float | None) -> None:
        """Pass the slot to the request that has waited longest.

        `began` is what `enter` returned; None where the time is not typical, as that of a load.
        """
        with self._lock:
            self._done += 1
            if began is not None:
                self._learn(time.monotonic() - began)
            if not self._queue:
                self._free += 1
                return
            turn = self._queue.popleft()
            turn.granted = True
        turn.lock.release()

    def metered(self, request: Request) -> "Metered | None":
        """Return a request's body as one that is counted, None where it is too small to count."""
        if isinstance(request.body, bytes) or (request.length is not None and request.length <= SMALL_BODY):
            return None
        return Metered(request.body, self)

    def claim(self, size: int) -> None:
        """Count bytes of a body; raise Unavailable where all bodies together would be too large."""
        with self._lock:
            if self._bytes + size > max(self._most_bytes, PIECE):
                raise Unavailable("other large bodies are being read; try again")
            self._bytes += size

    def give_back(self, size: int) -> None:
        """Release bytes that were counted."""
        with self._lock:
            self._bytes -= size


class _Turn:
    """A request that waits."""

    __slots__ = ("granted", "lock")

    def __init__(self) -> None:
        self.granted = False
        self.lock = threading.Lock()
        self.lock.acquire()


class Metered:
    """A body whose bytes are counted from before they are read until it is closed."""

    def __init__(self, stream: Stream, admission: Admission) -> None:
        self._stream, self._admission = stream, admission
        self._claimed = 0

    def read(self, size: int) -> bytes:
        """Read up to `size` bytes; raise Unavailable where other bodies hold too many."""
        size = min(size, PIECE)
        self._admission.claim(size)
        self._claimed += size
        part = self._stream.read(size)
        self._claimed -= size - len(part)
        self._admission.give_back(size - len(part))
        return part

    def close(self) -> None:
        """Release its bytes."""
        claimed, self._claimed = self._claimed, 0
        self._admission.give_back(claimed)


def _seconds(text: str) -> float:
    """Read the header's seconds, a decimal number: 0.5."""
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{0,9})?", text):
        raise BadRequest(f"{HEADER}: expected seconds as a decimal number, got {text[:40]!r}", example=False)
    return float(text)


def end(reason: str, **fields: Any) -> None:
    """End a process that cannot recover, so that its server replaces it."""
    log("ERROR", f"this worker cannot recover and ends: {reason}", **fields)
    os._exit(70)  # EX_SOFTWARE


_admission: Admission | None = None
_lock = threading.Lock()


def current() -> Admission:
    """Return this process's admission control."""
    return _admission or _new()


def _new() -> Admission:
    global _admission
    with _lock:
        if _admission is None:
            _admission = Admission(settings.current())
    return _admission


def forget() -> None:
    """Reset: nothing runs and nothing waits."""
    global _admission, _lock, stopping, _closed
    _admission, _lock, stopping, _closed = None, threading.Lock(), "", False


def stop(reason: str = "") -> None:
    """Mark the process as shutting down and not ready; requests are still answered.

    With a reason, it cannot answer much longer, and further requests get 503.
    """
    global stopping, _closed
    stopping, _closed = reason or "the server is shutting down", bool(reason)


os.register_at_fork(after_in_child=forget)  # what runs in the parent never leaves a slot here
