"""Choose the thread that answers a request: the loop's own for short requests, one of a pool for the others.

Passing a request to another thread takes as long as a small model. The loop's thread receives all requests and must not
block. So it answers only requests for which a slot is free, which need nothing outside of this process, and whose kind
took little time before.

A request that must wait for a slot holds no thread: many threads that take turns would slow down each run of the model.
One that would wait too long is refused at once.

With dynamic batching (BATCH_ROWS), the requests that the loop receives in one turn share runs of the model with those
that wait for the current run to end.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from serving.core import machine
from serving.core.http import HttpError, Request, Response, Stream
from serving.core.settings import Settings
from serving.core.telemetry import phases
from serving.core.telemetry.log import log_exception
from serving.pipeline import admission, routes, watchdog
from serving.pipeline.arrivals import is_self_contained
from serving.runtime import loading
from serving.runtime.batching import Call, Together, run_together
from serving.servers.standalone import sharing
from serving.servers.standalone.http1 import refusal
from serving.servers.standalone.pool import Pool

if TYPE_CHECKING:
    from serving.servers.standalone.loop import Loop
    from serving.servers.standalone.reading import Exchange

Handle = Callable[[Request], Response]
Kind = tuple[str, int]  # path, and bits of the body's size

SHORT, LONG = 500_000, 5_000_000  # nanoseconds of a thread's time
STALLED = 0.005, 0.3  # wall-clock seconds: above the first, a kind is measured again; above the second, it is long
MOST_KINDS = 256
LARGEST_HERE = 1 << 16  # bytes: up to this size, the loop's thread sends the answers of a shared run
PICTURE = 10  # bits of a body's size: below 1 KiB, the slowest picture that was tried takes 0.05 s (WebP, 4000 x 4000)
AGAIN, LONGEST_PAUSE = 1.0, 60.0  # seconds before a kind that was long may be short


class Answering:
    """Answers the requests of one loop."""

    def __init__(self, options: Settings, loop: "Loop", handle: Handle, *, may_block: bool) -> None:
        """`handle` answers a request; if it may block on anything but the model, other threads call it."""
        self._loop, self._handle = loop, handle
        self._pool = Pool(admission.server_threads(options))
        # All threads of the pool may wait for a run to end; the threads that begin the next run must not wait.
        self._leads = Pool(machine.cores())  # as many as there are runs at once
        self._waiting: dict[Waiting, admission.Turn] = {}  # the requests that wait for a slot
        self._short = Short(options, may_block)
        self._admission = admission.current()
        # If `handle` has a layer of the user, the model must not run before that has seen the request.
        self._has_layer = may_block or bool(options.layer)
        self._may_share = bool(options.batch_rows) and not self._has_layer
        self._turn: list[Sharing] = []  # the requests of this turn of the loop that may share runs

    def answer(self, exchange: "Exchange", body: bytes | Stream) -> None:
        """Answer a request now, at the end of the turn, or in another thread; called by the loop's thread."""
        request = exchange.with_body(body)
        kind = (request.path, len(body).bit_length()) if isinstance(body, bytes) else None
        if kind is None or self._has_layer or not is_self_contained(request):
            self._submit(exchange, request, kind)
        elif routes.is_prediction(request.method, request.path):
            self._predict(exchange, request, kind)
        elif self._short.holds(kind):
            self._answer_here(exchange, request, kind, time.monotonic())
        else:
            self._submit(exchange, request, kind)

    def _submit(self, exchange: "Exchange", request: Request, kind: Kind | None) -> None:
        exchange.connection.busy = exchange
        self._pool.submit(self._answer_there, exchange, request, kind)

    def _predict(self, exchange: "Exchange", request: Request, kind: Kind) -> None:
        """Answer a request that needs a slot, or refuse it where it would wait for one too long."""
        record, slots, is_short = exchange.record, self._admission.slots(request), self._short.holds(kind)
        try:
            record.until = slots.expect(request.headers)
            may_wait = self._may_share and loading.batching() is not None  # for a run of others
            shared = sharing.plan(request) if may_wait and slots is self._admission.sharing else None
            is_run_here = shared is not None or (is_short and not may_wait)
            record.entered = slots.try_enter() if is_run_here else None
            if record.entered is None:
                self._answer_in_turn(Waiting(self, exchange, request, kind, slots))
                return
        except HttpError as error:
            record.refused, exchange.connection.busy = error, None
            self._answer_now(exchange, request)
            return
        if shared is None or (is_short and self._run_alone(request, shared)):
            self._answer_here(exchange, request, kind, record.entered.began)
        elif self._is_alone() and shared.queue.is_free:
            self._submit(exchange, request, kind)
        else:
            exchange.connection.busy = exchange
            self._turn.append(Sharing(self, exchange, request, kind, shared, is_short))

    def _answer_in_turn(self, waiting: "Waiting") -> None:
        """Answer a request in another thread when it has a slot; raise Unavailable where it would wait too long."""
        exchange = waiting.exchange
        exchange.connection.busy = exchange
        turn = waiting.slots.wait(waiting.go)
        if isinstance(turn, admission.Slot):
            exchange.record.entered = turn
            self._submit(exchange, waiting.request, waiting.kind)
            return
        self._waiting[waiting] = turn
        self._loop.next_look = min(self._loop.next_look, exchange.record.until)
        if turn.has_slot:  # since it waits
            self._waiting.pop(waiting, None)

    def answer_after_wait(self, waiting: "Waiting") -> None:
        """Answer a request that has its slot now; any thread may call this, and holds the lock of the slots."""
        self._waiting.pop(waiting, None)
        waiting.exchange.record.entered = waiting.slots.granted()
        try:
            self._pool.submit(self._answer_there, waiting.exchange, waiting.request, waiting.kind)
        except RuntimeError:  # the system has no thread for it
            self._loop.post(waiting)

    def answer_at_last(self, waiting: "Waiting") -> None:
        """Answer a request that waits no longer; called by the loop's thread."""
        waiting.exchange.connection.busy = None
        self._answer_now(waiting.exchange, waiting.request)
        waiting.exchange.connection.resume()

    def expire(self, now: float) -> None:
        """Answer the requests whose time has passed before they had a slot; called by the loop's thread."""
        for waiting, turn in [*self._waiting.items()]:
            record = waiting.exchange.record
            if record.until <= now and waiting.slots.withdraw(turn):
                del self._waiting[waiting]
                record.refused = waiting.slots.too_late(turn, record.until)
                self.answer_at_last(waiting)

    @property
    def next_expiry(self) -> float:
        """The earliest time.monotonic at which `expire` must be called."""
        return min((waiting.exchange.record.until for waiting in [*self._waiting]), default=float("inf"))

    def _is_alone(self) -> bool:
        """Return whether no other request of this turn can share a run, as far as is known."""
        return self._loop.is_alone and not self._turn

    def _run_alone(self, request: Request, shared: sharing.Shared) -> bool:
        """Run a request at once if no other can share its run; return whether `handle` need not run it."""
        if not self._is_alone() or not shared.queue.enter(()):
            return False
        result: Any = None
        try:
            with suppress(Exception):  # then it is run again, and its error answered
                result = shared.quick.alone(*shared.asks)
        finally:
            shared.queue.leave()
        return sharing.keep(request, shared, result) and len(result.body) <= LARGEST_HERE

    def end_turn(self) -> None:
        """Answer the requests of this turn that share runs; called by the loop's thread."""
        while self._turn:  # the next requests of a connection come with the answer to the one before
            turn, self._turn = self._turn, []
            short = [call for call in turn if call.is_short]
            others = [call for call in turn if not call.is_short]
            if short and short[0].shared.queue.enter(short):
                self.finish(*self._run_shared(short))
            if others and others[0].shared.queue.enter(others):
                self.lead(others)

    def lead(self, calls: list["Sharing"]) -> None:
        """Run calls, with those that wait for it, in another thread; any thread may call this."""
        try:
            self._leads.submit(self._lead_there, calls)
        except RuntimeError:  # the system has no thread for it
            self._lead_there(calls)

    def _lead_there(self, calls: list["Sharing"]) -> None:
        self._loop.post(Finished(self, *self._run_shared(calls)))

    def answer_in_pool(self, call: "Sharing") -> None:
        """Answer a call that has been run, or is to be run by itself; any thread may call this."""
        sharing.keep(call.request, call.shared, call.gets)
        self._pool.submit(self._answer_there, call.exchange, call.request, call.kind)

    def _run_shared(self, calls: list["Sharing"]) -> tuple[list["Sharing"], int]:
        """Run calls, with those that wait for it; return those of this server, and the CPU nanoseconds of the run."""
        queue, every, began = calls[0].shared.queue, list[Call](calls), time.thread_time_ns()
        try:
            run_together(queue.gather(every))
        finally:
            queue.leave()
            for call in every:
                if not isinstance(call, Sharing):
                    call.done()
        return [call for call in every if isinstance(call, Sharing)], time.thread_time_ns() - began

    def finish(self, calls: list["Sharing"], took: int) -> None:
        """Answer calls that have been run, together in `took` nanoseconds; called by the loop's thread.

        A run that the loop's thread leads blocks it for so long: a kind is short only where its shared runs are.
        What is to be answered in Python, and what is large enough that it may be compressed for long, takes a thread of
        the pool.
        """
        began, here, kinds = time.thread_time_ns(), [], set[Kind]()
        for call in calls:
            if not sharing.keep(call.request, call.shared, call.gets) or len(call.gets.body) > LARGEST_HERE:
                self.answer_in_pool(call)
                continue
            here.append(call)
            call.exchange.connection.busy = None
            status = self._answer_here(call.exchange, call.request, call.kind, time.monotonic())
            if status == 200 and (took > LONG or not call.is_short):
                kinds.add(call.kind)
        if kinds:
            took += (time.thread_time_ns() - began) // len(calls)
        for kind in kinds:
            self._short.learn(kind, took)
        for call in here:
            call.exchange.connection.resume()

    def _answer_here(self, exchange: "Exchange", request: Request, kind: Kind, began: float) -> int:
        status = self._answer_now(exchange, request)
        seconds = time.monotonic() - began
        if seconds > STALLED[0]:
            self._short.stalled(kind, seconds)
        return status

    def _answer_now(self, exchange: "Exchange", request: Request) -> int:
        try:
            response = self._handled(exchange, request)
        finally:
            self._leave(exchange)
        exchange.connection.send(exchange, response)
        if exchange.claimed:
            self._loop.give_back(exchange)
        return response.status

    def _leave(self, exchange: "Exchange") -> None:
        """Give back the slot of a request that was refused before it used it, or that uses none."""
        if exchange.record.entered is not None:
            slot, exchange.record.entered = exchange.record.entered, None
            slot.leave(is_typical=False)

    def _answer_there(self, exchange: "Exchange", request: Request, kind: Kind | None) -> None:
        connection, goes_on = exchange.connection, False
        began = time.thread_time_ns()
        try:
            response = self._handled(exchange, request)
            took = time.thread_time_ns() - began
            self._leave(exchange)
            goes_on = connection.send(exchange, response)
            if kind is not None and not exchange.record.waited and response.status == 200:
                self._short.learn(kind, took)
        except BaseException:
            log_exception("a request could not be answered")
            connection.closes, goes_on = True, False
        self._loop.give_back(exchange)
        if not goes_on:
            connection.finished = exchange
            self._loop.post(connection)
            return
        connection.busy = None
        if not connection.interest:  # bytes arrived meanwhile
            self._loop.post(connection)

    def _handled(self, exchange: "Exchange", request: Request) -> Response:
        prepared = request.record.prepared
        if prepared is not None and prepared.is_final:
            return sharing.respond(request)
        watchdog.answers(exchange.give)
        try:
            return self._handle(request)
        except Exception:
            log_exception("a request could not be handled")
            return refusal(500, "internal error; the log has the reason")
        finally:
            watchdog.answered()


class Sharing:
    """A request that shares a run: a call in the queue of `serving.runtime.batching`."""

    __slots__ = ("_answering", "asks", "exchange", "gets", "is_short", "kind", "request", "shared", "together")

    def __init__(
        self, answering: Answering, exchange: "Exchange", request: Request, kind: Kind, shared: sharing.Shared,
        is_short: bool,
    ) -> None:  # fmt: skip
        self._answering = answering
        self.exchange, self.request, self.kind, self.shared, self.is_short = exchange, request, kind, shared, is_short
        self.together: Together = shared.quick.together
        self.asks = shared.asks
        self.gets: Any = None

    def lead(self) -> None:
        self._answering.lead([self])

    def done(self) -> None:
        self._answering.answer_in_pool(self)


class Waiting:
    """A request that waits for a slot."""

    __slots__ = ("_answering", "exchange", "kind", "request", "slots")

    def __init__(
        self, answering: Answering, exchange: "Exchange", request: Request, kind: Kind, slots: admission.Slots
    ) -> None:
        self._answering = answering
        self.exchange, self.request, self.kind, self.slots = exchange, request, kind, slots

    def go(self) -> None:
        """Pass the request on, which has a slot now."""
        self._answering.answer_after_wait(self)

    def resume(self) -> None:
        """Answer it in the loop's thread."""
        self._answering.answer_at_last(self)


class Finished(NamedTuple):
    """Calls that another thread has run, for the loop's thread to answer."""

    answering: Answering
    calls: list[Sharing]
    took: int

    def resume(self) -> None:
        """Answer them."""
        self.answering.finish(self.calls, self.took)


class Short:
    """Which kinds of requests are short, by the times of earlier ones with the same path and a similar body size.

    CPU times of the thread are compared: wall-clock times include other work of the machine.
    """

    def __init__(self, options: Settings, may_block: bool = False) -> None:
        # With these settings a thread may block: on TensorFlow's threads, or in a layer of the user's.
        self._may_be = not (may_block or options.inter_op_threads != -1 or options.layer)
        self._short: set[Kind] = set()
        self._barred: dict[Kind, tuple[float, float]] = {}  # (end, length) of the time in which a kind is not short
        self._cache = loading.cache()

    def holds(self, kind: Kind) -> bool:
        """Return whether requests of this kind are short."""
        return kind in self._short and self._cache.loaded and not phases.pending

    def learn(self, kind: Kind, took: int) -> None:
        """Record the CPU nanoseconds of a request of this kind; any thread may call this."""
        if took > LONG:
            self._bar(kind)
        elif took <= SHORT and kind not in self._short and self._may_be and len(self._short) < MOST_KINDS:
            until, _ = self._barred.get(kind, (0.0, 0.0))
            if time.monotonic() >= until and self._cache.loaded and self._is_even(kind):
                self._short.add(kind)

    def _is_even(self, kind: Kind) -> bool:
        """Return whether requests of this kind take similar times: their size says nothing about their pictures'."""
        source = self._cache.source()
        return source.even and (kind[1] <= PICTURE or not source.pictures)

    def stalled(self, kind: Kind, seconds: float) -> None:
        """Record that a request of this kind blocked the loop; the next ones are measured in other threads."""
        self._short.discard(kind)
        if seconds > STALLED[1]:
            self._bar(kind)

    def _bar(self, kind: Kind) -> None:
        self._short.discard(kind)
        if kind in self._barred or len(self._barred) < MOST_KINDS:
            now, (until, pause) = time.monotonic(), self._barred.get(kind, (0.0, 0.0))
            pause = min(LONGEST_PAUSE, 2 * pause) if pause and now < until + pause else AGAIN
            self._barred[kind] = now + pause, pause
