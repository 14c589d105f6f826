"""Starts with a cold page cache, as on a machine that has never run the image: `python -m bench.cold`.

Before a cold start the kernel forgets what it has cached of the subject's files: environment, code, model and library.
MB read: what the processes read from the disk until the first right answer over HTTP. Pages that another running process
maps stay in the cache, those of the measuring interpreter among them. Before a warm start the files are in the cache.
Subjects are measured in turns; in brackets: the ratio to the naive function. The bound library has a list of the pages that
a first answer reads: with `make serve-fast`, in an upload and in the image.
"""

import argparse
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from statistics import median

from bench import environments
from bench.environments import FOLDER, Unavailable
from bench.machine import about, interleaved
from bench.measure import CORES, Measured, first_right_answer, started
from bench.models import PLANS, Model, load
from bench.page import Rows, fraction, publish
from bench.process import Failed
from bench.subjects import BY_NAME, Subject, variables
from tools.client import post
from tools.server import free_port

SUBJECTS = ("naive", "litert", "ours", "ours_baked", "fast", "baked", "twin")
# fmt: off
COLUMNS = (
    # key      heading          form
    ("warm",   "warm start s",  "{:.2f}"),
    ("cold",   "cold start s",  "{:.2f}"),
    ("read",   "MB read",       "{:.0f}"),
)
# fmt: on


def start(subject: Subject, model: Model) -> tuple[float, float]:
    """Return the seconds until the first right answer, and the megabytes read from the disk until then."""
    port = free_port()
    with started(subject, model, port, set(CORES)) as process:
        request = post(port, subject.path, model.request_file.read_bytes())
        first_right_answer(process, port, request, lambda body: subject.answers(model, body))
        seconds = time.perf_counter() - process.started
        return seconds, sum(member.io_counters().read_bytes for member in process.tree()) / 1e6


def measure(subject: Subject, model: Model) -> Measured:
    """Start with a cold page cache, then with a warm one; raise Failed at a wrong answer."""
    settings = variables(subject, model, 0)
    named = ("MODEL_DIR", "TENSORFLOW_LIBRARY_DIR", "ACCELERATOR")
    files = [Path(settings[name]) for name in named if os.sep in settings.get(name, "")]
    drop_pages([FOLDER / subject.environment, subject.folder, *files])
    cold, read = start(subject, model)
    warm, _ = start(subject, model)
    return {"warm": warm, "cold": cold, "read": read}


def drop_pages(paths: Iterable[Path]) -> None:
    """Ask the kernel to forget what it has cached of these files and folders."""
    os.sync()  # it keeps pages that are not written yet
    for path in paths:
        for file in (path, *path.rglob("*")):
            if file.is_file():
                descriptor = os.open(file, os.O_RDONLY)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(descriptor)


def table(samples: dict[str, list[Measured]]) -> Rows:
    rows: Rows = [["", *(heading for _, heading, _ in COLUMNS)]]
    first: Measured = {}
    for name, runs in samples.items():
        medians = {key: median(run[key] for run in runs) for key, _, _ in COLUMNS}
        first = first or medians
        ratios = [f" ({fraction(medians[key] / first[key])})" if medians is not first else "" for key, _, _ in COLUMNS]
        cells = [form.format(medians[key]) + ratio for (key, _, form), ratio in zip(COLUMNS, ratios, strict=True)]
        rows.append([name, *cells])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.cold", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeat", type=int, default=3, help="starts of each kind (default: 3)")
    parser.add_argument("--models", nargs="+", choices=PLANS, default=["mlp"], help="default: mlp")
    parser.add_argument(
        "--subjects", nargs="+", choices=BY_NAME, default=list(SUBJECTS), help=f"default: {' '.join(SUBJECTS)}"
    )
    options = parser.parse_args()
    environments.alone()
    facts = about(interleaved(options.repeat), "python -m bench.cold")
    models = [load(name, print) for name in options.models]
    samples: dict[str, dict[str, list[Measured]]] = {model.name: {} for model in models}
    try:
        environments.upload()
        for name in options.subjects:
            environments.make(BY_NAME[name].environment, print)
        for repetition in range(options.repeat):
            for model in models:
                for name in options.subjects:
                    measured = measure(BY_NAME[name], model)
                    samples[model.name].setdefault(name, []).append(measured)
                    print(f"{repetition + 1}/{options.repeat} {model.name} {name} {measured['cold']:.2f} s", flush=True)
    except (Unavailable, Failed) as problem:
        sys.exit(f"bench.cold: {problem}")
    parts = [part for name, runs in samples.items() for part in (f"## {PLANS[name].title}", table(runs))]
    named = "\n".join(f"- **{name}**: {BY_NAME[name].title}" for name in options.subjects)
    publish("cold.md", "Cold page cache", facts, [" ".join((__doc__ or "").split("\n\n", 1)[1].split()), named, *parts])


if __name__ == "__main__":
    main()
