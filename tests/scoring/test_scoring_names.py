"""Names of outputs, digests of models, and settings of scoring."""

import re
from pathlib import Path
from typing import Any

import pytest

from serving import scoring
from serving.core import settings
from serving.core.errors import LoadError
from serving.runtime import loading
from serving.scoring import TemporaryFailure, run
from tests.conftest import EMBEDDED
from tests.models.zoo import build
from tests.scoring.benches import Bench


def test_an_object_is_ours_by_its_folder_or_its_metadata(bench: Bench) -> None:
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


def test_long_names_are_shortened(bench: Bench) -> None:
    bench.start(build() / "lookup_table")
    bench.name = "x" * 1000
    source, generation = bench.put(b'"cat"\n')
    scored = scoring.score_object(source, generation)
    assert len(scored.output.removeprefix("gs://out/")) < 150
    assert scored.output.endswith(f".{generation}.predictions.jsonl")


def test_the_digest_of_a_model_covers_graph_weights_and_labels(tmp_path: Path) -> None:
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
def test_a_bad_setting_of_scoring_stops_the_start(variable: str, value: str, words: str) -> None:
    with pytest.raises(settings.SettingError, match=re.escape(words)):
        settings.read({variable: value})


def test_a_token_is_not_shown() -> None:
    assert "secret" not in repr(settings.read({"GOOGLE_OAUTH_ACCESS_TOKEN": "secret"}))


def test_a_model_that_fails_to_load_is_not_an_error_of_the_file(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.start()

    def fail(_: Any) -> Any:
        raise LoadError("it is not there yet")

    monkeypatch.setattr(loading.Cache, "get", fail)
    with pytest.raises(TemporaryFailure, match="it is not there yet"):
        scoring.score_object(*bench.put(b"1\n"))


def test_a_prediction_does_not_import_the_storage_client() -> None:
    import subprocess
    import sys

    code = "import sys, serving.servers.wsgi as _; print([m for m in sys.modules if 'scoring' in m or 'storage' in m])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
