"""How a command ends: in a line, never in a traceback, and with what it has started.

if __name__ == "__main__":
    sys.exit(terminal.run("serving", main))
"""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any


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
        print(f"{name}: this needs {package}, which is not installed here: pip install -r requirements-dev.txt",
              file=sys.stderr)  # fmt: skip
        return 1


def _end(number: int, _frame: Any) -> None:
    """End the command: what it has started ends on the way out."""
    for other in (signal.SIGINT, signal.SIGTERM):
        signal.signal(other, signal.SIG_IGN)  # the way out is not cut short
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)
