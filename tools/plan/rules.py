"""The platform's rules and limits, as published for Cloud Run.

Sources, read in November 2026: run/docs/about-instance-autoscaling (targets, windows, idle instances),
run/docs/container-contract (pending requests), run/docs/configuring/services/cpu (pairs, boost), run/quotas.
How the platform chooses among instances with room is not published. Here, the instances that the autoscaler requests
share the requests evenly, and further instances are used when those are full.
"""

import math
from collections import deque
from dataclasses import dataclass

from tools.plan import PlanError
from tools.plan.measured import Instance


@dataclass(frozen=True)
class Rules:
    """Seconds and shares."""

    cpu_target: float = 0.6  # of the instance's CPU
    concurrency_target: float = 0.6  # of the instance's largest number of requests at a time
    window: float = 60.0  # both are averaged over it
    tick: float = 5.0  # seconds between two decisions of the autoscaler
    idle: float = 900.0  # seconds that an instance without requests is kept
    pending: float = 10.0  # seconds that a request waits for an instance, or
    pending_starts: float = 3.5  # this many times the mean start, whichever is longer; then it is refused with 429
    quantum: float = 0.1  # billed time is rounded up to it

    def longest_wait(self, start: float) -> float:
        return max(self.pending, self.pending_starts * start)

    def desired(self, concurrency: float, cpu: float, limit: int, cpus: float) -> int:
        """Return how many instances bring these averages, over all instances, down to the targets."""
        by_concurrency = concurrency / (self.concurrency_target * limit)
        by_cpu = cpu / (self.cpu_target * cpus)
        return math.ceil(max(by_concurrency, by_cpu) - 1e-9)


@dataclass(frozen=True)
class Scale:
    """The limits on the number of instances, and their number at the beginning."""

    least: int = 0
    most: int = 100
    initial: int = 0  # at least `least`

    @property
    def begin(self) -> int:
        return max(self.initial, self.least)


class Autoscaler:
    """Chooses the number of instances from averages over the window; before the beginning the traffic was `steady`."""

    def __init__(self, instance: Instance, scale: Scale, rules: Rules, steady: float = 0.0) -> None:
        """`steady` is in requests/s; the instances are those at the beginning."""
        self._instance, self._scale, self._rules = instance, scale, rules
        steps = max(1, round(rules.window / rules.tick))
        work = 1 / float(instance.throughput[1])
        times = [tick * rules.tick * steady for tick in range(-steps, 0)]
        sums = [(time * work, time * instance.cpu_seconds) for time in times]
        self._sums: deque[tuple[float, float]] = deque(sums, maxlen=steps)
        self.desired = scale.begin

    @property
    def idle(self) -> bool:
        """Whether the window has no usage."""
        return self._sums[0] == self._sums[-1]

    def look(self, inside_sum: float, cpu_sum: float) -> int:
        """Choose and return `desired`; called at each tick with the request-seconds and CPU seconds so far."""
        inside, cpu = (now - before for now, before in zip((inside_sum, cpu_sum), self._sums[0]))
        self._sums.append((inside_sum, cpu_sum))
        window, scale, instance = self._rules.window, self._scale, self._instance
        needed = self._rules.desired(inside / window, cpu / window, instance.concurrency, instance.cpus)
        self.desired = min(max(needed, scale.least), scale.most)
        return self.desired


def started(waiting: float, starting: int, limit: int) -> int:
    """Return the number of further instances for the waiting requests: one for each `limit` of them."""
    return max(0, math.ceil(waiting / limit - 1e-9) - starting)


# vCPUs: least and most MiB, vCPUs while it starts with the CPU boost
SIZES: dict[int, tuple[int, int, int]] = {
    1: (512, 4096, 2),  # the second generation's least
    2: (512, 8192, 4),
    4: (2048, 16384, 8),
    6: (4096, 24576, 8),
    8: (4096, 32768, 8),
}
MEMORIES = (512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384, 24576, 32768)  # MiB
MOST_CONCURRENCY = 1000
DEFAULT_MOST_INSTANCES = 100


def check_cpu(cpu: int) -> None:
    """Refuse a number of vCPUs that the platform does not have."""
    if cpu not in SIZES:
        raise PlanError(f"--cpu: expected one of {', '.join(map(str, SIZES))}, got {cpu}")


def check_memory(cpu: int, memory: int) -> None:
    """Refuse MiB that the platform does not have with these vCPUs."""
    least, most, _ = SIZES[cpu]
    if not least <= memory <= most:
        raise PlanError(f"--memory: expected {least} to {most} MiB with {cpu} vCPU, got {memory} MiB")


def memory_for(mebibytes: float) -> int:
    """Return the smallest memory that holds this."""
    for memory in MEMORIES:
        if memory >= mebibytes:
            return memory
    raise PlanError(f"memory: expected at most {MEMORIES[-1]} MiB, the platform's limit, got {mebibytes:.0f} MiB")
