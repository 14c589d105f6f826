"""A short measurement of a model on this machine, through the standalone server and HTTP. Linux, by /proc.

A start is measured on all cores: an instance of one vCPU starts with two, by the CPU boost. Requests are measured with
the server on one core and the clients on another, if there are two: what one vCPU gives.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from serving.core.errors import LoadError
from serving.core.settings import ROOT
from serving.protocols import tensorflow_serving
from serving.savedmodel.signature import DEFAULT
from serving.savedmodel.source import Source
from tools import server
from tools.plan import PlanError
from tools.plan.measured import SHARES, Load, Measured
from tools.server import Server, StartError, error_text, memory_of, peak_of

CONCURRENCIES = (1, 2, 4, 8, 16, 32)
LONGEST_START = 240.0  # seconds; the platform gives up after as many
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
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder, _running(directory, max(concurrencies), own) as running:
        file = Path(folder) / "body"
        file.write_bytes(request)
        _predict(running, request)
        _load(running, file, max(concurrencies), min(seconds, 0.5), others)  # every thread has run once
        for clients in concurrencies:
            result = _load(running, file, clients, seconds, others)
            latencies = result["milliseconds"]
            say(f"{clients} at a time: {result['rate']:,.0f} requests/s, "
                f"median {latencies[5]:.2f} ms, 99 % {latencies[9]:.2f} ms")  # fmt: skip
            results.append(result)
        peak, worker = _memory(running)
    say(f"memory: {peak:.0f} MiB at its highest")
    best = max(results, key=lambda result: float(result["rate"]))
    notes = []
    if best["busy"] > 0.9 and best["server_busy"] < 0.9:
        notes.append("the load generator was the limit: an instance answers more than was measured")
    if len(cores) < 2:
        notes.append("server and clients shared one core: an instance answers more than was measured")
    return {
        "peak_mib": peak,
        "worker_mib": worker,
        "cpu_seconds": best["cpu_seconds"],
        "alone_ms": tuple(results[0]["milliseconds"]),
        "loads": tuple(Load(clients, result["rate"]) for clients, result in zip(concurrencies, results)),
        "notes": tuple(notes),
    }


@contextmanager
def _running(directory: Path, threads: int, cores: set[int]) -> Iterator[Server]:
    """Start the server on these cores, wait until its model is loaded, and end it on the way out."""
    environment = {name: value for name, value in os.environ.items() if name not in SET_HERE}
    environment["THREADS"] = str(threads)
    with tempfile.TemporaryDirectory() as folder:
        running = server.start(directory.absolute(), Path(folder) / "log", environment, cores=cores)
        try:
            running.wait_until_ready(LONGEST_START)
            yield running
        finally:
            running.stop()


def _predict(running: Server, request: bytes) -> None:
    status, answer = running.send("POST", "/", request)
    if status != 200:
        raise PlanError(f"its example request is refused, give one with --body: {error_text(answer)}")


def _load(running: Server, file: Path, clients: int, seconds: float, cores: set[int]) -> dict[str, Any]:
    """Put load on a server from a process on these cores."""
    command = [sys.executable, "-m", "tools.plan.load", str(running.port), str(file), str(clients), str(seconds)]
    before = running.cpu_seconds()
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, check=False, preexec_fn=lambda: os.sched_setaffinity(0, cores)
    )
    spent = running.cpu_seconds() - before
    if done.returncode:
        raise PlanError(f"under load: {(done.stderr.decode().strip().splitlines() or ['?'])[-1][:300]}")
    result: dict[str, Any] = json.loads(done.stdout)
    if not result["requests"]:
        raise PlanError(f"--seconds: expected time for one answer, got {seconds:g}")
    result["rate"] = result["requests"] / result["seconds"]
    result["milliseconds"] = (np.quantile(result["latencies"], SHARES) * 1000).tolist()
    # The tenth of the time before the counted one used the server too.
    result["cpu_seconds"] = max(spent, 0.01) / (result["requests"] * 1.1)
    result["server_busy"] = spent / (result["seconds"] * 1.1)
    return result


def _memory(running: Server) -> tuple[float, float]:
    """Return MiB: the peak as if the server were alone on the machine, and what one more worker would add."""
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
