"""What a cold start is made of: each phase is measured once, and every request that has waited for it is told.

interpreter   from the start of the process to the first line of ours
imports       our modules and theirs, and the server where it is one that we start
library       opening TensorFlow's C library
model         comparing the SavedModel with its manifest, and reading it into a session
warmup        the requests beside the model, where they were run before the first one that came
run           the first run for a request; without a warm-up TensorFlow optimizes the graph in it
"""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

_durations: dict[str, float] = {}  # seconds
_began = time.perf_counter()
pending = True  # no request has been answered yet
loaded_at = sys.maxsize  # perf_counter_ns when the model was there: a request that began before it met a cold instance


def _age() -> float | None:
    """Return for how long this process has lived, in seconds, to a hundredth; None where the system does not tell."""
    try:
        with open("/proc/self/stat", "rb") as file:
            ticks = int(file.read().rpartition(b")")[2].split()[19])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, AttributeError, IndexError):
        return None


if (age := _age()) is not None:
    _durations["interpreter"] = age


@contextmanager
def measured(phase: str) -> Iterator[None]:
    """Measure a phase, the first time that it is gone through, without the phases inside it."""
    begin, before = time.perf_counter(), sum(_durations.values())
    yield
    _durations.setdefault(phase, time.perf_counter() - begin - (sum(_durations.values()) - before))


def took(phase: str, seconds: float) -> None:
    """Take a phase that somebody else has measured, the first time that it is gone through."""
    _durations.setdefault(phase, seconds)


def imported() -> None:
    """Say that everything is imported; the library may have been opened meanwhile."""
    _durations.setdefault("imports", time.perf_counter() - _began - _durations.get("library", 0.0))


def loaded() -> None:
    """Say that the model is there."""
    global loaded_at
    loaded_at = time.perf_counter_ns()


def unloaded() -> None:
    """Say that the model is not there any more, or not in this process."""
    global loaded_at
    loaded_at = sys.maxsize


def durations() -> dict[str, float]:
    """Return what has been measured so far, in seconds."""
    return dict(_durations)


def first() -> dict[str, float] | None:
    """Return the phases in milliseconds the first time, None later."""
    global pending
    if not pending:
        return None
    pending = False
    return {phase: round(seconds * 1000, 1) for phase, seconds in _durations.items()}
