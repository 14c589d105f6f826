"""A short measurement of a model on this machine, through the real server and its HTTP door. Linux, by /proc.

A start is measured on all cores: an instance of one vCPU starts with two, by the CPU boost. Requests are measured with
the server on one core and the clients on another, where there are two: what one vCPU gives.
"""

import http.client
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
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
from tools.plan.measured import SHARES, Load, Measured
from tools.plan.problem import PlanError

CONCURRENCIES = (1, 2, 4, 8, 16, 32)
LONGEST_START = 240.0  # seconds; the platform gives up after as many
# If inherited, these would change what is measured, or where.
SET_HERE = ("HOST", "PORT", "WORKERS", "THREADS", "AIP_HTTP_PORT", "AIP_STORAGE_URI", "PYTHONDONTWRITEBYTECODE")


def example(directory: Path) -> bytes:
    """Return the exporter's example request, or a generated one; raise PlanError where nothing can be served."""
    try:
        source = Source(directory, "model")
    except LoadError as error:
        raise PlanError(f"{directory}: {error}") from None
    usable = [
        entry for entry in source.signatures.values() if entry.refusal is None and not entry.name.startswith("__")
    ]
    if not usable:
        raise PlanError(f"{directory}: expected a signature that can be called, got none")
    signature = next((entry for entry in usable if entry.name == DEFAULT), usable[0])
    return tensorflow_serving.example(signature, source.examples.get(signature.name))


class Server(server.Server):
    """A running server: a session of processes of its own, which serves the model called `name`."""

    def __init__(self, directory: Path, environment: Mapping[str, str], log: Path, port: int, cores: set[int]) -> None:
        """Start the server on a port, on these cores."""
        command = [sys.executable, "-m", "serving.servers.standalone"]
        super().__init__(server.spawn(command, environment, log, cores=cores), port, log)
        self.name = str(directory)

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LONGEST_START)
        try:
            connection.request(method, path, body)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def wait(self) -> None:
        """Wait until the model is loaded; raise PlanError with the reason where it cannot be."""
        end = time.monotonic() + LONGEST_START
        while time.monotonic() < end:
            try:
                self.must_live()
                status, body = self.ask("GET", "/readyz")
            except server.StartError as error:
                raise PlanError(f"{self.name}: {error}") from None
            except OSError:
                time.sleep(0.005)
                continue
            if status == 200:
                return
            raise PlanError(f"{self.name}: {error_text(body)}")
        raise PlanError(f"{self.name}: expected a start within {LONGEST_START:g} s, the platform's limit")

    def processes(self) -> list[int]:
        """Return the processes of its session."""
        pids = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal() and (stat := _stat(int(entry.name))) and int(stat[3]) == self.process.pid:
                pids.append(int(entry.name))
        return pids

    def cpu_seconds(self) -> float:
        """User and system time up to now, of those that live."""
        ticks = sum(int(stat[11]) + int(stat[12]) for pid in self.processes() if (stat := _stat(pid)))
        return ticks / os.sysconf("SC_CLK_TCK")


def _stat(pid: int) -> list[str] | None:
    """Return the fields of /proc/PID/stat behind the name; None where the process has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def error_text(body: bytes) -> str:
    """Return the message of an error body."""
    try:
        return str(json.loads(body)["error"])[:500]
    except (ValueError, KeyError, TypeError):
        return body.decode(errors="replace")[:300]


@contextmanager
def running(directory: Path, threads: int, cores: set[int]) -> Iterator[Server]:
    """Start the fast door on a free port, on these cores, and end it on the way out."""
    port = server.free_port()
    environment = {name: value for name, value in os.environ.items() if name not in SET_HERE}
    environment |= {"MODEL_DIR": str(directory.absolute()), "HOST": "127.0.0.1", "PORT": str(port)}
    environment |= {"WORKERS": "1", "THREADS": str(threads)}
    with tempfile.TemporaryDirectory() as folder:
        running_server = Server(directory, environment, Path(folder) / "log", port, cores)
        try:
            yield running_server
        finally:
            running_server.stop()


def start(directory: Path, body: bytes, cores: set[int]) -> tuple[float, float]:
    """Return the seconds, and the CPU seconds, from the start of a process to its first answer, less a second one."""
    begin = time.perf_counter()
    with running(directory, 1, cores) as server:
        server.wait()
        predict(server, body)
        seconds, used = time.perf_counter() - begin, server.cpu_seconds()
        again = time.perf_counter()
        predict(server, body)
        return seconds - (time.perf_counter() - again), used


def predict(server: Server, body: bytes) -> None:
    status, answer = server.ask("POST", "/", body)
    if status != 200:
        raise PlanError(f"{server.name}: its example request is refused, give one with --body: {error_text(answer)}")


def memory(server: Server) -> dict[str, float]:
    """Return MiB: `pss` of all its processes, `peak` as if it were alone, `worker` what one more worker would add."""
    pages = {pid: _rollup(pid) for pid in server.processes()}
    worker = max(pages, key=lambda pid: pages[pid]["Rss"])
    peak = next(
        int(line.split()[1]) / 1024
        for line in Path(f"/proc/{worker}/status").read_text().splitlines()
        if line.startswith("VmHWM:")
    )
    others = sum(page["Pss_Anon"] for pid, page in pages.items() if pid != worker)
    return {
        "pss": sum(page["Pss"] for page in pages.values()),
        "peak": peak + others,
        "worker": pages[worker]["Private_Clean"] + pages[worker]["Private_Dirty"],
    }


def _rollup(pid: int) -> dict[str, float]:
    """Read /proc/PID/smaps_rollup, in MiB: lines as `Pss_Anon:   48123 kB`."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return {name: int(size) / 1024 for name, size, _ in (line.replace(":", " ").split() for line in lines)}


def _load(server: Server, file: Path, clients: int, seconds: float, cores: set[int]) -> Any:
    command = [sys.executable, "-m", "tools.plan.load", str(server.port), str(file), str(clients), str(seconds)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, check=False, preexec_fn=lambda: os.sched_setaffinity(0, cores)
    )
    if done.returncode:
        raise PlanError(f"{server.name}: under load: {(done.stderr.decode().strip().splitlines() or ['?'])[-1][:300]}")
    result = json.loads(done.stdout)
    if not result["requests"]:
        raise PlanError(f"{server.name}: --seconds: expected time for one answer, got {seconds:g}")
    result["milliseconds"] = (np.quantile(result["latencies"], SHARES) * 1000).tolist()
    return result


def measure(
    directory: Path, body: bytes | None, starts: int, seconds: float, concurrencies: tuple[int, ...],
    say: Callable[[str], None],
) -> Measured:  # fmt: skip
    """Measure a model: `starts` starts, then `seconds` at each concurrency."""
    if not Path("/proc/self/smaps_rollup").exists():
        raise PlanError("measuring needs Linux; measure there with --save, and plan anywhere with --measured")
    request = example(directory) if body is None else body
    cores = os.sched_getaffinity(0)
    durations, used = [], []
    for number in range(starts + 1):  # the first reads files that the others find in memory
        found, cpu = start(directory, request, cores)
        say(f"start {number} of {starts}: {found:.2f} s" + ("" if number else " (not counted)"))
        if number:
            durations.append(found)
            used.append(cpu)

    one, rest = {max(cores)}, cores - {max(cores)} or cores
    loads, notes = [], []
    alone: list[float] = []
    by_request = 0.0
    best = 0.0
    with tempfile.TemporaryDirectory() as folder, running(directory, max(concurrencies), one) as server:
        file = Path(folder) / "body"
        file.write_bytes(request)
        server.wait()
        predict(server, request)
        loaded = memory(server)
        _load(server, file, max(concurrencies), min(seconds, 0.5), rest)  # every thread has run once
        for clients in concurrencies:
            before = server.cpu_seconds()
            found = _load(server, file, clients, seconds, rest)
            spent = server.cpu_seconds() - before
            rate = found["requests"] / found["seconds"]
            latencies = found["milliseconds"]
            alone = alone or latencies
            loads.append(Load(clients, rate, latencies[5], latencies[9]))
            say(
                f"{clients} at a time: {rate:,.0f} requests/s, median {latencies[5]:.2f} ms, 99 % {latencies[9]:.2f} ms"
            )
            if rate > best:
                best = rate
                # The load before the counted time used the server too.
                by_request = max(spent, 0.01) / (found["requests"] * 1.1)
                limited = found["busy"] > 0.9 and spent / (found["seconds"] * 1.1) < 0.9
        busy = memory(server)
    if limited:
        notes.append("the load generator was the limit: an instance answers more than was measured")
    if len(cores) < 2:
        notes.append("server and clients shared one core: an instance answers more than was measured")
    say(f"memory: {busy['peak']:.0f} MiB at its highest")
    return Measured(
        model=directory.name,
        date=f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC",
        machine=f"{_cpu()}, {len(cores)} cores, Python {platform.python_version()}",
        server="standalone",
        body_bytes=len(request),
        start_seconds=tuple(round(one, 4) for one in durations),
        start_cpu_seconds=median(used),
        peak_mib=busy["peak"],
        worker_mib=busy["worker"],
        pss_mib=busy["pss"],
        loaded_pss_mib=loaded["pss"],
        cpu_seconds=by_request,
        alone_ms=tuple(alone),
        loads=tuple(loads),
        notes=tuple(notes),
    )


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()
