"""Made-up instances and measurements for the tests of planning."""

from typing import Any

import numpy as np

from tools.plan.measured import SHARES, Instance, Measured, from_dict

ONES = np.ones(1000)
# As many equally likely values of an exponential distribution, whose mean is 1
EXPONENTIAL = -np.log1p(-(np.arange(200_000) + 0.5) / 200_000)
EXPONENTIAL /= EXPONENTIAL.mean()


def made(
    concurrency: int, alone: float, best: float, cpu: float = 0.0, start: float = 1.5, work: Any = ONES
) -> Instance:
    """Return an instance that answers `alone` requests/s one by one and `best` at most."""
    rates = np.minimum(np.arange(concurrency + 1) * float(alone), best)
    return Instance(rates, 1.0, cpu, np.array([start]), work)


MEASURED: dict[str, Any] = {
    "model": "digits",
    "date": "2026-11-22",
    "machine": "made up",
    "start_seconds": [0.5, 0.5, 0.7],
    "start_cpu_seconds": 0.5,
    "peak_mib": 380.0,
    "worker_mib": 40.0,
    "cpu_seconds": 0.001,
    "alone_ms": [1.9, 1.95, 1.96, 1.97, 1.98, 2.0, 2.02, 2.04, 2.1, 2.2, 2.5, 3.0],
    "loads": [
        {"concurrency": 1, "requests_per_second": 500.0},
        {"concurrency": 2, "requests_per_second": 900.0},
        {"concurrency": 4, "requests_per_second": 1000.0},
        {"concurrency": 8, "requests_per_second": 1000.0},
    ],
}
assert len(MEASURED["alone_ms"]) == len(SHARES)


def measured(**changed: Any) -> Measured:
    return from_dict({**MEASURED, **changed}, "made up")
