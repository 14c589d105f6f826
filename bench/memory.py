"""Whether a process grows over many requests, and the peak of loading a large model: `python -m bench.memory`.

Private memory is the anonymous pages of the whole process tree, which no other instance can share. The peak is the
worker's VmHWM, the most that was ever resident, the library's pages included: so the same process with a small model
is its base.
"""

import argparse
import sys
from typing import NamedTuple

from bench import environments
from bench.environments import Unavailable
from bench.machine import about
from bench.measure import CORES, LOAD, first_right_answer, started
from bench.models import PLANS, Model, load
from bench.page import Rows, publish, word
from bench.process import Failed, private_mb, worker
from bench.subjects import BY_NAME
from tools.client import ask, connect, post
from tools.load import load as put_load
from tools.server import free_port, peak_of

SUBJECTS = ("naive", "ours", "fast", "baked")
WARM = 1000
CHUNKS = 5
PEAK, GROWTH = 1.2, 2.0  # of the model's size; MB


class Growth(NamedTuple):
    """Megabytes private, after some requests and then after each chunk."""

    warm: float
    after: list[tuple[int, float]]  # requests, megabytes

    @property
    def megabytes(self) -> float:
        return self.after[-1][1] - self.after[0][1]  # what the first requests under load allocate is kept


def growth(name: str, model: Model, requests: int) -> Growth:
    """Serve this many requests; read the memory after each fifth of them."""
    subject, port = BY_NAME[name], free_port()
    with started(subject, model, port, set(CORES)) as process:
        request = post(port, subject.path, model.request_file.read_bytes())
        first_right_answer(process, port, request, lambda body: subject.answers(model, body))
        with connect(port) as connection:
            for _ in range(WARM):
                ask(connection, request)
        warm, done, rate, after = private_mb(process), 0, 0.0, []
        for chunk in range(1, CHUNKS + 1):
            while done < requests * chunk // CHUNKS:
                seconds = (requests * chunk // CHUNKS - done) / rate if rate else 1.0
                loaded = put_load(port, subject.path, model.request_file, max(seconds, 0.1), {LOAD})
                if loaded.failed or loaded.refused or not loaded.answered:
                    raise process.failed(
                        f"{loaded.failed} failed, {loaded.refused} refused, {loaded.answered} answered"
                    )
                done, rate = done + loaded.answered, loaded.per_second
            after.append((done, private_mb(process)))
            print(f"{name}: {after[-1][1]:.1f} MB after {done:,} requests", flush=True)
    return Growth(warm, after)


def peak(name: str, model: Model) -> float:
    """Return the most megabytes that were resident in the worker until its first answer."""
    subject, port = BY_NAME[name], free_port()
    with started(subject, model, port, set(CORES)) as process:
        request = post(port, subject.path, model.request_file.read_bytes())
        first_right_answer(process, port, request, lambda body: subject.answers(model, body))
        return peak_of(worker(process)) / 1e6


def growth_table(grown: dict[str, Growth]) -> Rows:
    heads = [f"{share}/{CHUNKS}" for share in range(1, CHUNKS + 1)]
    table = [["subject", f"after {WARM} requests", *heads, "requests", "growth MB", f"≤ {GROWTH:g} MB"]]
    for name, each in grown.items():
        cells = [f"{private:.1f}" for _, private in each.after]
        verdict = word(each.megabytes <= GROWTH)
        table.append([name, f"{each.warm:.1f}", *cells, f"{each.after[-1][0]:,}", f"{each.megabytes:+.1f}", verdict])
    return table


def peak_table(peaks: dict[str, tuple[float, float]], size: float) -> Rows:
    table = [["subject", "base MB", "peak MB", "above the base", "of the model's size", f"≤ {PEAK:g}"]]
    for name, (base, high) in peaks.items():
        share = (high - base) / size
        numbers = (f"{base:.0f}", f"{high:.0f}", f"{high - base:.0f}", f"{share:.2f}")
        table.append([name, *numbers, word(share <= PEAK)])
    return table


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.memory", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--requests", type=int, default=1_000_000, help="how many (default 1,000,000)")
    parser.add_argument("--subjects", nargs="+", choices=SUBJECTS, default=list(SUBJECTS))
    options = parser.parse_args()
    environments.alone()
    small, big = load("mlp", print), load("large", print)
    size = sum(file.stat().st_size for file in big.saved_model.rglob("*") if file.is_file()) / 1e6
    grown: dict[str, Growth] = {}
    peaks: dict[str, tuple[float, float]] = {}
    facts = about("1", "python -m bench.memory")
    try:
        environments.upload()
        for name in options.subjects:
            environments.make(BY_NAME[name].environment, print)
            # The naive function is there to compare with; a tenth of the requests shows what it needs.
            grown[name] = growth(name, small, options.requests // 10 if name == "naive" else options.requests)
            peaks[name] = peak(name, small), peak(name, big)
    except (Unavailable, Failed) as problem:
        sys.exit(f"bench.memory: {name}: {problem}")
    publish("memory.md", "Memory", facts, [
        " ".join((__doc__ or "").split("\n\n", 1)[1].split()),
        f"Private megabytes while requests come ({PLANS['mlp'].title}):",
        growth_table(grown),
        f"The peak of a start up to the first answer, with {size:.0f} MB of dense variables; the base is the same with {PLANS['mlp'].title}:",
        peak_table(peaks, size),
    ])  # fmt: skip


if __name__ == "__main__":
    main()
