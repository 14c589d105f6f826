"""The distribution of requests over equally loaded instances: a birth and death process.

With m requests in total, each of N instances holds m // N or one more, as with a router that picks the emptiest one.
Requests arrive at `rate` and leave at the sum of the instances' throughputs. N = 1 is exact; with the throughput
[0, µ] it is M/M/N.
Processor sharing makes the outcome independent of how the work of requests is distributed, but for its mean.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tools.plan.measured import Floats


class Station(NamedTuple):
    """Means over time, and probabilities of arrivals."""

    full: float  # share of arrivals that find no room
    idle: float  # share of instances that are empty
    inside: float  # requests in all instances
    seen: Floats  # [concurrency + 1]: share of arrivals that make it n in their instance


def _leaving(requests: NDArray[Any], instances: int, throughput: Floats) -> Floats:
    each, more = np.divmod(requests, instances)
    above = throughput[np.minimum(each + 1, len(throughput) - 1)]
    return np.asarray((instances - more) * throughput[each] + more * above)


def station(rate: float, instances: int, throughput: Floats, waits: bool = True) -> Station:
    """Return the steady state at `rate` requests/s.

    Requests that find no room wait, and an overloaded station is always full. Without `waits` they leave at once, and
    `seen` counts only those that stay.
    """
    limit = len(throughput) - 1
    found_by_arrivals = np.zeros(limit + 1)
    if rate <= 0 or instances <= 0:
        found_by_arrivals[1] = 1.0
        return Station(0.0 if instances else 1.0, 1.0, 0.0, found_by_arrivals)
    load = rate / (instances * throughput[-1])
    if waits and load >= 0.9999:
        found_by_arrivals[limit] = 1.0
        return Station(1.0, 0.0, float(instances * limit), found_by_arrivals)
    most = instances * limit
    # The likeliest number of requests: where the rates of arrival and departure are equal
    low, high = 0, most
    while low < high:
        middle = (low + high) // 2
        if _leaving(np.array([middle]), instances, throughput)[0] < rate:
            low = middle + 1
        else:
            high = middle
    width = 64 + int(12 * np.sqrt(low + 1))
    while True:
        first, last = max(0, low - width), min(most, low + width)
        numbers = np.arange(first, last + 1)
        logs = np.concatenate([[0.0], np.cumsum(np.log(rate / _leaving(numbers[1:], instances, throughput)))])
        logs -= logs.max()
        if (first == 0 or logs[0] < -35) and (last == most or logs[-1] < -35):
            break
        width *= 2
    shares = np.exp(logs)
    beyond = shares[-1] * load / (1 - load) if waits and last == most else 0.0  # the waiting requests, a geometric tail
    total = shares.sum() + beyond
    shares, beyond = shares / total, beyond / total
    full = float((shares[-1] if last == most else 0.0) + beyond)
    idle = float((shares * np.maximum(0, instances - numbers)).sum() / instances)
    inside = float((shares * numbers).sum() + beyond * most)
    room = numbers < most
    np.add.at(found_by_arrivals, numbers[room] // instances + 1, shares[room])
    if waits:
        found_by_arrivals[limit] += full
    else:
        found_by_arrivals /= found_by_arrivals.sum()
    return Station(full, idle, inside, found_by_arrivals)
