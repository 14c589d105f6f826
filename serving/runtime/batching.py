"""Calls that meet at a busy model run together: one larger run costs less than many small ones, for some models.

    function = Batcher(function, runs=1, most_rows=64)      the same function, called by many threads at once

Nobody waits for company. A call that finds the model free runs at once; those that come while it is busy are collected,
and the first of them leads the rest when a run ends. There is no thread and no clock: a caller's own thread does all.

Rows that meet must not touch each other, and a signature does not say whether they do: padding to the longest row, or a
mean over the batch, would let one caller's rows change another's answer. So the first answers are compared with what
each call gives alone, and at the first difference beyond rounding the signature runs its calls one by one for good.
That finds what happens on the first calls; it is no proof, which is why batching is off until it is asked for.

Kernels round one row (a matrix by a vector) differently from two, and two as any number. So one row runs as two,
itself twice, and the same request has the same bytes with company and without.
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

TRIALS = 32  # so many answers are compared before one is believed: of rows beside others, and beside their like


def batchable(signature: Signature) -> bool:
    """Say whether the shapes allow calls to meet: all inputs and outputs have rows, and an output's rows one size."""
    inputs, outputs = ([spec.shape for spec in side.values()] for side in (signature.inputs, signature.outputs))
    rows = all(shape and shape[0] is None for shape in (*inputs, *outputs))
    return bool(inputs) and rows and all(None not in shape[1:] for shape in outputs if shape)


def batched(
    functions: Mapping[str, Function], signatures: Mapping[str, Signature], directory: Path, most_rows: int
) -> dict[str, Function]:
    """Return a model's functions by signature, those that shapes and operations allow to with their calls batched."""
    try:
        # Only a pure model becomes a light twin.
        impure = set() if twin.holds(directory) else {use.signature for use in impurities(directory)}
    except LoadError:
        impure = set(functions)  # a graph of other tags: nobody knows
    meet = {name for name in functions if name not in impure and batchable(signatures[name])}
    apart = ", ".join(map(repr, functions.keys() - meet))
    log("INFO", f"dynamic batching, up to {most_rows} rows{f'; not for {apart}' if apart else ''}")
    # One run at a time, on as many cores as INTRA_OP_THREADS says: two at once would halve the batches.
    return {
        name: Batcher(function, 1, most_rows, name) if name in meet else function
        for name, function in functions.items()
    }


class _Call:
    """A call on its way: `leads` when its own thread is to run it, `outputs` once another's has."""

    __slots__ = ("inputs", "inside", "leads", "outputs", "rows", "trial", "turn")

    def __init__(self, inputs: Arrays, rows: int) -> None:
        self.inputs = inputs
        self.rows = rows
        self.inside = [inputs[name].shape[1:] for name in sorted(inputs)]  # the shapes of one row
        self.leads = False
        self.outputs: dict[str, Array] | None = None
        self.trial = False  # the outputs are to be compared before they are believed
        self.turn = threading.Lock()
        self.turn.acquire()


class Batcher:
    """A function that runs calls together where they meet: at most `runs` at once, each of at most `most_rows` rows.

    A larger call, and one whose inputs differ in rows, runs by itself and at once.
    """

    def __init__(self, function: Function, runs: int, most_rows: int, name: str = "", trials: int = TRIALS) -> None:
        """Wrap the function of a signature that is `batchable`; `name` is for the log."""
        self._function = function
        self._runs = runs
        self._most_rows = most_rows
        self._name = name
        self._lock = threading.Lock()
        self._running = 0
        self._waiting: deque[_Call] = deque()  # empty unless `runs` are under way
        self._together = True
        self._trials = self._twin_trials = trials
        self._forks = _forks

    def __call__(self, inputs: Arrays) -> dict[str, Array]:
        """Run, at once or with others; what is wrong with this call is raised here and nowhere else."""
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
        if call.outputs is None:  # its batch failed, perhaps through another's rows
            return self._alone(call)
        return self._proved(call) if call.trial else call.outputs

    def _wait(self, call: _Call) -> None:
        try:
            call.turn.acquire()
        except BaseException:  # a signal's: whoever gives up must not take the turn along
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
                with suppress(Exception):  # then each runs alone, and learns whose fault it was
                    self._run([call, *followers])
            else:
                call.outputs = self._alone(call)
        finally:
            self._hand_on()
            for follower in followers:
                follower.turn.release()

    def _company(self, call: _Call) -> list[_Call]:
        """Take from the queue those who can come along, in their order."""
        followers, left, rows = [], deque[_Call](), call.rows
        with self._lock:
            while self._waiting and self._together:
                other = self._waiting.popleft()
                if other.inside == call.inside and rows + other.rows <= self._most_rows:
                    followers.append(other)
                    rows += other.rows
                else:
                    left.append(other)
            self._waiting.extendleft(reversed(left))
        return followers

    def _hand_on(self) -> None:
        """Let the one who has waited longest lead the next run; where nobody waits, the model is free."""
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
        # Rows that are all the same show little of whether they touch each other: they are counted by themselves.
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
            outputs = self._function(call.inputs)  # raises what is wrong with the call
            self._part("it cannot take two rows")
            return outputs
        call.outputs = _cut(outputs, 0, 1)
        if not self._twin_trials:
            return call.outputs
        self._twin_trials = max(0, self._twin_trials - 1)
        return self._proved(call)

    def _proved(self, call: _Call) -> dict[str, Array]:
        """Return the outputs if they are what the call gives by itself; if not, that, and let nobody meet again."""
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


def _near(one: Array, other: Array) -> bool:
    """Compare two arrays: numbers up to half of their digits, relative to the largest; everything else exactly."""
    if one.shape != other.shape or one.dtype.kind in "biuSO":
        return np.array_equal(one, other)
    if one.tobytes() == other.tobytes():
        return True
    within = 2.0 ** -(4 * one.real.dtype.itemsize - 4)  # float32: 2**-12, half of its bits
    wide = np.complex128 if one.dtype.kind == "c" else np.float64
    one, other = one.astype(wide), other.astype(wide)
    largest = float(np.abs(one[np.isfinite(one)]).max(initial=0))
    return bool(np.allclose(one, other, rtol=0, atol=within * largest, equal_nan=True))


_forks = 0


def _after_fork() -> None:
    global _forks
    _forks += 1  # what was under way in the parent never ends here


os.register_at_fork(after_in_child=_after_fork)
