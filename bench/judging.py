"""What the judges of a model cost at its load, before TensorFlow sees it: CPU time, against another revision.

    python -m bench.judging [--against main] [--rounds 7] MODEL...

One process of each revision after the other, and the median of each stage: reading saved_model.pb strictly, its signatures,
the list of pure operations, the checks of what a request decides.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

STAGES = ("strict", "signatures", "purity", "guards")
CHILD = """
import json, sys, time
from pathlib import Path
from serving.core import settings
from serving.runtime.sessions import judge
from serving.savedmodel.source import Source
from serving.savedmodel import saved_model
directory, options, times = Path(sys.argv[1]), settings.read({}), [time.process_time()]
kept = saved_model.message(directory)
times.append(time.process_time())
source = Source(directory, "model")
signatures = source.signatures
times.append(time.process_time())
judge(source, options)
times.append(time.process_time())
from serving.savedmodel.safety.guarding import guarded
with guarded(directory, signatures.values(), options.max_elements):
    times.append(time.process_time())
print(json.dumps([1000 * (after - before) for before, after in zip(times, times[1:])]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.judging")
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--against", default="main", help="a revision of this repository")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        subprocess.run(["git", "worktree", "add", "-q", "--detach", str(tree), options.against], check=True)
        try:
            for model in options.models:
                _compare(model.resolve(), tree, options.rounds)
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(tree)], check=True)


def _compare(model: Path, tree: Path, rounds: int) -> None:
    runs: dict[Path, list[list[float]]] = {tree: [], Path.cwd(): []}
    for _ in range(rounds):
        for place, measured in runs.items():
            measured.append(_times(model, place))
    before, after = ([statistics.median(stage) for stage in zip(*measured)] for measured in runs.values())
    print(f"{model.name}: CPU ms, {tree.name} and here")
    for stage, old, new in zip((*STAGES, "all"), (*before, sum(before)), (*after, sum(after))):
        print(f"  {stage:11} {old:7.1f} {new:7.1f}   {new / old:.2f}")


def _times(model: Path, place: Path) -> list[float]:
    environment = {**os.environ, "PYTHONPATH": str(place)}
    command = [sys.executable, "-c", CHILD, str(model)]
    done = subprocess.run(command, cwd=place, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    times: list[float] = json.loads(done.stdout.splitlines()[-1])
    return times


if __name__ == "__main__":
    main()
