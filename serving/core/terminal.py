"""Runs a command: it ends with one line instead of a traceback, and stops the processes that it started.

if __name__ == "__main__":
    sys.exit(terminal.run("serving", main))
"""

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from serving.core import inflight


class DiedError(Exception):
    """A signal ended the worker process, or its time was over; the text says which."""

    def __init__(self, reason: str, runs: tuple[str, ...]) -> None:
        """Keep the runs of the model that were interrupted: signatures and shapes."""
        super().__init__(f"{reason} in a run of {' and '.join(runs)}" if runs else reason)
        self.runs = runs


def run(name: str, main: Callable[[], int]) -> int:
    """Run a command and return its exit status, 128 and the signal's number after a signal, as shells do."""
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGINT, _end)
    try:
        status = main()
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if os.path.isdir(os.path.join(os.path.dirname(os.path.dirname(__file__)), package)):
            raise  # one of ours
        print(f"{name}: this needs {package}, which is not installed here: pip install -r requirements/dev.txt",
              file=sys.stderr)  # fmt: skip
        return 1


def apart(name: str, work: Callable[[], int], seconds: float) -> int:
    """Run a command's work in a forked child process and return its exit status.

    Raise DiedError if a signal ends it, or if it takes longer than `seconds`. No TensorFlow session may have been
    opened in this process: it would not survive the fork.
    """
    sys.stdout.flush()
    child = os.fork()
    if not child:
        status = 1
        try:
            status = run(name, work)
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            with suppress(OSError, ValueError):
                sys.stderr.flush()
            os._exit(status)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # the child gets it too, and reports it
    late = threading.Event()

    def end_late() -> None:
        late.set()
        with suppress(ProcessLookupError):  # it has just ended
            os.kill(child, signal.SIGKILL)

    timer = threading.Timer(seconds, end_late)
    timer.start()
    try:
        _, waited = os.waitpid(child, 0)
    except BaseException:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise
    finally:
        timer.cancel()
        signal.signal(signal.SIGINT, before)
    status = os.waitstatus_to_exitcode(waited)
    if status < 0:
        reason = f"took more than {seconds:g} s" if late.is_set() else f"died of {signal.Signals(-status).name}"
        raise DiedError(reason, tuple(inflight.left_by(child)))
    return status


_held: list[list[int]] = []  # for each block of `held`, the signals that have arrived in it


@contextmanager
def held() -> Iterator[None]:
    """Let SIGINT and SIGTERM end the command after the block, in which a process is started and is noted as such."""
    arrived: list[int] = []
    _held.append(arrived)
    try:
        yield
    finally:
        _held.pop()
        for number in arrived:
            signal.raise_signal(number)


def _end(number: int, _frame: Any) -> None:
    """End the command by an exception, so that `finally` blocks stop what it started."""
    if _held:
        _held[-1].append(number)
        return
    for handled in (signal.SIGINT, signal.SIGTERM):
        signal.signal(handled, signal.SIG_IGN)  # a second signal does not interrupt the clean-up
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)
