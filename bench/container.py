"""The image's folder against the whole environment: bytes, and process start → first right answer.

    python -m bench.container --repeat 3

Both serve `serving.granian` on the embedded model, the folder with the libraries bound; with `--bake`, baked too.
Runs are interleaved; figures are medians. Bytecode is compiled on both sides.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from bench import process
from bench.machine import cpu, interpreter
from bench.models import ROOT
from container import prune
from container.build import build
from tests.server import free_port


def start(python: list[str], folder: Path, environment: dict[str, str], body: bytes, log: Path) -> tuple[float, float]:
    """Give seconds to the first right answer, and the private memory of all processes in MB."""
    port = free_port()
    command = [*python, "-m", "serving.granian"]
    environment = {**environment, "PORT": str(port), "HOST": "127.0.0.1"}
    with process.running(command, folder, environment, log, os.sched_getaffinity(0)) as server:
        while True:
            server.must_live()
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/", body, timeout=60) as answer:
                    json.load(answer)["predictions"]
                    return time.perf_counter() - server.started, process.memory(server).private
            except ConnectionError:
                time.sleep(0.002)
            except OSError as error:
                if not isinstance(getattr(error, "reason", None), ConnectionError):
                    raise
                time.sleep(0.002)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.container", description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=9, metavar="N")
    parser.add_argument("--bake", action="store_true", help="bake the folder's model")
    options = parser.parse_args()
    site = prune.packages_of(Path(sys.prefix))
    found = prune.plan(site)
    whole = sum(size for name, size in prune.sizes(site, found).items() if found[name].named)
    body = json.dumps(json.loads((ROOT / "model/assets.extra/examples.json").read_bytes())["serving_default"]).encode()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "function"
        build(Path(sys.prefix), folder, ROOT / "model", [] if options.bake else None)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        for part in (ROOT / "serving", site):
            subprocess.run([sys.executable, "-m", "compileall", "-q", part], stdout=subprocess.DEVNULL, check=False)
        subjects = {
            "environment": ([sys.executable], ROOT, {}),
            "image": ([sys.executable, "-S"], folder, {"PYTHONPATH": str(folder / "packages")}),
        }
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in subjects}
        for turn in range(options.repeat + 1):
            for subject, (python, where, environment) in subjects.items():
                measured = start(python, where, environment, body, Path(name) / "log")
                if turn:
                    taken[subject].append(measured)
    seconds, memory = (
        {name: statistics.median(run[i] for run in runs) for name, runs in taken.items()} for i in (0, 1)
    )
    print(f"{cpu()}, {interpreter()}, {options.repeat} runs each, interleaved; load {os.getloadavg()[0]:.1f}")
    print(f"{'':<28}{'environment':>12}{'image':>12}{'ratio':>8}")
    rows = [
        ("MB of files", whole / 1e6, size / 1e6),
        ("ms to the first answer", 1e3 * seconds["environment"], 1e3 * seconds["image"]),
        ("MB private", memory["environment"], memory["image"]),
    ]
    for title, before, after in rows:
        print(f"{title:<28}{before:>12.0f}{after:>12.0f}{after / before:>8.2f}")


if __name__ == "__main__":
    main()
