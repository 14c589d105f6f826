"""The program for Spark, on a real cluster: the bytes of `score --exact`, every end of it, and every row once."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from tests.conftest import ROOT, plain_environment
from tests.scoring.cluster import Cluster, cluster, require, until

PROGRAM = ROOT / "serving" / "scoring" / "spark.py"
SMALL = "8388608"


@pytest.fixture(scope="module")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    require()
    with cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


def pictures(count: int, seed: int = 3) -> list[bytes]:
    digits = np.random.default_rng(seed).integers(0, 17, (count, 8, 8)).tolist()
    return [json.dumps({"key": number, "pixels": digit}).encode() for number, digit in enumerate(digits)]


NASTY = [
    b'{"pixels": "x", "key": "a"}', b'"\xff broken"', b"", b'{"pixels": [[1e39]]}', b"nonsense\r",
    b'{"key": "\xe2\x80\xa8", "pixels": 1}', b'"' + b"x" * 3000 + b'"', b'{"pixel": 1}', b"\r",
]  # fmt: skip


def score(source: Path, output: Path, *more: str, **environment: str) -> list[bytes]:
    """Return the lines of `python -m serving score`."""
    command = [sys.executable, "-m", "serving", "score", str(source), "-o", str(output), "--signature", "pixels", *more]
    done = subprocess.run(command, cwd=ROOT, env=plain_environment(**environment), capture_output=True, text=True)
    assert done.returncode in (0, 3), done.stderr
    return output.read_bytes().splitlines()


def written(output: Path, result: str) -> list[bytes]:
    """Return the lines of a result, in any order."""
    return sorted(
        line for file in output.glob(f"result={result}/part-*") for line in file.read_bytes().split(b"\n") if line
    )


def test_every_row_is_answered_once_whatever_is_killed(spark: Cluster, tmp_path: Path) -> None:
    source, output = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    rows = pictures(40_000)
    (source / "a.jsonl").write_bytes(b"\n".join([*rows, *NASTY]))
    size = (source / "a.jsonl").stat().st_size
    job = spark.submit(PROGRAM, str(source), str(output), "--signature", "pixels", "--exact", MAX_BODY_BYTES="2000",
                       spark__sql__files__maxPartitionBytes=str(size // 40))  # fmt: skip

    def done() -> int:
        assert job.runs, job.error[-3000:]
        return len(list(output.glob("_temporary/0/task_*")))

    def kill(what: str, process: Any) -> None:
        assert not (output / "_SUCCESS").exists()
        print(f"killed {what} after {done()} tasks")
        os.kill(process.pid, signal.SIGKILL)

    with suppress(psutil.Error):
        until("the first tasks", lambda: done() > 1 and spark.pythons())
        kill("a Python worker", spark.pythons()[0])
        enough = done() + 3
        until("more tasks", lambda: done() >= enough and len(spark.executors()) == 2)
        kill("an executor", spark.executors()[0])
        until("another executor", lambda: done() and len(spark.executors()) == 2 and len(spark.pythons()) == 2)
        kill("a worker", spark.workers[0])
    status, out = job.finish()
    assert status == 3, job.error[-3000:]
    assert f"40009 rows, {len(NASTY)} errors" in out
    record = json.loads((output / "_record.json").read_bytes())
    assert (record["rows"], record["errors"], record["signature"]) == (40_009, len(NASTY), "pixels")
    assert record["run"] == "each row alone"
    predictions = score(source / "a.jsonl", tmp_path / "scored", "--exact", MAX_BODY_BYTES="2000")
    assert written(output, "predictions") == sorted(line for line in predictions if b'"error":' not in line)
