"""More requests than a process can answer: what it still answers, how soon, and how it refuses the rest.

    python -m bench.overload [--seconds 8] [--repeat 3] [--pictures 64] [--subjects naive,ours,fast]

8 connections, as many as THREADS, ask as soon as they are answered: what comes back is the capacity, and how long it
takes is the time at the configured concurrency. Then requests come at a fixed rate, whether the last was answered or
not, from half to four times that capacity. Last, 64 connections send one small request after another, of one picture
as numbers, each as soon as it is answered, after a second of 8. The server has one core, the load another; everything is on 127.0.0.1.
All settings are the defaults: a request may wait for about a second (MAX_WAIT).

It writes bench/OVERLOAD.md, overload.json and overload.png.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from bench import machine
from bench.client import post
from bench.measure import LOAD, SERVER, first_right_answer
from bench.models import CACHE, ROOT, Model, load
from bench.page import publish, word
from bench.process import Running, running
from bench.subjects import BY_NAME, Subject, environment, free_port

THREADS = 8  # the default
MANY = 64  # connections of small requests
WAIT = 1.0  # seconds, MAX_WAIT's default
RATES = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0)  # of the capacity
COLOURS = {"naive": "#9aa5b1", "ours": "#79b8ff", "fast": "#1f6feb"}

Figures = dict[str, float]


def offered(
    port: int, path: str, body: Path, seconds: float, rate: float, connections: int = THREADS
) -> dict[str, Any]:
    """Have requests made at this rate by a process on the load's core."""
    told = [str(port), path, str(body), str(seconds), str(rate), str(connections)]
    command = [sys.executable, "-m", "bench.offer", *told]
    pin = lambda: os.sched_setaffinity(0, {LOAD})  # noqa: E731
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True, preexec_fn=pin)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def figures(told: Mapping[str, Any], process: Running) -> Figures:
    """Give what one rate led to: answers a second, milliseconds, counts, megabytes."""
    good = sorted(took for status, took, _ in told["answers"] if status == 200)
    refused = sorted(took for status, took, _ in told["answers"] if status in (429, 503))
    within = sum(status == 200 and in_time for status, _, in_time in told["answers"])
    return {
        "good_per_second": within / told["seconds"],
        "good_p50_ms": at(good, 0.5),
        "good_p99_ms": at(good, 0.99),
        "refused": len(refused),
        "refused_p50_ms": at(refused, 0.5),
        "refused_p99_ms": at(refused, 0.99),
        "failed": len(told["answers"]) - len(good) - len(refused) + told["lost"],
        "memory_mb": sum(member.memory_info().rss for member in process.tree()) / 1e6,
    }


def at(values: list[float], share: float) -> float:
    return values[min(int(share * len(values)), len(values) - 1)] if values else 0.0


def measure(subject: Subject, model: Model, body: Path, small: Path, seconds: float) -> dict[str, Figures]:
    """Give the figures of one start of a subject, by rate; and those of many connections, under "many"."""
    port = free_port()
    told = environment(subject, model, port) | {"THREADS": str(THREADS), "MAX_WAIT": ""}
    log = CACHE / f"overload-{subject.name}.log"
    with running(subject.command(model, port), subject.folder, told, log, {SERVER}) as process:
        request = post(port, subject.path, model.request_file.read_bytes())
        first_right_answer(process, port, request, subject, model)
        offered(port, subject.path, body, min(seconds, 2.0), 0)
        found = {}
        for rate in RATES:  # the capacity anew before each: a machine may be quicker in one minute than in the next
            closed = figures(offered(port, subject.path, body, seconds / 2, 0), process)
            capacity, unloaded = closed["good_per_second"], max(closed["good_p99_ms"], 0.001)
            one = figures(offered(port, subject.path, body, seconds, rate * capacity), process)
            found[str(rate)] = one | {
                "capacity": capacity,
                "unloaded_p99_ms": unloaded,
                "answered": one["good_per_second"] / capacity,
                "p99_ratio": one["good_p99_ms"] / unloaded,
            }
        offered(port, subject.path, small, min(seconds, 1.0), 0)  # the first run of its signature
        found["many"] = figures(offered(port, subject.path, small, seconds, 0, MANY), process)
        return found


def medians(runs: list[dict[str, Figures]]) -> dict[str, Figures]:
    return {rate: {name: median(run[rate][name] for run in runs) for name in runs[0][rate]} for rate in runs[0]}


def table(found: Mapping[str, Figures]) -> list[tuple[str, ...]]:
    """Tell one subject, relative to what 8 connections got of it just before."""
    rows = [("offered / capacity", "capacity, requests/s", "answered / capacity", "p50 ms", "p99 ms", "p99 / that at 8",
             "refused", "its p50 ms", "its p99 ms", "failed", "memory MB")]  # fmt: skip
    for rate in map(str, RATES):
        one = found[rate]
        rows.append((
            rate, f"{one['capacity']:.0f}", f"{one['answered']:.2f}", f"{one['good_p50_ms']:.1f}",
            f"{one['good_p99_ms']:.1f}", f"{one['p99_ratio']:.2f}", f"{one['refused']:.0f}",
            f"{one['refused_p50_ms']:.1f}", f"{one['refused_p99_ms']:.1f}", f"{one['failed']:.0f}",
            f"{one['memory_mb']:.0f}",
        ))  # fmt: skip
    return rows


def budgets(results: Mapping[str, dict[str, Figures]]) -> list[tuple[str, ...]]:
    rows = [("budget, at 2 and 4 times the capacity", *results)]
    checks: tuple[tuple[str, Callable[[Figures], bool]], ...] = (
        ("answered ≥ 0.9 of the capacity", lambda one: one["answered"] >= 0.9),
        (
            "p99 of the answered ≤ that at 8 connections + MAX_WAIT",
            lambda one: one["good_p99_ms"] <= one["unloaded_p99_ms"] + 1000 * WAIT,
        ),
        ("refused within 10 ms (median)", lambda one: one["refused"] > 0 and one["refused_p50_ms"] <= 10),
        ("none failed", lambda one: one["failed"] == 0),
    )
    for name, holds in checks:
        rows.append((name, *(word(all(holds(found[rate]) for rate in ("2.0", "4.0"))) for found in results.values())))
    served = (word(one["many"]["refused"] + one["many"]["failed"] == 0) for one in results.values())
    rows.append((f"{MANY} connections of small requests: none refused", *served))
    return rows


def many(results: Mapping[str, dict[str, Figures]]) -> list[tuple[str, ...]]:
    """Tell what many connections of small requests got."""
    rows = [(f"{MANY} connections", "answered/s", "p50 ms", "p99 ms", "refused", "failed", "memory MB")]
    for name, found in results.items():
        one = found["many"]
        numbers = (one["good_per_second"], one["good_p50_ms"], one["good_p99_ms"])
        counts = (one["refused"], one["failed"], one["memory_mb"])
        rows.append(
            (BY_NAME[name].title, *(f"{number:.1f}" for number in numbers), *(f"{count:.0f}" for count in counts))
        )
    return rows


def draw(results: Mapping[str, dict[str, Figures]], about: Mapping[str, str], file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels: tuple[tuple[str, Callable[[Figures], float | None], bool], ...] = (
        ("answered / capacity", lambda one: one["answered"], False),
        ("p99 of the answered / that at 8 connections", lambda one: one["p99_ratio"], True),
        ("p50 of a refusal, ms", lambda one: one["refused_p50_ms"] or None, True),
    )
    figure, axes = plt.subplots(1, 3, figsize=(15, 4.6), layout="constrained")
    for axis, (title, value, logarithmic) in zip(axes, panels, strict=True):
        for name, found in results.items():
            points = [value(found[str(rate)]) for rate in RATES]
            axis.plot(RATES, points, marker="o", color=COLOURS.get(name), label=BY_NAME[name].title)
        axis.set_title(title)
        axis.set_xlabel("offered / capacity")
        axis.grid(alpha=0.3)
        axis.set_yscale("log" if logarithmic else "linear")
        if not logarithmic:
            axis.set_ylim(0, 1.15)
    axes[0].legend()
    figure.suptitle(f"{about['machine']} · {about['date']}", fontsize=11)
    figure.savefig(file, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description="What happens to a server that is asked more than it can answer.")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each rate")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--pictures", type=int, default=64, help="in a request")
    parser.add_argument("--subjects", default="naive,ours,fast")
    chosen = parser.parse_args()

    about = machine.about(chosen.repeat, "python -m bench.overload")
    about["load generator"] = "bench/offer.py, on a core of its own"
    about["request"] = f"{chosen.pictures} pictures for the embedded digits model, as base64 in JSON"
    model = load("digits", print)
    (picture,) = json.loads(model.request_file.read_bytes())["instances"]
    body = CACHE / "overload.json"
    body.write_text(json.dumps({"instances": [picture] * chosen.pictures}))
    small = CACHE / "overload-small.json"
    small.write_text(json.dumps({"signature_name": "pixels", "instances": [[[0] * 8] * 8]}))
    subjects = [BY_NAME[name] for name in chosen.subjects.split(",")]
    runs: dict[str, list[dict[str, Figures]]] = {subject.name: [] for subject in subjects}
    for repetition in range(chosen.repeat):
        for subject in subjects:
            print(f"{repetition + 1}/{chosen.repeat} {subject.name}", flush=True)
            runs[subject.name].append(measure(subject, model, body, small, chosen.seconds))
    results = {name: medians(of) for name, of in runs.items()}

    bench = ROOT / "bench"
    (bench / "overload.json").write_text(
        json.dumps({"about": about, "medians": results, "runs": runs}, indent=1) + "\n"
    )
    draw(results, about, bench / "overload.png")
    parts: list[Any] = [
        "![answers, times and refusals against the offered load](overload.png)",
        __doc__ or "",
        budgets(results),
        many(results),
    ]
    for name, found in results.items():
        parts += [f"## {BY_NAME[name].title}", table(found)]
    publish("OVERLOAD.md", "More than can be answered", about, parts)


if __name__ == "__main__":
    main()
