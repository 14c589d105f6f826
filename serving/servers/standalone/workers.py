"""The process that starts the workers, replaces those that end, and ends them when a signal says so.

It waits for signals and does nothing else: it opens no session and starts no thread, so that each worker is forked
from a process without either.
"""

import atexit
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress

from serving.core import inflight
from serving.core.telemetry.log import log

SHORT_LIVED = 1.0  # seconds: a worker that ends sooner may not be able to start
LEAST_PAUSE, MOST_PAUSE = 0.05, 1.0  # seconds before such a worker is replaced
KILL = 7.0  # seconds for the workers to end; the platform kills after 10
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)

Work = Callable[[socket.socket, int], None]


class Workers:
    """One process for each listener."""

    def __init__(self, listeners: list[socket.socket], work: Work) -> None:
        """Take what a worker does, until a signal ends it, with its listener and a descriptor.

        That descriptor is at its end when this process is gone.
        """
        self._listeners, self._work = listeners, work
        self._places: dict[int, tuple[int, float]] = {}  # by process id: the listener's index, and when it began
        self._due: dict[int, float] = {}  # listeners without a worker, and when another is started
        self._pause = 0.0

    def serve(self) -> None:
        """Keep the workers running until SIGTERM or SIGINT; a second signal kills them."""
        signal.signal(signal.SIGCHLD, lambda *_: None)  # where it is ignored, it cannot be waited for
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        self._gone, self._alive = os.pipe()
        for place in range(len(self._listeners)):
            self._start(place)
        while self._wait(min(self._due.values(), default=time.monotonic() + 3600)) not in SIGNALS[:2]:
            self._reap()
            for place in [place for place, due in self._due.items() if due <= time.monotonic()]:
                del self._due[place]
                self._start(place)
        self._end()

    def _wait(self, until: float) -> int | None:
        """Return the signal that came, None where none came in time."""
        received = signal.sigtimedwait(SIGNALS, max(0.0, until - time.monotonic()))
        return received.si_signo if received is not None else None

    def _start(self, place: int) -> None:
        pid = os.fork()
        if pid:
            self._places[pid] = place, time.monotonic()
            return
        status = 1
        try:
            os.close(self._alive)
            for other, listener in enumerate(self._listeners):
                if other != place:
                    listener.close()
            self._work(self._listeners[place], self._gone)
            status = 0
        except BaseException:
            log("ERROR", "a worker failed", traceback=traceback.format_exc())
        finally:
            with suppress(BaseException):
                atexit._run_exitfuncs()
                sys.stdout.flush()
            os._exit(status)  # threads may hang in a run that does not end

    def _reap(self) -> None:
        """Take note of the workers that have ended."""
        while self._places:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            if pid in self._places:
                self._replace(pid, os.waitstatus_to_exitcode(status))

    def _replace(self, pid: int, status: int) -> None:
        place, began = self._places.pop(pid)
        lived = time.monotonic() - began
        self._pause = 0.0 if lived > SHORT_LIVED else min(MOST_PAUSE, max(LEAST_PAUSE, 2 * self._pause))
        how = f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        log("ERROR", f"worker {place + 1} ended: {how}; it is replaced",
            lived_seconds=round(lived, 1), pause_seconds=self._pause, runs=inflight.left_by(pid))  # fmt: skip
        self._due[place] = time.monotonic() + self._pause

    def _end(self) -> None:
        """Have the workers end: those that have not in time, or at a second signal, are killed."""
        for listener in self._listeners:
            listener.close()
        for pid in self._places:
            os.kill(pid, signal.SIGTERM)
        until = time.monotonic() + KILL
        while self._places:
            received = self._wait(until)
            while self._places:
                pid, _ = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    break
                self._places.pop(pid, None)
            if received in SIGNALS[:2] or time.monotonic() >= until:
                for pid in self._places:
                    os.kill(pid, signal.SIGKILL)
                until = time.monotonic() + 1
