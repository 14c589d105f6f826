"""What a start costs, with a warm page cache: `python -m bench.starts`.

Each start has one core, or `--cores` of them. CPU s, system s: the CPU time of all processes of the subject until the
first right answer over HTTP, and the kernel's part of it. faults: their page faults that read nothing from the disk.
Subjects are measured in turns; in brackets: the ratio to the first row. Each is also started without huge pages
(`PR_SET_THP_DISABLE`), which serving/runtime/heap.py asks for.
It writes no page of docs/benchmarks.
"""

import argparse
import ctypes
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from bench import environments
from bench.environments import Unavailable
from bench.measure import CORES, Measured, answering
from bench.models import PLANS, Model, load
from bench.page import Rows, fraction, terminal
from bench.process import Failed
from bench.subjects import BY_NAME, Subject

STARTS = ("mlp:litert", "mlp:fast", "mlp:baked", "mobilenet:baked", "mlp:ours", "mlp:ours_baked", "mlp:twin")
PR_SET_THP_DISABLE = 41
# fmt: off
COLUMNS = (
    ("wall",   "start s",  "{:.3f}"),
    ("cpu",    "CPU s",    "{:.3f}"),
    ("system", "system s", "{:.3f}"),
    ("faults", "faults",   "{:.0f}"),
)
# fmt: on


@contextmanager
def without_huge_pages(is_without: bool) -> Iterator[None]:
    """Let the processes that are started meanwhile have no huge pages."""
    prctl = ctypes.CDLL(None).prctl
    prctl(PR_SET_THP_DISABLE, int(is_without), 0, 0, 0)
    try:
        yield
    finally:
        prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0)


def start(subject: Subject, model: Model, cores: set[int]) -> Measured:
    """Return what one start costs; raise Failed at a wrong answer."""
    with answering(subject, model, cores) as (process, *_):
        wall, tree = time.perf_counter() - process.started, process.tree()
        times = [member.cpu_times() for member in tree]
        return {
            "wall": wall,
            "cpu": sum(each.user + each.system for each in times),
            "system": sum(each.system for each in times),
            "faults": float(sum(minor_faults(member.pid) for member in tree)),
        }


def minor_faults(pid: int) -> int:
    """Return the number of minor page faults of a process, see proc_pid_stat(5)."""
    return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[7])


def table(samples: dict[str, list[Measured]]) -> Rows:
    medians = {name: {key: median(run[key] for run in runs) for key, _, _ in COLUMNS} for name, runs in samples.items()}
    first = next(iter(medians.values()))
    cells = [
        [name, *(f"{form.format(each[key])} ({fraction(each[key] / first[key])})" for key, _, form in COLUMNS)]
        for name, each in medians.items()
    ]
    return [["", *(heading for _, heading, _ in COLUMNS)], *cells]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.starts", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeat", type=int, default=9, help="starts of each kind (default: 9)")
    parser.add_argument("--cores", type=int, default=1, help="cores of each start (default: 1)")
    parser.add_argument(
        "--starts", nargs="+", metavar="MODEL:SUBJECT", default=list(STARTS), help=f"default: {' '.join(STARTS)}"
    )
    options = parser.parse_args()
    environments.alone()
    pairs = [name.partition(":")[::2] for name in options.starts]
    for model, subject in pairs:
        if model not in PLANS or subject not in BY_NAME:
            parser.error(f"expected one of {', '.join(PLANS)} and of {', '.join(BY_NAME)}, got {model}:{subject}")
    models = {name: load(name, print) for name, _ in pairs}
    samples: dict[str, list[Measured]] = {}
    try:
        environments.upload()
        for _, name in pairs:
            environments.make(BY_NAME[name].environment, print)
        for repetition in range(options.repeat + 1):  # the first fills the page cache
            for model, subject in pairs:
                for is_without in (False, True):
                    with without_huge_pages(is_without):
                        measured = start(BY_NAME[subject], models[model], set(CORES[: options.cores]))
                    if repetition:
                        label = f"{model}:{subject}" + (", no huge pages" if is_without else "")
                        samples.setdefault(label, []).append(measured)
    except (Unavailable, Failed) as problem:
        sys.exit(f"bench.starts: {problem}")
    print(terminal(table(samples)))


if __name__ == "__main__":
    main()
