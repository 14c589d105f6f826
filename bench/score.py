"""Scoring files: rows a second and peak memory by the size of the file: `python -m bench.score [--largest MB]`.

A file of JSON lines with 64 numbers a row is scored by `python -m serving score`, once with rows one by one, as it is
done where the results depend on the batch size (as with the digits model), and once 64 at a time. Peak memory is the
process's VmHWM, TensorFlow's library included, so the smallest file is the base.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.machine import about
from bench.models import ROOT
from bench.page import Rows, publish

SIZES = (1, 16, 128, 1024, 5120)  # MB
MODES = {"one by one": "1", "64 at a time": "64"}
LONGEST_ALONE = 128  # MB
BLOCK = 4096  # rows, which are repeated


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


def score(source: Path, output: Path, rows: str) -> tuple[float, float]:
    """Return the seconds and the peak megabytes of one run."""
    command = [sys.executable, "-m", "serving", "score", str(source), "-o", str(output), "--signature", "pixels"]
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
    return seconds, used.ru_maxrss * 1024 / 1e6


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
                seconds, peak = score(source, output, asked)
                cells += [f"{rows / seconds:,.0f}", f"{peak:.0f}"]
            table.append(cells)
            print(" · ".join(cells), flush=True)
    publish("score.md", "Scoring files", facts, [
        " ".join((__doc__ or "").split("\n\n", 1)[1].split()),
        "The rows a second include the start of the process and the loading of the model.",
        table,
    ])  # fmt: skip


if __name__ == "__main__":
    main()
