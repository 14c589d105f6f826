"""Work that a thread does every few seconds, and once more when the process ends."""

import atexit
import os
import sys
import threading
from collections.abc import Callable

from serving.core.telemetry.log import log, log_exception

PATIENCE = 3.0  # seconds that the end of the process waits for the last work; the platform kills after ten


class Periodic:
    """Calls `work` in a daemon thread of this process, with True at the last time. Several threads may use it at once.

    Where the platform takes the CPU away between requests (Cloud Run), work that is due is done with the next request.
    """

    def __init__(self, work: Callable[[bool], None], seconds: float) -> None:
        """Start the thread; `seconds` lie between the end of a call and the next."""
        self._work, self._seconds, self._ending = work, seconds, False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        at_exit(self.end)

    def wake(self) -> None:
        """Have the work done now."""
        self._wake.set()

    def end(self) -> None:
        """Have the work done a last time, and wait for that, PATIENCE seconds at most."""
        self._ending = True
        self._wake.set()
        self._thread.join(PATIENCE)
        if self._thread.is_alive():
            log("WARNING", f"the last work in the background took longer than {PATIENCE:g} s, and is given up")

    def _run(self) -> None:
        while True:
            self._wake.wait(self._seconds)
            self._wake.clear()
            ending = self._ending
            try:
                self._work(ending)
            except Exception as error:
                log_exception(f"work in the background failed: {error!r}")
            if ending:
                return


def at_exit(end: Callable[[], None]) -> None:
    """Call `end` once when this process ends; one that multiprocessing started does not run atexit before 3.13."""
    process, lock = os.getpid(), threading.Lock()

    def once() -> None:
        if os.getpid() == process and lock.acquire(blocking=False):
            end()

    atexit.register(once)
    if "multiprocessing.util" in sys.modules:
        sys.modules["multiprocessing.util"].Finalize(None, once, exitpriority=1)
