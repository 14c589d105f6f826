"""Is what `python -m serving plan` simulates what happens? `python -m bench.plan_check` writes docs/benchmarks/plan.md.

A small platform of its own starts and stops real servers by the simulated rules, with shortened windows, under
a load that is drawn once. The simulator gets the same arrivals, the starts that happened, and what the model was
measured to do beforehand. Both share the formulas of tools.plan.rules and nothing else.
"""

import argparse
import asyncio
import json
import math
import tempfile
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bench.machine import about
from bench.models import ROOT
from bench.page import Part, publish, terminal
from bench.process import inherited
from tools.plan import events
from tools.plan.measure import CONCURRENCIES, example, measure
from tools.plan.measured import Instance, Measured, instance
from tools.plan.outcome import Outcome
from tools.plan.rules import Autoscaler, Rules, Scale, started
from tools.server import Server, start

SHORT = Rules(window=3.0, tick=0.25, idle=4.0, pending=10.0)


@dataclass(eq=False)
class Running:
    """A real server and the connections to it that are free."""

    server: Server
    began: float
    ready: float = 0.0
    last: float = 0.0  # when its last request was answered
    inside: int = 0
    free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = field(default_factory=list)


@dataclass
class Record:
    """What happened, in seconds from the beginning; one entry for each request."""

    arrivals: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)  # nan: refused
    cold: list[bool] = field(default_factory=list)
    starts: list[tuple[float, float]] = field(default_factory=list)  # when, and for how long
    lifetime: float = 0.0
    seconds: float = 0.0


class Platform:
    """Starts, feeds and stops servers by the rules."""

    def __init__(self, directory: Path, body: bytes, instance: Instance, scale: Scale, rules: Rules) -> None:
        self.directory, self.limit, self.scale, self.rules = directory, instance.concurrency, scale, rules
        head = f"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
        self.message, self.cpu_seconds = head.encode() + body, instance.cpu_seconds
        self.autoscaler, self.logs = Autoscaler(instance, scale, rules), tempfile.TemporaryDirectory()
        self.ready: list[Running] = []
        self.starting: set[asyncio.Task[None]] = set()
        self.running: set[Running] = set()
        self.queue: deque[asyncio.Future[Running]] = deque()
        self.inside = self.turn = 0
        self.inside_sum = self.cpu_sum = self.last = 0.0
        self.record, self.began = Record(), time.perf_counter()

    def now(self) -> float:
        return time.perf_counter() - self.began

    async def request(self) -> None:
        """Send one request as soon as there is room for it."""
        came, index = self.now(), len(self.record.arrivals)
        self.record.arrivals.append(came)
        self.record.latencies.append(math.nan)
        self.record.cold.append(False)
        running = self.choose()
        if running is None:
            waiting: asyncio.Future[Running] = asyncio.get_running_loop().create_future()
            self.queue.append(waiting)
            self.start(started(len(self.queue), len(self.starting), self.limit))
            mean = sum(long for _, long in self.record.starts) / max(1, len(self.record.starts))
            try:
                running = await asyncio.wait_for(asyncio.shield(waiting), self.rules.longest_wait(mean))
            except asyncio.TimeoutError:
                if waiting in self.queue:
                    self.queue.remove(waiting)
                    return
                running = await waiting
        else:
            self.enter(running)
        self.record.cold[index] = running.ready > came
        try:
            await self.exchange(running)
            self.record.latencies[index] = self.now() - came
        finally:
            self.leave(running)

    def choose(self) -> Running | None:
        preferred = min(max(self.autoscaler.desired, 1), len(self.ready))
        self.turn += 1
        turned = [self.ready[(offset + self.turn) % preferred] for offset in range(preferred)]
        best = min(turned, key=lambda running: running.inside, default=None)
        if best is not None and best.inside < self.limit:
            return best
        return next((other for other in self.ready[preferred:] if other.inside < self.limit), None)

    def count(self, more: int) -> None:
        now = self.now()
        self.inside_sum += self.inside * (now - self.last)
        self.last = now
        self.inside += more

    def enter(self, running: Running) -> None:
        self.count(1)
        running.inside += 1

    def leave(self, running: Running) -> None:
        self.count(-1)
        running.inside -= 1
        running.last = self.now()
        self.cpu_sum += self.cpu_seconds
        self.feed(running)

    def feed(self, running: Running) -> None:
        while self.queue and running.inside < self.limit:
            waiting = self.queue.popleft()
            self.enter(running)
            waiting.set_result(running)

    async def exchange(self, running: Running) -> None:
        if running.free:
            reader, writer = running.free.pop()
        else:
            reader, writer = await asyncio.open_connection("127.0.0.1", running.server.port)
        writer.write(self.message)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        await reader.readexactly(int(head.rpartition(b"content-length:")[2].partition(b"\r\n")[0]))
        if not head.startswith(b"http/1.1 200"):
            raise ConnectionError(head.decode())
        running.free.append((reader, writer))

    def start(self, more: int) -> None:
        for _ in range(min(more, self.scale.most - len(self.ready) - len(self.starting))):
            task = asyncio.create_task(self.started())
            self.starting.add(task)

    async def started(self) -> None:
        """Start a server, and take it in once it has answered."""
        began, log = self.now(), Path(self.logs.name) / f"{len(self.record.starts)}-{len(self.running)}.log"
        running = Running(start(self.directory, log, inherited() | {"THREADS": str(self.limit)}), began)
        self.running.add(running)
        while True:
            running.server.must_live()
            try:
                await self.exchange(running)
                break
            except OSError:
                await asyncio.sleep(0.01)
        running.ready = running.last = self.now()
        self.record.starts.append((running.began, running.ready - running.began))
        self.starting.discard(asyncio.current_task())
        self.ready.append(running)
        self.feed(running)

    def stop(self, running: Running) -> None:
        self.record.lifetime += self.now() - running.began
        for _, writer in running.free:
            writer.close()
        self.running.discard(running)
        running.server.kill()

    async def scale_for_ever(self) -> None:
        """Look, at each tick, as the autoscaler does."""
        rules, scale = self.rules, self.scale
        while True:
            await asyncio.sleep(rules.tick - self.now() % rules.tick)
            self.count(0)
            desired = self.autoscaler.look(self.inside_sum, self.cpu_sum)
            self.start(desired - len(self.ready) - len(self.starting))
            over = [idle for idle in self.ready if not idle.inside and self.now() - idle.last >= rules.idle]
            for running in over[max(0, scale.least - (len(self.ready) - len(over))) :]:
                self.ready.remove(running)
                self.stop(running)

    async def play(self, script: "Callable[[Platform], Awaitable[None]]") -> Record:
        """Run a script of requests, and stop everything behind it."""
        scaling = asyncio.create_task(self.scale_for_ever())
        try:
            await script(self)
            await asyncio.gather(*self.starting)
        finally:
            scaling.cancel()
            self.record.seconds = self.now()
            for running in list(self.running):
                self.stop(running)
            self.logs.cleanup()
        return self.record


def recorded(arrivals: list[float], seconds: float) -> Callable[[Platform], Awaitable[None]]:
    """Return a script that sends requests at these times, without waiting for earlier responses."""

    async def script(platform: Platform) -> None:
        tasks = []
        for arrival in arrivals:
            await asyncio.sleep(max(0.0, arrival - platform.now()))
            tasks.append(asyncio.create_task(platform.request()))
        await asyncio.gather(*tasks)
        await asyncio.sleep(max(0.0, seconds - platform.now()))

    return script


class Replayed(events.Simulation):
    """A simulation whose starts take as long as those that happened, in their order."""

    def duration(self) -> float:
        """Return the next one's time; the mean of all where more are simulated than happened."""
        index = int(self.outcome.starts) - 1
        return float(self.durations[index] if index < len(self.durations) else self.durations.mean())


def simulated(record: Record, instance: Instance, scale: Scale, rules: Rules) -> Outcome:
    """Return what the simulator makes of the arrivals and the starts that were recorded."""
    starts = np.array([long for _, long in sorted(record.starts)])
    given = Instance(instance.throughput, instance.cpus, instance.cpu_seconds, starts, instance.work)
    random = np.random.default_rng(7)
    return Replayed(np.array(record.arrivals), record.seconds, given, scale, rules, random).run()


def larger(body: bytes, rows: int) -> bytes:
    """Return a request with its first row repeated, so that most of its time is the model's and not the server's."""
    document = json.loads(body)
    document["instances"] = document["instances"][:1] * rows
    return json.dumps(document).encode()


def bursts(seconds: float, base: float, peak: float, seed: int) -> list[float]:
    """Draw a Poisson process: every ten seconds two of `peak`, one of nothing for longer than an instance is kept."""
    random, second = np.random.default_rng(seed), np.arange(int(seconds))
    rates = np.where(second % 10 < 2, peak, np.where(second % 20 < 14, base, 0.0))
    counts = random.poisson(rates)
    return sorted((np.repeat(second, counts) + random.random(counts.sum())).tolist())


def rows_of(record: Record, outcome: Outcome) -> list[list[str]]:
    answered = np.array([latency for latency in record.latencies if not math.isnan(latency)])
    real = {
        "requests": float(len(record.arrivals)),
        "refused": float(len(record.arrivals) - len(answered)),
        "cold, %": 100 * sum(record.cold) / max(1, len(answered)),
        "instances started": float(len(record.starts)),
        "instance-seconds": record.lifetime,
        **{f"p{share:g}, ms": 1000 * float(np.quantile(answered, share / 100)) for share in (50, 90, 95, 99)},
    }
    ours = {
        "requests": outcome.requests,
        "refused": outcome.refused,
        "cold, %": 100 * outcome.cold / outcome.answered,
        "instances started": outcome.starts,
        "instance-seconds": outcome.lifetime,
        **{f"p{share:g}, ms": 1000 * outcome.percentile(share / 100) for share in (50, 90, 95, 99)},
    }
    rows = [["", "real", "simulated", "simulated / real"]]
    for key, value in real.items():
        ratio = f"{ours[key] / value:.2f}" if value else "-"
        rows.append([key, f"{value:.4g}", f"{ours[key]:.4g}", ratio])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.plan_check", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120, help="of load, for each concurrency (default 120)")
    parser.add_argument("--rows", type=int, default=100, help="of a request (default 100)")
    parser.add_argument("--model", type=Path, default=ROOT / "model")
    parser.add_argument("--base", type=float, default=0.1, help="requests/s, as a share of what a core answers")
    parser.add_argument("--peak", type=float, default=0.6, help="the same, in bursts")
    parser.add_argument("--most", type=int, default=3, help="instances (default 3)")
    parser.add_argument("--no-page", action="store_true", help="print, and leave docs/benchmarks/plan.md alone")
    options = parser.parse_args()
    body = larger(example(options.model), options.rows)
    measured: Measured = measure(options.model, body, 3, 1.0, CONCURRENCIES[:4], print)
    parts: list[Part] = []
    for limit in (1, 4):
        given = instance(measured, limit, 1, 1, 2.0, 0.0, 0.0)
        arrivals = bursts(options.seconds, options.base * given.best, options.peak * given.best, 5)
        scale = Scale(0, options.most)
        platform = Platform(options.model, body, given, scale, SHORT)
        record = asyncio.run(platform.play(recorded(arrivals, options.seconds)))
        parts += [f"Concurrency {limit}", rows_of(record, simulated(record, given, scale, SHORT))]
    if options.no_page:
        print("\n\n".join(map(terminal, parts)))
    else:
        facts = about("1", "python -m bench.plan_check") | {"load generator": "one process, open loop"}
        facts["the load"] = (
            f"requests of {options.rows} rows; every ten seconds two of {options.peak:g} of what a core answers, then "
            f"{options.base:g} of it or nothing; at most {options.most} instances on the same cores"
        )
        facts["windows"] = f"{SHORT.window:g} s for the averages, {SHORT.tick:g} s a tick, idle for {SHORT.idle:g} s"
        publish("plan.md", "Simulated and real", facts, parts)


if __name__ == "__main__":
    main()
