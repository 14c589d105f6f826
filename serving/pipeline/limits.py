"""What one process takes on at a time: some requests run, others wait for their turn, the rest get 503 at once.

    admission = limits.admission()
    until = admission.expect(headers)       refuses where it would wait too long; the time by which the model must begin
    began = admission.enter(until)          runs now or in its turn; refuses when that time has passed
    try: ...
    finally: admission.leave(began)

How long a request would wait follows from how many wait already and from how long the last ones ran. THREADS requests
are always taken, however long they run. A server has more threads than may run and wait, so that one is there to
refuse the next request. A graph that runs cannot be cut: a deadline decides whether it is begun.
"""

import os
import re
import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np

from serving.core import machine, settings
from serving.core.errors import DeadlineError
from serving.core.http import BadRequest, Headers, Request, Stream, TooLarge, Unavailable
from serving.core.settings import Settings
from serving.core.telemetry.log import log

HEADER = "X-Request-Timeout"
SMALL_BODY = 1 << 18  # bytes: many of them at once are no matter
PIECE = 1 << 20  # bytes that are claimed before they are read
MOST_WAITING = 256  # requests, each of which holds a thread of the server
SPARE = 64  # threads of the server beyond those, for clients that are slow to send and to refuse others quickly
MOST_BODIES = 16  # of the largest size, that may be in memory at once
LEARNED = 32  # requests whose times make the mean
KNOWN = 8  # requests whose times have to be known before one is refused for its wait
OUTLIER = 8  # times the mean: a longer time counts as this, so that one stall of the machine refuses nothing

stopping = ""  # why this process ends, where it has been told to
_closed = False  # it takes no more requests for the model


def server_threads(options: Settings) -> int:
    """Return how many threads a server needs."""
    return options.threads + MOST_WAITING + SPARE


class Admission:
    """The requests of a process: as many run as pay, the others wait in order, for MAX_WAIT seconds or so."""

    def __init__(self, options: Settings) -> None:
        """Take the limits from the settings."""
        self._options = options
        # More at once than there are cores would only take turns, each with all others' time, and who is refused would
        # wait for a turn too; one more, so that a large request does not hold up every small one. Requests that are to
        # meet in a batch all have to be there.
        self._free = options.threads if options.batch_rows else min(options.threads, machine.cores() + 1)
        self._running = self._free
        self._may_wait = options.threads - self._free  # whatever they wait
        self._most_bytes = min(MOST_BODIES * options.max_body_bytes, memory_share())
        self._lock = threading.Lock()
        self._queue: deque[_Turn] = deque()  # empty unless none is free
        self._bytes = 0  # of large bodies, read or about to be
        self._done = 0
        self._known = 0  # times that the mean is of, up to LEARNED
        self._mean = 0.0  # seconds that a request holds its place

    def expect(self, headers: Headers, *, has_entered: bool = False) -> float:
        """Return the time (time.monotonic) by which the model must have begun; refuse a request that may not wait."""
        if _closed:
            raise Unavailable(f"this worker ends: {stopping}; try again")
        if not self._free and not has_entered:
            self._check_wait()
        timeout = self._options.request_timeout
        told = headers.get("x-request-timeout")
        return time.monotonic() + (timeout if told is None else min(timeout, _seconds(told)))

    def try_enter(self) -> float | None:
        """Return the time where a request may run at once, None where it would have to wait; as `enter` does."""
        if _closed or not self._free:
            return None
        with self._lock:
            if not self._free:
                return None
            self._free -= 1
        return time.monotonic()

    def enter(self, until: float) -> float:
        """Return when the request may run, and the time; raise Unavailable where it would wait too long.

        Raise DeadlineError where it is too late.
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
        except BaseException:  # a signal's: the place must not be lost with the request
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
        """Say whether it is this request's turn; it waits no longer in either case."""
        with self._lock:
            if not turn.granted:
                self._queue.remove(turn)
            return turn.granted

    def leave(self, began: float | None) -> None:
        """Hand the place on to the request that has waited longest.

        `began` is what `enter` returned; None where the time says nothing of others, as that of a load.
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
        """Return the body of a request as one that is counted, None where it is too small to matter."""
        if isinstance(request.body, bytes) or (request.length is not None and request.length <= SMALL_BODY):
            return None
        return Metered(request.body, self)

    def claim(self, size: int) -> None:
        """Count so many bytes; raise Unavailable where the bodies of this process would be too many together."""
        with self._lock:
            if self._bytes + size > max(self._most_bytes, PIECE):
                raise Unavailable("other large bodies are being read; try again")
            self._bytes += size

    def give_back(self, size: int) -> None:
        """Count so many bytes no longer."""
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
    """A body whose bytes count from before they are read until it is closed."""

    def __init__(self, stream: Stream, admission: Admission) -> None:
        self._stream, self._admission = stream, admission
        self._claimed = 0

    def read(self, size: int) -> bytes:
        """Read up to `size` bytes; raise Unavailable where others hold too many."""
        size = min(size, PIECE)
        self._admission.claim(size)
        self._claimed += size
        part = self._stream.read(size)
        self._claimed -= size - len(part)
        self._admission.give_back(size - len(part))
        return part

    def close(self) -> None:
        """Count them no longer."""
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


# What one request may hold


SHARE = 4  # of the container's memory, one part in so many: for the inputs of a request, for the bodies of all


def memory_share() -> int:
    """Return how many bytes the inputs of one request may take, and the bodies of all that wait."""
    return (machine.memory_limit() or 1 << 60) // SHARE


def check_memory(size: int) -> None:
    """Refuse inputs that take so many bytes, once they are decoded, where that is too much; raise TooLarge."""
    if size > (most := memory_share()):
        raise TooLarge(f"expected inputs of at most {most} bytes (1/{SHARE} of the container's memory), got {size}")


def check_pictures(
    inputs: Mapping[str, np.ndarray[Any, Any]], found: frozenset[str], options: Settings
) -> tuple[str, str] | None:
    """Return the input whose pictures are too many with those before it, and what is wrong: headers say the sizes."""
    from serving.savedmodel import images  # of the models that take pictures alone

    total = 0
    for name, array in inputs.items():
        for value in array.flat if array.dtype == object else ():
            for picture in images.pictures(value, found):
                total += picture.pixels
                if total > options.max_pixels:
                    came = f"{picture.width} x {picture.height} ({picture.kind})"
                    came += f" in {picture.frames} frames" if picture.frames > 1 else ""
                    beside = "" if total == picture.pixels else f", {total} with those before it"
                    return name, f"expected at most {options.max_pixels} pixels (MAX_PIXELS), got {came}{beside}"
    return None


_admission: Admission | None = None
_lock = threading.Lock()


def admission() -> Admission:
    """Return this process's admission."""
    return _admission or _new()


def _new() -> Admission:
    global _admission
    with _lock:
        if _admission is None:
            _admission = Admission(settings.current())
    return _admission


def forget() -> None:
    """Begin anew, with nothing running."""
    global _admission, _lock, stopping, _closed
    _admission, _lock, stopping, _closed = None, threading.Lock(), "", False


def stop(reason: str = "") -> None:
    """Say that the process will end, and is not ready; what comes is still answered.

    With a reason, it cannot answer for long, and refuses what comes.
    """
    global stopping, _closed
    stopping, _closed = reason or "the server is shutting down", bool(reason)


os.register_at_fork(after_in_child=forget)  # what runs in the parent never ends here
