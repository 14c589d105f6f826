"""The simulator of single requests, for low rates; it is the reference for the other simulator.

The requests in an instance share it equally (processor sharing): each of n requests advances at throughput[n] / n.
Requests that find no instance with room wait in one queue, first come, first served.
"""

import math
from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

import numpy as np

from tools.plan.measured import Floats, Instance
from tools.plan.outcome import BUCKETS, Outcome, Timeline, bins
from tools.plan.rules import Autoscaler, Rules, Scale, started

TICK, CHANGE = range(2)  # the order of what happens at the same time


class _Running:
    """An instance: `clock` counts the work that each request in it has had since it became ready."""

    __slots__ = ("began", "billed_from", "billed_until", "clock", "inside", "last", "ready", "version")

    def __init__(self, began: float, ready: float) -> None:
        self.began, self.ready, self.last = began, ready, max(ready, 0.0)
        self.clock, self.version = 0.0, 0
        self.inside: list[tuple[float, int]] = []  # a heap of (clock at which it is done, request)
        self.billed_from = self.billed_until = -1.0


class Simulation:
    """One run over given arrivals."""

    def __init__(
        self, arrivals: Floats, seconds: float, instance: Instance, scale: Scale, rules: Rules,
        random: np.random.Generator, steady: float = 0.0, repeat: int = 1,
    ) -> None:  # fmt: skip
        self.arrivals: list[float] = arrivals.tolist()
        self.seconds, self.repeat, self.scale, self.rules = seconds, repeat, scale, rules
        self.limit, self.cpu_seconds = instance.concurrency, instance.cpu_seconds
        rates = instance.throughput.tolist()
        self.speed = [0.0] + [rates[n] / n for n in range(1, len(rates))]
        self.work: list[float] = random.choice(instance.work, len(arrivals)).tolist()
        self.random, self.durations = random, instance.starts
        self.longest_wait = rules.longest_wait(instance.start)
        self.autoscaler = Autoscaler(instance, scale, rules, steady)

        self.ready = [_Running(0.0, -1.0) for _ in range(scale.begin)]
        self.starting = self.sequence = self.turn = 0
        self.queue: deque[int] = deque()
        self.latency = np.full(len(arrivals), np.nan)
        self.cold = np.zeros(len(arrivals), dtype=bool)
        self.events: list[tuple[float, int, int, Callable[[float, Any], None], Any]] = []
        self.outcome = Outcome("event by event", seconds)
        self.changes: list[tuple[float, int]] = []  # when, and how many instances there were from then on
        self.inside = self.busy = 0
        self.last = self.inside_sum = self.cpu_sum = 0.0
        self.next = 0  # the next arrival
        self.changed(0.0)

    def run(self) -> Outcome:
        """Simulate until every request is answered or refused, and the time is over."""
        self.at(self.rules.tick, TICK, self.look, None)
        while True:
            arrival = self.arrivals[self.next] if self.next < len(self.arrivals) else math.inf
            if self.events and self.events[0][0] <= arrival:
                now, _, _, act, subject = heappop(self.events)
                act(now, subject)
            elif arrival < math.inf:
                self.next += 1
                self.arrive(arrival, self.next - 1)
            else:
                return self.close()

    def at(self, when: float, order: int, act: Callable[[float, Any], None], subject: Any) -> None:
        self.sequence += 1
        heappush(self.events, (when, order, self.sequence, act, subject))

    def arrive(self, now: float, request: int) -> None:
        running = self.choose()
        if running is not None:
            self.enter(now, running, request)
            return
        self.queue.append(request)
        self.at(now + self.longest_wait, CHANGE, self.refuse, request)
        self.start(now, started(len(self.queue), self.starting, self.limit))

    def choose(self) -> _Running | None:
        """Return the emptiest of the instances that the autoscaler asks for, else any other with room."""
        ready = self.ready
        preferred = min(max(self.autoscaler.desired, 1), len(ready))
        best, least = None, self.limit
        self.turn += 1
        for offset in range(preferred):
            running = ready[(offset + self.turn) % preferred]
            if len(running.inside) < least:
                best, least = running, len(running.inside)
                if not least:
                    break
        if best is None:
            best = next((other for other in ready[preferred:] if len(other.inside) < self.limit), None)
        return best

    def advance(self, now: float, entering: int) -> None:
        """Add up the usage since the last change; `entering` is 1, or -1 for a request that leaves."""
        self.inside_sum += self.inside * (now - self.last)
        self.outcome.idle_least += max(0, self.scale.least - self.busy) * (now - self.last)
        self.last = now
        self.inside += entering

    def enter(self, now: float, running: _Running, request: int) -> None:
        self.advance(now, 1)
        if running.inside:
            running.clock += (now - running.last) * self.speed[len(running.inside)]
        else:
            self.busy += 1
            if now >= running.billed_until:
                self.outcome.active += running.billed_until - running.billed_from
                running.billed_from = now
        running.last = now
        heappush(running.inside, (running.clock + self.work[request], request))
        self.cold[request] = running.ready > self.arrivals[request]
        self.schedule(running)

    def schedule(self, running: _Running) -> None:
        running.version += 1  # earlier scheduled ends no longer count
        remains = max(0.0, running.inside[0][0] - running.clock)
        when = running.last + remains / self.speed[len(running.inside)]
        self.at(when, CHANGE, self.finish, (running, running.version))

    def finish(self, now: float, subject: tuple[_Running, int]) -> None:
        running, version = subject
        if running.version != version:
            return
        self.advance(now, -1)
        running.clock, request = heappop(running.inside)
        running.last = now
        self.latency[request] = now - self.arrivals[request]
        self.cpu_sum += self.cpu_seconds * self.work[request]
        if not running.inside:
            self.busy -= 1
            steps = math.ceil((now - running.billed_from) / self.rules.quantum - 1e-9)
            running.billed_until = running.billed_from + max(1, steps) * self.rules.quantum
        if self.queue:
            self.enter(now, running, self.queue.popleft())
        elif running.inside:
            self.schedule(running)

    def refuse(self, now: float, request: int) -> None:
        """Refuse a request that still waits; it is the one that has waited longest."""
        if self.queue and self.queue[0] == request:
            self.queue.popleft()
            self.outcome.refused += 1

    def start(self, now: float, more: int) -> None:
        more = max(0, min(more, self.scale.most - len(self.ready) - self.starting))
        for _ in range(more):
            self.starting += 1
            self.outcome.starts += 1
            duration = self.duration()
            self.outcome.starting += duration
            self.at(now + duration, CHANGE, self.became_ready, _Running(now, now + duration))
        if more:
            self.changed(now)

    def duration(self) -> float:
        """Return how long the next start takes."""
        return float(self.random.choice(self.durations))

    def became_ready(self, now: float, running: _Running) -> None:
        self.starting -= 1
        self.ready.append(running)
        while self.queue and len(running.inside) < self.limit:
            self.enter(now, running, self.queue.popleft())

    @property
    def is_quiet(self) -> bool:
        """Whether nothing but the end of instances happens before the next request."""
        return not (self.inside or self.starting or self.queue)

    def look(self, now: float, _: None) -> None:
        """Apply the autoscaler, at each of its ticks."""
        if now > self.seconds and self.is_quiet and self.next == len(self.arrivals):
            return
        desired = self.autoscaler.look(self.inside_sum + self.inside * (now - self.last), self.cpu_sum)
        self.start(now, desired - len(self.ready) - self.starting)
        over = [idle for idle in self.ready if not idle.inside and now - idle.last >= self.rules.idle]
        over = over[max(0, self.scale.least - (len(self.ready) - len(over))) :]
        for running in over:
            self.end(running, now)
            self.ready.remove(running)
        if over:
            self.changed(now)
        tick = now + self.rules.tick
        if self.is_quiet and self.autoscaler.idle:
            # Nothing changes before the next request or the end of an instance.
            ends = [idle.last + self.rules.idle for idle in self.ready] * (len(self.ready) > self.scale.least)
            arrivals = self.arrivals[self.next : self.next + 1]
            then = min([*arrivals, *ends, max(tick, self.seconds)])
            tick = max(tick, math.ceil(then / self.rules.tick) * self.rules.tick)
        self.at(tick, TICK, self.look, None)

    def end(self, running: _Running, now: float) -> None:
        self.outcome.active += running.billed_until - running.billed_from
        self.outcome.lifetime += now - running.began

    def changed(self, now: float) -> None:
        total = len(self.ready) + self.starting
        self.changes.append((now, total))
        self.outcome.peak = max(self.outcome.peak, total)

    def close(self) -> Outcome:
        outcome, end = self.outcome, max(self.seconds, self.last)
        self.advance(end, 0)
        outcome.seconds = end
        for running in self.ready:
            self.end(running, end)
        answered = ~np.isnan(self.latency)
        cold = self.cold & answered
        outcome.requests, outcome.answered, outcome.cold = map(float, (len(answered), answered.sum(), cold.sum()))
        outcome.latency_sum = float(self.latency[answered].sum())

        line = outcome.timeline = Timeline(end / self.repeat / BUCKETS)
        bucket = (np.asarray(self.arrivals) / line.seconds).astype(np.int64) % BUCKETS
        line.requests += np.bincount(bucket, minlength=BUCKETS) / self.repeat
        line.cold += np.bincount(bucket[cold], minlength=BUCKETS) / self.repeat
        np.add.at(line.latency, (bucket[answered], bins(self.latency[answered])), 1.0)
        line.instances += _means(self.changes, end, self.repeat * BUCKETS).reshape(self.repeat, BUCKETS).mean(axis=0)
        return outcome


def _means(changes: list[tuple[float, int]], end: float, parts: int) -> Floats:
    """Return the mean of a step function in each of so many equal parts up to `end`."""
    times = np.array([when for when, _ in changes] + [end])
    counts = np.array([count for _, count in changes], dtype=np.float64)
    areas = np.concatenate([[0.0], np.cumsum(counts * np.diff(times))])
    edges = np.linspace(0.0, end, parts + 1)
    return np.asarray(np.diff(np.interp(edges, times, areas)) / (end / parts))


def simulate(
    arrivals: Floats, seconds: float, instance: Instance, scale: Scale, rules: Rules, random: np.random.Generator,
    steady: float = 0.0, repeat: int = 1,
) -> Outcome:  # fmt: skip
    """Simulate these arrivals, in seconds and sorted; before them the traffic was `steady` requests/s.

    They are `repeat` times the same shape, one after another; the timeline is the mean of these.
    """
    return Simulation(arrivals, seconds, instance, scale, rules, random, steady, repeat).run()
