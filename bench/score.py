"""Scoring files: rows a second and peak memory by the size of the file: `python -m bench.score [--largest MB]`.

A file of JSON lines with 64 numbers a row is scored by `python -m serving score` in one process, once with each row
alone, as `--exact` does, and once as it is by default, up to 64 together. Peak memory is the process's VmHWM,
TensorFlow's library included, so the smallest file is the base.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.machine import about
from bench.models import ROOT
from bench.page import Rows, publish, word

SIZES = (1, 16, 128, 1024, 5120)  # MB
MODES = {"each row alone": "1", "64 together": "0"}
LONGEST_ALONE = 128  # MB
BLOCK = 4096  # rows, which are repeated
MARGINAL = {"small": 4, "large": 40}  # MB of the files whose difference is a row's time
ROUNDS = 3
PACKAGES = ROOT / ".cache" / "spark" / "packages"  # make test-tools
SPARK = {"lines": "Spark, JSON lines", "parquet": "Spark, Parquet", "naive": "Spark, `import tensorflow`"}
RATE, NAIVE = 0.85, 2.0  # of score's rate a core; of the usual function's


def write(path: Path, megabytes: int) -> int:
    """Write a file of about so many megabytes; return its rows."""
    numbers = random.Random(1)
    block = b"".join(
        json.dumps({"key": key, "pixels": [[numbers.randint(0, 16) for _ in range(8)] for _ in range(8)]}).encode()
        + b"\n"
        for key in range(BLOCK)
    )
    blocks = max(megabytes * 1_000_000 // len(block), 1)
    with path.open("wb") as file:
        for _ in range(blocks):
            file.write(block)
    return blocks * BLOCK


def score(source: Path, output: Path, rows: str) -> tuple[float, float, float]:
    """Return the seconds, the peak megabytes and the CPU seconds of one run."""
    command = [sys.executable, "-m", "serving", "score", str(source), "-o", str(output), "--signature", "pixels",
               "--processes", "1"]  # fmt: skip
    begin = time.perf_counter()
    process = subprocess.Popen(
        [*command, "--batch-rows", rows], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"python -m serving score ended with status {process.returncode}")
    output.unlink()
    return seconds, used.ru_maxrss * 1024 / 1e6, used.ru_utime + used.ru_stime


def marginal(folder: Path, say: Callable[[str], None]) -> list[str | Rows]:
    """Return what a row costs on one core, in CPU time, by `score` and on Spark; what could not be measured, in words."""
    if not (PACKAGES / "pyspark").is_dir():
        return ["Spark was not measured: its packages are missing (make test-tools)."]
    rows = {size: write(folder / f"{size}.jsonl", megabytes) for size, megabytes in MARGINAL.items()}
    (folder / "rows.json").write_text(json.dumps(rows))
    environment = {**os.environ, "PYTHONPATH": str(PACKAGES), "PYSPARK_PYTHON": sys.executable,
                   "SPARK_HOME": str(PACKAGES / "pyspark"), "SPARK_LOCAL_IP": "127.0.0.1"}  # fmt: skip
    subprocess.run([sys.executable, "-c", PARQUET, str(folder)], env=environment, check=True)
    command = [str(PACKAGES / "pyspark/bin/spark-submit"), "--conf", "spark.ui.enabled=false", "--master", "local[1]",
               str(ROOT / "bench" / "spark_rows.py"), str(folder), "1"]  # fmt: skip
    costs: dict[str, list[float]] = {"score": [], **{name: [] for name in SPARK}}
    peaks = dict.fromkeys(costs, 0.0)
    for _ in range(ROUNDS):
        used = {size: score(folder / f"{size}.jsonl", folder / "predictions", "0") for size in rows}
        costs["score"].append((used["large"][2] - used["small"][2]) / (rows["large"] - rows["small"]))
        peaks["score"] = max(peaks["score"], used["large"][1])
        for name in SPARK:
            done = subprocess.run([*command, name], cwd=ROOT, env=environment, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"bench.spark_rows {name} ended with status {done.returncode}: {done.stderr[-2000:]}")
            measured = json.loads(done.stdout.splitlines()[-1])[name]
            costs[name].append(measured["seconds"])
            peaks[name] = max(peaks[name], measured["peak"])
            say(f"{name}: {measured}")
    cost = {name: statistics.median(values) for name, values in costs.items()}
    table: Rows = [["", "µs a row", "rate, score = 1", "rate, usual function = 1", "peak MB of a worker"]]
    for name, title in {"score": "`python -m serving score`", **SPARK}.items():
        ratios = [f"{cost['score'] / cost[name]:.2f}", f"{cost['naive'] / cost[name]:.2f}"]
        table.append([title, f"{cost[name] * 1e6:.1f}", *ratios, f"{peaks[name]:.0f}"])
    rate, gain = cost["score"] / cost["lines"], cost["naive"] / cost["lines"]
    return [
        "CPU time of a row on one core, up to 64 rows together: the difference of two files over that of their rows, "
        f"JVM and Python together; medians of {ROUNDS} rounds, by turns. The usual function is `predict_batch_udf` "
        "with 64 rows around `tf.saved_model.load`, its rows parsed by Spark.",
        table,
        f"Spark has at least {RATE} of the rate of `score`: {rate:.2f}, {word(rate >= RATE)}. It has at least {NAIVE} times "
        f"that of the usual function: {gain:.2f}, {word(gain >= NAIVE)}.",
    ]


PARQUET = """if True:
    import json, sys, pyarrow
    from pyarrow import parquet
    for size in ("small", "large"):
        rows = [json.loads(line) for line in open(f"{sys.argv[1]}/{size}.jsonl")]
        pixels = pyarrow.array([row["pixels"] for row in rows], pyarrow.list_(pyarrow.list_(pyarrow.float32())))
        parquet.write_table(pyarrow.table({"key": [row["key"] for row in rows], "pixels": pixels}), f"{sys.argv[1]}/{size}.parquet")
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.score", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--largest", type=int, default=SIZES[-1], metavar="MB")
    parser.add_argument("--folder", type=Path, help="where there is room for the files (default: the temporary folder)")
    options = parser.parse_args()
    facts = about("1", "python -m bench.score")
    table: Rows = [["MB", "rows", *(f"{mode}: {what}" for mode in MODES for what in ("rows/s", "peak MB"))]]
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        source, output = Path(folder) / "rows.jsonl", Path(folder) / "predictions.jsonl"
        for megabytes in (size for size in SIZES if size <= options.largest):
            rows = write(source, megabytes)
            cells = [str(megabytes), f"{rows:,}"]
            for asked in MODES.values():
                if asked == "1" and megabytes > LONGEST_ALONE:
                    cells += ["", ""]
                    continue
                seconds, peak, _ = score(source, output, asked)
                cells += [f"{rows / seconds:,.0f}", f"{peak:.0f}"]
            table.append(cells)
            print(" · ".join(cells), flush=True)
        spark = marginal(Path(folder), lambda text: print(text, flush=True))
    publish("score.md", "Scoring files", facts, [
        " ".join((__doc__ or "").split("\n\n", 1)[1].split()),
        "The rows a second include the start of the process and the loading of the model.",
        table,
        *spark,
    ])  # fmt: skip


if __name__ == "__main__":
    main()
