"""More requests than a process can answer: what it still answers, how soon, and how it refuses the rest.

    python -m bench.overload [--seconds 8] [--repeat 3] [--pictures 64] [--subjects naive,ours,fast]

8 connections, as many as THREADS, ask as soon as they are answered: what comes back is the capacity, and how long it
takes is the time at the configured concurrency. Then requests come at a fixed rate, whether the last was answered or
not, from half to four times that capacity; the capacity is measured again before each rate. Last, 64 connections send
one small request after another, of one picture as numbers, each as soon as it is answered, after a second of 8
connections. The server has one core, the load another; everything is on 127.0.0.1. All settings are the defaults: a
request may wait for about a second (MAX_WAIT).
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from statistics import median

from bench import environments
from bench.environments import Unavailable
from bench.machine import about, interleaved
from bench.measure import LOAD, SERVER, first_right_answer, started
from bench.models import CACHE, Model
from bench.models import load as load_model
from bench.page import Part, Rows, publish, word
from bench.process import Failed, Running
from bench.subjects import BY_NAME, Subject
from tools.client import post
from tools.load import Load, load
from tools.server import free_port

THREADS = 8  # the default
MANY = 64  # connections of small requests
WAIT = 1.0  # seconds, MAX_WAIT's default
RATES = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0)  # of the capacity
OPEN = 400  # connections of an open loop
SETTINGS = {"THREADS": str(THREADS), "MAX_WAIT": ""}

Figures = dict[str, float]  # the fields of Load, and what is added to them below


def offered(
    process: Running, port: int, path: str, body: Path, seconds: float, connections: int, rate: float = 0
) -> Figures:
    """Put load on a server; return what came of it, and the resident megabytes of its processes."""
    loaded: Load = load(port, path, body, seconds, {LOAD}, connections=connections, rate=rate)
    figures = {key: value for key, value in asdict(loaded).items() if key not in ("busy", "quantiles_ms")}
    return figures | {"memory_mb": sum(member.memory_info().rss for member in process.tree()) / 1e6}


def measure(subject: Subject, model: Model, body: Path, small: Path, seconds: float) -> dict[str, Figures]:
    """Return the figures of one start of a subject, by rate; and those of many connections, under "many"."""
    port = free_port()
    with started(subject, model, port, {SERVER}, SETTINGS) as process:
        request = post(port, subject.path, model.request_file.read_bytes())
        first_right_answer(process, port, request, lambda answer: subject.answers(model, answer))
        offered(process, port, subject.path, body, min(seconds, 2.0), THREADS)
        figures = {}
        for rate in RATES:
            closed = offered(process, port, subject.path, body, seconds / 2, THREADS)
            capacity = closed["per_second"]
            if not capacity:
                raise process.failed(f"no answer to {THREADS} connections")
            loaded = offered(process, port, subject.path, body, seconds, OPEN, rate * capacity)
            figures[str(rate)] = loaded | {
                "capacity": capacity,
                "unloaded_p99_ms": closed["p99_ms"],
                "goodput": loaded["per_second"] / capacity,
            }
        if subject.name != "naive":  # which has no signature of numbers
            offered(process, port, subject.path, small, 1.0, THREADS)
            figures["many"] = offered(process, port, subject.path, small, seconds, MANY)
        return figures


def medians(runs: list[dict[str, Figures]]) -> dict[str, Figures]:
    return {rate: {name: median(run[rate][name] for run in runs) for name in runs[0][rate]} for rate in runs[0]}


def rates(subject: Mapping[str, Figures]) -> Rows:
    """Give the figures of one subject at each rate, relative to its capacity just before."""
    rows = [["offered / capacity", "capacity, requests/s", "answered / capacity", "p50 ms", "p99 ms", "refused",
             "its p50 ms", "its p99 ms", "failed", "memory MB"]]  # fmt: skip
    for rate in map(str, RATES):
        at = subject[rate]
        rows.append([
            rate, f"{at['capacity']:.0f}", f"{at['goodput']:.2f}", f"{at['p50_ms']:.1f}", f"{at['p99_ms']:.1f}",
            f"{at['refused']:.0f}", f"{at['refused_p50_ms']:.1f}", f"{at['refused_p99_ms']:.1f}",
            f"{at['failed']:.0f}", f"{at['memory_mb']:.0f}",
        ])  # fmt: skip
    return rows


CHECKS: tuple[tuple[str, Callable[[Figures], bool]], ...] = (
    ("answered ≥ 0.9 of the capacity", lambda at: at["goodput"] >= 0.9),
    (
        "p99 of the answered ≤ that at 8 connections + MAX_WAIT",
        lambda at: at["p99_ms"] <= at["unloaded_p99_ms"] + 1000 * WAIT,
    ),
    ("refused within 10 ms (median)", lambda at: at["refused"] > 0 and at["refused_p50_ms"] <= 10),
    ("none failed", lambda at: at["failed"] == 0),
)


def budgets(results: Mapping[str, dict[str, Figures]]) -> Rows:
    rows = [["budget, at 2 and 4 times the capacity", *results]]
    for name, holds in CHECKS:
        rows.append([name, *(word(all(holds(of[rate]) for rate in ("2.0", "4.0"))) for of in results.values())])
    served = (
        word(of["many"]["refused"] + of["many"]["failed"] == 0) if "many" in of else "-" for of in results.values()
    )
    rows.append([f"{MANY} connections of small requests: none refused", *served])
    return rows


def many(results: Mapping[str, dict[str, Figures]]) -> Rows:
    """Give what many connections of small requests got."""
    rows = [[f"{MANY} connections", "answered/s", "p50 ms", "p99 ms", "refused", "failed", "memory MB"]]
    for name, at in ((name, of["many"]) for name, of in results.items() if "many" in of):
        times = (at["per_second"], at["p50_ms"], at["p99_ms"])
        counts = (at["refused"], at["failed"], at["memory_mb"])
        rows.append([name, *(f"{number:.1f}" for number in times), *(f"{count:.0f}" for count in counts)])
    return rows


def bodies(model: Model, pictures: int) -> tuple[Path, Path]:
    """Write the slow request and the small one."""
    (picture,) = json.loads(model.request_file.read_bytes())["instances"]
    slow, small = CACHE / "overload.json", CACHE / "overload-small.json"
    slow.write_text(json.dumps({"instances": [picture] * pictures}))
    small.write_text(json.dumps({"signature_name": "pixels", "instances": [[[0] * 8] * 8]}))
    return slow, small


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.overload", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=8.0, help="of each rate")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--pictures", type=int, default=64, help="in a request")
    parser.add_argument("--subjects", default="naive,ours,fast")
    options = parser.parse_args()
    environments.alone()

    facts = about(interleaved(options.repeat), "python -m bench.overload")
    facts["request"] = f"{options.pictures} pictures for the embedded digits model, as base64 in JSON"
    model = load_model("digits", print)
    slow, small = bodies(model, options.pictures)
    subjects = [BY_NAME[name] for name in options.subjects.split(",")]
    runs: dict[str, list[dict[str, Figures]]] = {subject.name: [] for subject in subjects}
    try:
        environments.upload()
        for subject in subjects:
            environments.make(subject.environment, print)
            subject.settings(model)
        for repetition in range(options.repeat):
            for subject in subjects:
                print(f"{repetition + 1}/{options.repeat} {subject.name}", flush=True)
                runs[subject.name].append(measure(subject, model, slow, small, options.seconds))
    except (Unavailable, Failed) as problem:
        sys.exit(f"bench.overload: {problem}")
    results = {name: medians(of) for name, of in runs.items()}
    parts: list[Part] = [__doc__ or "", budgets(results), many(results)]
    for name, of in results.items():
        parts += [f"## {BY_NAME[name].title}", rates(of)]
    publish("overload.md", "More than can be answered", facts, parts)


if __name__ == "__main__":
    main()
