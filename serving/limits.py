"""What one process takes on at a time: so many requests run, so many wait for their turn, the rest are refused at once.

    admission = limits.admission()
    until = admission.expect(headers)       refuses where no more may wait; the time by which the model must have begun
    admission.enter(until)                  runs now or in its turn; refuses when that time has passed
    try: ...
    finally: admission.leave()

A server has more threads than requests may run, so that one is there to refuse the next request, and slow clients hold
those alone. A graph that runs cannot be cut: a deadline decides whether it is begun.
"""

import os
import re
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from serving import settings
from serving.errors import DeadlineError
from serving.http import BadRequest, Headers, Request, Stream, TooLarge, Unavailable
from serving.litert import cores
from serving.log import log
from serving.settings import Settings

HEADER = "X-Request-Timeout"
SMALL_BODY = 1 << 18  # bytes: many of them at once are no matter
PIECE = 1 << 20  # bytes that are claimed before they are read

stopping = False  # the server has been told to end


class Admission:
    """The requests of a process, THREADS and MAX_WAITING of them: as many run as pay, the others wait in order."""

    def __init__(self, options: Settings) -> None:
        """Take the limits from the settings."""
        self._options = options
        # More at once than there are cores would only take turns, each with all others' time, and who is refused would
        # wait for a turn too; one more, so that a large request does not hold up every small one. Requests that are to
        # meet in a batch all have to be there.
        self._free = options.threads if options.batch_rows else min(options.threads, cores() + 1)
        self._running = self._free
        self._most_waiting = options.threads + options.max_waiting - self._free
        self._most_bytes = (options.threads + options.max_waiting) * options.max_body_bytes
        self._lock = threading.Lock()
        self._queue: deque[_Turn] = deque()  # empty unless none is free
        self._bytes = 0  # of large bodies, read or about to be
        self._done = 0

    def expect(self, headers: Headers) -> float:
        """Return the time (time.monotonic) by which the model must have begun; refuse a request that may not wait."""
        if not self._free and len(self._queue) >= self._most_waiting:
            raise self._overload()
        timeout = self._options.request_timeout
        told = headers.get("x-request-timeout")
        return time.monotonic() + (timeout if told is None else min(timeout, _seconds(told)))

    def enter(self, until: float) -> None:
        """Return when the request may run; raise Unavailable where too many wait, DeadlineError when it is too late."""
        if time.monotonic() > until:
            raise DeadlineError("the time for this request had passed before the model began")
        with self._lock:
            if self._free:
                self._free -= 1
                return
            if len(self._queue) >= self._most_waiting:
                raise self._overload()
            turn, done, began = _Turn(), self._done, time.monotonic()
            self._queue.append(turn)
        try:
            turn.lock.acquire(timeout=max(0.0, until - began))
        except BaseException:  # a signal's: whoever gives up must not take the place along
            if not self._keeps(turn):
                raise
            self.leave()
            raise
        if self._keeps(turn):
            return
        if self._done == done and until - began >= 0.9 * self._options.request_timeout:
            _end(f"{self._running} requests run and none has ended in {until - began:.0f} s")
        raise DeadlineError("the time for this request passed while it waited for others; the model did not begin")

    def _keeps(self, turn: "_Turn") -> bool:
        """Say whether it is this request's turn; it waits no longer in either case."""
        with self._lock:
            if not turn.granted:
                self._queue.remove(turn)
            return turn.granted

    def leave(self) -> None:
        """Hand the place on to whoever has waited longest."""
        with self._lock:
            self._done += 1
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

    def _overload(self) -> Unavailable:
        running, waiting = self._options.threads, self._options.max_waiting
        return Unavailable(f"expected at most {running} requests at a time (THREADS) and {waiting} waiting "
                           "(MAX_WAITING), got one more; try again")  # fmt: skip


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


def _end(reason: str) -> None:
    """End a process that cannot recover, so that its server replaces it."""
    log("ERROR", f"this worker cannot recover and ends: {reason}")
    os._exit(70)  # EX_SOFTWARE


# What one request may hold


def check_arrays(inputs: Mapping[str, np.ndarray[Any, Any]], options: Settings) -> None:
    """Refuse tensors of too many rows or elements, and too long strings, once they are decoded; raise TooLarge."""
    elements = 0
    for name, array in inputs.items():
        elements += array.size
        if array.ndim and len(array) > options.max_rows and array.size:
            check_rows(len(array), name)
        if array.dtype == object:
            longest = max(map(len, array.flat), default=0)
            if longest > options.max_string_bytes:
                raise TooLarge(
                    f"{name}: expected strings of at most {options.max_string_bytes} bytes (MAX_STRING_BYTES), "
                    f"got one of {longest}"
                )
    if elements > options.max_elements:
        raise TooLarge(f"expected at most {options.max_elements} elements (MAX_ELEMENTS), got {elements}")


def check_rows(count: int, place: str) -> None:
    """Refuse too many rows, before anything is made of them."""
    if count > (most := settings.current().max_rows):
        raise TooLarge(f"{place}: expected at most {most} rows (MAX_ROWS), got {count}")


def check_pictures(strings: Iterable[bytes], found: frozenset[str], options: Settings) -> str | None:
    """Say what is wrong with the pictures among an input's strings: a decoder allocates what their headers declare."""
    from serving import images  # of the models that take pictures alone

    total = 0
    for value in strings:
        picture = images.largest(value, found)
        if picture is not None:
            total += picture.pixels
            if total > options.max_pixels:
                came = f"{picture.width} x {picture.height} ({picture.kind})"
                came += f" in {picture.frames} frames" if picture.frames > 1 else ""
                beside = "" if total == picture.pixels else f", {total} with those before it"
                return f"expected at most {options.max_pixels} pixels (MAX_PIXELS), got {came}{beside}"
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
    global _admission, _lock, stopping
    _admission, _lock, stopping = None, threading.Lock(), False


def stop() -> None:
    """Say that the server has been told to end: what comes is still answered, and nothing is ready."""
    global stopping
    stopping = True


os.register_at_fork(after_in_child=forget)  # what runs in the parent never ends here
