"""The result of a simulation, in the same form from both simulators."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tools.plan.measured import Floats

# Latencies are counted in bins one hundredth wide, from 10 microseconds to three hours.
EDGES: Floats = np.exp(np.arange(np.log(1e-5), np.log(1.1e4), 0.01))
MIDDLES: Floats = np.sqrt(EDGES[1:] * EDGES[:-1])
BUCKETS = 288  # of a timeline: five minutes of a day each


def bins(latencies: Floats | float) -> NDArray[np.int64]:
    """Return the bin of each latency, in seconds."""
    positions = (np.log(np.maximum(latencies, EDGES[0])) - np.log(EDGES[0])) / 0.01
    return np.asarray(np.clip(positions.astype(np.int64), 0, len(MIDDLES) - 1))


def percentile(counts: Floats, share: float) -> float:
    """Return the latency in seconds below which this share lies; nan where nothing was counted."""
    total = counts.cumsum()
    if not total[-1]:
        return float("nan")
    return float(MIDDLES[np.searchsorted(total, share * total[-1])])


@dataclass
class Timeline:
    """For each of BUCKETS equal parts of the time: means, and the latencies counted."""

    seconds: float  # of one bucket
    requests: Floats = field(default_factory=lambda: np.zeros(BUCKETS))
    instances: Floats = field(default_factory=lambda: np.zeros(BUCKETS))  # mean
    cold: Floats = field(default_factory=lambda: np.zeros(BUCKETS))
    latency: Floats = field(default_factory=lambda: np.zeros((BUCKETS, len(MIDDLES))))


@dataclass
class Outcome:
    """Counts of requests, and seconds of instances. A request is `cold` if it arrived before its instance was ready."""

    simulator: str
    seconds: float
    requests: float = 0.0
    answered: float = 0.0
    refused: float = 0.0
    cold: float = 0.0
    latency_sum: float = 0.0  # seconds, of the answered
    starts: float = 0.0  # instances that were started
    peak: float = 0.0  # most instances at a time
    lifetime: float = 0.0  # instance-seconds from the beginning of a start to the end
    starting: float = 0.0  # of these, while starting
    active: float = 0.0  # billed instance-seconds with a request in the instance
    idle_least: float = 0.0  # instance-seconds of the least number of instances, without a request
    timeline: Timeline = field(default_factory=lambda: Timeline(1.0))

    def percentile(self, share: float) -> float:
        """Return seconds."""
        return percentile(self.timeline.latency.sum(axis=0), share)

    @property
    def mean_latency(self) -> float:
        return self.latency_sum / self.answered if self.answered else float("nan")

    @property
    def mean_instances(self) -> float:
        return self.lifetime / self.seconds
