"""A process and its children: started, measured, ended. Linux, by /proc."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from bench.models import ROOT
from tools.client import connect, exchange
from tools.server import Server, free_port, memory_of, spawn

INHERITED = ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH")  # any other variable could change what is measured


class Failed(Exception):
    """A subject did not start, or answered wrongly; says why, and has the end of its log."""

    def __init__(self, why: str, log: tuple[str, ...]) -> None:
        super().__init__(": ".join([why, *log[-1:]]))
        self.log = log


class Running(Server):
    """The process of a subject, with the time of its start."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: Path, started: float) -> None:
        super().__init__(process, 0, log)
        self.started = started  # time.perf_counter()

    def failed(self, why: str) -> Failed:
        return Failed(why, tuple(self.log.splitlines()[-15:]))

    def must_live(self) -> None:
        if self.process.poll() is not None:
            raise self.failed(f"ended with status {self.process.returncode}")

    def tree(self) -> list[psutil.Process]:
        return [psutil.Process(number) for number in self.processes()]

    def cores(self) -> set[int]:
        return os.sched_getaffinity(self.process.pid)


def inherited() -> dict[str, str]:
    """Return the variables of this process that a measured process gets as well."""
    return {name: os.environ[name] for name in INHERITED if name in os.environ}


def finish(
    command: Sequence[str | Path], environment: dict[str, str] | None = None, folder: Path = ROOT
) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end, in the repository's root by default; on an interruption, kill it and what it has started."""
    with subprocess.Popen(
        command, cwd=folder, env=environment, start_new_session=True, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as popen:  # fmt: skip
        try:
            output, errors = popen.communicate()
        except BaseException:
            os.killpg(popen.pid, signal.SIGKILL)
            popen.wait()
            raise
    return subprocess.CompletedProcess(command, popen.returncode, output, errors)


@contextmanager
def running(
    command: Sequence[str], folder: Path, environment: dict[str, str], log: Path, cores: set[int], piped: bool = False
) -> Iterator[Running]:
    """Start a command on these cores, in a session of its own that is killed on the way out."""
    started = time.perf_counter()
    with spawn(command, inherited() | environment, log, folder, cores, piped) as popen:
        process = Running(popen, log, started)
        try:
            yield process
        finally:
            process.kill()


def private_mb(process: Running) -> float:
    """Return the anonymous pages of the whole tree, 10**6 bytes: no file and no other instance can share them."""
    return sum(memory_of(number)["Pss_Anon"] for number in process.processes()) / 1e6


def worker(process: Running) -> int:
    """Return the process that answers: gunicorn and our server keep a parent that does not."""
    childless = (member for member in process.tree() if not member.children())
    return max(childless, key=lambda member: int(member.memory_info().rss)).pid


@contextmanager
def answering(
    command: Sequence[str], model: Path, request: bytes, folder: Path, cores: set[int]
) -> Iterator[tuple[Running, int]]:
    """Start a server of a model, with the native codec of this process's settings; yield it and its port.

    It has answered the request; raise tools.client.Refused where it has answered another status than 200, and Failed
    where it has ended. Its log is in the folder.
    """
    port = free_port()
    settings = {"MODEL_DIR": str(model.resolve()), "HOST": "127.0.0.1", "PORT": str(port), "TF_CPP_MIN_LOG_LEVEL": "3"}
    settings |= {name: os.environ[name] for name in ("ACCELERATOR",) if name in os.environ}
    with running(command, ROOT, settings, folder / f"{port}.log", cores) as process:
        while True:
            process.must_live()
            try:
                with connect(port) as connection:
                    exchange(connection, request)
            except OSError:
                time.sleep(0.02)
                continue
            yield process, port
            return
