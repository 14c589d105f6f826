"""A server of this repository as a process: started on a free port, waited for, and ended with its children.

The tools, the tests and the harness of the tests start servers by it.
"""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from serving.core.settings import ROOT

HOST = "127.0.0.1"
ENDING = 10.0  # seconds that a platform gives a server to end


class StartError(Exception):
    """The server does not listen; the text says why, with the last line of its log."""


def free_port() -> int:
    """Return a port of the loopback interface that nothing listens on."""
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        port: int = listener.getsockname()[1]
        return port


def spawn(
    command: Sequence[str],
    environment: Mapping[str, str],
    log: Path,
    folder: Path = ROOT,
    cores: Collection[int] | None = None,
) -> "subprocess.Popen[bytes]":
    """Start a command in `folder`, as the leader of a process group, on the given cores; it writes into `log`."""
    with log.open("wb") as output:
        return subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            start_new_session=True, preexec_fn=(lambda: os.sched_setaffinity(0, cores)) if cores else None,
        )  # fmt: skip


class Server:
    """A server process, the leader of its process group. One thread ends it."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
        """Take over a process of `spawn`'s, which is to listen on the port."""
        self.process, self.port = process, port
        self.url = f"http://{HOST}:{port}"
        self._log = log
        self._asked_to_end = False

    @property
    def log(self) -> str:
        """Return what it has written so far."""
        return self._log.read_text(errors="replace")

    @property
    def last_line(self) -> str:
        """Return the last line of the log that is not empty, 300 characters of it at most."""
        lines = [line for line in self.log.splitlines() if line.strip()]
        return lines[-1][:300] if lines else "its log is empty"

    def must_live(self) -> None:
        """Raise StartError where the process has ended."""
        if self.process.poll() is not None:
            raise StartError(f"the server ended with status {self.process.returncode}: {self.last_line}")

    def wait_for_port(self, seconds: float = 120.0) -> None:
        """Wait until the port is open; raise StartError where the process ends before, or after so many seconds."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.must_live()
            try:
                socket.create_connection((HOST, self.port), 1).close()
                return
            except OSError:
                time.sleep(0.02)
        raise StartError(f"the server did not open its port in {seconds:g} s: {self.last_line}")

    def terminate(self) -> None:
        """Ask it to end, once, and return at once: SIGTERM to the first process alone, as a platform does."""
        if not self._asked_to_end:
            self._asked_to_end = True
            self.process.send_signal(signal.SIGTERM)

    def stop(self, seconds: float = ENDING) -> int:
        """Ask it to end, wait so long, and return its exit status; kill what is left of its group."""
        self.terminate()
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return -signal.SIGKILL
        finally:
            self.kill()

    def kill(self) -> None:
        """End every process of its group at once, as a crash or a platform may."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
