"""Admission control: some requests run, others wait for their turn, further ones get 503 at once.

    slots = admission.current().slots(request)      those for requests of its kind
    until = slots.expect(request.headers)    refuses a request that would wait too long; the time by which it must begin
    slot = slots.enter(until)                waits for a slot; refuses when that time has passed
    try: ...
    finally: slot.leave()

There are two kinds of requests, each with its slots and its queue. Those that can share runs (small bodies, with
BATCH_ROWS) have many slots: the requests of a run must all be there. The others have one more than there are cores.

The wait is estimated from the length of the queue and from the times that the last requests held their slots. THREADS
requests of a kind are always admitted, however long they run. A graph that runs cannot be interrupted: a deadline
decides whether it begins.

The standalone server holds no thread for a request that waits:

    turn = slots.wait(resume)                 a Slot where one is free; or else `resume` is called when one is
    slots.withdraw(turn)                      at its deadline; false where it has its slot already

Behind other servers it waits in a thread. They have more threads than may run and wait, so that one is free to refuse
the next request.
"""

import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from serving.core import machine, settings
from serving.core.errors import DeadlineError
from serving.core.http import BadRequest, DeadlinePassed, Headers, Request, Stream, Unavailable
from serving.core.settings import Settings
from serving.core.telemetry.log import log
from serving.runtime import loading

HEADER = "X-Request-Timeout"
SMALL_BODY = 1 << 18  # bytes: smaller bodies are not counted
PIECE = 1 << 20  # bytes that are counted before they are read
MOST_WAITING = 256  # requests of a kind, each of which holds a thread of the server
MOST_SHARING = 256  # slots for requests that share runs
SPARE = 64  # threads of the server beyond those, for clients that are slow to send and to refuse others quickly
MOST_BODIES = 16  # of the largest size, that may be in memory at once
LEARNED = 64  # requests whose times make the mean and the variance
SURE = 2.33  # standard deviations: 99 of 100 requests wait for no longer than the estimate
KNOWN = 8  # requests whose times must be known before one is refused for its wait
OUTLIER = 8  # times the mean: a longer time counts as this, so that one stall of the machine refuses no request

stopping = ""  # why this process is shutting down; empty: it is not
_closed = False  # no more requests for the model are admitted


def server_threads(options: Settings) -> int:
    """Return how many threads a server needs: more than requests may run and wait."""
    alone, sharing = options.threads + MOST_WAITING, _to_share(options)
    return alone + (max(options.threads, sharing, MOST_SHARING) + MOST_WAITING if sharing else 0) + SPARE


def _to_share(options: Settings) -> int:
    """Return the slots for requests that share runs: for those of a run, and of the next one, which come meanwhile."""
    if not options.batch_rows:
        return 0
    from serving.runtime.batching import most_rows  # not needed for most models

    return 2 * most_rows(options.batch_rows)


class Admission:
    """The slots of a process for requests of either kind, and the bytes of large bodies."""

    def __init__(self, options: Settings) -> None:
        """Take the limits from the settings."""
        # More slots than cores would make every request slower, refusals too; one more than cores, so that a large
        # request does not hold up every small one.
        few = min(options.threads, machine.cores() + 1)
        many = max(few, _to_share(options))
        self.alone = Slots(options, few, few)
        self.sharing = Slots(options, many, max(many, MOST_SHARING), least=few, run_by_turns=True)
        self._may_share = options.batch_rows != 0
        self._most_bytes = min(MOST_BODIES * options.max_body_bytes, machine.memory_share())
        self._lock = threading.Lock()
        self._bytes = 0  # of large bodies, read or about to be

    def slots(self, request: Request) -> "Slots":
        """Return the slots for requests of this one's kind, which follows from its header fields and its length."""
        return self.sharing if self._may_share and can_share(request) else self.alone

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


def can_share(request: Request) -> bool:
    """Return whether a request is of the kind that can share runs of the model: its body is small and not packed."""
    size = len(request.body) if isinstance(request.body, bytes) else request.length
    batching = loading.batching()
    return (
        batching is not None
        and size is not None
        and size <= batching.largest_body
        and request.headers.get("content-encoding") is None
    )


class Slots:
    """The slots for requests of one kind, and the queue of those that wait for one, in their order."""

    def __init__(
        self, options: Settings, count: int, most: int, *, least: int | None = None, run_by_turns: bool = False
    ) -> None:
        """Begin with `count` slots; there may be up to `most` while they are held briefly, else `least`.

        `run_by_turns` says that a request with a slot still waits for those that have had one before it: what is
        learned is then the time of a turn, the seconds that it holds its slot over the slots held as it begins.
        """
        self._options = options
        self.count, self._least, self._most = count, count if least is None else least, most
        self._run_by_turns = run_by_turns
        self._free = count
        self._lock = threading.Lock()
        self._queue: deque[Turn] = deque()  # empty while a slot is free
        self._done = 0
        self._known = 0  # times in the mean and the variance, up to LEARNED
        self._mean = self._variance = 0.0  # of the seconds that a request holds its slot, or of a turn

    def expect(self, headers: Headers) -> float:
        """Return the time (time.monotonic) by which the model must begin.

        Raise Unavailable for too long a wait, DeadlinePassed where the client gives the request no time.
        """
        if _closed:
            raise Unavailable(f"this worker ends: {stopping}; try again")
        if not self._free:
            self._check_wait()
        timeout = float(self._options.request_timeout)
        if (requested := headers.get("x-request-timeout")) is not None:
            timeout = min(timeout, _seconds(requested))
            if not timeout:
                raise DeadlinePassed(f"{HEADER}: 0 leaves no time for the model to begin")
        return time.monotonic() + timeout

    def try_enter(self) -> "Slot | None":
        """Take a free slot; return None where the request would have to wait.

        Requests that take a slot so need no thread each; for them there are more slots where that is allowed.
        """
        if _closed:
            return None
        with self._lock:
            if not self._free and self.count < self._most and self._is_brief():
                more = min(self.count, self._most - self.count)
                self.count += more
                self._free += more
                self._pass_on()
            if not self._free:
                return None
            self._free -= 1
            return Slot(self, time.monotonic(), self.count - self._free)

    def _is_brief(self) -> bool:
        """Return whether requests would hold twice as many slots for half of the longest wait at most."""
        return self._known >= KNOWN and 4 * self.count * self._mean < self._options.max_wait

    def _is_one_too_many(self) -> bool:
        is_known = self._known >= KNOWN
        return is_known and self.count > self._least and 2 * self.count * self._mean > self._options.max_wait

    def enter(self, until: float) -> "Slot":
        """Wait for a slot and return it; raise Unavailable where the wait would be too long.

        Raise DeadlineError where `until` passes first.
        """
        now = time.monotonic()
        if now > until:
            raise DeadlineError("the time for this request had passed before the model began")
        ready = threading.Lock()
        ready.acquire()
        turn = self.wait(ready.release)
        if isinstance(turn, Slot):
            return turn
        try:
            ready.acquire(timeout=max(0.0, until - now))
        except BaseException:  # a signal's: the slot must not be lost with the request
            if not self.withdraw(turn):
                self.granted().leave(is_typical=False)
            raise
        if not self.withdraw(turn):
            return self.granted()
        raise self.too_late(turn, until)

    def wait(self, resume: Callable[[], None]) -> "Slot | Turn":
        """Take a free slot, or else a place in the queue; raise Unavailable where the wait would be too long.

        `resume` is called when the request has its slot, which `granted` returns: by the thread that passes it on and
        holds the lock of the slots, so that it must not block.
        """
        with self._lock:
            if self._free:
                self._free -= 1
                return Slot(self, time.monotonic(), self.count - self._free)
            self._check_wait()
            turn = Turn(resume, self._done)
            self._queue.append(turn)
            return turn

    def withdraw(self, turn: "Turn") -> bool:
        """Take a request out of the queue; return False where it has its slot already."""
        with self._lock:
            if not turn.has_slot:
                self._queue.remove(turn)
            return not turn.has_slot

    def granted(self) -> "Slot":
        """Return the slot of a request that has waited for it."""
        return Slot(self, time.monotonic(), self.count)

    def too_late(self, turn: "Turn", until: float) -> DeadlineError:
        """Return the error for a request whose time passed as it waited; end the process where no request ends."""
        waited, timeout = until - turn.since, self._options.request_timeout
        if self._done == turn.done and waited >= 0.9 * timeout:
            end(f"{self.count} requests run and none has ended in {waited:.0f} s")
        return DeadlineError("the time for this request passed while it waited for others; the model did not begin")

    def _check_wait(self) -> None:
        """Refuse a request that would wait too long for its turn."""
        waiting = len(self._queue)
        if self.count + waiting < self._options.threads:
            return
        wait = self._wait(waiting + (self.count if self._run_by_turns else 1))
        if waiting >= MOST_WAITING or (wait > self._options.max_wait and self._known >= KNOWN):
            most = f"{self._options.max_wait:g} s (MAX_WAIT)"
            raise Unavailable(f"expected to begin within {most}, but {waiting} requests wait already, "
                              f"which may take {wait:.3g} s; try again")  # fmt: skip

    def _wait(self, ends: int) -> float:
        """Return within how many seconds so many requests end, 99 times of 100 (a one-sided prediction interval).

        What the mean says is exceeded every other time: by the scatter of the requests' own times, and because a mean
        of few requests is off itself. A queue fills up whenever the mean is too low, so that these errors do not level
        out.
        """
        from_scatter, from_mean = ends * self._variance, ends * ends * self._variance / (2 * LEARNED - 1)
        wait = float(ends * self._mean + SURE * (from_scatter + from_mean) ** 0.5)
        return wait if self._run_by_turns else wait / self.count

    def _learn(self, took: float) -> None:
        self._known = min(self._known + 1, LEARNED)
        if self._known >= KNOWN:
            took = min(took, OUTLIER * self._mean)
        apart = took - self._mean
        self._mean += apart / self._known
        self._variance += (apart * (took - self._mean) - self._variance) / self._known

    def leave(self, began: float | None, held: int = 1) -> None:
        """Take a slot back, held since `began`, when `held` slots were held; None where the time is not typical."""
        with self._lock:
            self._done += 1
            if began is not None:
                took = time.monotonic() - began
                self._learn(took / held if self._run_by_turns else took)
            if self._is_one_too_many():
                self.count -= 1
                return
            self._free += 1
            self._pass_on()

    def _pass_on(self) -> None:
        """Pass free slots to the requests that have waited longest."""
        while self._free and self._queue:
            self._free -= 1
            turn = self._queue.popleft()
            turn.has_slot = True
            turn.resume()


class Slot(NamedTuple):
    """What a request holds while it runs."""

    slots: Slots
    began: float  # time.monotonic
    held: int  # slots, then, this one included

    def leave(self, *, is_typical: bool = True) -> None:
        """Pass the slot to the request that has waited longest; the time is not typical where a load is in it."""
        self.slots.leave(self.began if is_typical else None, self.held)


class Turn:
    """A request that waits for a slot."""

    __slots__ = ("done", "has_slot", "resume", "since")

    def __init__(self, resume: Callable[[], None], done: int) -> None:
        self.resume, self.done = resume, done
        self.since = time.monotonic()
        self.has_slot = False


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
