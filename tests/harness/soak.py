"""Instances behind nginx are killed, ended and started under load: `python -m tests.harness.soak --seconds N`.

Clients send requests of every protocol, events and nonsense without a pause, and compare each answer, byte for byte,
with that of an undisturbed instance. Meanwhile instances are killed (SIGKILL), ended (SIGTERM) after and before they
are taken off the balancer's list, their workers killed, and all of them scaled to zero and back. A client retries what
was refused or broke off. A request is lost if it is not answered within 30 s. nginx retries nothing that it has sent.
"""

import argparse
import json
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from bench.machine import about
from bench.models import ROOT
from bench.page import Rows, publish, word
from bench.process import inherited
from tests.harness.asked import cases
from tests.harness.balancer import NGINX, Direct, Nginx
from tests.harness.fleet import Fleet, chaos
from tests.harness.load import Counts, Load, ask_all
from tools.server import Server, memory_of, start

MODEL = ROOT / "model"
SIZE, CLIENTS = 2, 4
SAMPLE = 1.0  # seconds
GROWTH = 1.0  # MB a minute
SETTLED = 30.0  # seconds: a new process's memory, before its caches are full, says nothing of growth
SHORTEST = 60.0  # seconds of what has settled, below which no growth is given


class Sample(NamedTuple):
    """The memory of the kept instance at one moment."""

    second: float
    private: float  # MB


class Memory:
    """Private memory over time."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet, self._begin, self._next = fleet, time.monotonic(), 0.0
        self.samples: list[Sample] = []

    def look(self) -> None:
        now = time.monotonic() - self._begin
        if now >= self._next:
            self._next = now + SAMPLE
            (kept,) = self._fleet.kept
            self.samples.append(Sample(now, private(kept)))

    def minute(self, last: bool) -> float | None:
        """Give the mean of the first minute (after it has settled) or of the last one, of the whole time or its half."""
        end = self.samples[-1].second
        width = min(60.0, max((end - SETTLED) / 2, 0))
        low, high = (end - width, end) if last else (SETTLED, SETTLED + width)
        settled = [sample.private for sample in self.samples if low <= sample.second <= high]
        return sum(settled) / len(settled) if settled and width else None

    def slope(self) -> float | None:
        """Give the growth in MB a minute: the least squares' line through what has settled."""
        points = [(sample.second / 60, sample.private) for sample in self.samples if sample.second >= SETTLED]
        if len(points) < 3 or self.samples[-1].second < SETTLED + SHORTEST:
            return None
        x, y = (sum(values) / len(points) for values in zip(*points))
        below = sum((a - x) ** 2 for a, _ in points)
        return sum((a - x) * (b - y) for a, b in points) / below if below else None


def private(instance: Server) -> float:
    """Return the megabytes of all processes of an instance that no other process shares."""
    total = 0.0
    for process in instance.processes():
        with suppress(OSError):  # it has ended
            pages = memory_of(process)
            total += pages["Private_Clean"] + pages["Private_Dirty"]
    return total / 1e6


def soak(seconds: float, pause: float, folder: Path) -> tuple[Counts, Fleet, Memory, float, str]:
    """Run; give what happened to the requests, to the instances and to memory, the seconds and the balancer's name."""
    environment = inherited()
    quiet = start(MODEL, folder / "quiet.log", environment)
    try:
        quiet.wait_until_ready()
        right = ask_all(quiet.port, cases(MODEL))
    finally:
        quiet.stop()
    balancer = Nginx(folder) if NGINX else Direct()
    fleet = Fleet(balancer, MODEL, folder, environment)
    load = Load(balancer, right, CLIENTS, pause=0.001)
    begin = time.monotonic()
    try:
        fleet.start(keep=True)
        fleet.start(SIZE)
        memory = Memory(fleet)
        load.start()
        chaos(fleet, SIZE, seconds, pause, memory.look)
        counts = load.stop()
        memory.look()
    finally:
        load.stop()
        fleet.close()
        balancer.close()
    return counts, fleet, memory, time.monotonic() - begin, "nginx" if NGINX else "the clients' own list"


def requests_table(counts: Counts, seconds: float) -> Rows:
    refused = ", ".join(f"{number:,} with {status}" for status, number in sorted(counts.refused.items()))
    return [
        ["requests", ""],
        ["sent", f"{counts.sent:,} ({counts.sent / seconds:.0f}/s)"],
        ["answered with the right bytes", f"{counts.right:,}"],
        ["answered wrongly", f"{len(counts.wrong):,}"],
        ["lost", f"{len(counts.lost):,}"],
        ["tried more than once", f"{counts.retried:,}, the slowest answered after {counts.slowest:.1f} s"],
        ["attempts refused with a JSON body", f"{sum(counts.refused.values()):,}{f': {refused}' if refused else ''}"],
        ["attempts refused without one", f"{len(counts.unclean):,}"],
        ["attempts whose connection ended without an answer", f"{counts.broken:,}"],
    ]


def memory_table(memory: Memory) -> Rows:
    first, last, slope = memory.minute(False), memory.minute(True), memory.slope()
    numbers = [f"{value:.1f}" if value is not None else "too short" for value in (first, last)]
    return [
        ["one instance that is kept throughout", "private MB"],
        ["first minute, or half of a shorter run", numbers[0]],
        ["last minute, or half of a shorter run", numbers[1]],
        ["growth a minute, least squares", f"{slope:+.3f}" if slope is not None else "too short"],
    ]


def budgets(counts: Counts, fleet: Fleet, memory: Memory, proxy: bool) -> Rows:
    slope = memory.slope()
    bad = sum(number for status, number in fleet.statuses.items() if status != 0)
    rows = [
        ("requests lost", "0", len(counts.lost), not counts.lost),
        ("answers with other bytes", "0", len(counts.wrong), not counts.wrong),
        ("refusals without a JSON body", "0", len(counts.unclean), not counts.unclean),
        ("SIGTERM: exit status other than 0", "0", bad, not bad),
        ("SIGTERM: not ended within 10 s", "0", fleet.did["not ended within 10 s"], not fleet.did["not ended within 10 s"]),
    ]  # fmt: skip
    if proxy:
        rows.append(("connections without an answer, behind the proxy", "0", counts.broken, not counts.broken))
    table = [["budget", "promised", "measured", "verdict"]]
    table += [[what, promised, f"{measured:,}", word(met)] for what, promised, measured, met in rows]
    if slope is not None:
        table.append(["growth of a kept instance", f"≤ {GROWTH:g} MB a minute", f"{slope:+.3f}", word(slope <= GROWTH)])
    return table


def done_table(fleet: Fleet) -> Rows:
    names = [name for name in fleet.did if name != "not ended within 10 s"]
    statuses = [
        [f"exit status {status} after SIGTERM", f"{times:,}"] for status, times in sorted(fleet.statuses.items())
    ]
    return [["what happened to instances", "times"], *[[name, f"{fleet.did[name]:,}"] for name in names], *statuses]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.harness.soak", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--seconds", type=float, default=120, help="how long (default 120)")
    parser.add_argument("--pause", type=float, default=2.0, help="seconds between two disturbances (default 2)")
    parser.add_argument("--json", action="store_true", help="print the counts, and write no page")
    options = parser.parse_args()
    if not options.seconds > 0 or not options.pause >= 0:
        parser.error("--seconds and --pause: expected numbers above 0")
    facts = about("one run", "python -m tests.harness.soak")
    with tempfile.TemporaryDirectory() as folder:
        counts, fleet, memory, seconds, balancer = soak(options.seconds, options.pause, Path(folder))
    met = not (counts.wrong or counts.lost or counts.unclean)
    for problem in (*counts.wrong[:3], *counts.lost[:3], *counts.unclean[:3]):
        print(problem, file=sys.stderr)
    if options.json:
        print(json.dumps({"sent": counts.sent, "right": counts.right, "wrong": len(counts.wrong), "lost": len(counts.lost),
                          "refused": dict(counts.refused), "broken": counts.broken, "did": dict(fleet.did)}))  # fmt: skip
        return 0 if met else 1
    facts["load generator"] = f"tests.harness.load, {CLIENTS} clients, each request on a connection of its own"
    facts["balancer"] = balancer
    facts["seconds"] = f"{seconds:.0f}, {SIZE} instances and one that is kept, {options.pause:g} s between disturbances"
    publish("soak.md", "Soak", facts, [
        " ".join((__doc__ or "").split("\n\n", 1)[1].split()),
        budgets(counts, fleet, memory, NGINX is not None),
        requests_table(counts, seconds),
        done_table(fleet),
        memory_table(memory),
        "The kept instance is taken off the balancer's list while the others are scaled to zero; it is never ended.",
    ])  # fmt: skip
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
