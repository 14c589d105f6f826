"""The parent process: it starts the workers, replaces those that end, and ends them on a signal.

It only waits for signals. It opens no session and starts no thread, because a worker must be forked from a process
without them.
"""

import atexit
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress

from serving.core import inflight
from serving.core.telemetry import phases

SHORT_LIVED = 1.0  # seconds: a worker that ends sooner may not be able to start
LEAST_PAUSE, MOST_PAUSE = 0.05, 1.0  # seconds before such a worker is replaced
KILL = 7.0  # seconds for the workers to end; the platform kills after 10
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)

CANNOT_START = 3  # exit status

Prepare = Callable[[socket.socket, int], Callable[[], None]]


class Workers:
    """One process for each listener."""

    def __init__(self, listeners: list[socket.socket], prepare: Prepare) -> None:
        """Store `prepare`, which prepares a worker and returns the function that it runs until a signal.

        Its arguments are the listener, and a pipe's descriptor that reaches its end when this process is gone.
        """
        self._listeners, self._prepare = listeners, prepare
        self._places: dict[int, tuple[int, float]] = {}  # by process id: the listener's index, and when it began
        self._due: dict[int, float] = {}  # listeners without a worker, and when one is started
        self._pause = 0.0
        self._replaced: set[int] = set()  # listeners whose first worker has ended

    def start(self) -> None:
        """Start the workers."""
        signal.signal(signal.SIGCHLD, lambda *_: None)  # an ignored signal cannot be waited for
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        self._gone, self._alive = os.pipe()
        for index in range(len(self._listeners)):
            self._start(index)

    def serve(self) -> None:
        """Keep the workers running until SIGTERM or SIGINT; a second signal kills them.

        Exit if a worker cannot be prepared at its first start.
        """
        while self._wait(min(self._due.values(), default=time.monotonic() + 3600)) not in SIGNALS[:2]:
            self._reap()
            for index in [index for index, due in self._due.items() if due <= time.monotonic()]:
                del self._due[index]
                self._start(index)
        self._end()

    def _wait(self, until: float) -> int | None:
        """Return the received signal, None if none arrived in time."""
        received = signal.sigtimedwait(SIGNALS, max(0.0, until - time.monotonic()))
        return received.si_signo if received is not None else None

    def _start(self, index: int) -> None:
        pid = os.fork()
        if pid:
            self._places[pid] = index, time.monotonic()
            return
        status = CANNOT_START
        try:
            if index in self._replaced:
                phases.replacing()
            os.close(self._alive)
            for other, listener in enumerate(self._listeners):
                if other != index:
                    listener.close()
            run = self._prepare(self._listeners[index], self._gone)
            status = 1
            run()
            status = 0
        except BaseException:
            from serving.core.telemetry.log import log_exception  # the parent forks before it imports that

            log_exception("a worker failed")
        finally:
            with suppress(BaseException):
                atexit._run_exitfuncs()
                sys.stdout.flush()
            os._exit(status)  # threads may hang in a run that does not end

    def _reap(self) -> None:
        """Collect the exit statuses of workers, and replace them."""
        while self._places:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            if pid in self._places:
                self._replace(pid, os.waitstatus_to_exitcode(status))

    def _replace(self, pid: int, status: int) -> None:
        index, began = self._places.pop(pid)
        if status == CANNOT_START and index not in self._replaced:
            self._end()
            sys.exit("a worker cannot start: the log has the reason")
        self._replaced.add(index)
        lived = time.monotonic() - began
        self._pause = 0.0 if lived > SHORT_LIVED else min(MOST_PAUSE, max(LEAST_PAUSE, 2 * self._pause))
        from serving.core.telemetry.log import log

        how = f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        log("ERROR", f"worker {index + 1} ended: {how}; it is replaced",
            lived_seconds=round(lived, 1), pause_seconds=self._pause, runs=inflight.left_by(pid))  # fmt: skip
        self._due[index] = time.monotonic() + self._pause

    def _end(self) -> None:
        """End the workers; kill those still there after KILL seconds or at a second signal."""
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
