"""Instances that come and go, and what a platform does to them."""

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.harness.balancer import Balancer
from tools.server import ENDING, Server, start


class Fleet:
    """Some instances of one model behind a balancer. One thread changes it."""

    def __init__(self, balancer: Balancer, directory: Path, folder: Path, environment: Mapping[str, str]) -> None:
        self._balancer, self._directory, self._folder = balancer, directory, folder
        self._environment = environment
        self.up: list[Server] = []
        self.kept: list[Server] = []  # taken off the list at times, and never ended
        self._every: list[Server] = []
        self.did: Counter[str] = Counter()
        self.statuses: Counter[int] = Counter()  # of those that were asked to end

    def start(self, count: int = 1, *, keep: bool = False) -> None:
        """Start instances, and put them on the list once each is ready."""
        began = self.did["started"]
        logs = [self._folder / f"instance-{began + number}.log" for number in range(count)]
        new = [start(self._directory, log, self._environment) for log in logs]
        self._every = [running for running in self._every if running.process.poll() is None] + new
        for instance in new:
            instance.wait_until_ready()
        (self.kept if keep else self.up).extend(new)
        self.did["started"] += count
        self.route()

    def route(self) -> None:
        """Tell the balancer who is there."""
        self._balancer.route([instance.port for instance in (*self.up, *self.kept)])

    def crash(self) -> None:
        """Kill an instance under load; it is taken off the list afterwards, as a platform finds out."""
        victim = self.up.pop(0)
        victim.kill()
        self.did["killed (SIGKILL)"] += 1
        time.sleep(0.2)
        self.route()

    def retire(self, after: float = 0.1) -> None:
        """Take an instance off the list, and end it as a platform does, by SIGTERM, `after` seconds later."""
        victim = self.up.pop(0)
        self.route()
        time.sleep(after)  # nginx's workers hear of it
        self._end(victim)
        self.did["ended (SIGTERM)"] += 1

    def end_at_once(self) -> None:
        """Send SIGTERM to an instance that still is on the list."""
        victim = self.up.pop(0)
        victim.terminate()
        time.sleep(0.2)
        self.route()
        self._end(victim)
        self.did["ended (SIGTERM) while on the list"] += 1

    def crash_worker(self) -> None:
        """Kill the process that answers, not the one that watches it, which starts another."""
        children = Path(f"/proc/{self.up[0].process.pid}/task/{self.up[0].process.pid}/children").read_text().split()
        for child in children:
            command = Path(f"/proc/{child}/cmdline").read_bytes()
            if b"resource_tracker" not in command:
                os.kill(int(child), signal.SIGKILL)
        self.did["workers killed (SIGKILL)"] += 1
        time.sleep(0.5)

    def to_zero_and_back(self, count: int, seconds: float = 0.5) -> None:
        """Stop all instances, wait for a while, and start some: in between there is no instance."""
        gone, self.up = self.up, []
        kept, self.kept = self.kept, []
        self.route()
        time.sleep(0.1)
        for instance in gone:
            instance.terminate()
        for instance in gone:
            self._end(instance)
        time.sleep(seconds)
        self.kept = kept  # with the first of the others
        self.did["scaled to zero"] += 1
        self.start(count)

    def _end(self, instance: Server) -> None:
        begin = time.monotonic()
        status = instance.stop()
        self.statuses[status] += 1
        self.did["not ended within 10 s"] += time.monotonic() - begin > ENDING

    def close(self) -> None:
        """End all, those too that never became ready."""
        running = [candidate for candidate in self._every if candidate.process.poll() is None]
        for instance in running:
            instance.terminate()
        for instance in running:
            instance.stop()


STEPS = ("crash", "crash_worker", "retire", "end_at_once", "to_zero_and_back")


def chaos(
    fleet: Fleet, size: int, seconds: float, pause: float,
    look: Callable[[], None] = lambda: None, steps: Sequence[str] = STEPS,
) -> None:  # fmt: skip
    """Do every step once in order, then again in shuffled orders until the time is over; end with `size` instances.

    `pause` seconds go by between two steps; `look` is called meanwhile, about twice a second.
    """
    end, random_, rounds, left = time.monotonic() + seconds, random.Random(8), 0, list(steps)
    while rounds == 0 or time.monotonic() < end:
        for step in left:
            if rounds and time.monotonic() >= end:
                break
            fleet.to_zero_and_back(size) if step == "to_zero_and_back" else getattr(fleet, step)()
            if len(fleet.up) < size:
                fleet.start(size - len(fleet.up))
            wait = time.monotonic() + pause
            while (now := time.monotonic()) < wait:
                look()
                time.sleep(min(0.5, wait - now))
        last = left[-1]
        random_.shuffle(left)
        if left[0] == last:  # the same worker twice says less
            left.reverse()
        rounds += 1
