"""How a command ends: in a line, never in a traceback, and with what it has started.

if __name__ == "__main__":
    sys.exit(terminal.run("serving", main))
"""

import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from serving.core import inflight


class DiedError(Exception):
    """A signal ended the process that did the work; the text says which, and the run that it ended."""


def run(name: str, main: Callable[[], int]) -> int:
    """Run a command and return its exit status."""
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGINT, _end)
    try:
        status = main()
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT  # as shells say it
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


def apart(name: str, work: Callable[[], int]) -> int:
    """Do the work of a command in a child process and return its exit status; raise DiedError where a signal ends it.

    It forks: no TensorFlow session may have been opened in this process.
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
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # the child gets it too, and says so
    try:
        _, waited = os.waitpid(child, 0)
    except BaseException:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise
    finally:
        signal.signal(signal.SIGINT, before)
    status = os.waitstatus_to_exitcode(waited)
    if status < 0:
        during = " and ".join(inflight.left_by(child))
        raise DiedError(f"{signal.Signals(-status).name}{f' in a run of {during}' if during else ''}")
    return status


def _end(number: int, _frame: Any) -> None:
    """End the command: what it has started ends on the way out."""
    for other in (signal.SIGINT, signal.SIGTERM):
        signal.signal(other, signal.SIG_IGN)  # the way out is not cut short
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)
