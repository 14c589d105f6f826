"""A process and its children: started, measured, ended. Linux, by /proc."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

# Inherited, these would change what is measured.
UNWANTED = ("PYTHONDONTWRITEBYTECODE", "PYTHONPROFILEIMPORTTIME", "MODEL_NAME", "THREADS", "WORKERS", "DEBUG")


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

    def cpu_seconds(self) -> float:
        """User and system time of the tree up to now, ended children included."""
        return sum(sum(process.cpu_times()[:4]) for process in self.tree())


@contextmanager
def running(
    command: list[str], folder: Path, environment: dict[str, str], log: Path, cores: set[int], piped: bool = False
) -> Iterator[Running]:
    """Start a command on these cores, in a process group of its own that is killed on the way out."""
    inherited = {name: value for name, value in os.environ.items() if name not in UNWANTED}
    with open(log, "wb") as file:
        started = time.perf_counter()
        popen = subprocess.Popen(
            command,
            cwd=folder,
            env=inherited | environment,
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


@dataclass(frozen=True)
class Memory:
    """Megabytes (10**6 bytes). `uss`, `pss` and `rss` are the worker's: the process of the tree that answers."""

    uss: float
    pss: float
    rss: float
    private: float  # of the whole tree: anonymous pages, which no file and no other instance can share


def memory(process: Running) -> Memory:
    tree = process.tree()
    # gunicorn and Granian keep a parent that answers nothing: the worker is the largest process without children.
    worker = max((member for member in tree if not member.children()), key=lambda member: member.memory_info().rss)
    of_worker = rollup(worker.pid)
    return Memory(
        uss=of_worker["Private_Clean"] + of_worker["Private_Dirty"],
        pss=of_worker["Pss"],
        rss=of_worker["Rss"],
        private=sum(rollup(member.pid)["Pss_Anon"] for member in tree),
    )


def rollup(pid: int) -> dict[str, float]:
    """Read /proc/PID/smaps_rollup: lines as `Pss_Anon:   48123 kB`."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return {name: int(size) * 1024 / 1e6 for name, size, _ in (line.replace(":", " ").split() for line in lines)}
