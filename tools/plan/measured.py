"""The measurements of a model: read from and written to JSON, and converted to the simulated instance."""

import json
import math
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tools.load import SHARES
from tools.plan import PlanError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Rate:
    """The throughput of a closed loop of `concurrency` clients."""

    concurrency: int
    requests_per_second: float


@dataclass(frozen=True)
class Measured:
    """One model on one machine: requests on one core, starts on all."""

    model: str
    date: str
    machine: str
    start_seconds: tuple[float, ...]  # from the start of the process to the first right answer, each start
    start_cpu_seconds: float  # of a start, median
    peak_mib: float  # of one worker with what it needs, under load
    worker_mib: float  # that a second worker adds
    cpu_seconds: float  # of a request, under load
    alone_ms: tuple[float, ...]  # of a request alone, at SHARES
    loads: tuple[Rate, ...]  # by rising concurrency, the first one alone
    notes: tuple[str, ...] = ()

    @property
    def start(self) -> float:
        return sum(self.start_seconds) / len(self.start_seconds)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"


def read(path: Path) -> Measured:
    """Read a saved measurement; raise PlanError for a malformed one."""
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise PlanError(f"--measured: {path}: {error.strerror}") from None
    except ValueError:
        raise PlanError(f"--measured: {path}: expected JSON that --save wrote") from None
    return from_dict(content, str(path))


def from_dict(content: Any, source: str) -> Measured:
    """Check and convert a value of JSON; unused keys of older measurements are ignored."""

    def refused(problem: str) -> PlanError:
        return PlanError(f"--measured: {source}: {problem}"[:300])

    if not isinstance(content, dict):
        raise refused(f"expected an object, got {type(content).__name__}")
    names = [field.name for field in fields(Measured)]
    if missing := [name for name in names if name not in content and name != "notes"]:
        raise refused(f"expected {missing[0]!r}, which is missing")
    values = {name: content[name] for name in names if name in content}
    for name in ("start_seconds", "alone_ms"):
        if not isinstance(values[name], list) or not values[name] or not all(map(_positive, values[name])):
            raise refused(f"{name}: expected numbers above 0, got {values[name]!r}")
        values[name] = tuple(map(float, values[name]))
    for name in ("start_cpu_seconds", "peak_mib", "worker_mib", "cpu_seconds"):
        if not _positive(values[name]) and not (name == "worker_mib" and values[name] == 0):
            raise refused(f"{name}: expected a number above 0, got {values[name]!r}")
    if len(values["alone_ms"]) != len(SHARES) or list(values["alone_ms"]) != sorted(values["alone_ms"]):
        raise refused(f"alone_ms: expected {len(SHARES)} numbers, rising")
    try:
        loads = tuple(Rate(load["concurrency"], load["requests_per_second"]) for load in values["loads"])
    except (TypeError, KeyError):
        loads = ()
    numbers = [number for load in loads for number in (load.concurrency, load.requests_per_second)]
    rising = all(first.concurrency < second.concurrency for first, second in pairwise(loads))
    if not loads or not all(map(_positive, numbers)) or loads[0].concurrency != 1 or not rising:
        raise refused("loads: expected one for each concurrency, from 1 upwards")
    return Measured(**{**values, "loads": loads, "notes": tuple(values.get("notes", ()))})


def _positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf


POINTS = 1000


@dataclass(frozen=True)
class Instance:
    """The speed of one instance: with n requests in it, it finishes `throughput[n]` a second; they share it equally."""

    throughput: Floats  # requests/s, [concurrency + 1], the first 0
    cpus: float
    cpu_seconds: float  # of a request
    starts: Floats  # seconds, each as likely as the others
    work: Floats  # of a request, relative to the mean: equally likely values whose mean is 1

    @property
    def concurrency(self) -> int:
        return len(self.throughput) - 1

    @property
    def start(self) -> float:
        return float(self.starts.mean())

    @property
    def best(self) -> float:
        """Requests/s of an instance that is full."""
        return float(self.throughput[-1])


def work(measured: Measured) -> Floats:
    """Return the time of a request alone as POINTS equally likely values, relative to their mean."""
    values = np.interp((np.arange(POINTS) + 0.5) / POINTS, SHARES, measured.alone_ms)
    return np.asarray(values / values.mean(), dtype=np.float64)


def throughput(measured: Measured, concurrency: int, workers: int) -> Floats:
    """Return the requests/s of `workers` processes, each on a core, with 0 to `concurrency` requests among them.

    It is interpolated between the measurements. It never decreases, since a decrease in the measurements is noise.
    """
    counts = [0, *(load.concurrency for load in measured.loads)]
    rates = np.maximum.accumulate([0.0, *(load.requests_per_second for load in measured.loads)])
    each, more = np.divmod(np.arange(concurrency + 1), workers)
    worker_rates = np.interp(np.arange(concurrency + 2), counts, rates)
    return np.asarray((workers - more) * worker_rates[each] + more * worker_rates[each + 1], dtype=np.float64)


def instance(
    measured: Measured, concurrency: int, cpu: int, workers: int, start_cpus: float, overhead: float, period: float
) -> Instance:
    """Return the simulated instance: `start_cpus` CPUs while it starts, `overhead` seconds before its process runs.

    The startup probe is sent every `period` seconds, and a ready instance waits for the next one; 0: it does not wait.
    """
    starts = np.maximum(np.asarray(measured.start_seconds), measured.start_cpu_seconds / start_cpus)
    if period:
        starts = np.ceil(starts / period - 1e-9) * period
    return Instance(
        throughput(measured, concurrency, workers), float(cpu), measured.cpu_seconds, starts + overhead, work(measured)
    )
