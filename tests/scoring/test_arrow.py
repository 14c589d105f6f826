"""Typed columns: columns to inputs, outputs to columns, and Parquet in and out of `python -m serving score`."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.core.dtypes import DTYPES
from serving.protocols.call import Call, Context
from serving.protocols.raw.bodies import LINES, Form
from serving.savedmodel.signature import Signature, TensorSpec
from serving.scoring.faults import BadFile
from serving.scoring.formats import Batch
from serving.scoring.rows import Answered
from tests.conftest import ROOT, plain_environment
from tests.models.zoo import build
from tests.scoring.cluster import PACKAGES, needs_packages

needs_packages()
sys.path.append(str(PACKAGES))

import pyarrow as pa  # noqa: E402
from pyarrow import parquet  # noqa: E402

from serving.scoring import arrow  # noqa: E402


def spec(dtype: str, *shape: int | None, name: str = "x") -> TensorSpec:
    (matching,) = [candidate for candidate in DTYPES if candidate.label == dtype]
    return TensorSpec(name, matching, (None, *shape), f"{name}:0")


def decoded(column: Any, wanted: TensorSpec) -> Call:
    signature = Signature("s", {"x": wanted}, {}, "")
    batch = pa.RecordBatch.from_arrays([column], names=["x"])
    return arrow.Columns(signature, Context()).decode(Batch(0, batch, 0))


TAKEN = [
    # column                                               input                     array
    (pa.array([1.5, np.nan], pa.float32()),                spec("float32"),          np.array([1.5, np.nan], "f4")),
    (pa.array([0.1, np.inf], pa.float64()),                spec("float32"),          np.array([0.1, np.inf], "f4")),
    (pa.array(["a", "b", "a"]).dictionary_encode(),        spec("string"),           np.array([b"a", b"b", b"a"], object)),
    (pa.array(["a", "ä"], pa.string_view()),               spec("string"),           np.array([b"a", "ä".encode()], object)),
    (pa.array([b"\xff"], pa.binary_view()),                spec("string"),           np.array([b"\xff"], object)),
    (pa.array([["a"]], pa.list_(pa.dictionary(pa.int32(), pa.string()))), spec("string", 1), np.array([[b"a"]], object)),
    (pa.array([1, 2], pa.int16()),                         spec("float64"),          np.array([1.0, 2.0])),
    (pa.array([1, 255], pa.int64()),                       spec("uint8"),            np.array([1, 255], "u1")),
    (pa.array([True, False]),                              spec("bool"),             np.array([True, False])),
    (pa.array(["ä", ""]),                                  spec("string"),           np.array(["ä".encode(), b""], object)),
    (pa.array([b"\xff"]),                                  spec("string"),           np.array([b"\xff"], object)),
    (pa.array([[1.0, 2.0]], pa.list_(pa.float32())),       spec("float32", 2),       np.array([[1, 2]], "f4")),
    (pa.array([[1.0] * 6], pa.list_(pa.float32())),        spec("float32", 2, 3),    np.ones((1, 2, 3), "f4")),
    (pa.array([[[1, 2]], [[3, 4]]]),                       spec("int64", 1, 2),      np.array([[[1, 2]], [[3, 4]]])),
    (pa.array([[1, 2]], pa.list_(pa.int32(), 2)),          spec("int64", 2),         np.array([[1, 2]])),
]  # fmt: skip


@pytest.mark.parametrize(("column", "wanted", "array"), TAKEN)
@pytest.mark.parametrize("cut", [False, True])
def test_a_column_is_an_array_of_the_declared_type(column: Any, wanted: TensorSpec, array: Any, cut: bool) -> None:
    if cut:  # a slice of a larger one
        column = pa.concat_arrays([column, column, column]).slice(len(column), len(column))
    call = decoded(column, wanted)
    assert call.failed == {}
    assert call.inputs["x"].dtype == array.dtype
    np.testing.assert_array_equal(call.inputs["x"], array)


REFUSED = [
    # column                                               input                     message
    (pa.array([1.5, None, 2.5], pa.float32()),             spec("float32"),          "row 2, x: expected float32, got null"),
    (pa.array([1.0, 1e39, 2.0]),                           spec("float32"),          "row 2, x: expected float32, got a larger number"),
    (pa.array([1, 65535, 2], pa.uint16()),                 spec("float16"),          "row 2, x: expected float16, got a larger number"),
    (pa.array(["1", None, "2"]).dictionary_encode(),       spec("string"),           "row 2, x: expected string, got null"),
    (pa.array([1, 256, 2]),                                spec("uint8"),            "row 2, x: expected uint8, got another number: Integer value 256"),
    (pa.array([[1.0], [], [2.0]]),                         spec("float64", 1),       "row 2, x: expected shape [?, 1], got [1, 0]"),
    (pa.array([[1.0], [None], [2.0]]),                     spec("float64", 1),       "row 2, x: expected float64, got null"),
    (pa.array([[[1.0]], [[1.0], [1.0, 2.0]], [[2.0]]]),    spec("float64", 1, 1),    "row 2, x: expected lists of one length, got [1, 2]"),
]  # fmt: skip


@pytest.mark.parametrize(("column", "wanted", "message"), REFUSED)
def test_a_row_that_does_not_fit_fails_alone(column: Any, wanted: TensorSpec, message: str) -> None:
    call = decoded(column, wanted)
    assert list(call.failed) == [1]
    assert call.failed[1].startswith(message)
    assert len(call.inputs["x"]) == 2


@pytest.mark.parametrize(("column", "wanted"), [
    (pa.array(["1"]), spec("float32")), (pa.array([1.0]), spec("int32")), (pa.array([1]), spec("string")),
    (pa.array([1]), spec("bool")),
])  # fmt: skip
def test_a_column_of_another_type_is_not_converted(column: Any, wanted: TensorSpec) -> None:
    assert "got a column of" in decoded(column, wanted).failed[0]


WRITTEN = [
    # output                                             array                                            column
    (spec("float32"),                                    np.array([1e-45, np.nan], "f4"),                 pa.array([1e-45, np.nan], pa.float32())),
    (spec("float16"),                                    np.array([0.1, 1], "f2"),                        pa.array(np.array([0.1, 1], "f2").astype("f4"))),
    (spec("uint8", 2),                                   np.array([[1, 255], [3, 4]], "u1"),              pa.array([[1, 255], [3, 4]], pa.list_(pa.int16()))),
    (spec("int64", 2, 1),                                np.arange(4).reshape(2, 2, 1),                   pa.array([[[0], [1]], [[2], [3]]])),
    (spec("string"),                                     np.array(["ä".encode(), b""], object),           pa.array(["ä", ""])),
    (spec("string", name="x_bytes"),                     np.array([b"\xff", b""], object),                pa.array([b"\xff", b""])),
    (spec("string", 0),                                  np.empty((2, 0), object),                        pa.array([[], []], pa.list_(pa.string()))),
]  # fmt: skip


def columns_of(wanted: TensorSpec, parts: list[tuple[list[int], Any]], failed: dict[int, str], count: int) -> Any:
    signature = Signature("s", {}, {wanted.name: wanted}, "")
    call = Call(signature, {}, Form(LINES, str, count))
    batch = pa.RecordBatch.from_arrays([pa.array(range(count))], names=["id"])
    unused: Any = None
    answered = Answered(
        unused, Batch(0, batch, 0), call, [(rows, call, {wanted.name: array}) for rows, array in parts], failed
    )
    return arrow.as_columns(answered, arrow.output_fields(signature, Context(), [batch.schema.field("id")]))


@pytest.mark.parametrize(("wanted", "array", "column"), WRITTEN)
def test_an_output_becomes_a_column_of_its_type(wanted: TensorSpec, array: Any, column: Any) -> None:
    columns = columns_of(wanted, [([0, 1], array)], {}, 2)
    assert columns.schema.field(wanted.name).type == column.type
    assert columns.column(wanted.name).to_pylist()[1:] == column.to_pylist()[1:] or np.isnan(column[1].as_py())
    np.testing.assert_array_equal(columns.column(wanted.name).to_pylist(), column.to_pylist())
    split = columns_of(wanted, [([2], array[1:]), ([0], array[:1])], {1: "bad"}, 3)
    assert split.column("error").to_pylist() == [None, "bad", None]
    expected = pa.concat_arrays([column.slice(0, 1), pa.nulls(1, column.type), column.slice(1, 1)])
    assert str(split.column(wanted.name)) == str(expected)


def test_a_string_that_is_not_utf_8_fails_its_row() -> None:
    columns = columns_of(spec("string"), [([0, 1], np.array([b"\xff", b"b"], object))], {}, 2)
    assert columns.column("x").to_pylist() == [None, "b"]
    assert "not UTF-8" in columns.column("error")[0].as_py()


UNTYPED = [
    # output                                             options           message
    (spec("complex64"),                                  {},               "which no column holds"),
    (spec("uint64"),                                     {},               "which no column holds"),
    (TensorSpec("x", spec("int8").dtype, None, "x:0"),   {},               "no declared rank"),
    (spec("int8", name="error"),                         {},               "would stand twice"),
    (spec("int8"),                                       {"top_k": "3"},   "top_k: expected no such option"),
]  # fmt: skip


@pytest.mark.parametrize(("wanted", "query", "message"), UNTYPED)
def test_an_output_without_a_column_is_refused(wanted: TensorSpec, query: dict[str, str], message: str) -> None:
    with pytest.raises(BadFile, match=message):
        arrow.output_fields(Signature("s", {}, {wanted.name: wanted}, ""), Context(query=query))


def score(source: Path, output: Path, *more: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "serving", "score", str(source), "-o", str(output), *more]
    environment = plain_environment(MODEL_DIR=str(build() / "keras_sequential"), PYTHONPATH=str(PACKAGES))
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_parquet_in_and_out_has_the_floats_of_json_lines(tmp_path: Path) -> None:
    rows = np.random.default_rng(7).normal(size=(5000, 4)).astype(np.float32)
    features = [None if number == 4321 else row for number, row in enumerate(rows.tolist())]
    table = pa.table({"key": range(5000), "features": pa.array(features, pa.list_(pa.float32())), "note": ["n"] * 5000})
    parquet.write_table(table, tmp_path / "in.parquet", row_group_size=700)
    lines = [json.dumps({"key": key, "features": row}) for key, row in enumerate(features)]
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    for source, output, more in [
        ("in.jsonl", "a.jsonl", []), ("in.parquet", "b.jsonl", []), ("in.jsonl", "c.parquet", []),
        ("in.parquet", "d.parquet", ["--keep", "note", "--processes", "2"]),
    ]:  # fmt: skip
        status, said = score(tmp_path / source, tmp_path / output, "--exact", *more)
        assert (status, "5000 rows, 1 errors" in said) == (3, True), said
    a, b = (
        [json.loads(line) for line in (tmp_path / name).read_text().splitlines()] for name in ("a.jsonl", "b.jsonl")
    )
    c, d = (parquet.read_table(tmp_path / name) for name in ("c.parquet", "d.parquet"))
    assert [line.get("prediction") for line in a] == [line.get("prediction") for line in b]
    assert b[4321] == {"key": 4321, "error": "row 4322, features: expected float32, got null"}
    assert d.column_names == ["key", "note", c.column_names[1], "error"]
    predictions = [np.array(line.get("prediction"), np.float32).tobytes() for line in a if "prediction" in line]
    for read, key in ((c, "4321"), (d, 4321)):
        values = read.column(c.column_names[1]).to_pylist()
        assert (values[4321], read.column("key")[4321].as_py()) == (None, key)
        assert [np.array(value, np.float32).tobytes() for value in values if value is not None] == predictions
    assert parquet.read_metadata(tmp_path / "d.parquet").metadata[b"run"] == b"each row alone"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "a.jsonl",
        "b.jsonl",
        "c.parquet",
        "d.parquet",
        "in.jsonl",
        "in.parquet",
    ]


BAD = [
    # input           output          more                  status   words
    ("in.parquet",    "gs://b/a.parquet", [],               2,       "expected a file on this machine for Parquet"),
    ("in.parquet",    "out.jsonl",    ["--keep", "a"],      2,       "--keep: expected an output .parquet"),
    ("in.parquet",    "out.parquet",  ["--keep", "nite"],   1,       "the file has no column 'nite'; did you mean 'note'?"),
    ("other.parquet", "out.parquet",  [],                   1,       "expected a column 'features' (float32 [?, 4]), got 'note'"),
    ("text.parquet",  "out.parquet",  [],                   1,       "the file is not Parquet, or only part of it"),
]  # fmt: skip


@pytest.mark.parametrize(("source", "output", "more", "status", "words"), BAD)
def test_parquet_that_cannot_be_scored_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], serve: Any, monkeypatch: pytest.MonkeyPatch,
    source: str, output: str, more: list[str], status: int, words: str,
) -> None:  # fmt: skip
    from serving.__main__ import main

    monkeypatch.chdir(tmp_path)
    features = pa.array([[1.0] * 4], pa.list_(pa.float32()))
    parquet.write_table(pa.table({"features": features, "note": ["n"]}), "in.parquet")
    parquet.write_table(pa.table({"note": ["n"]}), "other.parquet")
    Path("text.parquet").write_text("PAR1 and so on")
    serve(build() / "keras_sequential")
    assert main(["score", source, "-o", output, *more]) == status
    assert words in capsys.readouterr().err
    assert not Path("out.parquet").exists()
