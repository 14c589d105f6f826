"""One repetition of everything for one subject and one model; a server is started twice.

First on every core: start to first right answer, latency of one connection, memory. Then pinned to one core with
the load on another, as an instance of one core would run: answers a second.
"""

import os
import select
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench.client import NONE, Headers, Refused, ask, connect, exchange, post
from bench.load import load
from bench.models import CACHE, Model
from bench.process import Running, memory, running
from bench.subjects import Subject, environment, free_port

PATIENCE = 60.0  # seconds until a start counts as failed
PAUSE = 0.002  # seconds between two looks at a starting server
CORES = sorted(os.sched_getaffinity(0))
SERVER, LOAD = CORES[0], CORES[-1]


@dataclass(frozen=True)
class Effort:
    """How much of the plan of a model is done."""

    share: float = 1.0

    def requests(self, model: Model) -> int:
        return max(int(model.plan.requests * self.share), 10)

    def seconds(self, model: Model) -> float:
        return max(model.plan.seconds * self.share, 1.0)


def measure(subject: Subject, model: Model, effort: Effort) -> dict[str, float]:
    """Give each measure of this subject by its name; raise Failed if it does not answer rightly."""
    if not subject.serves:
        return bare_start(subject, model)
    return on_all_cores(subject, model, effort) | on_one_core(subject, model, effort)


@contextmanager
def started(subject: Subject, model: Model, port: int, cores: set[int]) -> Iterator[Running]:
    """Start a subject; what its client sees of a broken server becomes the server's failure, with its log."""
    command, log = subject.command(model, port), CACHE / f"{model.name}-{subject.name}.log"
    with running(
        command, subject.folder, environment(subject, model, port), log, cores, piped=not subject.serves
    ) as process:
        try:
            yield process
        except (OSError, Refused, subprocess.CalledProcessError, psutil.Error) as error:
            raise process.failed(str(error)) from error


def bare_start(subject: Subject, model: Model) -> dict[str, float]:
    with started(subject, model, 0, set(CORES)) as process:
        assert process.popen.stdout
        ready, _, _ = select.select([process.popen.stdout], [], [], PATIENCE)
        line = process.popen.stdout.readline() if ready else b"nothing"
        wall, cpu = time.perf_counter() - process.started, process.cpu_seconds()
        if not model.floor_answers(line):
            raise process.failed(f"not the answer: {line[:300].decode(errors='replace')}")
    return {"start_seconds": wall, "start_cpu_seconds": cpu}


def on_all_cores(subject: Subject, model: Model, effort: Effort) -> dict[str, float]:
    port = free_port()
    with started(subject, model, port, set(CORES)) as process:
        request = post(port, subject.path, model.request_file.read_bytes())
        first_right_answer(process, port, request, subject, model)
        wall, cpu = time.perf_counter() - process.started, process.cpu_seconds()

        with connect(port) as connection:
            latencies = sorted(timed(connection, request) for _ in range(effort.requests(model)))
        of_memory = memory(process)
    return {
        "start_seconds": wall,
        "start_cpu_seconds": cpu,
        "p50_ms": 1000 * latencies[len(latencies) // 2],
        "p99_ms": 1000 * latencies[int(len(latencies) * 0.99)],
        "private_mb": of_memory.private,
        "uss_mb": of_memory.uss,
        "pss_mb": of_memory.pss,
        "rss_mb": of_memory.rss,
    }


def timed(connection: socket.socket, request: bytes) -> float:
    began = time.perf_counter()
    ask(connection, request)
    return time.perf_counter() - began


def on_one_core(subject: Subject, model: Model, effort: Effort) -> dict[str, float]:
    port = free_port()
    with started(subject, model, port, {SERVER}) as process:
        request = post(port, subject.path, model.request_file.read_bytes())
        first_right_answer(process, port, request, subject, model)
        with connect(port) as connection:
            for _ in range(effort.requests(model) // 10):
                ask(connection, request)

        return under_load(process, port, subject.path, model.request_file, effort.seconds(model), {LOAD})


def under_load(
    process: Running, port: int, path: str, body: Path, seconds: float, cores: set[int], headers: Headers = NONE
) -> dict[str, float]:
    """Measure a server while the load comes from these cores; its shares are of the cores that it may use."""
    own = process.cores()
    began, used, idle = time.perf_counter(), process.cpu_seconds(), idle_seconds(own)
    answered = load(port, path, body, seconds, cores, headers)
    lasted, busy, idle = time.perf_counter() - began, process.cpu_seconds() - used, idle_seconds(own) - idle
    if answered.errors or not answered.requests or busy <= 0:
        raise process.failed(f"{answered.errors} errors under load, beside {answered.requests} answers")
    return {
        "requests_per_second": answered.requests / answered.seconds,
        "requests_per_cpu_second": answered.requests / busy,
        "busy_share": busy / lasted / len(own),
        "idle_share": idle / lasted / len(own),
    }


def idle_seconds(cores: set[int]) -> float:
    """How long these cores have had nothing to do since the machine started."""
    times = psutil.cpu_times(percpu=True)
    return sum(float(times[core].idle + times[core].iowait) for core in cores)


def first_right_answer(process: Running, port: int, request: bytes, subject: Subject, model: Model) -> bytes:
    """Ask until an answer comes, give its head; a refused connection and 503 are a server that is not ready yet."""
    last = ""
    while time.perf_counter() < process.started + PATIENCE:
        process.must_live()
        try:
            with connect(port) as connection:
                head, body = exchange(connection, request)
        except ConnectionError as error:
            last = str(error)
        except Refused as error:
            last = str(error)
            if "status 503" not in last:
                raise
        else:
            if not subject.answers(model, body):
                raise process.failed(f"a wrong answer: {body[:300].decode(errors='replace')}")
            return head
        time.sleep(PAUSE)
    raise process.failed(f"no answer in {PATIENCE:.0f} s, at last {last}")
