"""A short measurement of a model on this machine, through the standalone server and HTTP. Linux, by /proc.

A start is measured on all cores: an instance of one vCPU starts with two, by the CPU boost. Requests are measured with
the server on one core and the clients on another, if there are two: this is the throughput of one vCPU.
"""

import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from typing import Any

from serving.core.errors import LoadError
from serving.protocols import tensorflow_serving
from serving.savedmodel.signature import DEFAULT
from serving.savedmodel.source import Source
from tools import server
from tools.load import Load, load
from tools.plan import PlanError
from tools.plan.measured import Measured, Rate
from tools.server import Server, StartError, error_text, memory_of, peak_of

CONCURRENCIES = (1, 2, 4, 8, 16, 32)
LONGEST_START = 240.0  # seconds after which the platform gives up
BATCHED = 1.1  # times the best rate: batching that brings less is not worth a note
MIB = 1 << 20
# If inherited, these would change what is measured, or where.
SET_HERE = ("HOST", "PORT", "WORKERS", "THREADS", "AIP_HTTP_PORT", "AIP_STORAGE_URI", "PYTHONDONTWRITEBYTECODE")
Say = Callable[[str], None]


def example(directory: Path) -> bytes:
    """Return the exporter's example request, or a generated one; raise PlanError where nothing can be served."""
    try:
        source = Source(directory, "model")
    except LoadError as error:
        raise PlanError(f"{directory}: {error}") from None
    usable = {name: entry for name, entry in source.signatures.items() if not (entry.refusal or name.startswith("__"))}
    if not usable:
        raise PlanError(f"{directory}: expected a signature that can be called, got none")
    signature = usable.get(DEFAULT) or next(iter(usable.values()))
    return tensorflow_serving.example(signature, source.examples.get(signature.name))


def measure(
    directory: Path, body: bytes | None, starts: int, seconds: float, concurrencies: tuple[int, ...], say: Say
) -> Measured:
    """Measure a model: `starts` starts, then `seconds` at each concurrency; raise PlanError with the reason."""
    if not Path("/proc/self/smaps_rollup").exists():
        raise PlanError("measuring needs Linux; measure there with --save, and plan anywhere with --measured")
    request = example(directory) if body is None else body
    try:
        return Measured(
            model=directory.name,
            date=f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC",
            machine=f"{cpu_name()}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}",
            **_starts(directory, request, starts, say),
            **_loads(directory, request, seconds, concurrencies, say),
        )
    except (StartError, PlanError) as error:
        raise PlanError(f"{directory}: {error}") from None


def _starts(directory: Path, request: bytes, count: int, say: Say) -> dict[str, Any]:
    """Measure starts on all cores, from the start of the process to its first answer, less the time of a second one."""
    wall, cpu = [], []
    for number in range(count + 1):  # the first one reads files that are in memory for the others
        begin = time.perf_counter()
        with _running(directory, 1, os.sched_getaffinity(0)) as running:
            _predict(running, request)
            seconds, used = time.perf_counter() - begin, running.cpu_seconds()
            again = time.perf_counter()
            _predict(running, request)
            seconds -= time.perf_counter() - again
        say(f"start {number} of {count}: {seconds:.2f} s" + ("" if number else " (not counted)"))
        if number:
            wall.append(round(seconds, 4))
            cpu.append(used)
    return {"start_seconds": tuple(wall), "start_cpu_seconds": median(cpu)}


def _loads(directory: Path, request: bytes, seconds: float, concurrencies: tuple[int, ...], say: Say) -> dict[str, Any]:
    """Measure one server on one core, under a closed loop of clients at each concurrency."""
    cores = os.sched_getaffinity(0)
    own, others = {max(cores)}, cores - {max(cores)} or cores
    results: list[tuple[Load, float]] = []
    with tempfile.TemporaryDirectory() as folder, _running(directory, max(concurrencies), own) as running:
        file = Path(folder) / "body"
        file.write_bytes(request)
        _predict(running, request)
        _load(running, file, max(concurrencies), min(seconds, 0.5), others)  # so that every thread has run once
        for clients in concurrencies:
            result, used = _load(running, file, clients, seconds, others)
            say(f"{clients} at a time: {result.per_second:,.0f} requests/s, "
                f"median {result.p50_ms:.2f} ms, 99 % {result.p99_ms:.2f} ms")  # fmt: skip
            results.append((result, used))
        peak, worker = _memory(running)
    say(f"memory: {peak:.0f} MiB at its highest")
    notes = _batched(directory, request, seconds, max(concurrencies), own, others, max(results, key=_rate)[0], say)
    best, used = max(results, key=_rate)
    if best.busy > 0.9 and used < 0.9 * seconds:
        notes.append("the load generator was the limit: an instance answers more than was measured")
    if len(cores) < 2:
        notes.append("server and clients shared one core: an instance answers more than was measured")
    return {
        "peak_mib": peak,
        "worker_mib": worker,
        "cpu_seconds": max(used, 0.01) / best.answered,
        "alone_ms": results[0][0].quantiles_ms,
        "loads": tuple(Rate(clients, result.per_second) for clients, (result, _) in zip(concurrencies, results)),
        "notes": tuple(notes),
    }


def _rate(pair: tuple[Load, float]) -> float:
    return pair[0].per_second


def _batched(
    directory: Path, request: bytes, seconds: float, clients: int, own: set[int], others: set[int], best: Load, say: Say
) -> list[str]:
    """Return a note where dynamic batching, if it is not set already, brings more."""
    if clients == 1 or os.environ.get("BATCH_ROWS"):
        return []
    with tempfile.TemporaryDirectory() as folder, _running(directory, clients, own, BATCH_ROWS="16") as running:
        file = Path(folder) / "body"
        file.write_bytes(request)
        _predict(running, request)
        result, _ = _load(running, file, clients, seconds, others)
    text = f"with BATCH_ROWS=16 one core answers {result.per_second:,.0f}/s with {clients} at a time"
    say(text)
    return [text] if result.per_second > BATCHED * best.per_second else []


@contextmanager
def _running(directory: Path, threads: int, cores: set[int], **variables: str) -> Iterator[Server]:
    """Start the server on these cores, wait until its model is loaded, and stop it at the end of the block."""
    environment = {name: value for name, value in os.environ.items() if name not in SET_HERE}
    environment |= {"THREADS": str(threads), **variables}
    with (
        tempfile.TemporaryDirectory() as folder,
        server.running(directory.absolute(), Path(folder) / "log", environment, cores=cores) as running,
    ):
        running.wait_until_ready(LONGEST_START)
        yield running


def _predict(running: Server, request: bytes) -> None:
    status, answer = running.send("POST", "/", request)
    if status != 200:
        raise PlanError(f"its example request is refused, give one with --body: {error_text(answer)}")


def _load(running: Server, file: Path, clients: int, seconds: float, cores: set[int]) -> tuple[Load, float]:
    """Put load on a server from a process on these cores; return the result and the server's CPU seconds."""
    load(running.port, "/", file, seconds / 10, cores, connections=clients)  # to settle
    before = running.cpu_seconds()
    result = load(running.port, "/", file, seconds, cores, connections=clients)
    if result.failed or result.refused:
        raise PlanError(f"under load: {result.failed} requests failed and {result.refused} were refused")
    if not result.per_second:
        raise PlanError(f"--seconds: expected time for at least one answer with {clients} clients, got {seconds:g}")
    return result, running.cpu_seconds() - before


def _memory(running: Server) -> tuple[float, float]:
    """Return MiB: the peak of the server without other processes, and the memory of one more worker."""
    pages = {process: memory_of(process) for process in running.processes()}
    worker = max(pages, key=lambda process: pages[process]["Rss"])
    others = sum(page["Pss_Anon"] for process, page in pages.items() if process != worker)
    own = pages[worker]["Private_Clean"] + pages[worker]["Private_Dirty"]
    return (peak_of(worker) + others) / MIB, own / MIB


def cpu_name() -> str:
    """Return the name of this machine's processor."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()
