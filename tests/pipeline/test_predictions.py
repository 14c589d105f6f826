"""The sample of the predictions that LOG_PREDICTIONS writes: of which requests, what of them, and where to."""

import hashlib
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from serving.pipeline import predictions
from serving.savedmodel.folder import card
from tests.conftest import EMBEDDED, Serve
from tests.core.telemetry.asked import ask as ask_the_server
from tests.core.telemetry.asked import exposed, scraped
from tests.events.emulators import storage
from tests.harness.waiting import until
from tests.pipeline.test_handler import PREDICT
from tests.server import running

INFER = "/v2/models/model/infer"
ROWS = [[[float(row)] * 8] * 8 for row in range(3)]


def keyed(*keys: Any) -> dict[str, Any]:
    return {"signature_name": "pixels", "instances": [{"key": key, "pixels": row} for key, row in zip(keys, ROWS)]}


def logged(text: str) -> list[dict[str, Any]]:
    entries = [json.loads(line) for line in text.splitlines()]
    return [entry for entry in entries if entry.get("message") == "prediction"]


def written(read: Callable[[], bytes], count: int) -> list[dict[str, Any]]:
    """Return the lines that `read` finds, once there are so many."""
    until(lambda: len(read().splitlines()) >= max(count, 1), "the lines", pause=0.02)
    return [json.loads(line) for line in read().splitlines()]


def in_folder(folder: Path) -> Callable[[], bytes]:
    return lambda: b"".join(file.read_bytes() for file in sorted(folder.rglob("*.jsonl")))


def test_a_line_has_the_key_the_inputs_and_the_outputs_of_a_row(
    serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    ask = serve(LOG_PREDICTIONS="1", MODEL_NAME="digits")
    capsys.readouterr()
    response = ask("POST", "/", keyed("a", 7))
    lines = logged(capsys.readouterr().out)
    for line, key, row, prediction in zip(
        lines, ("a", 7), ROWS[:2], json.loads(response.body)["predictions"], strict=True
    ):
        assert line.pop("time").endswith("Z")
        assert line == {
            "severity": "INFO", "message": "prediction", "model": "digits", "version": "1",
            "digest": card.digest(EMBEDDED), "signature": "pixels", "key": key, "inputs": {"pixels": row},
            "outputs": {name: value for name, value in prediction.items() if name != "key"},
        }  # fmt: skip


TENSOR = {"name": "pixels", "shape": [1, 8, 8], "datatype": "FP32", "data": ROWS[:1]}
TENSORS = {"name": "pixels", "shape": [2, 8, 8], "datatype": "FP32", "data": ROWS[:2]}
PIXELS = {"signature_name": "pixels"}
KEYS = [
    # path    body                                                      headers                 keys of the lines
    (PREDICT, {**PIXELS, "instances": ROWS[:2]},                        {},                     [None, None]),
    (PREDICT, {**PIXELS, "instances": ROWS[:1]},                        {"X_Request_Id": "r"},  ["r"]),
    (PREDICT, {**PIXELS, "instances": ROWS[:2]},                        {"X_Request_Id": "r"},  ["r/0", "r/1"]),
    (PREDICT, keyed("a", "b"),                                          {"X_Request_Id": "r"},  ["a", "b"]),
    (PREDICT, {**PIXELS, "inputs": {"pixels": ROWS[:2], "key": [1, 2]}}, {},                    [1, 2]),
    (PREDICT + "?top_k=1", keyed("a"),                                  {},                     ["a"]),
    (INFER,   {"id": "i", "parameters": PIXELS, "inputs": [TENSOR]},    {},                     ["i"]),
    (INFER,   {"id": "i", "parameters": PIXELS, "inputs": [TENSORS]},   {},                     ["i/0", "i/1"]),
]  # fmt: skip


class Fields(dict[str, str]):
    def get(self, name: str, /) -> str | None:  # type: ignore[override]
        return super().get(name.lower())


@pytest.mark.parametrize(("path", "body", "headers", "keys"), KEYS)
def test_every_protocol_has_its_keys(
    serve: Serve, capsys: pytest.CaptureFixture[str], path: str, body: Any, headers: dict[str, str], keys: list[Any]
) -> None:
    serve(LOG_PREDICTIONS="1")
    query = path.partition("?")[2]
    fields = {f"HTTP_{name.upper()}": value for name, value in headers.items()}
    status, _ = ask_the_server("POST", path.partition("?")[0], json.dumps(body).encode(), QUERY_STRING=query, **fields)
    lines = logged(capsys.readouterr().out)
    assert status == 200
    assert [line.get("key") for line in lines] == keys
    assert {*lines[0]["outputs"]} == {"label", "probabilities", "probability"}


def test_names_can_be_left_out_and_a_misspelt_one_disables_the_log(
    serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    ask = serve(LOG_PREDICTIONS="1", LOG_PREDICTIONS_WITHOUT="pixels, probability")
    ask("POST", "/", keyed("a"))
    (line,) = logged(capsys.readouterr().out)
    assert (line["inputs"], {*line["outputs"]}) == ({}, {"label", "probabilities"})
    ask = serve(LOG_PREDICTIONS="1", LOG_PREDICTIONS_WITHOUT="pixel")
    assert ask("POST", "/", keyed("a")).status == 200
    text = capsys.readouterr().out
    assert logged(text) == []
    assert "LOG_PREDICTIONS_WITHOUT: no input or output is named 'pixel'; did you mean 'pixels'?" in text


def test_a_row_that_fails_has_no_line(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    ask = serve(LOG_PREDICTIONS="1")
    rows = {"instances": [{"key": 1, "image": "no picture"}, {"key": 2, "image": {"b64": ""}}]}
    examples = json.loads((EMBEDDED / "assets.extra" / "examples.json").read_bytes())
    rows["instances"].append({"key": 3, "image": examples["serving_default"]["instances"][0]})
    assert ask("POST", "/?on_error=row", rows).status == 200
    assert [line["key"] for line in logged(capsys.readouterr().out)] == [3]
    assert ask("POST", "/", rows).status == 400
    assert ask("POST", "/?on_error=row", {"instances": rows["instances"][:2]}).status == 200
    assert logged(capsys.readouterr().out) == []


def test_the_sample_is_a_share_of_the_bodies_by_their_hash_and_a_larger_one_holds_it() -> None:
    bodies = [json.dumps({"instances": [{"key": number, "x": 1.0}]}).encode() for number in range(20_000)]
    samples = {share: {b for b in bodies if predictions.is_sampled(b, share)} for share in (0, 0.01, 0.1, 0.5, 1)}
    for share, sample in samples.items():
        assert abs(len(sample) - share * len(bodies)) < 4 * (len(bodies) * share * (1 - share)) ** 0.5 + 1
    assert samples[0.01] < samples[0.1] < samples[0.5] < samples[1] == set(bodies)
    hashes = {body: int(hashlib.blake2b(body, digest_size=8).hexdigest(), 16) / 2**64 for body in bodies}
    assert samples[0.1] == {body for body, number in hashes.items() if number < 0.1}


def test_a_sampled_request_gets_the_same_bytes(serve: Serve, examples: dict[str, Any]) -> None:
    bodies = [examples["pixels"], keyed("a", 7), {"instances": []}]
    plain = [serve()("POST", "/", body) for body in bodies]
    ask = serve(LOG_PREDICTIONS="1")
    assert [ask("POST", "/", body) for body in bodies] == plain


def test_unsampled_requests_are_not_logged_and_without_the_setting_there_is_no_layer(
    serve: Serve, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = serve(LOG_PREDICTIONS="0.000001")
    ask("POST", "/", keyed("a"))
    assert logged(capsys.readouterr().out) == []
    monkeypatch.setattr(predictions, "is_sampled", None)
    assert ask("POST", "/", keyed("a")).status == 500
    assert serve()("POST", "/", keyed("a")).status == 200


def test_lines_that_cannot_be_written_are_counted_and_the_request_is_answered(
    serve: Serve, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(LOG_PREDICTIONS="1", METRICS="1")
    ask_the_server("GET", "/healthz")
    long = {**PIXELS, "instances": [{"key": "k" * 5000, "pixels": ROWS[0]}]}
    assert ask_the_server("POST", "/", json.dumps(long).encode())[0] == 200
    assert scraped(exposed())["serving_logged_predictions_total", (("outcome", "lost"),)] == 1
    assert "a line of the log has at most 4096 bytes" in capsys.readouterr().out

    monkeypatch.setattr(predictions, "MOST", 1000)
    serve(LOG_PREDICTIONS="1", METRICS="1", LOG_PREDICTIONS_TO=str(tmp_path))
    ask_the_server("GET", "/healthz")
    writer = predictions._writer()
    ask_the_server("POST", "/", json.dumps(keyed(1, 2, 3)).encode())
    writer._periodic.end()
    counts = scraped(exposed())
    assert counts["serving_logged_predictions_total", (("outcome", "lost"),)] == 2
    assert counts["serving_logged_predictions_total", (("outcome", "written"),)] == 1
    assert [line["key"] for line in written(in_folder(tmp_path), 1)] == [1]


def test_a_write_that_fails_is_tried_again(
    serve: Serve, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "lines"
    folder.mkdir()
    ask = serve(LOG_PREDICTIONS="1", LOG_PREDICTIONS_TO=str(folder))
    assert ask("GET", "/readyz").status == 200
    folder.rename(tmp_path / "away")
    assert ask("POST", "/", keyed("a")).status == 200
    writer = predictions._writer()
    writer._flush(False)
    (tmp_path / "away").rename(folder)
    writer._flush(False)
    assert [line["key"] for line in written(in_folder(folder), 1)] == ["a"]
    assert "they are kept and tried again" in capsys.readouterr().out


def test_an_event_is_logged_as_a_request_is(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    serve(LOG_PREDICTIONS="1")
    event = {"HTTP_CE_SPECVERSION": "1.0", "HTTP_CE_ID": "1", "HTTP_CE_SOURCE": "/s", "HTTP_CE_TYPE": "t"}
    assert ask_the_server("POST", "/events", json.dumps(keyed("a")).encode(), **event)[0] == 200
    assert [line["key"] for line in logged(capsys.readouterr().out)] == ["a"]


@pytest.mark.parametrize("kind", ["standalone", "functions-framework"])
def test_every_worker_writes_what_it_holds_when_it_ends(kind: str, tmp_path: Path) -> None:
    with running(kind, WORKERS="2", LOG_PREDICTIONS="1", LOG_PREDICTIONS_TO=str(tmp_path)) as server:
        for key in range(20):
            assert server.ask("POST", "/", keyed(key)).status == 200
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(15) == 0
    assert sorted(line["key"] for line in written(in_folder(tmp_path), 20)) == list(range(20))


def test_a_bucket_gets_an_object_for_the_lines_of_some_seconds(serve: Serve) -> None:
    with storage() as store:
        store.bucket("box")
        ask = serve(LOG_PREDICTIONS="1", LOG_PREDICTIONS_TO="gs://box/predictions", STORAGE_EMULATOR_HOST=store.address)
        ask("POST", "/", keyed("a", "b"))
        predictions._writer()._periodic.end()
        (name,) = store.names("box")
        assert name.startswith("predictions/20")
        assert [json.loads(line)["key"] for line in store.get("box", name).splitlines()] == ["a", "b"]
