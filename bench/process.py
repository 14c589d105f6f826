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
from tools.server import Server, memory_of, spawn

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
    command: list[str], folder: Path, environment: dict[str, str], log: Path, cores: set[int], piped: bool = False
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
