"""Memory: what one more process costs, whether it grows, and the peak of loading a large model: `python -m bench.memory`.

Private memory is the anonymous pages of the whole process tree, which no other instance can share. The peak is the
worker's VmHWM, the most that was ever resident, the library's pages included: so the same process with a small model
is its base.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

from bench.client import ask, connect, post
from bench.compiled import compile_all
from bench.load import load as ask_much
from bench.machine import about
from bench.measure import CORES, LOAD, first_right_answer, started
from bench.models import PLANS, Model, load
from bench.page import publish, word
from bench.prepared import Skipped
from bench.process import Failed, Running, memory, worker
from bench.report import Rows, fraction
from bench.subjects import BY_NAME, free_port

SUBJECTS = ("naive", "ours", "fast", "bound", "baked")
WARM = 1000
CHUNKS = 5
PRIVATE, PEAK, GROWTH = 1 / 3, 1.2, 2.0  # of naive's; of the model's size; MB


class Grown(NamedTuple):
    """Megabytes private after so many requests."""

    warm: float
    after: list[tuple[int, float]]  # requests, megabytes

    @property
    def growth(self) -> float:
        return self.after[-1][1] - self.after[0][1]  # what the first requests under load allocate, stays


def grown(name: str, model: Model, requests: int) -> Grown:
    """Serve so many requests; look at memory after each fifth of them."""
    subject, port = BY_NAME[name], free_port()
    with started(subject, model, port, set(CORES)) as process:
        request = post(port, subject.path, model.request_file.read_bytes())
        first_right_answer(process, port, request, subject, model)
        with connect(port) as connection:
            for _ in range(WARM):
                ask(connection, request)
        warm, done, rate, after = memory(process).private, 0, 0.0, []
        for chunk in range(1, CHUNKS + 1):
            while done < requests * chunk // CHUNKS:
                left = requests * chunk // CHUNKS - done
                loaded = ask_much(port, subject.path, model.request_file, left / rate if rate else 1, {LOAD})
                if loaded.errors or not loaded.requests:
                    raise process.failed(f"{loaded.errors} errors, {loaded.requests} answers")
                done, rate = done + loaded.requests, loaded.requests / loaded.seconds
            after.append((done, memory(process).private))
            print(f"{name}: {after[-1][1]:.1f} MB after {done:,} requests", flush=True)
    return Grown(warm, after)


def peak(name: str, model: Model) -> float:
    """Give the most megabytes that the worker ever had, up to its first answer."""
    subject, port = BY_NAME[name], free_port()
    with started(subject, model, port, set(CORES)) as process:
        request = post(port, subject.path, model.request_file.read_bytes())
        first_right_answer(process, port, request, subject, model)
        return high_water(process)


def high_water(process: Running) -> float:
    for line in Path(f"/proc/{worker(process).pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "VmHWM":
            return int(value.split()[0]) * 1024 / 1e6
    raise process.failed("no VmHWM")


def size_of(model: Model) -> float:
    return sum(file.stat().st_size for file in model.saved_model.rglob("*") if file.is_file()) / 1e6


def growth_table(found: dict[str, Grown]) -> Rows:
    heads = [f"{share}/{CHUNKS}" for share in range(1, CHUNKS + 1)]
    table = [["served", f"after {WARM} requests", *heads, "requests", "growth MB"]]
    for name, one in found.items():
        cells = [f"{private:.1f}" for _, private in one.after]
        table.append([name, f"{one.warm:.1f}", *cells, f"{one.after[-1][0]:,}", f"{one.growth:+.1f}"])
    return table


def peak_table(peaks: dict[str, tuple[float, float]], size: float) -> Rows:
    table = [["served", "base MB", "peak MB", "above the base", "of the model's size"]]
    for name, (base, high) in peaks.items():
        table.append([name, f"{base:.0f}", f"{high:.0f}", f"{high - base:.0f}", f"{(high - base) / size:.2f}"])
    return table


def budgets(found: dict[str, Grown], peaks: dict[str, tuple[float, float]], size: float) -> Rows:
    table = [["budget", "promised", "measured", "verdict"]]
    naive = found.get("naive")
    for name in found:
        if name == "naive":
            continue
        if naive:
            share = found[name].warm / naive.warm
            table.append([f"{name}: private memory", "≤ 1/3 of naive", fraction(share), word(share <= PRIVATE)])
        growth = found[name].growth
        requests = f"from {found[name].after[0][0]:,} to {found[name].after[-1][0]:,} requests"
        table.append([f"{name}: growth {requests}", f"≤ {GROWTH:.0f} MB", f"{growth:+.1f} MB", word(growth <= GROWTH)])
    for name, (base, high) in peaks.items():
        if name != "naive":
            share = (high - base) / size
            promised = f"≤ {PEAK:g} x its size above the base"
            table.append([f"{name}: peak of loading {size:.0f} MB", promised, f"{share:.2f}", word(share <= PEAK)])
    return table


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.memory", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--full", action="store_true", help="a million requests")
    parser.add_argument("--requests", type=int, help="how many (default 100,000)")
    parser.add_argument("--subjects", nargs="+", choices=SUBJECTS, default=list(SUBJECTS))
    options = parser.parse_args()
    requests = options.requests or (1_000_000 if options.full else 100_000)
    compile_all()
    small, big = load("mlp", print), load("large", print)
    size = size_of(big)
    found: dict[str, Grown] = {}
    peaks: dict[str, tuple[float, float]] = {}
    for name in options.subjects:
        try:
            BY_NAME[name].settings(small)
            # The naive function is there to compare with; a tenth of the requests shows what it needs.
            found[name] = grown(name, small, requests // 10 if name == "naive" else requests)
            peaks[name] = peak(name, small), peak(name, big)
        except (Skipped, Failed) as problem:
            print(f"{name} is left out: {problem}", flush=True)
    facts = about(1, "python -m bench.memory")
    publish("MEMORY.md", "Memory", facts, [
        " ".join((__doc__ or "").split("\n\n", 1)[1].split()),
        budgets(found, peaks, size),
        f"Private megabytes while requests come ({PLANS['mlp'].title}):",
        growth_table(found),
        f"The peak of a start up to the first answer, with {size:.0f} MB of dense variables; the base is the same with {PLANS['mlp'].title}:",
        peak_table(peaks, size),
    ])  # fmt: skip


if __name__ == "__main__":
    main()
