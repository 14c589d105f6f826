"""How many threads of the fast door give the most requests/s on one core: `python -m bench.threads`."""

import argparse
from dataclasses import replace
from statistics import median

from bench.compiled import compile_all
from bench.machine import about
from bench.measure import Effort, measure
from bench.models import PLANS, SERVED, Model, load
from bench.page import publish
from bench.report import Rows
from bench.subjects import BY_NAME, Subject

COUNTS = (1, 2, 4, 8, 16)
# fmt: off
SHOWN = {
    "requests_per_second":     ("req/s on one core",         "{:.0f}"),
    "requests_per_cpu_second": ("req/CPU s",                 "{:.0f}"),
    "p50_ms":                  ("p50 ms, one connection",    "{:.2f}"),
    "private_mb":              ("private MB, one connection", "{:.0f}"),
}
# fmt: on


def with_threads(subject: Subject, count: int) -> Subject:
    return replace(subject, settings=lambda _: {"THREADS": str(count)})


def figures(subject: Subject, model: Model, repeat: int, effort: Effort) -> Rows:
    samples: dict[int, list[dict[str, float]]] = {count: [] for count in COUNTS}
    for _ in range(repeat):
        for count, found in samples.items():
            found.append(measure(with_threads(subject, count), model, effort))
    rows = [["THREADS", *(title for title, _ in SHOWN.values())]]
    for count, found in samples.items():
        cells = [form.format(median([one[key] for one in found])) for key, (_, form) in SHOWN.items()]
        rows.append([str(count), *cells])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.threads", description=__doc__)
    parser.add_argument("--repeat", type=int, default=5, help="repetitions, interleaved (default 5)")
    parser.add_argument("--models", nargs="+", choices=PLANS, default=SERVED[:1])
    parser.add_argument("--subjects", nargs="+", choices=("fast", "two_bytes"), default=["fast", "two_bytes"])
    options = parser.parse_args()
    compile_all()
    facts, parts = about(options.repeat, "python -m bench.threads"), []
    for name in options.models:
        for subject in options.subjects:
            parts += [
                f"{PLANS[name].title}: {BY_NAME[subject].title}",
                figures(BY_NAME[subject], load(name, print), options.repeat, Effort()),
            ]
    publish("THREADS.md", "Threads of the fast door", facts, parts)


if __name__ == "__main__":
    main()
