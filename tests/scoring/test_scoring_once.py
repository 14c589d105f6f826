"""A file is scored exactly once despite failures: transient errors, interrupted work, partial output, timeouts."""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from serving import scoring
from serving.runtime import loading
from serving.scoring import BadFile, Gone, TemporaryFailure, formats, outputs, run, workers
from tests.events.emulators import Fault, line
from tests.models.zoo import build
from tests.scoring.benches import Bench


def test_a_missing_object_or_a_folder_gets_a_permanent_error(bench: Bench) -> None:
    bench.start()
    source, generation = bench.put(b"1")
    for address, pinned in [
        ("gs://in/nothing.jsonl", None),
        ("gs://in/nothing.jsonl", "7"),
        (source, str(int(generation) - 1)),
        ("gs://no-such-bucket/a.jsonl", "7"),
        ("gs://in/folder/", "7"),
    ]:
        with pytest.raises(Gone):
            scoring.score_object(address, pinned)


def test_an_object_that_is_replaced_while_it_is_read_is_reported_as_gone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.start(build() / "lookup_table")
    source, generation = bench.put(b'"cat"\n' * 10)
    monkeypatch.setattr(run, "form_of", lambda *given: bench.put(b'"dog"\n') and workers.form_of(*given))
    with pytest.raises(Gone, match="not there any more"):
        scoring.score_object(source, generation)


def test_transient_errors_have_a_class_of_their_own(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
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


def test_a_scored_file_is_not_scored_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.start(build() / "lookup_table")
    source, generation = bench.put(b'"cat"\n7\n')
    first = scoring.score_object(source, None)
    assert first == (f"gs://out/scored/{bench.name}.jsonl.{generation}.predictions.jsonl", 2, 1, False)
    about = bench.store.about("out", first.output.removeprefix("gs://out/"))
    assert about["contentType"] == "application/x-ndjson"
    metadata = about["metadata"]
    assert (metadata["rows"], metadata["errors"], metadata["source"], metadata["generation"]) == (
        "2",
        "1",
        source,
        generation,
    )
    assert (metadata["model"], metadata["model-version"], len(metadata["model-digest"])) == ("model", "1", 32)
    monkeypatch.setattr(loading.Cache, "get", lambda _: pytest.fail("the model is not needed"))
    bench.store.delete("in", f"{bench.name}.jsonl")
    assert scoring.score_object(source, generation) == first._replace(already=True)


def test_another_generation_is_another_file(bench: Bench) -> None:
    bench.start(build() / "lookup_table")
    places = {scoring.score_object(*bench.put(b'"cat"\n' * count)).output for count in (1, 2)}
    assert len(places) == 2


@pytest.mark.parametrize("part", ["8388608", "500"])
def test_concurrent_deliveries_write_one_object(bench: Bench, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_interrupted_work_resumes_where_it_stopped(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
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
    metadata = [bench.store.about("out", name)["metadata"] for name in names]
    assert metadata[0] == metadata[1]


def test_parts_that_cannot_be_deleted_are_left_and_ignored(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    with line(bench.store.address, Fault("DELETE", "", 403, 99)) as through:
        bench.start(build() / "lookup_table", through, SCORE_PART_BYTES="1")
        source, generation = bench.put(b'"cat"\n' * 3000)
        scored = scoring.score_object(source, generation)
    assert scored.rows == 3000
    assert "parts could not be deleted" in capsys.readouterr().out
    left = bench.store.names("out", f"scored/.partial/{bench.name}")
    assert len(left) == 3
    assert all(scoring.ours("out", name, {}) for name in left)


def test_a_file_that_would_exceed_the_timeout_is_refused_at_its_beginning(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, clock, here = [0.0], time.monotonic, threading.get_ident()

    def replace_clock(seconds: Callable[[], float]) -> None:
        """Replace the clock of this thread: the process has others, which look at it too."""
        monkeypatch.setattr(time, "monotonic", lambda: seconds() if threading.get_ident() == here else clock())

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
    entries = [json.loads(text) for text in capsys.readouterr().out.splitlines() if " rows, " in text]
    assert [entry["message"].partition(": ")[2] for entry in entries] == [
        "100 rows, 33 %",
        "200 rows, 66 %",
        "300 rows, 100 %",
    ]
