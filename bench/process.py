"""A process and its children: started, measured, ended. Linux, by /proc."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench.models import ROOT

INHERITED = ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH")  # any other variable could change what is measured


class Failed(Exception):
    """A subject did not start, or answered wrongly; says why, and has the end of its log."""

    def __init__(self, why: str, log: tuple[str, ...]) -> None:
        super().__init__(": ".join([why, *log[-1:]]))
        self.log = log


@dataclass(frozen=True)
class Running:
    popen: "subprocess.Popen[bytes]"
    log: Path
    started: float  # time.perf_counter()

    def failed(self, why: str) -> Failed:
        return Failed(why, tuple(self.log.read_text(errors="replace").splitlines()[-15:]))

    def must_live(self) -> None:
        if self.popen.poll() is not None:
            raise self.failed(f"ended with status {self.popen.returncode}")

    def tree(self) -> list[psutil.Process]:
        root = psutil.Process(self.popen.pid)
        return [root, *root.children(recursive=True)]

    def cores(self) -> set[int]:
        return os.sched_getaffinity(self.popen.pid)

    def cpu_seconds(self) -> float:
        """User and system time of the tree up to now, ended children included."""
        return sum(sum(process.cpu_times()[:4]) for process in self.tree())


def inherited() -> dict[str, str]:
    """Return the variables of this process that a measured process gets as well."""
    return {name: os.environ[name] for name in INHERITED if name in os.environ}


def finish(
    command: Sequence[str | Path], environment: dict[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end in the repository's root; on an interruption, kill it and what it has started."""
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, start_new_session=True, text=True,
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
    """Start a command on these cores, in a process group of its own that is killed on the way out."""
    with open(log, "wb") as file:
        started = time.perf_counter()
        popen = subprocess.Popen(
            command,
            cwd=folder,
            env=inherited() | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE if piped else file,
            stderr=file,
            start_new_session=True,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )
    try:
        yield Running(popen, log, started)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(popen.pid, signal.SIGKILL)
        popen.communicate()


def private_mb(process: Running) -> float:
    """Return the anonymous pages of the whole tree, 10**6 bytes: no file and no other instance can share them."""
    return sum(rollup(member.pid)["Pss_Anon"] for member in process.tree())


def worker(process: Running) -> psutil.Process:
    """Give the process that answers: gunicorn and our server keep a parent that does not."""
    childless = (member for member in process.tree() if not member.children())
    return max(childless, key=lambda member: member.memory_info().rss)


def rollup(pid: int) -> dict[str, float]:
    """Read /proc/PID/smaps_rollup: lines as `Pss_Anon:   48123 kB`."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return {name: int(size) * 1024 / 1e6 for name, size, _ in (line.replace(":", " ").split() for line in lines)}
