"""Files of rows: each prediction has the bytes of the online answer, or is within the tolerance."""

import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st

from serving import scoring
from serving.core import settings
from serving.protocols.call import Context
from serving.runtime import loading
from serving.scoring import BadFile, formats, rows
from serving.scoring.rows import Scorer
from tests.conftest import EMBEDDED
from tests.models.zoo import build
from tests.scoring.benches import Bench, as_lines, online, prediction_of, rows_of

SAME = [
    # model               signature          rows of one input
    ("embedded",          "pixels",          rows_of(70, (8, 8))),
    ("keras_sequential",  "serving_default", rows_of(70, (4,))),
    ("keras_convolution", "serving_default", rows_of(40, (8, 8, 1))),
    ("keras_text",        "serving_default", [f"word {n} " * (n % 9) + "good" for n in range(70)]),
    ("keras_lstm",        "serving_default", [row for n in range(1, 12) for row in rows_of(3, (n, 3))]),
    ("dtype_float32",     "vector",          [float("nan"), 1e16, 1e-5, float("inf"), 0.1] * 20),
    ("lookup_table",      "serving_default", ["cat", "dog", "", "水"] * 20),
]  # fmt: skip


@pytest.mark.parametrize(("folder", "signature", "rows"), SAME)
def test_with_batches_of_one_each_prediction_has_the_bytes_of_the_online_answer(
    bench: Bench, folder: str, signature: str, rows: list[Any]
) -> None:
    ask = bench.start(
        EMBEDDED if folder == "embedded" else build() / folder, SCORE_OPTIONS=f"signature_name={signature}",
        SCORE_BATCH_ROWS="1",
    )  # fmt: skip
    predicted = bench.score(as_lines(rows))
    assert len(predicted) == len(rows)
    for row, written in zip(rows, bench.written.splitlines()):
        assert prediction_of(written) == online(ask, row, signature)


def test_csv_and_pictures_have_the_bytes_of_the_online_answer(bench: Bench, examples: dict[str, Any]) -> None:
    ask = bench.start(build() / "keras_sequential", SCORE_BATCH_ROWS="1")
    rows = rows_of(50, (4,))
    header = "features[0],features[1],features[2],features[3],key\r\n"
    table = header + "".join(",".join(map(str, row)) + f",k{number}\r\n" for number, row in enumerate(rows))
    lines = bench.score(b"\xef\xbb\xbf" + table.encode(), ".csv")
    assert [line["key"] for line in lines] == [f"k{number}" for number in range(50)]
    for row, written in zip(rows, bench.written.splitlines()):
        assert prediction_of(written) == online(ask, row, "serving_default")
    ask = bench.start()
    import base64

    instance = examples["serving_default"]["instances"][0]
    bench.score(base64.b64decode(instance["b64"]), ".png")
    assert prediction_of(bench.written.rstrip()) == online(ask, instance, "serving_default")
    bench.start(build() / "decode_image", SCORE_OPTIONS="signature_name=pixels")  # no batch dimension
    (line,) = bench.score(base64.b64decode(instance["b64"]), "", "image/png")
    assert np.shape(line["prediction"]) == (8, 8, 1)


def test_each_line_gives_a_line_at_any_chunk_size(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "ROWS", 7)
    ask = bench.start(build() / "failures", SCORE_OPTIONS="signature_name=number", SCORE_INSTANCES="1")
    texts = [
        b'{"key": {"a": [1, -0.0]}, "s": "1"}', b'{"s": "2"}', b"", b'{"s": "four", "key": 4}', b"nonsense",
        b' {"s":"6"}\r', b'{"s": 7}', b'{"t": "8"}', b'{"s": "9"}', b'"\xff"', b'{"s": "11"}',
    ]  # fmt: skip
    texts = [*texts, *(b'{"s": "%d"}' % number for number in range(12, 41)), b'{"s": "x"}', b'{"s": "42"}']
    lines = bench.score(b"\xef\xbb\xbf" + b"\n".join(texts) + b"\n\n \r\n")
    assert len(lines) == len(texts)
    answer = ask("POST", "/?signature_name=number&on_error=row", b"\n".join(texts), content_type="application/x-ndjson")
    for number, (line, wanted) in enumerate(zip(lines, map(json.loads, answer.body.splitlines()))):
        if "error" in line:
            assert line["error"] == wanted["error"]
            assert line["error"].startswith(f"line {number + 1}")
        else:
            assert line["prediction"] == wanted["y"]
    assert [number + 1 for number, line in enumerate(lines) if "error" in line] == [3, 4, 5, 7, 8, 10, 41]
    first = b'{"instance":{"key": {"a": [1, -0.0]}, "s": "1"},"key":{"a":[1,-0.0]},"prediction":1.0}\n'
    assert bench.written.startswith(first)
    assert lines[3] == {"instance": {"s": "four", "key": 4}, "key": 4, "error": lines[3]["error"]}
    assert lines[4].keys() == {"error"}


def test_rows_of_different_forms_and_shapes_are_answered_as_single_rows(bench: Bench) -> None:
    ask = bench.start(build() / "keras_lstm", SCORE_BATCH_ROWS="1")
    rows = [row for count in (3, 1, 2) for row in rows_of(2, (count, 3), count)]
    lines = bench.score(as_lines([rows[0], {"steps": rows[1]}, *rows[2:], {"steps": [[1]]}]))
    for row, written in zip(rows, bench.written.splitlines()):
        assert prediction_of(written) == online(ask, row, "serving_default")
    assert lines[-1]["error"] == "line 7, steps: expected shape [?, 3], got [1, 1]"


TEXTS = st.sampled_from([b'"cat"', b"cat", b"word", b"7", b"", b"{", b'{"key":1,"word":"x"}', b'"', b'""', b"\xff", b"\r", b",",
                         b"\n", b"\r\n", b"\n\n", b" ", b"\xc3\xa4", b"a" * 50])  # fmt: skip


@settings_of_hypothesis(max_examples=200, deadline=None)
@given(st.lists(TEXTS, max_size=30), st.lists(st.integers(1, 9), min_size=1, max_size=5), st.booleans())
def test_any_file_gives_the_answers_that_its_bytes_get_online(parts: list[bytes], cuts: list[int], table: bool) -> None:
    content = (b"word\r\n" if table else b'"cat"\n') + b"".join(parts)
    if not table:  # online, what is white at the end of the body is off before the last line is looked at
        content = content.rstrip(b" \t\r\n") + b"\n \r\n\n"
    kind = "text/csv" if table else "application/x-ndjson"
    served, ask = _lookup_table()
    signature = served.signatures["serving_default"]
    chunks, rest = [], content
    while rest:
        chunks += [cut_off := rest[: cuts[len(chunks) % len(cuts)]]]
        rest = rest[len(cut_off) :]
    form = formats.format_of(kind, formats.free(signature), Context(key="key"), 60)
    scorer = Scorer(served, signature, 0)
    try:
        lines = b"".join(scorer.lines(form, batch)[0] for batch in form.batches(iter(chunks), 1)).splitlines()
    except BadFile as error:
        lines, refusal = [], str(error)
    else:
        refusal = ""
    answer = ask("POST", "/?on_error=row", content, content_type=kind)
    wanted = answer.body.splitlines()
    if (
        answer.status != 200
        or refusal
        or b"MAX_BODY_BYTES" in b"".join(lines)
        or b"as the other instances" in answer.body
    ):
        return  # what fails one row of a file, or is answered as alone, is a reason online to refuse all or others
    assert len(lines) == len(wanted)
    for written, answered in zip(lines, wanted):
        line, row = json.loads(written), json.loads(answered)
        assert line.get("error") == (row.get("error") if isinstance(row, dict) else None)
        if "error" not in line:
            assert line["prediction"] == (row["number"] if isinstance(row, dict) else row)


@cache
def _lookup_table() -> Any:
    """Return a model without any of the server's state, and a way to ask it online."""
    from serving.core.http import Request
    from serving.pipeline import handler

    options = settings.read({"MODEL_DIR": str(build() / "lookup_table")})
    own = loading.Cache(options)

    def ask(method: str, path: str, body: bytes, **headers: str) -> Any:
        address, _, query = path.partition("?")
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        before, loading._cache = loading._cache, own
        try:
            return handler.handle(Request(method, address, query, fields, body))
        finally:
            loading._cache = before

    return own.get(), ask


ONE, TWO = '{"pixels": ' + json.dumps([[1] * 8] * 8) + "}", '{"pixels": 2}'

BAD = [
    # end        type          content                               words
    (".jsonl",   "",           b"",                                  "the file is empty"),
    (".jsonl",   "",           b" \r\n\n \n",                        "the file is empty"),
    (".jsonl",   "",           ONE.encode("utf-16"),                 "line 1: not JSON: not UTF-8 at byte 0; none of the first"),
    (".jsonl",   "",           b"hello\nworld\n",                    "line 1: not JSON: .*; none of the first 2 lines is"),
    (".jsonl.gz", "",          b"{}",                                "the file is not gzip, though"),
    (".jsonl.gz", "",          gzip.compress(ONE.encode(), mtime=0)[:-9],     "the gzip data ends too early"),
    (".csv",     "",           b"",                                  "the file is empty"),
    (".csv",     "",           b"age,name\n1,x\n",                   "line 1: the signature has no input 'age'"),
    (".csv",     "",           b"\xff\xfe,\x00\n",                   "line 1: not utf-8 at byte 0"),
    (".csv",     "",           b'x,"y\n1,2\n',                        "line 1: not CSV: a quotation mark is not closed"),
    (".csv",     "text/csv; charset=koi8-r", b"x\n1",                "expected the charset utf-8, us-ascii or"),
    (".png",     "",           b"no picture",                        "the model refuses it: Unknown image"),
    (".png",     "",           b"x" * 3000,                          r"expected at most 2000 bytes \(MAX_BODY_BYTES\)"),
    (".bin",     "",           b"PAR1",                              "the model refuses it"),  # octet-stream: it might not
    (".parquet", "",           b"PAR1",                              "the signature 'pixels' takes 'pixels'"),
    (".xlsx",    "application/vnd.ms-excel", b"PK",                  "expected a name that ends with one of .jsonl, "),
]  # fmt: skip


@pytest.mark.parametrize(("end", "kind", "content", "words"), BAD)
def test_a_file_that_can_never_be_scored_gets_a_permanent_error(
    bench: Bench, end: str, kind: str, content: bytes, words: str
) -> None:
    signature = "serving_default" if end in (".png", ".bin") else "pixels"
    bench.start(MAX_BODY_BYTES="2000", SCORE_OPTIONS=f"signature_name={signature}")
    source, generation = bench.put(content, end, kind)
    before = bench.store.names("out")
    with pytest.raises(BadFile, match=words):
        scoring.score_object(source, generation)
    assert bench.store.names("out") == before
    for _ in range(2):
        record = scoring.record_error(source, generation, words)
    assert record == f"gs://out/scored/{source.removeprefix('gs://in/')}.{generation}.error.json"
    assert json.loads(bench.store.get("out", record.removeprefix("gs://out/")))["error"] == words


def test_csv_without_rows_or_with_missing_columns_is_refused(bench: Bench) -> None:
    bench.start(build() / "keras_sequential")
    for content, words in [
        (b"features[0],features[1],features[2],features[3]\n\n", "line 2: expected a row, got only a header"),
        (b"features[0],features[1]\n1,2\n", r"line 1: features\[2\] is missing"),
        (b"a,b\n1,2\n", r"line 1: expected features\[0\], .* or 4 names, got 2"),
    ]:
        with pytest.raises(BadFile, match=words):
            scoring.score_object(*bench.put(content, ".csv"))


def test_rows_of_csv_fail_alone(bench: Bench) -> None:
    bench.start(build() / "keras_sequential", MAX_BODY_BYTES="60", SCORE_INSTANCES="1")
    rows = [
        b'1,2,3,"4"',
        b"1,2,3",
        b"",
        b"1,two,3,4",
        b'1,2,"3"x,4',
        b"1,2,3,\xff",
        b'1,2,3,"\n"',
        b"1," * 50,
        b"4,3,2,1",
    ]
    lines = bench.score(b"\r\n".join([b"a,b,c,d", *rows]) + b"\r\n\r\n", ".csv")
    assert [line.get("error", "").partition(":")[0].partition(",")[0] for line in lines] == [
        "", "line 3", "line 4", "line 5", "line 6", "line 7", "line 8", "line 10", ""
    ]  # fmt: skip
    assert lines[0]["instance"] == {"a": "1", "b": "2", "c": "3", "d": "4"}
    assert "line 5, column b: expected float32, got 'two'" in lines[3]["error"]
    assert lines[5]["error"] == "line 7: not utf-8"
    assert lines[7]["error"] == "line 10: expected at most 60 bytes (MAX_BODY_BYTES), got more"
    with pytest.raises(BadFile, match=r"line 2: expected at most 60 bytes .*; is a quotation mark not closed\?"):
        scoring.score_object(*bench.put(b'a,b,c,d\n1,2,3,"4\n' + b"1,2,3,4\n" * 20, ".csv"))


def test_a_line_of_50_megabytes_fails_alone(bench: Bench) -> None:
    bench.start(build() / "lookup_table")
    lines = bench.score(b'"cat"\n"' + b"x" * (50 << 20) + b'"\n"cat"\n')
    assert lines[1] == {"error": "line 2: expected at most 8388608 bytes (MAX_BODY_BYTES), got more"}
    assert lines[0] == lines[2]
    assert "prediction" in lines[0]


def test_compressed_files_are_decompressed(bench: Bench) -> None:
    bench.start(build() / "lookup_table")
    plain = b'"cat"\n"dog"\n' * 3000
    wanted = bench.score(plain)
    assert bench.score(gzip.compress(plain[:600]) + gzip.compress(plain[600:]), ".jsonl.gz") == wanted
    assert bench.score(gzip.compress(plain), ".json", "application/json", contentEncoding="gzip") == wanted


def test_a_batch_of_a_fixed_size_is_padded(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    bench.start(build() / "keras_sequential")
    rows = rows_of(7, (4,))
    wanted = bench.score(as_lines(rows))
    served = loading.cache().get()
    signature = served.signatures["serving_default"]
    for size in (1, 3):
        (spec,) = signature.inputs.values()
        fixed = signature._replace(inputs={spec.name: spec._replace(shape=(size, 4))})
        monkeypatch.setitem(served.signatures, "serving_default", fixed)
        lines = bench.score(as_lines([*rows, ["x"], rows[0]]))
        np.testing.assert_allclose(
            [line["prediction"] for line in lines if "error" not in line],
            [line["prediction"] for line in [*wanted, wanted[0]]],
            rtol=1e-5,
        )
        assert [number for number, line in enumerate(lines) if "error" in line] == [7]


NO_ROWS = [
    # model            signature
    ("fixed_shape",   "serving_default"),
    ("no_inputs",     "serving_default"),
    ("constants",     "serving_default"),
    ("many_named",    "serving_default"),
    ("control_flow",  "loop"),
]  # fmt: skip


@pytest.mark.parametrize(("folder", "signature"), NO_ROWS)
def test_a_signature_without_a_batch_dimension_is_refused(bench: Bench, folder: str, signature: str) -> None:
    bench.start(build() / folder, SCORE_OPTIONS=f"signature_name={signature}")
    with pytest.raises(BadFile, match="does not go by rows"):
        bench.score(b"[1, 2, 3]\n" * 3)


def test_SCORE_OPTIONS_has_the_options_of_an_address(bench: Bench) -> None:
    row = as_lines([np.ones((8, 8)).tolist()])
    bench.start(SCORE_OPTIONS="signature_name=pixels&top_k=2")
    (line,) = bench.score(row)
    assert len(line["prediction"]["classes"]) == 2
    for options, words in [("signature_name=pixel", "did you mean 'pixels'"), ("top_k=x", "top_k: expected a whole")]:
        bench.start(SCORE_OPTIONS=options)
        with pytest.raises(BadFile, match=words):
            bench.score(row)


def scaled(bench: Bench, monkeypatch: pytest.MonkeyPatch, factor: float, row: int = 0) -> list[int]:
    """Serve a model that multiplies the outputs of several rows from number `row` on; return the rows of each run."""
    bench.start(build() / "dtype_float32", SCORE_OPTIONS="signature_name=vector")
    model, sizes = loading.cache().get(), []
    run_alone = type(model).run

    def run(self: Any, signature: Any, inputs: Any) -> Any:
        outputs = run_alone(self, signature, inputs)
        sizes.append(len(inputs["x"]))
        changed = len(inputs["x"]) > 1 and inputs["x"].max() >= row
        return {name: array * np.float32(factor) if changed else array for name, array in outputs.items()}

    monkeypatch.setattr(type(model), "run", run)
    return sizes


TOGETHER = [
    # factor     from row   started again   the record
    (1 + 5e-6,   0,         False,          "up to 64 rows together, samples within 1e-05 of each row alone"),
    (1 + 5e-5,   0,         True,           "each row alone"),
    (1 + 5e-5,   2000,      True,           "each row alone"),
]  # fmt: skip


@pytest.mark.parametrize(("factor", "row", "again", "record"), TOGETHER)
def test_rows_run_together_while_samples_stay_within_the_tolerance(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    factor: float, row: int, again: bool, record: str,
) -> None:  # fmt: skip
    sizes = scaled(bench, monkeypatch, factor, row)
    together = bench.score(as_lines([float(number) for number in range(1, 3001)]))
    assert ("started again, row by row" in capsys.readouterr().out) is again
    assert (64 in sizes[-70:]) is not again
    name = bench.store.names("out", f"scored/{bench.name}")[0]
    assert bench.store.about("out", name)["metadata"]["run"] == record
    bench.start(build() / "dtype_float32", SCORE_OPTIONS="signature_name=vector", EVENT_OUTPUT="gs://out/exact",
                SCORE_BATCH_ROWS="1")  # fmt: skip
    alone = bench.score(as_lines([float(number) for number in range(1, 3001)]))
    assert (together == alone) is again
    np.testing.assert_allclose(
        *([[*line["prediction"].values()] for line in lines] for lines in (together, alone)), rtol=1e-5
    )


NEAR = [
    # alone                 together               near
    ([1.0, 1e-9],           [1.0, 1e-6],           True),   # relative to the largest number
    ([1.0, 1e-9],           [1.0, 1e-4],           False),
    ([np.nan, 1.0],         [np.nan, 1.000001],    True),
    ([np.nan, 1.0],         [1.0, 1.0],            False),
    ([np.inf, 1.0],         [np.inf, 1.0],         True),
    ([7, 7],                [7, 8],                False),
    ([b"cat"],              [b"dog"],              False),
]  # fmt: skip


@pytest.mark.parametrize(("alone", "together", "expected"), NEAR)
def test_floats_may_differ_by_the_tolerance_and_nothing_else(alone: Any, together: Any, expected: bool) -> None:
    kind = object if isinstance(alone[0], bytes) else None
    assert rows.near(np.array(alone, kind), np.array(together, kind)) is expected
