"""One repetition of everything for one subject and one model; a server is started three times.

First unmeasured: then its files are in memory, whatever has used that since the last repetition. Then on every core:
start to first right answer, latency of one connection, memory. Then pinned to one core with the load on another, as an
instance of one core would run: requests a second.
"""

import os
import re
import select
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import psutil

from bench.environments import python
from bench.models import BATCH, CACHE, Model
from bench.process import Running, private_mb, running
from bench.subjects import Subject, variables
from tools.client import NONE, Headers, Refused, connect, exchange, post
from tools.load import Load, load, quantile
from tools.server import free_port

PATIENCE = 60.0  # seconds until a start counts as failed
PAUSE = 0.002  # seconds between two looks at a starting server
CORES = sorted(os.sched_getaffinity(0))
SERVER, LOAD = CORES[0], CORES[-1]
CONNECTIONS = (1, 16)

Measured = dict[str, float]


@dataclass(frozen=True)
class Effort:
    """How much of a model's plan is done, and with how many connections."""

    share: float = 1.0
    connections: tuple[int, ...] = CONNECTIONS

    def requests(self, model: Model) -> int:
        return max(int(model.plan.requests * self.share), 10)

    def seconds(self, model: Model) -> float:
        return max(model.plan.seconds * self.share, 1.0)


def measure(subject: Subject, model: Model, effort: Effort) -> Measured:
    """Return each measure of this subject by its key (bench/report.py); raise Failed if it does not answer rightly."""
    if not subject.path:
        bare_start(subject, model)
        return bare_start(subject, model)
    with answering(subject, model, set(CORES)):
        pass
    return on_all_cores(subject, model, effort) | on_one_core(subject, model, effort)


@contextmanager
def started(
    subject: Subject, model: Model, port: int, cores: set[int], settings: dict[str, str] | None = None
) -> Iterator[Running]:
    """Start a subject; what its client sees of a broken server becomes the server's failure, with its log."""
    command = subject.command(python(subject.environment), model, port)
    log = CACHE / f"{model.name}-{subject.name}.log"
    environment = variables(subject, model, port) | (settings or {})
    with running(command, subject.folder, environment, log, cores, piped=not subject.path) as process:
        try:
            yield process
        except (OSError, Refused, subprocess.CalledProcessError, psutil.Error) as error:
            raise process.failed(str(error)) from error


@contextmanager
def answering(subject: Subject, model: Model, cores: set[int]) -> Iterator[tuple[Running, int, bytes, bytes]]:
    """Start a subject and wait for its first right answer; yield the process, port, request, and the answer's head."""
    port = free_port()
    with started(subject, model, port, cores) as process:
        request = post(port, subject.path, model.request_file.read_bytes())
        head = first_right_answer(process, port, request, lambda body: subject.answers(model, body))
        yield process, port, request, head


def bare_start(subject: Subject, model: Model) -> Measured:
    with started(subject, model, 0, set(CORES)) as process:
        assert process.process.stdout
        ready, _, _ = select.select([process.process.stdout], [], [], PATIENCE)
        line = process.process.stdout.readline() if ready else b"nothing"
        wall, cpu = time.perf_counter() - process.started, process.cpu_seconds()
        if not model.floor_answers(line):
            raise process.failed(f"not the answer: {line[:300].decode(errors='replace')}")
    return {"start_seconds": wall, "start_cpu_seconds": cpu}


def on_all_cores(subject: Subject, model: Model, effort: Effort) -> Measured:
    with answering(subject, model, set(CORES)) as (process, port, request, head):
        measured = {"start_seconds": time.perf_counter() - process.started, "start_cpu_seconds": process.cpu_seconds()}
        measured |= {f"start: {step}": taken for step, taken in server_timing(head).items()}
        with connect(port) as connection:
            answers = [timed(connection, request) for _ in range(effort.requests(model))]
        latencies = sorted(taken for taken, _ in answers)
        steps = [server_timing(head) for _, head in answers]
        measured |= {f"request: {step}": median([each.get(step, 0.0) for each in steps]) for step in steps[-1]}
        return measured | {
            "p50_ms": quantile(latencies, 0.5),
            "p99_ms": quantile(latencies, 0.99),
            "private_mb": private_mb(process),
        }


def server_timing(head: bytes) -> Measured:
    """Read `Server-Timing: decode;dur=0.02, run;dur=0.1, ...`, milliseconds by step; empty without that field."""
    line = re.search(rb"(?im)^server-timing: (.*)$", head)
    return (
        {name.decode(): float(taken) for name, taken in re.findall(rb"([\w-]+);dur=([0-9.]+)", line[1])} if line else {}
    )


def timed(connection: socket.socket, request: bytes) -> tuple[float, bytes]:
    """Return the milliseconds until the answer is there, and its head."""
    began = time.perf_counter()
    head, _ = exchange(connection, request)
    return 1000 * (time.perf_counter() - began), head


def on_one_core(subject: Subject, model: Model, effort: Effort) -> Measured:
    seconds = effort.seconds(model)
    with answering(subject, model, {SERVER}) as (process, port, request, _):
        with connect(port) as connection:
            for _ in range(effort.requests(model) // 10):
                exchange(connection, request)
        measured: Measured = {}
        for count in effort.connections:
            loaded = under_load(process, port, subject.path, model.request_file, seconds, connections=count)
            measured |= {f"{key}@{count}": value for key, value in loaded.items()}
        if model.batch_file and subject.serves_model:
            batch = post(port, subject.path, model.batch_file.read_bytes())
            first_right_answer(process, port, batch, model.batch_answers)
            loaded = under_load(process, port, subject.path, model.batch_file, seconds, connections=16)
            measured["rows_per_second"] = BATCH * loaded["requests_per_second"]
        return measured


def under_load(
    process: Running, port: int, path: str, body: Path, seconds: float,
    cores: frozenset[int] = frozenset({LOAD}), *, connections: int, headers: Headers = NONE,
) -> Measured:  # fmt: skip
    """Measure a server while the load comes from these cores; its shares are of the cores that it may use."""
    own = process.cores()
    began, used, idle = time.perf_counter(), process.cpu_seconds(), idle_seconds(own)
    answered: Load = load(port, path, body, seconds, set(cores), connections=connections, headers=headers)
    lasted, busy, idle = time.perf_counter() - began, process.cpu_seconds() - used, idle_seconds(own) - idle
    if answered.refused or answered.failed or not answered.answered:
        raise process.failed(
            f"{answered.refused} refused and {answered.failed} failed under load, {answered.answered} answered"
        )
    return {
        "requests_per_second": answered.per_second,
        "load_p50_ms": answered.p50_ms,
        "load_p99_ms": answered.p99_ms,
        "cpu_us": 1e6 * busy / answered.answered,
        "busy_share": busy / lasted / len(own),
        "idle_share": idle / lasted / len(own),
    }


def idle_seconds(cores: set[int]) -> float:
    """Return how long these cores have had nothing to do since the machine started."""
    times = psutil.cpu_times(percpu=True)
    return sum(float(times[core].idle + times[core].iowait) for core in cores)


def first_right_answer(process: Running, port: int, request: bytes, right: Callable[[bytes], bool]) -> bytes:
    """Ask until an answer comes, return its head; a refused connection and 503 are a server that is not ready yet."""
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
            if not right(body):
                raise process.failed(f"a wrong answer: {body[:300].decode(errors='replace')}")
            return head
        time.sleep(PAUSE)
    raise process.failed(f"no answer in {PATIENCE:.0f} s, at last {last}")
