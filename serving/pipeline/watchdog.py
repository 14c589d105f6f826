"""Ends a process in which a run does not end: some kernels loop forever on some values, and hold a core and a slot.

TensorFlow cannot interrupt a run. So the request gets 504, and concurrent requests have a few seconds to finish. The
remaining ones, which share the run or wait for it, get 504 as well. Then the process ends, and its server starts
another.
"""

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from serving.core import inflight
from serving.core.http import Response, to_json
from serving.core.settings import Settings
from serving.core.telemetry.log import log
from serving.pipeline import admission

TICK = 1.0  # seconds
GRACE = 3.0  # seconds for the concurrent requests
SENT = 0.2  # seconds for the server to send an answer

Give = Callable[[Response], None]

_givers: dict[int, Give] = {}  # thread -> the function that answers its current request
_give_rest: Give | None = None  # the function that answers every request of this process's server
_watching: int | None = None  # the process that has a watching thread


def answers(give: Give) -> None:
    """Register the function that answers the current request of this thread, until another one is registered."""
    _givers[threading.get_ident()] = give


def change(changed: Callable[[Response], Response]) -> None:
    """Register a change to the answer that the watchdog would give to the current request of this thread."""
    if give := _givers.get(threading.get_ident()):
        answers(lambda response: give(changed(response)))


def answered() -> None:
    """Forget the current request of this thread, and with it the reference to its connection."""
    _givers.pop(threading.get_ident(), None)


def serves(give: Give) -> None:
    """Register the function that answers all unanswered requests of the server when the process ends."""
    global _give_rest
    _give_rest = give


def watch(options: Settings) -> None:
    """Start to watch the runs of this process; called when it accepts requests, after a fork."""
    global _watching
    if _watching != os.getpid():
        _watching = os.getpid()
        threading.Thread(target=_watch, args=(options.run_timeout,), name="watchdog", daemon=True).start()


def _watch(seconds: int) -> None:
    while not (overdue := inflight.begun_before(time.monotonic() - seconds)):
        time.sleep(TICK)
    reason = f"the model has run for more than {seconds} s (RUN_TIMEOUT)"
    log("ERROR", f"this worker ends: {reason}", runs=[run.text for run in overdue])
    admission.stop(reason)
    for run in overdue:
        if give := _givers.get(run.thread):
            _try(give, reason)
    until = time.monotonic() + GRACE
    while len(inflight.begun_before(time.monotonic())) > len(overdue) and time.monotonic() < until:
        time.sleep(0.05)
    if _give_rest:
        _try(_give_rest, reason)
    time.sleep(SENT)
    admission.end(reason)


def _try(give: Give, reason: str) -> None:
    with suppress(Exception):  # each server raises another exception for a client that disconnected
        give(Response(504, to_json({"error": reason})))
