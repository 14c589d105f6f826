"""Slots of the admission control in a state that a test needs."""

import threading
import time

from serving.core.settings import read
from serving.pipeline import admission
from serving.pipeline.admission import Admission, Slots
from tests.harness.waiting import until


def control(**environment: str) -> Slots:
    """Return the slots for requests that share no run."""
    return Admission(read(environment)).alone


def later(seconds: float) -> float:
    return time.monotonic() + seconds


def ago(seconds: float) -> float:
    return time.monotonic() - seconds


def experienced(took: float, **environment: str) -> Slots:
    """Return slots that requests have held for so long."""
    slots = control(**environment)
    learn(slots, took)
    return slots


def learn(slots: Slots, took: float) -> None:
    """Have as many requests hold a slot for so long as make the estimate."""
    for _ in range(admission.LEARNED):
        slots.enter(later(60))
        slots.leave(ago(took))


def queue(slots: Slots, count: int) -> list[threading.Thread]:
    """Have so many requests wait, behind as many as run."""
    while slots._free:
        slots.enter(later(60))
    threads = [threading.Thread(target=lambda: slots.enter(later(60)).leave()) for _ in range(count)]
    for number, thread in enumerate(threads):
        thread.start()
        until(lambda number=number: len(slots._queue) > number, pause=0.0005)  # type: ignore[misc]
    return threads
