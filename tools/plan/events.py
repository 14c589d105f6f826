"""Every request by itself: the simulator for low rates, and the reference for the other.

Inside an instance the requests share it alike (processor sharing): with n in it each advances at throughput[n] / n.
Requests that find no instance with room wait in one queue, first come, first served.
"""

import math
from collections import deque
from heapq import heappop, heappush
from typing import Any

import numpy as np

from tools.plan.measured import Floats, Instance
from tools.plan.outcome import BUCKETS, Outcome, Timeline, bins
from tools.plan.rules import Rules, Scale, started

READY, FINISH = range(2)
NEVER = math.inf


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
        self.repeat = repeat
        self.arrivals: list[float] = arrivals.tolist()
        self.seconds, self.scale, self.rules = seconds, scale, rules
        self.limit, self.cpus, self.cpu_seconds = instance.concurrency, instance.cpus, instance.cpu_seconds
        rates = instance.throughput.tolist()
        self.speed = [0.0] + [rates[n] / n for n in range(1, len(rates))]
        self.work: list[float] = random.choice(instance.work, len(arrivals)).tolist()
        self.random, self.durations = random, instance.starts
        self.longest_wait = rules.longest_wait(instance.start)

        self.ready: list[_Running] = []
        self.starting = 0
        self.queue: deque[int] = deque()
        self.latency = np.full(len(arrivals), np.nan)
        self.cold = np.zeros(len(arrivals), dtype=bool)
        self.events: list[tuple[float, int, int, Any]] = []  # when, in which order, what, to whom
        self.sequence = self.turn = 0
        self.outcome = Outcome("event by event", seconds)
        self.changes: list[tuple[float, int]] = []

        self.inside = self.busy = 0
        self.last = self.inside_sum = self.cpu_sum = 0.0
        steps = max(1, round(rules.window / rules.tick))
        ticks = range(-steps, 0)
        # As if the traffic had been `steady` requests/s before
        self.history: deque[tuple[float, float]] = deque(
            ((tick * rules.tick * steady / rates[1], tick * rules.tick * steady * self.cpu_seconds) for tick in ticks),
            maxlen=steps,
        )
        initial = scale.least if scale.initial is None else scale.initial
        self.desired = max(initial, scale.least)
        for _ in range(initial):
            self.ready.append(_Running(0.0, -1.0))
        self.counted(0.0)

    def run(self) -> Outcome:
        """Simulate until everything is answered or refused, and the time is over."""
        arrivals, count, place = self.arrivals, len(self.arrivals), 0
        tick = self.rules.tick
        while True:
            arrival = arrivals[place] if place < count else NEVER
            event = self.events[0][0] if self.events else NEVER
            refusal = arrivals[self.queue[0]] + self.longest_wait if self.queue else NEVER
            if refusal < min(arrival, event, tick):
                self.refuse()
                continue
            if tick <= arrival and tick <= event:
                if tick > self.seconds and arrival == NEVER and event == NEVER:
                    break
                self.look(tick)
                tick += self.rules.tick
                if not self.events and not self.inside and self.history[0] == self.history[-1]:
                    # Nothing changes before the next request or the end of an instance
                    ends = [idle.last + self.rules.idle for idle in self.ready] * (len(self.ready) > self.scale.least)
                    then = min([arrival, *ends, max(tick, self.seconds)])
                    tick = max(tick, math.ceil(then / self.rules.tick) * self.rules.tick)
            elif event <= arrival:
                now, _, kind, subject = heappop(self.events)
                if kind == FINISH:
                    running, version = subject
                    if running.version == version:
                        self.finish(now, running)
                else:
                    self.became_ready(now, subject)
            else:
                self.arrive(arrival, place)
                place += 1
        return self.close()

    def push(self, when: float, kind: int, subject: Any) -> None:
        self.sequence += 1
        heappush(self.events, (when, self.sequence, kind, subject))

    def arrive(self, now: float, request: int) -> None:
        running = self.choose()
        if running is not None:
            self.enter(now, running, request)
            return
        self.queue.append(request)
        self.start(now, started(len(self.queue), self.starting, self.limit))

    def choose(self) -> _Running | None:
        """Return the emptiest of the instances that the autoscaler asks for, else any other with room."""
        ready = self.ready
        preferred = min(max(self.desired, 1), len(ready))
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

    def enter(self, now: float, running: _Running, request: int) -> None:
        self.inside_sum += self.inside * (now - self.last)
        self.outcome.idle_least += max(0, self.scale.least - self.busy) * (now - self.last)
        self.last = now
        self.inside += 1
        inside = running.inside
        if inside:
            running.clock += (now - running.last) * self.speed[len(inside)]
        else:
            self.busy += 1
            if now >= running.billed_until:
                self.outcome.active += running.billed_until - running.billed_from
                running.billed_from = now
        running.last = now
        heappush(inside, (running.clock + self.work[request], request))
        self.cold[request] = running.ready > self.arrivals[request]
        self.schedule(running)

    def schedule(self, running: _Running) -> None:
        running.version += 1
        remains = running.inside[0][0] - running.clock
        when = running.last + max(0.0, remains) / self.speed[len(running.inside)]
        self.push(when, FINISH, (running, running.version))

    def finish(self, now: float, running: _Running) -> None:
        self.inside_sum += self.inside * (now - self.last)
        self.outcome.idle_least += max(0, self.scale.least - self.busy) * (now - self.last)
        self.last = now
        self.inside -= 1
        running.clock, request = heappop(running.inside)
        running.last = now
        self.latency[request] = now - self.arrivals[request]
        self.cpu_sum += self.cpu_seconds * self.work[request]
        if not running.inside:
            self.busy -= 1
            quantum = self.rules.quantum
            steps = math.ceil((now - running.billed_from) / quantum - 1e-9)
            running.billed_until = running.billed_from + max(1, steps) * quantum
        if self.queue:
            self.enter(now, running, self.queue.popleft())
        elif running.inside:
            self.schedule(running)

    def refuse(self) -> None:
        """Refuse the request that has waited longest."""
        self.queue.popleft()
        self.outcome.refused += 1

    def start(self, now: float, more: int) -> None:
        more = min(more, self.scale.most - len(self.ready) - self.starting)
        for _ in range(max(0, more)):
            self.starting += 1
            self.outcome.starts += 1
            duration = self.duration()
            self.outcome.starting += duration
            self.push(now + duration, READY, _Running(now, now + duration))
        if more > 0:
            self.counted(now)

    def duration(self) -> float:
        """Return how long the next start takes."""
        return float(self.random.choice(self.durations))

    def became_ready(self, now: float, running: _Running) -> None:
        self.starting -= 1
        self.ready.append(running)
        while self.queue and len(running.inside) < self.limit:
            self.enter(now, running, self.queue.popleft())

    def look(self, now: float) -> None:
        """Do what the autoscaler does at each of its ticks."""
        rules, scale = self.rules, self.scale
        inside_sum = self.inside_sum + self.inside * (now - self.last)
        inside_before, cpu_before = self.history[0]
        self.history.append((inside_sum, self.cpu_sum))
        concurrency = (inside_sum - inside_before) / rules.window
        cpu = (self.cpu_sum - cpu_before) / rules.window
        wanted = rules.desired(concurrency, cpu, self.limit, self.cpus)
        self.desired = min(max(wanted, scale.least), scale.most)
        self.start(now, self.desired - len(self.ready) - self.starting)
        over = [idle for idle in self.ready if not idle.inside and now - idle.last >= rules.idle]
        over = over[max(0, scale.least - (len(self.ready) - len(over))) :]
        for running in over:
            self.end(running, now)
            self.ready.remove(running)
        if over:
            self.counted(now)

    def end(self, running: _Running, now: float) -> None:
        self.outcome.active += running.billed_until - running.billed_from
        self.outcome.lifetime += now - running.began

    def counted(self, now: float) -> None:
        total = len(self.ready) + self.starting
        self.changes.append((now, total))
        self.outcome.peak = max(self.outcome.peak, total)

    def close(self) -> Outcome:
        outcome, end = self.outcome, max(self.seconds, self.last)
        outcome.idle_least += max(0, self.scale.least - self.busy) * (end - self.last)
        outcome.seconds = end
        for running in self.ready:
            self.end(running, end)
        answered = ~np.isnan(self.latency)
        outcome.requests, outcome.answered = float(len(self.arrivals)), float(answered.sum())
        outcome.cold = float((self.cold & answered).sum())
        outcome.latency_sum = float(self.latency[answered].sum())

        line = outcome.timeline = Timeline(end / self.repeat / BUCKETS)
        bucket = (np.asarray(self.arrivals) / line.seconds).astype(np.int64) % BUCKETS
        line.requests += np.bincount(bucket, minlength=BUCKETS) / self.repeat
        line.cold += np.bincount(bucket[self.cold & answered], minlength=BUCKETS) / self.repeat
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
