"""Dynamic batching: calls that arrive while the model is busy run together, which some models do in less time.

    function = Batcher(function, runs=1, most_rows=64)      the same function, called by many threads at once

No call waits for a batch to fill. While the model is idle a call runs at once; calls that arrive while it is busy are
queued, and when the run ends the thread of the first queued call runs them as one batch, without a timer or another
thread.

The rows of a batch must be independent, and a signature does not say whether they are: with padding to the longest row,
or a mean over the batch, the rows of one client would change the outputs of another. So the first outputs are compared
with those of each call alone; after the first difference beyond rounding the signature is never batched again. This
shows only what happens on the first calls and proves nothing, so batching is off by default.

Kernels round one row (a matrix-vector product) differently from two or more rows. So a single row runs as two, itself
twice, and the same request gets the same bytes in a batch and alone.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from serving.core.errors import LoadError
from serving.core.telemetry.log import log
from serving.savedmodel.folder import twin
from serving.savedmodel.safety.purity import impurities
from serving.savedmodel.signature import Signature

Array = np.ndarray[Any, Any]
Arrays = Mapping[str, Array]
Function = Callable[[Arrays], dict[str, Array]]

TRIALS = 32  # outputs compared with an unbatched run before batching is trusted; counted separately for equal rows


def batchable(signature: Signature) -> bool:
    """Return whether the shapes allow batching: a free first dimension everywhere, and no other in the outputs."""
    inputs, outputs = ([spec.shape for spec in side.values()] for side in (signature.inputs, signature.outputs))
    rows = all(shape and shape[0] is None for shape in (*inputs, *outputs))
    return bool(inputs) and rows and all(None not in shape[1:] for shape in outputs if shape)


def batched(
    functions: Mapping[str, Function], signatures: Mapping[str, Signature], directory: Path, most_rows: int
) -> dict[str, Function]:
    """Return the functions by signature, batched up to `most_rows` rows where the shapes and operations allow it."""
    try:
        # A LiteRT twin is made of pure models only.
        impure = set() if twin.holds(directory) else {use.signature for use in impurities(directory)}
    except LoadError:
        impure = set(functions)  # a graph of other tags, which impurities cannot read
    meet = {name for name in functions if name not in impure and batchable(signatures[name])}
    apart = ", ".join(map(repr, functions.keys() - meet))
    log("INFO", f"dynamic batching, up to {most_rows} rows{f'; not for {apart}' if apart else ''}")
    # One run at a time, on as many cores as INTRA_OP_THREADS says: two at once would halve the batch size.
    return {
        name: Batcher(function, 1, most_rows, name) if name in meet else function
        for name, function in functions.items()
    }


class _Call:
    """A call in progress: `leads` where its own thread runs the batch, `outputs` set when another thread has run it."""

    __slots__ = ("inputs", "inside", "leads", "outputs", "rows", "trial", "turn")

    def __init__(self, inputs: Arrays, rows: int) -> None:
        self.inputs = inputs
        self.rows = rows
        self.inside = [inputs[name].shape[1:] for name in sorted(inputs)]  # the shapes of one row
        self.leads = False
        self.outputs: dict[str, Array] | None = None
        self.trial = False  # the outputs are compared with an unbatched run
        self.turn = threading.Lock()
        self.turn.acquire()


class Batcher:
    """A function whose concurrent calls are batched: at most `runs` runs at once, each of at most `most_rows` rows.

    A larger call, and one whose inputs have different numbers of rows, runs alone and at once.
    """

    def __init__(self, function: Function, runs: int, most_rows: int, name: str = "", trials: int = TRIALS) -> None:
        """Wrap the function of a signature that is `batchable`; `name` is for the log."""
        self._function = function
        self._runs = runs
        self._most_rows = most_rows
        self._name = name
        self._lock = threading.Lock()
        self._running = 0
        self._waiting: deque[_Call] = deque()  # empty unless `runs` runs are in progress
        self._together = True
        self._trials = self._twin_trials = trials
        self._forks = _forks

    def __call__(self, inputs: Arrays) -> dict[str, Array]:
        """Run the call, alone or in a batch; its errors are raised in its own thread only."""
        sizes = {len(array) for array in inputs.values()}
        rows = sizes.pop() if len(sizes) == 1 else 0
        if not (0 < rows <= self._most_rows and self._together and self._forks == _forks):
            return self._function(inputs)
        call = _Call(inputs, rows)
        with self._lock:
            if self._running < self._runs:
                self._running += 1
                call.leads = True
            else:
                self._waiting.append(call)
        if not call.leads:
            self._wait(call)
        if call.leads:
            self._lead(call)
        if call.outputs is None:  # its batch failed, perhaps because of another call's rows
            return self._alone(call)
        return self._proved(call) if call.trial else call.outputs

    def _wait(self, call: _Call) -> None:
        try:
            call.turn.acquire()
        except BaseException:  # raised by a signal: pass the turn on when interrupted
            with self._lock:
                if call in self._waiting:
                    self._waiting.remove(call)
            if call.leads:
                self._hand_on()
            raise

    def _lead(self, call: _Call) -> None:
        followers: list[_Call] = []
        try:
            followers = self._company(call)
            if followers:
                with suppress(Exception):  # then each call runs alone, and raises its own error
                    self._run([call, *followers])
            else:
                call.outputs = self._alone(call)
        finally:
            self._hand_on()
            for follower in followers:
                follower.turn.release()

    def _company(self, call: _Call) -> list[_Call]:
        """Take from the queue, in order, the calls that fit into the batch of `call`."""
        followers, others, rows = [], deque[_Call](), call.rows
        with self._lock:
            while self._waiting and self._together:
                other = self._waiting.popleft()
                if other.inside == call.inside and rows + other.rows <= self._most_rows:
                    followers.append(other)
                    rows += other.rows
                else:
                    others.append(other)
            self._waiting.extendleft(reversed(others))
        return followers

    def _hand_on(self) -> None:
        """Let the first queued call lead the next run; with an empty queue, one run fewer is in progress."""
        with self._lock:
            successor = self._waiting.popleft() if self._waiting else None
            if successor:
                successor.leads = True
            else:
                self._running -= 1
        if successor:
            successor.turn.release()

    def _run(self, batch: list[_Call]) -> None:
        outputs = self._function(
            {name: np.concatenate([call.inputs[name] for call in batch]) for name in batch[0].inputs}
        )
        if not _has_rows(outputs, sum(call.rows for call in batch)):
            self._part("an output does not have the rows of the inputs")
            return
        # Equal rows say little about whether rows are independent: they are counted separately.
        alike = self._trials > 0 and _alike(batch)
        trial, start = (self._twin_trials if alike else self._trials) > 0, 0
        for call in batch:
            call.outputs = _cut(outputs, start, start + call.rows)
            call.trial = trial
            start += call.rows
        if alike:
            self._twin_trials = max(0, self._twin_trials - len(batch))
        else:
            self._trials = max(0, self._trials - len(batch))

    def _alone(self, call: _Call) -> dict[str, Array]:
        if call.rows > 1 or not self._together:
            return self._function(call.inputs)
        try:
            outputs = self._function({name: np.concatenate([row, row]) for name, row in call.inputs.items()})
        except Exception:
            outputs = {}
        if not _has_rows(outputs, 2):
            outputs = self._function(call.inputs)  # raises the call's own error
            self._part("it cannot take two rows")
            return outputs
        call.outputs = _cut(outputs, 0, 1)
        if not self._twin_trials:
            return call.outputs
        self._twin_trials = max(0, self._twin_trials - 1)
        return self._proved(call)

    def _proved(self, call: _Call) -> dict[str, Array]:
        """Return the outputs if they equal those of an unbatched run; if not, return those and end batching."""
        assert call.outputs is not None
        alone = self._function(call.inputs)
        for name, array in alone.items():
            if not _near(array, call.outputs[name]):
                self._part(f"the output {name!r} of a row depends on the other rows of its batch")
                return alone
        return call.outputs

    def _part(self, reason: str) -> None:
        if self._together:
            self._together = False
            log("WARNING", f"the signature {self._name!r} runs its calls one by one: {reason}")


def _has_rows(outputs: Arrays, rows: int) -> bool:
    return bool(outputs) and all(array.shape[:1] == (rows,) for array in outputs.values())


def _cut(outputs: Arrays, start: int, stop: int) -> dict[str, Array]:
    return {name: array[start:stop] for name, array in outputs.items()}


def _alike(batch: list[_Call]) -> bool:
    first = batch[0].inputs
    return all(np.array_equal(first[name], call.inputs[name]) for call in batch for name in first)


def _near(array: Array, other: Array) -> bool:
    """Compare two arrays: numbers up to half of their digits, relative to the largest; everything else exactly."""
    if array.shape != other.shape or array.dtype.kind in "biuSO":
        return np.array_equal(array, other)
    if array.tobytes() == other.tobytes():
        return True
    within = 2.0 ** -(4 * array.real.dtype.itemsize - 4)  # float32: 2**-12, half of its bits
    wide = np.complex128 if array.dtype.kind == "c" else np.float64
    array, other = array.astype(wide), other.astype(wide)
    largest = float(np.abs(array[np.isfinite(array)]).max(initial=0))
    return bool(np.allclose(array, other, rtol=0, atol=within * largest, equal_nan=True))


_forks = 0


def _after_fork() -> None:
    global _forks
    _forks += 1  # runs of the parent process never end here


os.register_at_fork(after_in_child=_after_fork)
