"""Spark on a real cluster of processes: the bytes of `score --exact`, and every row once although processes are killed.

The last test kills a worker of the cluster, so it is the last.
"""

import base64
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import EMBEDDED, ROOT, plain_environment
from tests.models import answer_models
from tests.models.zoo import build
from tests.scoring.cluster import ONE_EXECUTOR, PACKAGES, Cluster, Job, cluster, needs_packages, require, until

PROGRAM = ROOT / "serving" / "scoring" / "spark.py"
SESSION = Path(__file__).with_name("spark_session.py")


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


# Rows for a model that adds the largest row of a run to each row, a file for each task. Together, the rows of the first
# that are compared, the first 32, have the same prediction as alone, and the others have not; in the second none has.
TOGETHER = {"a.jsonl": [1.0] * 32 + [0.5] * 32, "b.jsonl": [1 + number / 10 for number in range(64)]}


PARQUET = ["--format", "parquet", "--signature", "pixels"]
REFUSED = [
    # input           output       arguments                                         the reason, in one line
    ("nowhere",        "new",       [],                                               "[PATH_NOT_FOUND] Path does not exist"),
    ("rows.jsonl",     "complete",  [],                                               "OUT: expected a new folder, or what an interrupted run left, got one with '_SUCCESS'"),
    ("rows.jsonl",     "new",       ["--signature", "pixel"],                         "did you mean 'pixels'"),
    ("rows.jsonl",     "new",       ["--options", "topk=3"],                          "did you mean 'top_k'"),
    ("rows.jsonl",     "new",       PARQUET,                                          "is not a Parquet file"),
    ("wrong.parquet",  "new",       PARQUET,                                          "pixels: expected float32 [?, 8, 8], got a column of string"),
    ("table.parquet",  "new",       [*PARQUET, "--keep", "ids"],                      "the input has no column 'ids'; did you mean 'id'?"),
    ("rows.jsonl",     "new",       ["--format", "images", "--signature", "pixels"],  "expected a signature with one input, of strings"),
    ("csv",            "new",       ["--format", "csv", "--signature", "pixels"],     "line 1: the signature has no input 'a'"),
    ("empty",          "new",       [],                                               "expected rows, found none"),
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


@pytest.fixture(scope="module")
def session(spark: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of `spark_session`, with its inputs and outputs."""
    needs_packages()
    sys.path.append(str(PACKAGES))
    import pyarrow as pa
    from pyarrow import parquet

    folder = tmp_path_factory.mktemp("session")
    rows = [json.loads(line) for line in pictures(1_000)]
    flat = [None if row["key"] == 777 else np.ravel(row["pixels"]).tolist() for row in rows]
    columns = {
        "id": [row["key"] for row in rows],
        "pixels": pa.array(flat, pa.list_(pa.float32())),
        "other": ["x"] * 1000,
    }
    parquet.write_table(pa.table(columns), folder / "table.parquet")
    (folder / "rows.jsonl").write_bytes(b"\n".join([*pictures(1_000), b"nonsense"]))
    (folder / "csv").mkdir()
    for number in range(2):
        (folder / "csv" / f"{number}.csv").write_text(
            f'key,a,b,c,d\r\nx{number},1,2,3,"{number}.5"\r\ny{number},1,2,3,one\r\n'
        )
    (folder / "images").mkdir()
    content = base64.b64decode(
        json.loads((EMBEDDED / "assets.extra/examples.json").read_bytes())["serving_default"]["instances"][0]["b64"]
    )
    (folder / "images" / "three.png").write_bytes(content)
    (folder / "images" / "none.png").write_bytes(b"no picture")
    (folder / "tfrecord").mkdir()
    records = b"".join(len(part).to_bytes(8, "little") + bytes(4) + part + bytes(4) for part in [content] * 3)
    (folder / "tfrecord" / "a.tfrecord").write_bytes(records)
    (folder / "wrong.parquet").mkdir()
    parquet.write_table(pa.table({"pixels": ["a", "b"]}), folder / "wrong.parquet" / "a.parquet")
    (folder / "empty").mkdir()
    (folder / "complete").mkdir()
    (folder / "complete" / "_SUCCESS").touch()
    (folder / "refused.json").write_text(json.dumps([refused[:3] for refused in REFUSED]))
    (folder / "lines").mkdir()
    for name, numbers in TOGETHER.items():
        (folder / "lines" / name).write_text("".join(f"{number}\n" for number in numbers))
    models = (str(answer_models.build() / "together"), str(build() / "keras_sequential"))
    job = spark.submit(SESSION, str(folder), *models, **ONE_EXECUTOR)
    status, said = job.finish()  # spark-submit writes what a program writes anywhere to standard output
    assert status == 0, job.error[-4000:]
    (folder / "said").write_text(said)
    return folder


def test_typed_columns_have_the_floats_of_lines_bit_for_bit(session: Path, tmp_path: Path) -> None:
    from pyarrow import parquet

    lines = list(map(json.loads, score(session / "rows.jsonl", tmp_path / "out", "--exact")))
    rows = parquet.read_table(session / "columns").to_pylist()
    assert [row["id"] for row in rows] == list(range(1_000))
    failed = rows[777]
    assert failed["result"] == "errors"
    assert failed["error"] == "pixels: expected float32, got null"
    assert json.loads(failed["row"]) == {"id": 777, "pixels": None}
    assert failed["file"] == f"file:{session}/table.parquet"
    assert {row["result"] for row in rows if row["id"] != 777} == {"predictions"}
    for row, line in zip(rows, lines):
        if row["id"] != 777:
            for name, value in line["prediction"].items():
                array = np.array(value) if isinstance(value, str) else np.array(value, np.float32)
                assert np.array(row[name], array.dtype).tobytes() == array.tobytes()


def test_lines_of_a_frame_have_the_bytes_of_score_and_keep_columns(session: Path, tmp_path: Path) -> None:
    lines = score(session / "rows.jsonl", tmp_path / "out", "--exact")
    rows = json.loads((session / "lines.json").read_text())
    assert {row["day"] for row in rows} == {7}
    assert [row["value"].encode() for row in rows[:-1]] == lines[:-1]
    assert (rows[-1]["result"], json.loads(rows[-1]["value"])["row"]) == ("errors", "nonsense")


def test_pictures_records_and_csv_are_answered(session: Path) -> None:
    def answers(form: str, result: str) -> list[Any]:
        return [json.loads(line) for line in written(session / f"{form}-out", result)]

    (picture,) = answers("images", "predictions")
    assert picture["prediction"]["label"] == "3"
    (error,) = answers("images", "errors")
    assert error["file"].endswith("images/none.png")
    assert "the model refuses it: Unknown image" in error["error"]
    assert [answer["prediction"]["label"] for answer in answers("tfrecord", "predictions")] == ["3"] * 3
    record = json.loads((session / "tfrecord-out" / "_record.json").read_text())
    assert record["run"] == "up to 64 rows together, samples within 1e-05 of each row alone"
    assert [line["key"] for line in answers("csv", "predictions")] == ["x0", "x1"]
    assert [(line["key"], line["row"]) for line in answers("csv", "errors")] == [
        ("y0", "y0,1,2,3,one\r"),
        ("y1", "y1,1,2,3,one\r"),
    ]
    record = json.loads((session / "csv-out" / "_record.json").read_text())
    assert (record["rows"], record["errors"], record["format"]) == (4, 2, "csv")


def test_rows_that_differ_in_batches_run_alone_in_every_task(session: Path) -> None:
    assert "started again, row by row: results depend on the batch size" in (session / "said").read_text()
    record = json.loads((session / "lines-out" / "_record.json").read_text())
    assert (record["rows"], record["errors"], record["run"]) == (128, 0, "each row alone")
    lines = written(session / "lines-out", "predictions")
    assert sorted(json.loads(line)["prediction"] for line in lines) == sorted(
        2 * number for numbers in TOGETHER.values() for number in numbers
    )


def test_wrong_columns_options_and_outputs_are_refused_before_a_job_begins(session: Path) -> None:
    wrong = json.loads((session / "problems.json").read_text())
    assert "did you mean 'pixels'" in wrong[0]
    assert "the column 'label' would stand twice" in wrong[1]
    assert "top_k: expected no such option for columns" in wrong[2]
    assert "expected a column 'pixels' (float32 [?, 8, 8]), got" in wrong[3]
    assert len(wrong) == 4 + len(REFUSED)
    for reason, (source, _, _, words) in zip(wrong[4:], REFUSED):
        assert words in reason, source


def test_a_worker_process_loads_each_model_once(session: Path, spark: Cluster) -> None:
    application = (session / "application").read_text()
    logs = [log.read_text() for folder in spark.folders for log in folder.glob(f"{application}/*/std*")]
    entries = [json.loads(line) for text in logs for line in text.splitlines() if line.startswith('{"severity":')]
    loads = [(entry["process"], entry["directory"]) for entry in entries if entry["message"].startswith("serving ")]
    assert len(loads) == len(set(loads)), loads
    assert len({Path(directory).parent.name for _, directory in loads}) == 3  # models, of ten jobs


def check_errors(lines: list[Any], file: str) -> None:
    """Compare the dead letters with those of NASTY."""
    assert {line["file"] for line in lines} == {file}
    errors = {str(line["row"])[:20]: line for line in lines}
    assert {row: (line["error"], line.get("key")) for row, line in errors.items()} == {
        '{"pixels": "x", "key': ('pixels: expected float32, got the string "x"', "a"),
        "{'b64': 'Iv8gYnJva2V": ("not JSON: not UTF-8 at byte 1", None),
        "": ("expected a JSON value, got nothing", None),
        '{"pixels": [[1e39]]}': ("pixels[0][0]: expected float32, got 1e+39, which is out of its range", None),
        "nonsense\r": ("not JSON: Expecting value at column 1", None),
        '{"key": "\u2028", "pixels': ("pixels: expected shape [8, 8], got [] (a scalar)", "\u2028"),
        '"' + "x" * 19: ("expected at most 2000 bytes (MAX_BODY_BYTES), got more", None),
        '{"pixel": 1}': ("the signature has no input 'pixel'; did you mean 'pixels'?", None),
        "\r": ("expected a JSON value, got nothing", None),
    }


def test_every_row_is_answered_once_whatever_is_killed(spark: Cluster, tmp_path: Path) -> None:
    source, output = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    (source / "a.jsonl").write_bytes(b"\n".join([*NASTY, *pictures(12_000)]))
    part = str((source / "a.jsonl").stat().st_size // 24)

    def submit(**more: str) -> Job:
        return spark.submit(PROGRAM, str(source), str(output), "--signature", "pixels", "--exact", MAX_BODY_BYTES="2000",
                            spark__sql__files__maxPartitionBytes=part, **more)  # fmt: skip

    def done() -> int:
        assert job.runs, job.error[-3000:]
        return len(list(output.glob("_temporary/0/task_*")))

    job = submit(**ONE_EXECUTOR)
    until(lambda: done() > 1, "the first tasks")
    job.kill()
    assert not (output / "_SUCCESS").exists()
    job = submit()  # over what the killed driver left
    until(lambda: done() == 0, "the old output to go")
    until(lambda: done() > 1 and len(spark.pythons()) == 2, "the first tasks")
    for victim in (lambda: spark.pythons()[0], lambda: spark.executors()[0], lambda: spark.workers[1]):
        enough = done() + 1
        until(lambda: done() >= enough, "one more task")  # noqa: B023
        assert not (output / "_SUCCESS").exists()
        os.kill(victim().pid, signal.SIGKILL)
    status, said = job.finish()
    assert status == 3, job.error[-3000:]
    assert f"12009 rows, {len(NASTY)} errors" in said
    assert not (output / "_temporary").exists()
    record = json.loads((output / "_record.json").read_bytes())
    assert (record["rows"], record["errors"], record["signature"]) == (12_009, len(NASTY), "pixels")
    assert record["run"] == "each row alone"
    lines = score(source / "a.jsonl", tmp_path / "scored", "--exact", MAX_BODY_BYTES="2000")
    assert written(output, "predictions") == sorted(line for line in lines if b'"error":' not in line)
    check_errors(list(map(json.loads, written(output, "errors"))), f"file:{source}/a.jsonl")
