"""The fluid simulator: requests as a stream, for high rates. Its run time does not depend on the rate.

While there is room, the requests in the instances are in the steady state of queueing; time then advances
by the autoscaler's tick. While requests wait or instances start, it advances by STEP, and the waiting requests are a
queue of streams. Both follow the rules of the event simulator; where both can be run they agree
(tests/tools/plan/test_fluid.py).
"""

import math
from collections import deque
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from tools.plan.measured import Floats, Instance
from tools.plan.outcome import BUCKETS, MIDDLES, Outcome, Timeline, bins
from tools.plan.queueing import Station, station
from tools.plan.rules import Autoscaler, Rules, Scale, started
from tools.plan.traffic import STEP

FINE = 400  # steps per e-fold of the rate: the resolution of steady states


class Spread(NamedTuple):
    """A steady state of instances, some of which share the load equally: means, and probabilities of arrivals."""

    full: float  # share of arrivals that find no room anywhere
    seen: Floats
    active: float  # instances that are billed
    inside: float  # requests in instances
    busy: float  # instances that are not empty


class Fluid:
    """One run over rates."""

    def __init__(self, rates: Floats, instance: Instance, scale: Scale, rules: Rules, steady: float) -> None:
        self.rates, self.instance, self.scale, self.rules = rates, instance, scale, rules
        self.limit, self.best, self.start_seconds = instance.concurrency, instance.best, instance.start
        self.longest_wait = rules.longest_wait(instance.start)
        self.outcome = Outcome("as a stream", len(rates) * STEP)
        self.line = self.outcome.timeline = Timeline(self.outcome.seconds / BUCKETS)
        self.seen = np.zeros((BUCKETS, self.limit + 1))  # answered, by the number of requests in their instance
        self.station = lru_cache(maxsize=None)(self._station)
        self.spread = lru_cache(maxsize=None)(self._spread)
        self.kept = lru_cache(maxsize=None)(self._kept)

        self.autoscaler = Autoscaler(instance, scale, rules, steady)
        self.ready = scale.begin
        self.starts: deque[tuple[float, int]] = deque()  # (when ready, how many)
        self.queue: deque[list[float]] = deque()  # [when they came, how many, instances that were ready then]
        self.waiting = 0.0
        self.hits = 0.0  # the fractional starts that waiting requests ask for
        self.inside_sum = self.cpu_sum = 0.0
        self.needs: deque[tuple[float, int]] = deque([(0.0, self.ready)])  # falling: most needed in `idle` seconds
        self.counted(0.0, 0.0)

    @property
    def starting(self) -> int:
        return sum(count for _, count in self.starts)

    def _station(self, instances: int, level: int, waits: bool = True) -> Station:
        return station(math.exp(level / FINE), instances, self.instance.throughput, waits)

    def _spread(self, level: int, preferred: int, ready: int) -> Spread:
        """Return the steady state where `preferred` instances share alike, and the others take in turn what is left."""
        rate = remaining = math.exp(level / FINE)
        shares = np.zeros(self.limit + 1)
        active = inside = busy = 0.0
        position, size = 0, preferred
        while position < ready and remaining > 1e-9 * rate:
            size = min(size, ready - position)
            state = self.station(size, round(math.log(remaining) * FINE), size == ready)
            stays = remaining if size == ready else remaining * (1 - state.full)
            shares += stays / rate * state.seen
            active += size * billed(remaining / size, state.idle, self.rules.quantum)
            inside += state.inside
            busy += size * (1 - state.idle)
            remaining *= state.full
            position += size
            size = 1 if position == preferred else position - preferred  # 1, 1, 2, 4, ...
        if remaining > 0 and shares.sum() < 1:
            shares[self.limit] += 1 - shares.sum()
        return Spread(remaining / rate if position >= ready else 0.0, shares, active, inside, busy)

    def _kept(self, level: int, least: int, most: int) -> int:
        """Return how many instances are used once in `idle` seconds, more likely than not."""
        rate = math.exp(level / FINE)

        def unused(instances: int) -> bool:
            return rate * self.rules.idle * self.station(instances, level, False).full < math.log(2)

        low, step = least, 1
        while low < most and not unused(low):
            if unused(min(low + step, most)) and step > 1:
                step = 1
            low, step = min(low + step, most), step * 2
        return low

    def run(self) -> Outcome:
        """Simulate the whole time, and then the waiting requests until they are answered or refused."""
        each = max(1, round(self.rules.tick / STEP))
        for first in range(0, len(self.rates), each):
            rates = self.rates[first : first + each]
            most, now = float(rates.max()), first * STEP
            room = self.ready * self.best * 0.98
            if not self.starts and self.waiting <= 0 and (most < room or most == 0):
                self.calm(now, float(rates.mean()), len(rates) * STEP)
            else:
                for position, rate in enumerate(rates.tolist()):
                    self.step(now + position * STEP, rate)
            self.look(now + len(rates) * STEP)
        now = self.outcome.seconds
        while self.waiting > 1e-9:
            self.step(now, 0.0)
            now += STEP
        return self.close()

    def bucket(self, now: float) -> int:
        return min(int(now / self.line.seconds), BUCKETS - 1)

    def come(self, now: float, count: float) -> None:
        self.outcome.requests += count
        self.line.requests[self.bucket(now)] += count

    def wait(self, now: float, count: float) -> None:
        if count:
            self.queue.append([now, count, float(self.ready)])
            self.waiting += count

    def step(self, now: float, rate: float) -> None:
        """Advance by STEP, with instances that start or requests that wait."""
        while self.starts and self.starts[0][0] <= now + STEP / 2:
            self.ready += self.starts.popleft()[1]
        new, capacity = rate * STEP, self.ready * self.best * STEP
        if self.waiting <= 0 and new < capacity * 0.9999:
            self.calm(now, rate, STEP)
            return
        self.come(now, new)
        self.wait(now, new)
        served = 0.0
        while self.queue and served < capacity:
            arrived, count, there = self.queue[0]
            part = min(count, capacity - served)
            served += part
            self.answer(arrived, part, now - arrived, max(0.0, 1 - there / self.ready))
            self.queue[0][1] -= part
            self.waiting -= part
            if self.queue[0][1] <= 1e-12:
                self.queue.popleft()
        while self.queue and now - self.queue[0][0] >= self.longest_wait:
            count = self.queue.popleft()[1]
            self.outcome.refused += count
            self.waiting -= count
        if not self.queue:
            self.waiting = 0.0
        busy = self.ready * served / capacity if capacity else 0.0
        self.used(now, STEP, busy * self.limit, served, busy, busy)
        if self.waiting > 0 or new:  # at the limit a request waits, even if the means do not show it
            self.start(now, started(max(self.waiting, 1.0), self.starting, self.limit))
            self.need(now, self.ready)

    def answer(self, arrived: float, count: float, wait: float, cold: float) -> None:
        """Count requests that waited; their instance is full."""
        bucket = self.bucket(arrived)
        full = self.limit / self.best
        if wait < STEP / 2:
            self.seen[bucket, self.limit] += count
        else:
            self.line.latency[bucket, int(bins(wait + full))] += count
        self.outcome.latency_sum += count * (wait + full)
        self.outcome.answered += count
        self.count_cold(bucket, count * cold)

    def count_cold(self, bucket: int, count: float) -> None:
        self.outcome.cold += count
        self.line.cold[bucket] += count

    def calm(self, now: float, rate: float, seconds: float) -> None:
        """Advance by `seconds` in the steady state of the ready instances."""
        count = rate * seconds
        self.come(now, count)
        if not (count and self.ready):
            self.used(now, seconds, 0.0, 0.0, 0.0, 0.0)
            self.wait(now, count)
            if count:
                self.start(now, started(self.waiting, self.starting, self.limit))
            return
        preferred = min(max(self.autoscaler.desired, 1), self.ready)
        state = self.spread(round(math.log(rate) * FINE), preferred, self.ready)
        self.seen[self.bucket(now)] += count * state.seen
        self.outcome.answered += count
        self.outcome.latency_sum += state.inside * seconds
        if state.full > 0:
            # Most find a free place before an instance has started.
            blocked = count * state.full
            self.count_cold(self.bucket(now), blocked * math.exp(-self.start_seconds * self.ready * self.best))
            self.hits += seconds / (self.start_seconds + seconds / blocked)
            if self.hits >= 1:
                self.start(now, int(self.hits))
                self.hits %= 1
        self.used(now, seconds, state.inside, count, state.active, state.busy)

    def used(self, now: float, seconds: float, inside: float, served: float, active: float, busy: float) -> None:
        """Add up the usage of the instances' time."""
        self.outcome.active += active * seconds
        self.outcome.idle_least += max(0.0, self.scale.least - busy) * seconds
        self.inside_sum += inside * seconds
        self.cpu_sum += served * self.instance.cpu_seconds
        self.counted(now, seconds)

    def counted(self, now: float, seconds: float) -> None:
        total = self.ready + self.starting
        self.outcome.lifetime += total * seconds
        self.outcome.peak = max(self.outcome.peak, total)
        self.line.instances[self.bucket(now)] += total * seconds / self.line.seconds

    def start(self, now: float, more: int) -> None:
        more = min(more, self.scale.most - self.ready - self.starting)
        if more > 0:
            self.starts.append((now + self.start_seconds, more))
            self.outcome.starts += more
            self.outcome.starting += more * self.start_seconds
            self.need(now, self.ready + self.starting)

    def need(self, now: float, instances: int) -> None:
        while self.needs and self.needs[-1][1] <= instances:
            self.needs.pop()
        self.needs.append((now, instances))

    def look(self, now: float) -> None:
        """Apply the autoscaler, at each of its ticks."""
        desired = self.autoscaler.look(self.inside_sum, self.cpu_sum)
        self.start(now, desired - self.ready - self.starting)
        rate = float(self.rates[min(int(now / STEP), len(self.rates)) - 1])
        if rate > 0 and self.ready:
            preferred = min(max(desired, 1), self.ready)
            level = round(math.log(rate) * FINE)
            self.need(now, preferred if preferred == self.ready else self.kept(level, preferred, self.ready))
        while self.needs and now - self.needs[0][0] > self.rules.idle:
            self.needs.popleft()
        self.ready = min(self.ready, max(self.needs[0][1] if self.needs else 0, self.scale.least))

    def close(self) -> Outcome:
        """Convert the number of requests that arrivals found in their instance into latencies."""
        limit, rates = self.limit, self.instance.throughput
        mixed = np.zeros((limit + 1, len(MIDDLES)))
        for number in range(1, limit + 1):
            indices = bins(self.instance.work * number / rates[number])
            mixed[number] = np.bincount(indices, minlength=len(MIDDLES)) / len(self.instance.work)
        self.line.latency += self.seen @ mixed
        return self.outcome


def billed(rate: float, idle: float, quantum: float) -> float:
    """Return the share of its time for which an instance is billed, with `rate` requests/s and empty for `idle` of it.

    A billed period is extended while the instance is busy at its end; then nothing is billed until the next request.
    """
    if idle <= 1e-12:
        return 1.0
    busy = (1 - idle) / (idle * rate)  # mean seconds of a busy period
    stretch = max(quantum / idle, busy + quantum / 2)
    return stretch / (stretch + 1 / rate)


def simulate(rates: Floats, instance: Instance, scale: Scale, rules: Rules, steady: float = 0.0) -> Outcome:
    """Simulate these rates, in requests/s for each STEP; before them the traffic was `steady` requests/s."""
    return Fluid(rates, instance, scale, rules, steady).run()
