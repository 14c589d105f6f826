"""Dynamic batching: calls that arrive while the model is busy share a run, which many models do in less time.

    model.batching = Batching(functions, most=16)       in which sizes calls share runs: none, until `allow`
    model.batching.allow({"serving_default": (1, 2, 4, 8, 16)})       what serving.runtime.batch_sizes has found out
    model.batching.run("serving_default", inputs)       called by many threads at once; the native codec uses `queue`

No call waits for a batch to fill. While the model is idle a call runs at once; calls that arrive while it is busy are
queued, and the thread of the first queued call runs them as one batch when a run ends, without a timer or another
thread.

A call's bytes do not depend on other calls, on the sizes, or on when the sizes became known: it gets the bytes of a run
of its own rows alone. Kernels round some numbers of rows differently. So a call shares runs only where its own number
of rows is among the sizes, which give the same bytes. A batch has one of the sizes: its last row is repeated up to
there. Where one row is rounded differently from several, a signature has a smallest run: a call of fewer rows is filled
up to it, alone too, from the first answer on.
"""

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from serving.core import machine
from serving.core.telemetry import phases
from serving.core.telemetry.log import log
from serving.core.values import AUTO
from serving.savedmodel.signature import Signature

if TYPE_CHECKING:
    import numpy as np

    from serving.runtime.model import Model

    Array = np.ndarray[Any, Any]
    Arrays = Mapping[str, Array]
    Function = Callable[[Arrays], dict[str, Array]]

AUTO_ROWS = 16  # rows of a batch at most, with `auto`

Sizes = tuple[int, ...]  # numbers of rows, in ascending order
NOTHING: Mapping[str, int] = {}
Together = Callable[[Sequence[Any]], Sequence[Any]]  # takes what several calls ask, returns what each of them gets


def batchable(signature: Signature) -> bool:
    """Return whether the shapes allow batching: a free first dimension everywhere, and no other in the outputs."""
    inputs, outputs = ([spec.shape for spec in side.values()] for side in (signature.inputs, signature.outputs))
    rows = all(shape and shape[0] is None for shape in (*inputs, *outputs))
    return bool(inputs) and rows and all(None not in shape[1:] for shape in outputs if shape)


def run_size(sizes: Sizes, rows: int) -> int:
    """Return how many rows a shared run for `rows` rows has; 0 where they are too many."""
    return next((size for size in sizes if size >= rows), 0)


def row_count(inputs: "Arrays") -> int:
    """Return the number of rows of every input, 0 where they differ or an input is a scalar."""
    counts = {len(array) if array.ndim else 0 for array in inputs.values()}
    return counts.pop() if len(counts) == 1 else 0


class Call(Protocol):
    """A call in the queue."""

    together: Together
    asks: Any
    gets: Any  # of what `together` returns; None where it failed, and the call is to be run by itself

    def lead(self) -> None:
        """It is this call's turn to run: `gather`, `run_together`, `leave`."""

    def done(self) -> None:
        """Another call has led the run of this one."""


class Queue:
    """At most `runs` runs at once; calls that arrive meanwhile share the next. Any thread may call."""

    def __init__(self, runs: int, most: int) -> None:
        """A run takes up to `most` calls."""
        self._lock = threading.Lock()
        self._free = runs
        self._most = most
        self._waiting: deque[Call] = deque()  # empty unless `runs` runs are in progress
        self._process = os.getpid()  # after a fork, the runs of the parent never end here

    @property
    def is_free(self) -> bool:
        """Return whether a run could begin now."""
        return self._free > 0

    def enter(self, calls: Sequence[Call]) -> bool:
        """Return whether the caller may run these calls now; if not, they are queued."""
        with self._lock:
            if self._free:
                self._free -= 1
                return True
            self._waiting.extend(calls)
            return False

    def gather(self, calls: list[Call]) -> list[Call]:
        """Add the queued calls that can share a run with these."""
        others = deque[Call]()
        with self._lock:
            while self._waiting and len(calls) < self._most:
                other = self._waiting.popleft()
                (calls if other.together == calls[0].together else others).append(other)
            self._waiting.extendleft(reversed(others))
        return calls

    def leave(self) -> None:
        """End a run: the first queued call leads the next one."""
        with self._lock:
            successor = self._waiting.popleft() if self._waiting else None
            if successor is None:
                self._free += 1
        if successor is not None:
            successor.lead()

    def run(self, together: Together, asks: Any) -> Any:
        """Run a call, alone or with others, and return what it gets; its errors are raised in its own thread only."""
        if self._process != os.getpid():
            return together([asks])[0]
        call = _Blocking(together, asks)
        if self.enter([call]) or self._wait(call):
            self._lead(call)
        return together([asks])[0] if call.gets is None else call.gets

    def _wait(self, call: "_Blocking") -> bool:
        """Wait until another call has led the run of this one, or until this one leads: then return True."""
        try:
            call.turn.acquire()
        except BaseException:  # raised by a signal: pass the turn on when interrupted
            with self._lock:
                if call in self._waiting:
                    self._waiting.remove(call)
            if call.leads:
                self.leave()
            raise
        return call.leads

    def _lead(self, call: "_Blocking") -> None:
        calls: list[Call] = [call]
        try:
            run_together(self.gather(calls))
        finally:
            self.leave()
            for follower in calls[1:]:
                follower.done()


def run_together(calls: Sequence[Call]) -> None:
    """Run calls that share `together`; each then has what it gets, or None where the run failed."""
    with suppress(Exception):  # then each call runs alone, and raises its own error
        for call, gets in zip(calls, calls[0].together([call.asks for call in calls]), strict=True):
            call.gets = gets


class _Blocking:
    """A call whose thread waits for its turn, or for another thread to run it."""

    __slots__ = ("asks", "gets", "leads", "together", "turn")

    def __init__(self, together: Together, asks: Any) -> None:
        self.together, self.asks = together, asks
        self.gets: Any = None
        self.leads = False
        self.turn = threading.Lock()
        self.turn.acquire()

    def lead(self) -> None:
        self.leads = True
        self.turn.release()

    def done(self) -> None:
        self.turn.release()


class Batching:
    """The signatures of a model whose calls share runs, in which sizes, and the queue of all of them."""

    largest_body = 1 << 16  # bytes; decoding a larger request takes longer than a shared run saves

    def __init__(self, functions: "Mapping[str, Function]", most: int, smallest: Mapping[str, int] = NOTHING) -> None:
        """Take by signature the functions, and the rows of the smallest run; shared runs have `most` rows at most."""
        self._functions = functions
        self.most = most
        self.smallest = smallest
        self.sizes: Mapping[str, Sizes] = {}  # by signature; it is replaced, never changed
        # More runs at once than cores would only make the batches smaller.
        self.queue = Queue(machine.cores(), most)
        # Calls that share no run: as many requests are admitted as share runs, before it is known that these do not.
        self._apart = Queue(machine.cores() + 1, 1)

    def allow(self, sizes: Mapping[str, Sizes]) -> None:
        """Let the calls of these signatures share runs of these sizes; the smallest is at least the smallest run."""
        self.sizes = {**self.sizes, **sizes}

    def run(self, name: str, inputs: "Arrays") -> "dict[str, Array]":
        """Run a signature, alone or with other calls; raise what its function raises for these inputs."""
        queue = self.queue if self._shares(name, row_count(inputs)) else self._apart
        outputs: dict[str, Array] | Exception = queue.run(self.together, (name, inputs))
        if isinstance(outputs, Exception):
            raise outputs
        return outputs

    def together(self, calls: "Sequence[tuple[str, Arrays]]") -> "list[dict[str, Array] | Exception]":
        """Run calls, each a signature's name and inputs, in as few runs as may be; return what each gets or raises."""
        results: dict[int, dict[str, Array] | Exception] = {}
        for first, (name, inputs) in enumerate(calls):
            if first in results:
                continue
            sizes, rows, indexes = self.sizes.get(name, ()), row_count(inputs), [first]
            size, shares = self._own_size(name, rows), self._shares(name, rows)
            for index in range(first + 1, len(calls) if shares else 0):
                if index not in results and _fits((name, inputs), calls[index]):
                    more = row_count(calls[index][1])
                    if self._shares(name, more) and run_size(sizes, rows + more):
                        rows += more
                        size = run_size(sizes, max(rows, self._smallest(name)))
                        indexes.append(index)
            results.update(zip(indexes, self._run(name, [calls[index][1] for index in indexes], size)))
        return [results[index] for index in range(len(calls))]

    def _smallest(self, name: str) -> int:
        return self.smallest.get(name, 1)

    def _own_size(self, name: str, rows: int) -> int:
        """Return how many rows the run of a call alone has, 0 where that is as many as it has."""
        return smallest if 0 < rows < (smallest := self._smallest(name)) else 0

    def _shares(self, name: str, rows: int) -> bool:
        """Return whether a call of so many rows gets the same bytes in a shared run as alone."""
        return rows > 0 and max(rows, self._smallest(name)) in self.sizes.get(name, ())

    def _run(self, name: str, group: "Sequence[Arrays]", size: int) -> "list[dict[str, Array] | Exception]":
        try:
            outputs = self._functions[name](_joined(group, size) if size else group[0])
        except Exception as error:
            if len(group) == 1:
                return [error]
            return [self._run(name, [inputs], self._own_size(name, row_count(inputs)))[0] for inputs in group]
        if size and not all(array.shape[:1] == (size,) for array in outputs.values()):
            self._part(name)
            return [self._run(name, [inputs], 0)[0] for inputs in group]
        parts: list[dict[str, Array] | Exception] = []
        start = 0
        for inputs in group:
            stop = start + row_count(inputs)
            parts.append({output: array[start:stop] for output, array in outputs.items()} if size else outputs)
            start = stop
        return parts

    def _part(self, name: str) -> None:
        self.smallest = {other: rows for other, rows in self.smallest.items() if other != name}
        self.sizes = {other: sizes for other, sizes in self.sizes.items() if other != name}
        log(
            "WARNING",
            f"the signature {name!r} is not batched: an output does not have the rows of the inputs",
        )


def _fits(call: "tuple[str, Arrays]", other: "tuple[str, Arrays]") -> bool:
    """Return whether the rows of both can stand in one array for each input."""
    (name, inputs), (other_name, others) = call, other
    return name == other_name and all(inputs[key].shape[1:] == array.shape[1:] for key, array in others.items())


def _joined(group: "Sequence[Arrays]", size: int) -> "dict[str, Array]":
    """Return the rows of a group, the last one repeated up to `size` rows."""
    import numpy as np  # not needed for an answer of the native codec

    padding = size - sum(map(row_count, group))
    joined = {}
    for name in group[0]:
        parts = [inputs[name] for inputs in group]
        if padding:
            parts.append(np.repeat(parts[-1][-1:], padding, axis=0))
        joined[name] = parts[0] if len(parts) == 1 else np.concatenate(parts)
    return joined


def most_rows(batch_rows: int) -> int:
    """Return how many rows a batch has at most, by the setting."""
    return AUTO_ROWS if batch_rows == AUTO else batch_rows


def decide(model: "Model", batch_rows: int) -> None:
    """Allow batching where it can be allowed: at once, or with AUTO in a thread after the first answer."""
    is_auto = batch_rows == AUTO
    stated = model.source.smallest_runs.items()
    smallest = {name: rows for name, rows in stated if name in model.functions and batchable(model.signatures[name])}
    model.batching = batching = Batching(model.functions, most_rows(batch_rows), smallest)

    def allow() -> None:
        try:
            from serving.runtime.batch_sizes import of_model  # it brings NumPy, which the first answer does without

            outcomes = of_model(model, batching.most, exact=is_auto)
        except Exception as error:  # serving goes on without
            log("WARNING", f"no dynamic batching: {error!r}")
            return
        sizes = {name: outcome.sizes for name, outcome in outcomes.items() if outcome.sizes}
        if not is_auto:  # no request has been answered yet
            batching.smallest = {**smallest, **{name: sizes[name][0] for name in sizes}}
        batching.allow(sizes)
        apart = {name: outcome.reason for name, outcome in outcomes.items() if not outcome.sizes}
        log("INFO", f"dynamic batching: {', '.join(map(repr, batching.sizes)) or 'no signature'}",
            rows=batching.sizes, not_batched=apart)  # fmt: skip

    def allow_later() -> None:
        while phases.pending:
            time.sleep(0.5)
        allow()

    if is_auto:
        threading.Thread(target=allow_later, name="batch-sizes", daemon=True).start()
    else:
        allow()
