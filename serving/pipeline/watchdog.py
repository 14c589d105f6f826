"""Ends a process whose run does not end: some kernels loop for ever on some values, and hold a core and a slot.

TensorFlow cannot interrupt a run. So the request gets 504, and concurrent requests have a few seconds to finish. Those
that are left, because they share the run or wait for it, get 504 as well, and the process ends, for its server to start
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
GRACE = 3.0  # seconds for the requests beside it
SENT = 0.2  # seconds for the server to send an answer

Give = Callable[[Response], None]

_givers: dict[int, Give] = {}  # thread -> what gives an answer to the request that it is at
_give_rest: Give | None = None  # what gives an answer to every request that the server of this process has
_watching: int | None = None  # the process that has a thread for it


def answers(give: Give) -> None:
    """Say what gives an answer to the request that this thread is at, until it says so of another, or of none."""
    _givers[threading.get_ident()] = give


def change(changed: Callable[[Response], Response]) -> None:
    """Have the answer to the request that this thread is at changed before it is given."""
    if give := _givers.get(threading.get_ident()):
        answers(lambda response: give(changed(response)))


def answered() -> None:
    """Say that this thread is at no request: what gave its answer is let go, and the connection with it."""
    _givers.pop(threading.get_ident(), None)


def serves(give: Give) -> None:
    """Say what gives an answer to all requests of the server that have none when the process ends."""
    global _give_rest
    _give_rest = give


def watch(options: Settings) -> None:
    """Have the runs of this process watched; called when it takes requests, after a fork."""
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
    with suppress(Exception):  # each server has its own, for a client that went away
        give(Response(504, to_json({"error": reason})))
