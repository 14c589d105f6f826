"""The table of docs/events.md, row by row: the cause, the status, what is written, and whether the event is delivered again."""

import base64
import io
import json
import re
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from serving import scoring
from serving.core.errors import LoadError, RunError
from serving.core.http import Request
from serving.events import delivery
from serving.pipeline.handler import handle
from serving.runtime import model
from tests.conftest import ROOT, Serve
from tests.events.asked import CE, FINALIZED, MESSAGE, OBJECT, PLACES, event_of, finalized, logged, push
from tests.events.sink import Sink
from tests.models.zoo import build


# The table: what happened, status, what is written, whether it comes again
def test_row_a_predict_request(serve: Serve, examples: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert serve()("POST", "/events", examples["pixels"], **CE).status == 200
    assert serve(EVENT_REPLY="none")("POST", "/events", examples["pixels"], **CE).status == 204
    assert {severity for severity, _ in logged(capsys)} == {"INFO"}


def test_a_lost_answer_is_logged(serve: Serve, examples: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert serve()("POST", "/events", push(json.dumps(examples["pixels"]).encode())).status == 200
    assert (
        "WARNING",
        "this answer is lost: Pub/Sub reads no responses; set EVENT_REPLY to send it elsewhere",
    ) in logged(capsys)


REFUSED = [
    # data                                         header fields                      words
    (b"{",                                         {},                                "body: not JSON"),
    (b"",                                          {},                                "body: "),
    (b'{"instances": ["x"]}',                      {},                                "instances[0]"),
    (b"[" * 500_000,                               {},                                "body: "),
    (b'{"instances": [1]}',                        {"ce_path": "/readyz"},            "path: expected the address of a predict"),
    (b'{"instances": [1]}',                        {"ce_path": "/events"},            "path: expected the address of a predict"),
    (b'{"instances": [1]}',                        {"ce_path": "/v1/models/s3cr3t:predict"}, "path: there is no such model here"),
    (b'{"instances": [1]}',                        {"ce_path": "s3cr3t"},             "path: expected the address of a predict"),
    (b" " * 9_000_000,                             {},                                "body: expected at most 8388608 bytes"),
]  # fmt: skip


@pytest.mark.parametrize(("data", "headers", "words"), REFUSED)
def test_row_refused_permanently(
    serve: Serve, capsys: pytest.CaptureFixture[str], data: bytes, headers: dict[str, str], words: str
) -> None:
    answer = serve()("POST", "/events", data, **CE, **headers, authorization="s3cr3t")
    event, reply = event_of(answer), json.loads(answer.body)
    assert (answer.status, event["type"], event["subject"]) == (200, "savedmodel.failed.v1", "/shop/1#1")
    assert reply["error"].startswith(words)
    assert reply["event"]["id"] == "1"
    assert base64.b64decode(reply["event"].get("data_base64", "")) == (data if len(data) <= 1 << 16 else b"")
    assert b"s3cr3t" not in answer.body
    (error,) = [message for severity, message in logged(capsys) if severity == "ERROR"]
    assert error == f"an event is refused permanently: {reply['error']}"


NO_EVENT = [
    # body                                          header fields                       message
    (b"no event",                                   {},                                 "body: expected an event, got neither ce- header fields nor JSON"),
    ({"instances": [1]},                            {},                                 "body: expected a CloudEvent, a push of Pub/Sub or a legacy event, got other JSON"),
    ({"message": {"messageId": "1", "data": "%"}},  {},                                 "message.data: expected base64, got something else"),
    (push(b"{}", **{"ce-specversion": "0.3"}),      {},                                 "message.attributes.ce-specversion: expected 1.0, got another version"),
    (b"{}",                                         {**CE, "ce_type": MESSAGE},         "data.message: expected an object, got something else"),
    (b"not packed",                                 {**CE, "content_encoding": "gzip"}, "body: not gzip, though Content-Encoding says so"),
    (b"",                                           {**CE, "content_encoding": "gzip"}, "body: the gzip data ends too early"),
    (b"{}",                                         {**CE, "content_encoding": "zstd"}, "Content-Encoding: expected gzip or deflate, got 'zstd'"),
    (b" " * (17 << 20),                             CE,                                 "body: expected at most 16777216 bytes, got more"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "headers", "message"), NO_EVENT)
def test_row_not_an_event(
    serve: Serve, capsys: pytest.CaptureFixture[str], body: Any, headers: dict[str, str], message: str
) -> None:
    first, again = (serve()("POST", "/events", body, **headers) for _ in range(2))
    assert (first.status, event_of(first)["type"]) == (200, "savedmodel.failed.v1")
    assert json.loads(first.body)["error"] == message
    assert first == again
    assert logged(capsys).count(("ERROR", f"an event is refused permanently: {message}")) == 2
    strict = serve(EVENT_STRICT="1")("POST", "/events", body, **headers)
    assert (strict.status, json.loads(strict.body)) == (400, {"error": message})
    assert logged(capsys) == [("ERROR", f"no event: {message}")]


STRUCTURED = {"content_type": "application/cloudevents+json"}
BATCHED = {"content_type": "application/cloudevents-batch+json"}
NO_CLOUDEVENT = [
    # body                                          header fields                       message
    (b"{",                                          STRUCTURED,                         "body: expected an event as a JSON object, got no such"),
    (b"[1]",                                        STRUCTURED,                         "body: expected an event as a JSON object, got no such"),
    ({"specversion": "1.0", "source": "/s", "type": "t"}, STRUCTURED,                   "id: expected text, got nothing"),
    (b"",                                           STRUCTURED,                         "body: expected an event as a JSON object, got no such"),
    (b"not packed",                                 {**STRUCTURED, "content_encoding": "gzip"}, "body: not gzip, though Content-Encoding says so"),
    (b"[1]",                                        BATCHED,                            "[0]: expected an event as a JSON object, got no such"),
    (b"{}",                                         BATCHED,                            "body: expected a list of events in JSON, got no such"),
    (b"<event/>",                                   {"content_type": "application/cloudevents+xml"}, "Content-Type: expected application/cloudevents+json or application/cloudevents-batch+json, got another format of events"),
    (b"{}",                                         {**CE, "ce_specversion": "0.3"},    "ce-specversion: expected 1.0, got another version"),
    (b"{}",                                         {"ce_specversion": "1.0"},          "ce-id: expected text, got nothing"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "headers", "message"), NO_CLOUDEVENT)
def test_row_a_malformed_cloudevent(
    serve: Serve, capsys: pytest.CaptureFixture[str], body: Any, headers: dict[str, str], message: str
) -> None:
    ask = serve()
    for path in ("/", "/events"):
        answer = ask("POST", path, body, **headers)
        assert (answer.status, json.loads(answer.body)) == (400, {"error": message})
    assert logged(capsys) == [("ERROR", f"no event: {message}")] * 2


def test_a_message_of_ten_megabytes_is_refused_above_the_limit_and_read_below_it(
    serve: Serve, examples: dict[str, Any]
) -> None:
    body = json.dumps(examples["pixels"]).encode().ljust(10_000_000)
    answer = serve()("POST", "/events", push(body))
    reply = json.loads(answer.body)
    assert (answer.status, reply["event"]["id"]) == (200, "m1")
    assert reply["error"] == "body: expected at most 8388608 bytes (MAX_BODY_BYTES), got 10000000"
    assert b"predictions" in serve(MAX_BODY_BYTES="10000000")("POST", "/events", push(body)).body


def test_an_incomplete_body_is_delivered_again(serve: Serve) -> None:
    serve()
    headers = {name.replace("_", "-"): value for name, value in CE.items()}
    answer = handle(Request("POST", "/events", "", headers, io.BytesIO(b'{"inst'), 500))
    assert (answer.status, json.loads(answer.body)["error"]) == (400, "body: Content-Length says 500 bytes, got 6")


LEFT = [
    # type                                            data                                           words
    ("savedmodel.predicted.v1",                       b"{}",                                         "one of our own answers"),
    ("savedmodel.failed.v1",                          b"{}",                                         "one of our own answers"),
    ("google.cloud.storage.object.v1.deleted",        json.dumps(OBJECT).encode(),                   "no prediction is requested by the type"),
    ("google.cloud.audit.log.v1.written",             b"{}",                                         "no prediction is requested by the type"),
    (MESSAGE,                                         json.dumps(push(b"{}")).encode(),              "EVENT_TYPES does not contain the type google.cloud.pubsub"),
    ("org.other",                                     b"{}",                                         "EVENT_TYPES does not contain the type org.other"),
    (FINALIZED,                                       json.dumps({**OBJECT, "name": "in/"}).encode(), "gs://files/in/ is a folder"),
    (FINALIZED,                                       json.dumps({**OBJECT, "name": "no/a"}).encode(), "gs://files/no/a is not in EVENT_INPUT"),
    (FINALIZED,                                       json.dumps({**OBJECT, "name": "in/ours"}).encode(), "gs://files/in/ours is one of our own outputs"),
    (FINALIZED,                                       json.dumps({**OBJECT, "name": "in/gone"}).encode(), "gs://files/in/gone is gone: overwritten"),
]  # fmt: skip


@pytest.fixture
def storage(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Put decisions of its own in the place of scoring, by the name of the object; return what was asked for."""
    asked: list[Any] = []

    def score_object(source: str, generation: str | None, **_: Any) -> scoring.Scored:
        asked.append(("score", source, generation))
        name = source.rpartition("/")[2]
        if name in RAISED:
            raise RAISED[name]
        return scoring.Scored(f"gs://files/out/{name}.{generation}.predictions.jsonl", 3, 1, name == "again")

    def record_error(source: str, generation: str | None, message: str) -> str:
        asked.append(("record", source, generation, message))
        if source.endswith("unrecorded"):
            raise scoring.TemporaryFailure("storage answers 503")
        return f"{source}.error.json"

    def ours(bucket: str, name: str, metadata: Any) -> bool:
        assert (bucket, metadata) == ("files", {"who": "me"})
        return name.endswith("ours")

    for function in (score_object, record_error, ours):
        monkeypatch.setattr(scoring, function.__name__, function)
    return asked


RAISED: dict[str, Exception] = {
    "gone": scoring.Gone("overwritten"),
    "bad": scoring.BadFile("line 1: expected a JSON value"),
    "unrecorded": scoring.BadFile("line 1: expected a JSON value"),
    "passing": scoring.TemporaryFailure("storage answers 503"),
    "memory": MemoryError(),
    "unloadable": LoadError("no such folder"),
    "bug": ZeroDivisionError("secret"),
}


@pytest.mark.parametrize(("type_", "data", "words"), LEFT)
def test_row_ignored_by_its_type(
    serve: Serve, storage: list[Any], capsys: pytest.CaptureFixture[str], type_: str, data: bytes, words: str
) -> None:
    ask = serve(EVENT_TYPES="com.example.*,savedmodel.ask", **PLACES)
    answer = ask("POST", "/events", data, **{**CE, "ce_type": type_})
    assert (answer.status, answer.body) == (204, b"")
    ((severity, message),) = logged(capsys)
    assert severity == "INFO"
    assert words in message


def test_row_an_object_scored(serve: Serve, storage: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    ask = serve(**PLACES)
    first, again = finalized(ask, "a"), finalized(ask, "again")
    assert storage == [("score", "gs://files/in/a", "7"), ("score", "gs://files/in/again", "7")]
    assert (first.status, event_of(first)["type"]) == (200, "savedmodel.scored.v1")
    assert json.loads(first.body) == {
        "source": "gs://files/in/a", "generation": "7", "predictions": "gs://files/out/a.7.predictions.jsonl",
        "rows": 3, "failed": 1,
    }  # fmt: skip
    assert json.loads(again.body).keys() == json.loads(first.body).keys()
    assert logged(capsys) == [("INFO", "gs://files/in/a is scored"), ("INFO", "gs://files/in/again was scored before")]
    assert finalized(serve(EVENT_REPLY="none", **PLACES), "a").status == 204


def test_row_a_bad_file(serve: Serve, storage: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    answer = finalized(serve(**PLACES), "bad")
    assert (answer.status, event_of(answer)["type"]) == (200, "savedmodel.failed.v1")
    assert storage[1] == ("record", "gs://files/in/bad", "7", "line 1: expected a JSON value")
    error = "gs://files/in/bad: line 1: expected a JSON value"
    assert json.loads(answer.body)["error"] == error
    assert logged(capsys) == [("ERROR", f"an event is refused permanently: {error}")]


WRONG_OBJECTS = [
    # data                                         message
    (b"{",                                         "data: expected an object of Cloud Storage as JSON, got no JSON"),
    (b"5",                                         "data: expected an object of Cloud Storage, got something else"),
    (b'{"name": "a"}',                             "data.bucket: expected text, got nothing"),
    (b'{"bucket": "b", "name": 5}',                "data.name: expected text, got something else"),
    (b'{"bucket": "b", "name": "a", "generation": "x"}', "data.generation: expected a whole number, got something else"),
]  # fmt: skip


@pytest.mark.parametrize(("data", "message"), WRONG_OBJECTS)
def test_an_event_that_names_no_object_is_refused(serve: Serve, storage: list[Any], data: bytes, message: str) -> None:
    answer = serve(**PLACES)("POST", "/events", data, **{**CE, "ce_type": FINALIZED})
    assert (answer.status, json.loads(answer.body)["error"], storage) == (200, message, [])


def test_row_too_old_to_be_delivered_again(
    serve: Serve, storage: list[Any], examples: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    old = {**CE, "ce_time": (datetime.now(timezone.utc) - timedelta(seconds=100)).isoformat()}
    ask = serve(EVENT_MAX_AGE="99", **PLACES)
    answer = ask("POST", "/events", examples["pixels"], **old)  # an event that can be answered is answered at any age
    assert event_of(answer)["type"] == "savedmodel.predicted.v1"
    assert event_of(ask("POST", "/events", OBJECT, **{**old, "ce_type": FINALIZED}))["type"] == "savedmodel.scored.v1"
    logged(capsys)
    for name, message in AGAIN[:-1]:
        answer = ask("POST", "/events", {**OBJECT, "name": f"in/{name}"}, **{**old, "ce_type": FINALIZED})
        assert (answer.status, event_of(answer)["type"]) == (200, "savedmodel.failed.v1")
        error = json.loads(answer.body)["error"]
        assert error == f"{message}; time: expected an event of the last 99 seconds (EVENT_MAX_AGE), got an older one"  # fmt: skip
        assert ("ERROR", f"an event is refused permanently: {error}") in logged(capsys)
    bug = ask("POST", "/events", {**OBJECT, "name": "in/bug"}, **{**old, "ce_type": FINALIZED})
    assert (bug.status, logged(capsys)[0][0]) == (204, "ERROR")
    ask = serve(EVENT_MAX_AGE="99")  # nowhere to write to, which is no reason to come again for ever
    assert ask("POST", "/events", OBJECT, **{**old, "ce_type": FINALIZED}).status == 200
    ask = serve(build() / "broken" / "nothing", EVENT_MAX_AGE="99")
    assert ask("POST", "/events", examples["pixels"], **old).status == 200
    for limit in ("200", "0"):
        ask = serve(EVENT_MAX_AGE=limit, **PLACES)
        assert ask("POST", "/events", {**OBJECT, "name": "in/passing"}, **{**old, "ce_type": FINALIZED}).status == 503


def test_an_old_event_whose_failure_cannot_be_recorded_is_delivered_again(
    serve: Serve, examples: dict[str, Any], receiver: Sink
) -> None:
    receiver.status = 500
    old = {**CE, "ce_time": "2020-12-20T13:37:33.647Z"}
    answer = serve(EVENT_REPLY=receiver.address)("POST", "/events", examples["pixels"], **old)
    assert (answer.status, json.loads(answer.body)) == (503, {"error": "the sink answers 500"})


AGAIN = [
    # object        message
    ("passing",     "gs://files/in/passing: storage answers 503"),
    ("unrecorded",  "gs://files/in/unrecorded: line 1: expected a JSON value; and that cannot be recorded: storage answers 503"),
    ("memory",      "out of memory"),
    ("unloadable",  "the model cannot be loaded: no such folder"),
    ("bug",         "internal error; the log has the reason"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "message"), AGAIN)
def test_row_a_transient_failure(serve: Serve, storage: list[Any], name: str, message: str) -> None:
    answer = finalized(serve(**PLACES), name)
    assert (answer.status, json.loads(answer.body)) == (503, {"error": message})
    assert ("Retry-After", "1") in answer.headers


def test_an_object_without_EVENT_INPUT_and_EVENT_OUTPUT_is_a_transient_failure(
    serve: Serve, storage: list[Any]
) -> None:
    answer = finalized(serve(), "a")
    assert (answer.status, storage) == (503, [])
    assert b"EVENT_INPUT and EVENT_OUTPUT: expected gs://BUCKET/FOLDER in each, got nothing" in answer.body


RUNS = [
    # what TensorFlow says     status
    ("INTERNAL",               503),
    ("RESOURCE_EXHAUSTED",     503),
    ("UNIMPLEMENTED",          200),
    ("INVALID_ARGUMENT",       200),
]  # fmt: skip


@pytest.mark.parametrize(("code", "status"), RUNS)
def test_a_failed_run_is_delivered_again_where_a_retry_may_succeed(
    serve: Serve, examples: dict[str, Any], monkeypatch: pytest.MonkeyPatch, code: str, status: int
) -> None:
    ask = serve()

    def run(*_: Any) -> Any:
        raise RunError(code, "it failed")

    monkeypatch.setattr(model.Model, "run", run)
    assert ask("POST", "/events", examples["pixels"], **CE).status == status


def test_one_transient_failure_repeats_the_whole_batch(
    serve: Serve, storage: list[Any], examples: dict[str, Any]
) -> None:
    good = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t", "data": examples["pixels"]}
    passing = {**good, "type": FINALIZED, "data": {**OBJECT, "name": "in/passing"}}
    answer = serve(**PLACES)("POST", "/events", [good, passing], content_type="application/cloudevents-batch+json")
    assert answer.status == 503
    answer = serve(EVENT_STRICT="1", **PLACES)("POST", "/events", [good, {"id": "1"}], content_type="application/cloudevents-batch+json")  # fmt: skip
    assert answer.status == 400


def test_every_row_of_the_table_is_in_the_page() -> None:
    page = (ROOT / "docs" / "events.md").read_text()
    table = [line for line in (delivery.__doc__ or "").splitlines() if re.search(r"  (200/)?(204|400|503) ", line)]
    assert len(table) == 8
    for line in table:
        assert f"| {re.split(r'  +', line)[0]} |" in page, line
