"""Real instances of the server, each a process of its own on a free port of the loopback interface."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from serving.core.settings import ROOT
from tools.verify.client import Client, VerifyError

STARTING = 120.0  # seconds
ENDING = 10.0  # what a platform gives


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


class Instance:
    """A server of one model, of one worker. End it with `stop`, or `kill`."""

    def __init__(
        self, directory: Path | str, folder: Path, environment: Mapping[str, str] | None = None, port: int | None = None
    ) -> None:
        """Start it, and return at once; its log is written into `folder`."""
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._asked_to_end = False
        self._log = folder / f"instance-{self.port}.log"
        settings = {"MODEL_DIR": str(directory), "HOST": "127.0.0.1", "PORT": str(self.port), "WORKERS": "1"}
        with self._log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "serving.servers.standalone"],
                cwd=ROOT,
                env={**(os.environ if environment is None else environment), **settings},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        """Return what it has written so far."""
        return self._log.read_text(errors="replace")

    def wait(self) -> "Instance":
        """Wait until the model is there; raise VerifyError where it will not be."""
        end = time.monotonic() + STARTING
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise VerifyError(f"the server ended with status {self.process.returncode}: {_last(self.log)}")
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                break
            except OSError:
                time.sleep(0.02)
        else:
            raise VerifyError(f"the server did not open its port in {STARTING:g} s: {_last(self.log)}")
        with Client(self.url) as client:
            answer = client.get("/readyz")
        if answer.status != 200:
            raise VerifyError(f"the server is not ready: {answer.body.decode(errors='replace')}")
        return self

    def kill(self) -> None:
        """End every process of it at once, as a crash or the platform may."""
        self._kill_all()
        self.process.wait()

    def terminate(self) -> None:
        """Ask it to end, once, and return at once."""
        if not self._asked_to_end:
            self._asked_to_end = True
            self.process.send_signal(signal.SIGTERM)  # to the first process alone, as a platform does

    def stop(self) -> int:
        """Ask it to end, wait as long as a platform does, and return its exit status; kill what is left."""
        self.terminate()
        try:
            return self.process.wait(ENDING)
        except subprocess.TimeoutExpired:
            return -signal.SIGKILL
        finally:
            self._kill_all()
            self.process.wait()

    def _kill_all(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)


def _last(log: str) -> str:
    return next((line for line in reversed(log.splitlines()) if line.strip()), "its log is empty")
