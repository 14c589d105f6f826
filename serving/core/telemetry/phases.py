"""The phases of a cold start: each is measured once, and reported to every request that waited for it.

interpreter   from the start of the process to the first line of this package
imports       importing this package and its dependencies, and the server if this package starts it; without `library`
library       opening the library that runs the model, in the main thread while another imports
model         comparing the SavedModel with its manifest, and loading it into a session
warmup        the warm-up requests beside the model, if they ran before the first request
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
loaded_at = sys.maxsize  # perf_counter_ns when the model was loaded: earlier requests arrived at a cold instance


def _age() -> float | None:
    """Return the age of this process in seconds, to a hundredth; None where the system does not report it."""
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
    """Measure a phase the first time that it runs, without the phases inside it."""
    begin, before = time.perf_counter(), sum(_durations.values())
    yield
    _durations.setdefault(phase, time.perf_counter() - begin - (sum(_durations.values()) - before))


def took(phase: str, seconds: float) -> None:
    """Record a phase that the caller has measured, the first time that it runs."""
    _durations.setdefault(phase, seconds)


def imported() -> None:
    """Record that everything is imported; the time to open the library does not count."""
    _durations.setdefault("imports", time.perf_counter() - _began - _durations.get("library", 0.0))


def replacing() -> None:
    """Begin again, in a process that has just been forked to replace another."""
    global _began
    _durations.clear()
    _began = time.perf_counter()


def loaded() -> None:
    """Record that the model is loaded."""
    global loaded_at
    loaded_at = time.perf_counter_ns()


def unloaded() -> None:
    """Record that the model is no longer loaded, or not in this process."""
    global loaded_at
    loaded_at = sys.maxsize


def durations() -> dict[str, float]:
    """Return the phases measured so far, in seconds."""
    return dict(_durations)


def first() -> dict[str, float] | None:
    """Return the phases in milliseconds at the first call, None afterwards."""
    global pending
    if not pending:
        return None
    pending = False
    return {phase: round(seconds * 1000, 1) for phase, seconds in _durations.items()}
