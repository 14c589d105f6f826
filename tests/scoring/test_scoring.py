"""Objects scored in this process, with a real fake-gcs-server: the same bytes as online, and every end that it can have."""

import gzip
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
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
from serving.core import storage as client
from serving.core.errors import LoadError
from serving.protocols.call import Context
from serving.runtime import loading
from serving.scoring import BadFile, Gone, TemporaryFailure, formats, outputs, rows, run, workers
from serving.scoring.rows import Scorer
from tests.conftest import EMBEDDED, Serve
from tests.events.emulators import Fault, Line, Store, line, storage
from tests.models.zoo import build

Score = Callable[..., list[Any]]
BOXES = ["in", "out"]


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    with storage() as running:
        for name in BOXES:
            running.bucket(name)
        yield running


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "PAUSES", (0.0, 0.0))


class Bench:
    """A served model, whose online answers and scored files are compared."""

    def __init__(self, serve: Serve, store: Store, name: str) -> None:
        self._serve, self.store, self.name = serve, store, name

    def start(self, directory: Path = EMBEDDED, through: Line | None = None, **environment: str) -> Callable[..., Any]:
        place = through.address if through else self.store.address
        places = {"EVENT_INPUT": "gs://inbox", "EVENT_OUTPUT": "gs://out/scored", "STORAGE_EMULATOR_HOST": place}
        more = {**places, **environment}
        return self._serve(directory, **more)

    def put(self, content: bytes, end: str = ".jsonl", kind: str = "", **described: Any) -> tuple[str, str]:
        name = f"{self.name}{end}"
        return f"gs://in/{name}", self.store.put("in", name, content, kind, **described)

    def score(self, content: bytes, end: str = ".jsonl", kind: str = "", **described: Any) -> list[Any]:
        """Return the lines that a file is answered with."""
        scored = scoring.score_object(*self.put(content, end, kind, **described))
        written = self.store.get(*scored.output.removeprefix("gs://").split("/", 1))
        told = [json.loads(text) for text in written.splitlines()]
        assert (scored.rows, scored.failed) == (len(told), sum("error" in one for one in told))
        self.written = written
        return told


@pytest.fixture
def bench(serve: Serve, store: Store, request: pytest.FixtureRequest) -> Bench:
    return Bench(serve, store, re.sub(r"\W+", "-", request.node.name))


def rows_of(count: int, shape: tuple[int, ...], seed: int = 7) -> list[Any]:
    made: list[Any] = np.random.default_rng(seed).normal(size=(count, *shape)).astype(np.float32).tolist()
    return made


def as_lines(rows: list[Any]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def prediction_of(written: bytes) -> bytes:
    found = re.fullmatch(rb'\{.*?"prediction":(.*)\}', written)
    assert found, written
    return found[1]


def online(ask: Callable[..., Any], instance: Any, name: str) -> bytes:
    """Return the bytes of the one prediction of an online answer."""
    answer = ask("POST", f"/?signature_name={name}", {"instances": [instance]})
    assert answer.status == 200, answer.body
    found = re.fullmatch(rb'\{"predictions":\[(.*)\]\}', answer.body)
    assert found
    return found[1]


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
def test_one_by_one_a_prediction_has_the_bytes_of_the_online_answer_to_its_instance(
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
    told = bench.score(b"\xef\xbb\xbf" + table.encode(), ".csv")
    assert [line["key"] for line in told] == [f"k{number}" for number in range(50)]
    for row, written in zip(rows, bench.written.splitlines()):
        assert prediction_of(written) == online(ask, row, "serving_default")
    ask = bench.start()
    import base64

    instance = examples["serving_default"]["instances"][0]
    bench.score(base64.b64decode(instance["b64"]), ".png")
    assert prediction_of(bench.written.rstrip()) == online(ask, instance, "serving_default")
    bench.start(build() / "decode_image", SCORE_OPTIONS="signature_name=pixels")  # no batch dimension
    (told,) = bench.score(base64.b64decode(instance["b64"]), "", "image/png")
    assert np.shape(told["prediction"]) == (8, 8, 1)


def test_lines_stand_for_lines_however_they_are_cut(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "ROWS", 7)
    ask = bench.start(build() / "failures", SCORE_OPTIONS="signature_name=number", SCORE_INSTANCES="1")
    texts = [
        b'{"key": {"a": [1, -0.0]}, "s": "1"}', b'{"s": "2"}', b"", b'{"s": "four", "key": 4}', b"nonsense",
        b' {"s":"6"}\r', b'{"s": 7}', b'{"t": "8"}', b'{"s": "9"}', b'"\xff"', b'{"s": "11"}',
    ]  # fmt: skip
    texts = [*texts, *(b'{"s": "%d"}' % number for number in range(12, 41)), b'{"s": "x"}', b'{"s": "42"}']
    told = bench.score(b"\xef\xbb\xbf" + b"\n".join(texts) + b"\n\n \r\n")
    assert len(told) == len(texts)
    answer = ask("POST", "/?signature_name=number&on_error=row", b"\n".join(texts), content_type="application/x-ndjson")
    for number, (found, wanted) in enumerate(zip(told, map(json.loads, answer.body.splitlines()))):
        if "error" in found:
            assert found["error"] == wanted["error"]
            assert found["error"].startswith(f"line {number + 1}")
        else:
            assert found["prediction"] == wanted["y"]
    assert [number + 1 for number, found in enumerate(told) if "error" in found] == [3, 4, 5, 7, 8, 10, 41]
    first = b'{"instance":{"key": {"a": [1, -0.0]}, "s": "1"},"key":{"a":[1,-0.0]},"prediction":1.0}\n'
    assert bench.written.startswith(first)
    assert told[3] == {"instance": {"s": "four", "key": 4}, "key": 4, "error": told[3]["error"]}
    assert told[4].keys() == {"error"}


def test_rows_of_other_forms_and_shapes_are_answered_as_alone(bench: Bench) -> None:
    ask = bench.start(build() / "keras_lstm", SCORE_BATCH_ROWS="1")
    rows = [row for count in (3, 1, 2) for row in rows_of(2, (count, 3), count)]
    told = bench.score(as_lines([rows[0], {"steps": rows[1]}, *rows[2:], {"steps": [[1]]}]))
    for row, written in zip(rows, bench.written.splitlines()):
        assert prediction_of(written) == online(ask, row, "serving_default")
    assert told[-1]["error"] == "line 7, steps: expected shape [?, 3], got [1, 1]"


TEXTS = st.sampled_from([b'"cat"', b"cat", b"word", b"7", b"", b"{", b'{"key":1,"word":"x"}', b'"', b'""', b"\xff", b"\r", b",",
                         b"\n", b"\r\n", b"\n\n", b" ", b"\xc3\xa4", b"a" * 50])  # fmt: skip


@settings_of_hypothesis(max_examples=200, deadline=None)
@given(st.lists(TEXTS, max_size=30), st.lists(st.integers(1, 9), min_size=1, max_size=5), st.booleans())
def test_any_file_is_read_as_its_bytes_are_online(parts: list[bytes], cuts: list[int], table: bool) -> None:
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
        lines, told = [], str(error)
    else:
        told = ""
    answer = ask("POST", "/?on_error=row", content, content_type=kind)
    wanted = answer.body.splitlines()
    if answer.status != 200 or told or b"MAX_BODY_BYTES" in b"".join(lines) or b"as the other instances" in answer.body:
        return  # what fails one row of a file, or is answered as alone, is a reason online to refuse all or others
    assert len(lines) == len(wanted)
    for written, answered in zip(lines, wanted):
        found, row = json.loads(written), json.loads(answered)
        assert found.get("error") == (row.get("error") if isinstance(row, dict) else None)
        if "error" not in found:
            assert found["prediction"] == (row["number"] if isinstance(row, dict) else row)


@cache
def _lookup_table() -> Any:
    """Return a model without any of the server's state, and a way to ask it online."""
    from serving.core.http import Request
    from serving.pipeline import handler

    options = settings.read({"MODEL_DIR": str(build() / "lookup_table")})
    own = loading.Cache(options)

    def ask(method: str, path: str, body: bytes, **headers: str) -> Any:
        place, _, query = path.partition("?")
        told = {name.replace("_", "-"): value for name, value in headers.items()}
        before, loading._cache = loading._cache, own
        try:
            return handler.handle(Request(method, place, query, told, body))
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
def test_a_file_that_can_never_be_scored_is_told_so(
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
        place = scoring.record_error(source, generation, words)
    assert place == f"gs://out/scored/{source.removeprefix('gs://in/')}.{generation}.error.json"
    assert json.loads(bench.store.get("out", place.removeprefix("gs://out/")))["error"] == words


def test_csv_without_rows_and_headers_of_no_input(bench: Bench) -> None:
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
    told = bench.score(b"\r\n".join([b"a,b,c,d", *rows]) + b"\r\n\r\n", ".csv")
    assert [line.get("error", "").partition(":")[0].partition(",")[0] for line in told] == [
        "", "line 3", "line 4", "line 5", "line 6", "line 7", "line 8", "line 10", ""
    ]  # fmt: skip
    assert told[0]["instance"] == {"a": "1", "b": "2", "c": "3", "d": "4"}
    assert "line 5, column b: expected float32, got 'two'" in told[3]["error"]
    assert told[5]["error"] == "line 7: not utf-8"
    assert told[7]["error"] == "line 10: expected at most 60 bytes (MAX_BODY_BYTES), got more"
    with pytest.raises(BadFile, match=r"line 2: expected at most 60 bytes .*; is a quotation mark not closed\?"):
        scoring.score_object(*bench.put(b'a,b,c,d\n1,2,3,"4\n' + b"1,2,3,4\n" * 20, ".csv"))


def test_a_line_of_50_megabytes_is_an_error_and_nothing_else(bench: Bench) -> None:
    bench.start(build() / "lookup_table")
    told = bench.score(b'"cat"\n"' + b"x" * (50 << 20) + b'"\n"cat"\n')
    assert told[1] == {"error": "line 2: expected at most 8388608 bytes (MAX_BODY_BYTES), got more"}
    assert told[0] == told[2]
    assert "prediction" in told[0]


def test_packed_files_are_unpacked(bench: Bench) -> None:
    bench.start(build() / "lookup_table")
    plain = b'"cat"\n"dog"\n' * 3000
    wanted = bench.score(plain)
    assert bench.score(gzip.compress(plain[:600]) + gzip.compress(plain[600:]), ".jsonl.gz") == wanted
    assert bench.score(gzip.compress(plain), ".json", "application/json", contentEncoding="gzip") == wanted


def test_what_is_gone_or_no_file_is_told_so(bench: Bench) -> None:
    bench.start()
    source, generation = bench.put(b"1")
    for place, pinned in [
        ("gs://in/nothing.jsonl", None),
        ("gs://in/nothing.jsonl", "7"),
        (source, str(int(generation) - 1)),
        ("gs://no-such-bucket/a.jsonl", "7"),
        ("gs://in/folder/", "7"),
    ]:
        with pytest.raises(Gone):
            scoring.score_object(place, pinned)


def test_an_object_that_is_replaced_while_it_is_read_is_gone(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.start(build() / "lookup_table")
    source, generation = bench.put(b'"cat"\n' * 10)
    monkeypatch.setattr(run, "form_of", lambda *given: bench.put(b'"dog"\n') and workers.form_of(*given))
    with pytest.raises(Gone, match="not there any more"):
        scoring.score_object(source, generation)


def test_passing_faults_are_told_apart(bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source, generation = bench.put(b'"cat"\n')
    bench.start(build() / "lookup_table", EVENT_INPUT="", EVENT_OUTPUT="")
    with pytest.raises(TemporaryFailure, match="EVENT_OUTPUT is not set"):
        scoring.score_object(source, generation)
    bench.start(build() / "lookup_table", EVENT_OUTPUT="gs://no-such-bucket/out")
    with pytest.raises(TemporaryFailure, match="404"):
        scoring.score_object(source, generation)
    with pytest.raises(TemporaryFailure, match="404"):
        scoring.record_error(source, generation, "x")
    for fault in (Fault("GET", "alt=media", 503, 99), Fault("POST", "upload", 503, 99), Fault("GET", "/o/", 500, 99)):
        with line(bench.store.address, fault) as through:
            bench.start(build() / "lookup_table", through)
            with pytest.raises(TemporaryFailure, match="the server answers 50"):
                scoring.score_object(source, generation)
    bench.start(tmp_path)
    with pytest.raises(TemporaryFailure, match="the model cannot be loaded: it holds no"):
        scoring.score_object(source, generation)
    bench.start(build() / "lookup_table")
    served = loading.cache().get()
    for error in (MemoryError(), scoring.run.TemporaryFailure("x")):
        monkeypatch.setattr(type(served), "run", lambda *_, error=error: (_ for _ in ()).throw(error))
        with pytest.raises(TemporaryFailure):
            scoring.score_object(source, generation)


def test_what_is_scored_is_not_scored_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.start(build() / "lookup_table")
    source, generation = bench.put(b'"cat"\n7\n')
    first = scoring.score_object(source, None)
    assert first == (f"gs://out/scored/{bench.name}.jsonl.{generation}.predictions.jsonl", 2, 1, False)
    about = bench.store.about("out", first.output.removeprefix("gs://out/"))
    assert about["contentType"] == "application/x-ndjson"
    told = about["metadata"]
    assert (told["rows"], told["errors"], told["source"], told["generation"]) == ("2", "1", source, generation)
    assert (told["model"], told["model-version"], len(told["model-digest"])) == ("model", "1", 32)
    monkeypatch.setattr(loading.Cache, "get", lambda _: pytest.fail("the model is not needed"))
    bench.store.delete("in", f"{bench.name}.jsonl")
    assert scoring.score_object(source, generation) == first._replace(already=True)


def test_another_generation_is_another_file(bench: Bench) -> None:
    bench.start(build() / "lookup_table")
    places = {scoring.score_object(*bench.put(b'"cat"\n' * count)).output for count in (1, 2)}
    assert len(places) == 2


@pytest.mark.parametrize("part", ["8388608", "500"])
def test_many_at_once_end_in_one_object(bench: Bench, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "ROWS", 20)
    bench.start(build() / "lookup_table", SCORE_PART_BYTES=part)
    source, generation = bench.put(b'"cat"\n"dog"\n' * 300)
    ends: list[Any] = []

    def deliver() -> None:
        try:
            ends.append(scoring.score_object(source, generation))
        except Exception as error:
            ends.append(error)

    threads = [threading.Thread(target=deliver) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {(end.output, end.rows, end.failed) for end in ends} == {(ends[0].output, 600, 0)}
    bench.start(build() / "lookup_table", EVENT_OUTPUT="gs://out/again")
    alone = scoring.score_object(source, generation)
    there = [bench.store.get("out", end.output.removeprefix("gs://out/")) for end in (ends[0], alone)]
    assert there[0] == there[1]
    scoring.score_object(source, generation)
    assert bench.store.names("out", f"scored/.partial/{bench.name}") == []


def test_work_that_was_cut_short_goes_on_where_it_ended(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "ROWS", 10)
    source, generation = bench.put(b'"cat"\n"dog"\n7\n' * 500)
    bench.start(build() / "lookup_table", EVENT_OUTPUT="gs://out/whole")
    whole = scoring.score_object(source, generation)
    bench.start(build() / "lookup_table", SCORE_PART_BYTES="1000")
    keep, kept = outputs.BucketOutput._keep, []

    def stumble(self: outputs.BucketOutput) -> None:
        if len(kept) % 9 == 8:
            kept.append(0)
            raise TemporaryFailure("struck by lightning")
        keep(self)
        kept.append(self.rows)

    monkeypatch.setattr(outputs.BucketOutput, "_keep", stumble)
    strokes = 0
    while True:
        try:
            scored = scoring.score_object(source, generation)
            break
        except TemporaryFailure as error:
            assert str(error) == "struck by lightning"
            strokes += 1
            assert bench.store.names("out", f"scored/.partial/{bench.name}")
    assert strokes > 3
    assert len([rows for rows in kept if rows]) > 33  # more than one call can compose
    assert sorted(set(kept) - {0}) == [rows for rows in kept if rows]  # no row twice
    assert scored[1:] == whole[1:] == (1500, 500, False)
    names = [end.output.removeprefix("gs://out/") for end in (scored, whole)]
    assert bench.store.get("out", names[0]) == bench.store.get("out", names[1])
    assert bench.store.names("out", f"scored/.partial/{bench.name}") == []
    told = [bench.store.about("out", name)["metadata"] for name in names]
    assert told[0] == told[1]


def test_parts_that_may_not_be_deleted_stay_and_harm_nothing(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    with line(bench.store.address, Fault("DELETE", "", 403, 99)) as through:
        bench.start(build() / "lookup_table", through, SCORE_PART_BYTES="1")
        source, generation = bench.put(b'"cat"\n' * 3000)
        scored = scoring.score_object(source, generation)
    assert scored.rows == 3000
    assert "parts could not be deleted" in capsys.readouterr().out
    left = bench.store.names("out", f"scored/.partial/{bench.name}")
    assert len(left) == 3
    assert all(scoring.ours("out", name, {}) for name in left)


def test_work_that_does_not_fit_the_time_is_refused_at_its_beginning(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, clock, here = [0.0], time.monotonic, threading.get_ident()

    def replace_clock(told: Callable[[], float]) -> None:
        """Replace the clock of this thread: the process has others, which look at it too."""
        monkeypatch.setattr(time, "monotonic", lambda: told() if threading.get_ident() == here else clock())

    replace_clock(lambda: now[0])
    bench.start(build() / "lookup_table", EVENT_TIMEOUT="100")
    served = loading.cache().get()
    plainly = type(served).run

    def slowly(*arguments: Any) -> Any:
        now[0] += pace
        return plainly(*arguments)

    monkeypatch.setattr(type(served), "run", slowly)
    monkeypatch.setattr(formats, "ROWS", 10)
    source, generation = bench.put(b'"cat"\n' * 3000)
    pace = 1.0
    with pytest.raises(BadFile, match=r"18000 bytes would take about \d+ s, and EVENT_TIMEOUT is 100 s; score it with"):
        scoring.score_object(source, generation)
    assert now[0] < 60
    now[0], pace = 0.0, 0.0
    monkeypatch.setattr(scoring, "MEASURED", 1e9)  # the beginning was quick; then it stalls
    later = iter([0.0] * 30 + [200.0] * 1000)
    replace_clock(lambda: next(later))
    with pytest.raises(TemporaryFailure, match="EVENT_TIMEOUT, 100 s, is over after"):
        scoring.score_object(source, generation)


def test_progress_is_logged(bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(scoring, "LOG_EVERY", 0.0)
    monkeypatch.setattr(formats, "ROWS", 100)
    bench.start(build() / "lookup_table")
    bench.score(b'"cat"\n' * 300)
    told = [json.loads(text) for text in capsys.readouterr().out.splitlines() if " rows, " in text]
    assert [one["message"].partition(": ")[2] for one in told] == [
        "100 rows, 33 %",
        "200 rows, 66 %",
        "300 rows, 100 %",
    ]


def test_a_batch_of_a_fixed_size_is_filled_up(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    bench.start(build() / "keras_sequential")
    rows = rows_of(7, (4,))
    wanted = bench.score(as_lines(rows))
    served = loading.cache().get()
    signature = served.signatures["serving_default"]
    for size in (1, 3):
        (spec,) = signature.inputs.values()
        fixed = signature._replace(inputs={spec.name: spec._replace(shape=(size, 4))})
        monkeypatch.setitem(served.signatures, "serving_default", fixed)
        told = bench.score(as_lines([*rows, ["x"], rows[0]]))
        np.testing.assert_allclose(
            [one["prediction"] for one in told if "error" not in one],
            [one["prediction"] for one in [*wanted, wanted[0]]],
            rtol=1e-5,
        )
        assert [number for number, one in enumerate(told) if "error" in one] == [7]


NO_ROWS = [
    # model            signature
    ("fixed_shape",   "serving_default"),
    ("no_inputs",     "serving_default"),
    ("constants",     "serving_default"),
    ("many_named",    "serving_default"),
    ("control_flow",  "loop"),
]  # fmt: skip


@pytest.mark.parametrize(("folder", "signature"), NO_ROWS)
def test_a_signature_that_does_not_go_by_rows_is_refused(bench: Bench, folder: str, signature: str) -> None:
    bench.start(build() / folder, SCORE_OPTIONS=f"signature_name={signature}")
    with pytest.raises(BadFile, match="does not go by rows"):
        bench.score(b"[1, 2, 3]\n" * 3)


def test_options_are_those_of_an_address(bench: Bench) -> None:
    row = as_lines([np.ones((8, 8)).tolist()])
    bench.start(SCORE_OPTIONS="signature_name=pixels&top_k=2")
    (told,) = bench.score(row)
    assert len(told["prediction"]["classes"]) == 2
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
    (1 + 5e-5,   2900,      True,           "each row alone"),
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


def test_ours_is_what_stands_in_our_place_or_bears_our_mark(bench: Bench) -> None:
    bench.start()
    for bucket, name, metadata, wanted in [
        ("out", "scored/a.jsonl.7.predictions.jsonl", {}, True),
        ("out", "scored/.partial/x/y/000000", {}, True),
        ("out", "scored-by-others/a.jsonl", {}, False),
        ("in", "scored/a.jsonl", {}, False),
        ("in", "a.jsonl", {"serving-output": "predictions"}, True),
        ("in", "a.jsonl", {"who": "me"}, False),
    ]:
        assert scoring.ours(bucket, name, metadata) is wanted
    bench.start(EVENT_INPUT="", EVENT_OUTPUT="")
    assert not scoring.ours("out", "scored/a", {})


def test_long_names_are_written_shorter(bench: Bench) -> None:
    bench.start(build() / "lookup_table")
    bench.name = "x" * 1000
    source, generation = bench.put(b'"cat"\n')
    scored = scoring.score_object(source, generation)
    assert len(scored.output.removeprefix("gs://out/")) < 150
    assert scored.output.endswith(f".{generation}.predictions.jsonl")


def test_the_digest_of_a_model_is_of_its_graph_weights_and_labels(tmp_path: Path) -> None:
    import shutil

    digests = []
    for change in ("", "README.md", "assets.extra/labels.txt", "variables/variables.index", "saved_model.pb"):
        copy = tmp_path / f"copy{len(digests)}"
        shutil.copytree(EMBEDDED, copy)
        if change:
            with (copy / change).open("ab") as file:
                file.write(b" ")
        digests.append(run.digest(copy))
    assert digests[0] == digests[1] == run.digest(EMBEDDED)
    assert len(set(digests)) == 4


WRONG = [
    # variable            value               words
    ("EVENT_OUTPUT",      "gs://box",         "EVENT_INPUT: expected gs://BUCKET/FOLDER beside EVENT_OUTPUT, or neither of them, got nothing"),
    ("EVENT_TIMEOUT",     "601",              "EVENT_TIMEOUT: expected a whole number from 1 to 600, got '601'"),
    ("SCORE_OPTIONS",     "/?top_k=1",        "SCORE_OPTIONS: expected options as in the query of an address"),
    ("SCORE_BATCH_ROWS",  "-1",               "SCORE_BATCH_ROWS: expected a whole number"),
    ("SCORE_INSTANCES",   "yes",              "SCORE_INSTANCES: expected one of 0, 1"),
    ("SCORE_PART_BYTES",  "8M",               "SCORE_PART_BYTES: expected a whole number"),
]  # fmt: skip


@pytest.mark.parametrize(("variable", "value", "words"), WRONG)
def test_a_setting_that_is_wrong_stops_the_start(variable: str, value: str, words: str) -> None:
    with pytest.raises(settings.SettingError, match=re.escape(words)):
        settings.read({variable: value})


def test_a_token_is_not_shown() -> None:
    assert "secret" not in repr(settings.read({"GOOGLE_OAUTH_ACCESS_TOKEN": "secret"}))


def test_a_model_that_fails_to_load_does_not_count_as_a_bad_file(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.start()

    def fail(_: Any) -> Any:
        raise LoadError("it is not there yet")

    monkeypatch.setattr(loading.Cache, "get", fail)
    with pytest.raises(TemporaryFailure, match="it is not there yet"):
        scoring.score_object(*bench.put(b"1\n"))


def test_nothing_of_storage_is_imported_for_a_prediction() -> None:
    import subprocess
    import sys

    code = "import sys, serving.servers.wsgi as _; print([m for m in sys.modules if 'scoring' in m or 'storage' in m])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
