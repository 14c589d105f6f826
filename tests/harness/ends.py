"""Says how a process that runs tests ended, where it ended in the middle: the hooks are part of tests/conftest.py.

The product ends its process with `os._exit` where a run does not end, and what it logs before goes into pytest's capture and is
lost with it. So `os._exit` and signals that end a process write every thread's stack to the standard error of the run first, and
the process that waits for the workers of pytest-xdist prints the status of one that is gone.
"""

import faulthandler
import os
import signal
import subprocess
import sys
import time
from typing import Any, NoReturn

import pytest

SIGNALS = (
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGALRM,
    signal.SIGVTALRM,
    signal.SIGPROF,
    signal.SIGXCPU,
    signal.SIGXFSZ,
)
PATIENCE = 60.0  # seconds in which the runs that a test has begun end

_exit = os._exit


def pytest_configure() -> None:
    """Watch the ends of this process; its forks end as they do."""
    errors, process = os.dup(2), os.getpid()  # nothing is captured yet

    def say_why(status: int) -> NoReturn:
        if os.getpid() == process:
            os.write(errors, f"\na process of the tests, {process}, ends with os._exit({status}):\n".encode())
            faulthandler.dump_traceback(errors, all_threads=True)
        _exit(status)

    os._exit = say_why
    for number in SIGNALS:
        if signal.getsignal(number) is signal.SIG_DFL:
            faulthandler.register(number, errors, all_threads=True, chain=True)


def pytest_unconfigure() -> None:
    """End as any process does."""
    os._exit = _exit
    for number in SIGNALS:
        faulthandler.unregister(number)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Print how a worker of pytest-xdist ended that has not come to its end."""
    if error:
        try:
            status = node.gateway._io.popen.wait(30)
        except (AttributeError, subprocess.TimeoutExpired) as unknown:
            status = repr(unknown)
        print(f"\n[{node.gateway.id}] ended with status {status}; a negative one is a signal's number", file=sys.stderr)


@pytest.fixture(autouse=True)
def _no_run_is_left() -> Any:
    """Fail a test that leaves a run in flight: after RUN_TIMEOUT seconds it would end the process, in another test."""
    yield
    if inflight := sys.modules.get("serving.core.inflight"):
        end = time.monotonic() + PATIENCE
        while (left := inflight.begun_before(time.monotonic())) and time.monotonic() < end:
            time.sleep(0.02)
        if left:
            pytest.fail(f"it leaves runs in flight: {', '.join(run.text for run in left)}")
