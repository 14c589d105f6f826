"""A function that is batched, and callers that wait for it."""

import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from serving.core.errors import RunError
from serving.runtime.batching import Batching, Queue
from tests.harness.waiting import PATIENCE, until


class Fake:
    """A model that doubles numbers, refuses negative ones, and records its calls."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.free = threading.Event()  # a run lasts until this is set
        self.free.set()
        self._busy, self.most = 0, 0
        self._lock = threading.Lock()

    def __call__(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        x = inputs["x"]
        with self._lock:
            self.sizes.append(len(x))
            self._busy += 1
            self.most = max(self.most, self._busy)
        try:
            assert self.free.wait(PATIENCE)
            if (x < 0).any():
                raise RunError("INVALID_ARGUMENT", f"{x[x < 0][0]} is negative")
            first = (slice(None), *[0] * (x.ndim - 1))
            return {"y": x * 2, "first": x[first]}
        finally:
            with self._lock:
                self._busy -= 1

    @contextmanager
    def held(self) -> Any:
        self.free.clear()
        try:
            yield
        finally:
            self.free.set()


def two(*values: float) -> dict[str, Any]:
    """Return rows, two of each value."""
    return {"x": np.repeat(np.array(values, np.float32), 2)}


def batching_of(function: Any, runs: int = 1, sizes: Iterable[int] = range(1, 65)) -> Batching:
    sizes = tuple(sizes)
    batching = Batching({"fake": function}, 64, {"fake": sizes[0]})
    batching.queue = Queue(runs, 64)
    batching.allow({"fake": sizes})
    return batching


def caller(batching: Batching) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return partial(batching.run, "fake")


def together(batching: Batching, fake: Fake, *inputs: dict[str, Any]) -> list[Future[dict[str, Any]]]:
    """Call with the first inputs, and, while that runs, with the others, which come in their order."""
    pool = ThreadPoolExecutor(len(inputs))
    with fake.held():
        futures = []
        for number, call in enumerate(inputs):
            futures.append(pool.submit(caller(batching), call))
            until(lambda number=number: fake.sizes and len(batching.queue._waiting) == number)  # type: ignore[misc]
    pool.shutdown()
    return futures
