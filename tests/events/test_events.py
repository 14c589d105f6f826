"""What happens with an event: the table of docs/events.md row by row, and what is the same as over HTTP, byte for byte."""

import base64
import gzip
import io
import json
import os
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from cloudevents.http import CloudEvent, from_http

from serving import scoring
from serving.core import settings
from serving.core.errors import LoadError, RunError
from serving.core.http import Request, Response
from serving.core.storage import StorageError
from serving.events import delivery, sinks
from serving.pipeline.handler import handle
from serving.runtime import model
from tests.conftest import ROOT, Serve
from tests.events.sink import Sink, mail_server, sink
from tests.models.zoo import build
from tests.pipeline.test_handler import PREDICT

CE = {"ce_specversion": "1.0", "ce_id": "1", "ce_source": "/shop/1", "ce_type": "com.example.asked"}
MESSAGE = "google.cloud.pubsub.topic.v1.messagePublished"
FINALIZED = "google.cloud.storage.object.v1.finalized"
OBJECT = {"bucket": "files", "name": "in/a.jsonl", "generation": "7", "metadata": {"who": "me"}}
NAME = "projects/p/subscriptions/s"

Ask = Callable[..., Response]


def event_of(answer: Response) -> CloudEvent:
    """Return the event that an answer is, as the SDK reads it."""
    return from_http({"content-type": answer.content_type, **dict(answer.headers)}, answer.body)


def push(data: bytes, **attributes: str) -> dict[str, Any]:
    message = {"data": base64.b64encode(data).decode(), "messageId": "m1", "attributes": attributes}
    return {"message": message, "subscription": NAME}


def logged(capsys: pytest.CaptureFixture[str]) -> list[tuple[str, str]]:
    entries = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    return [(entry["severity"], entry["message"]) for entry in entries]


# The same bytes


FORMS = ["binary", "structured", "batched", "push", "published", "legacy"]


def sent_as(form: str, data: Any) -> tuple[Any, dict[str, str]]:
    """Return the body and header fields that hold a JSON request in one of the forms."""
    whole = {"specversion": "1.0", "id": "1", "source": "/shop/1", "type": "com.example.asked", "data": data}
    wrapped = push(json.dumps(data).encode())
    context = {"eventId": "1", "eventType": "google.pubsub.topic.publish", "resource": "projects/p/topics/t"}
    made: dict[str, tuple[Any, dict[str, str]]] = {
        "binary": (data, CE),
        "structured": (whole, {"content_type": "application/cloudevents+json"}),
        "batched": ([whole], {"content_type": "application/cloudevents-batch+json"}),
        "push": (wrapped, {}),
        "published": (wrapped, {**CE, "ce_type": MESSAGE}),
        "legacy": ({"context": context, "data": wrapped["message"]}, {}),
    }
    return made[form]


@pytest.mark.parametrize("form", FORMS)
def test_an_event_is_answered_with_the_bytes_of_the_same_request(
    serve: Serve, examples: dict[str, Any], form: str
) -> None:
    ask = serve()
    ask("GET", "/readyz")
    for body in examples.values():
        wanted = ask("POST", PREDICT, body)
        told, headers = sent_as(form, body)
        answer = ask("POST", "/events", told, **headers)
        assert (answer.status, answer.body, answer.content_type) == (200, wanted.body, wanted.content_type)
        assert event_of(answer)["type"] == "savedmodel.predicted.v1"


def test_a_message_may_name_another_address(serve: Serve) -> None:
    ask, path = serve(build() / "keras_sequential"), "/v2/models/model/infer"
    body = {"id": "7", "inputs": [{"name": "features", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}
    wanted = ask("POST", path, body)
    assert wanted.status == 200
    assert ask("POST", "/events", push(json.dumps(body).encode(), path=path)).body == wanted.body
    assert ask("POST", "/events", body, **CE, ce_path=path).body == wanted.body


def test_data_may_be_whatever_a_predict_request_may_be(serve: Serve, examples: dict[str, Any]) -> None:
    ask = serve()
    picture = base64.b64decode(examples["serving_default"]["instances"][0]["b64"])
    wanted = ask("POST", PREDICT, picture, content_type="image/png")
    assert wanted.status == 200
    assert ask("POST", "/events", picture, **CE, content_type="image/png").body == wanted.body
    assert ask("POST", "/events", push(picture, **{"content-type": "image/png"})).body == wanted.body
    assert ask("POST", "/events", gzip.compress(picture), **CE, content_type="image/png", content_encoding="gzip").body == wanted.body  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_the_root_takes_every_form_of_event(serve: Serve, examples: dict[str, Any], form: str) -> None:
    ask = serve()
    body, headers = sent_as(form, examples["pixels"])
    assert event_of(ask("POST", "/", body, **headers))["type"] == "savedmodel.predicted.v1"
    packed = gzip.compress(json.dumps(body).encode())
    answer = ask("POST", "/", packed, **headers, content_encoding="gzip")
    assert event_of(answer)["type"] == "savedmodel.predicted.v1"


UNWRAPPED = {"x_goog_pubsub_message_id": "m1", "x_goog_pubsub_subscription_name": NAME}
AT_THE_ROOT = [
    # body                                              header fields                                    status  type of the answer
    (push(b"no JSON"),                                  {},                                              200,    "savedmodel.failed.v1"),
    (push(b'{"instances":["x"]}'),                      {},                                              200,    "savedmodel.failed.v1"),
    (push(b"{}"),                                       {"content_type": "application/x-www-form-urlencoded"}, 200, "savedmodel.failed.v1"),
    ({"message": {"messageId": "1", "data": "%"}},      {},                                              200,    "savedmodel.failed.v1"),
    (b"no JSON",                                        UNWRAPPED,                                       200,    "savedmodel.failed.v1"),
    ({"specversion": "1.0", "id": "1", "source": "/s", "type": "t", "data": 1}, {},                      200,    "savedmodel.failed.v1"),
    (push(b"", eventType="OBJECT_DELETE", bucketId="b", objectId="o"), {},                               204,    None),
    (b"{}",                                             {"ce_id": "1"},                                  400,    None),
    ({"instances": ["message", 'and its "message"']},   {},                                              400,    None),
    ({"message": "hello"},                              {},                                              400,    None),
    ({"message": {"data": ""}},                         {"content_type": "application/x-ndjson"},        400,    None),
    (b'{"message": ',                                   {},                                              400,    None),
    ({"instance": {"message": 1}},                      {},                                              400,    None),
]  # fmt: skip


@pytest.mark.parametrize(("body", "headers", "status", "type_"), AT_THE_ROOT)
def test_at_the_root_poison_in_a_push_is_acknowledged_and_a_bad_request_is_told(
    serve: Serve, body: Any, headers: dict[str, str], status: int, type_: str | None
) -> None:
    answer = serve()("POST", "/", body, **headers)
    assert (answer.status, dict(answer.headers).get("ce-type")) == (status, type_), answer.body


def test_at_the_root_a_large_push_is_read_and_a_large_request_refused(serve: Serve, examples: dict[str, Any]) -> None:
    serve()
    good = json.dumps(examples["pixels"]).encode()

    def ask(body: bytes) -> Response:
        return handle(Request("POST", "/", "", {}, io.BytesIO(body), len(body)))

    answer = ask(json.dumps(push(good.ljust(10_000_000))).encode())  # read, and its data then refused for good
    assert (answer.status, event_of(answer)["type"]) == (200, "savedmodel.failed.v1")
    assert ask(json.dumps(push(good.ljust(7_000_000))).encode()).status == 200
    answer = ask(good.ljust(9_000_000))
    assert (answer.status, b"at most 8388608 bytes (MAX_BODY_BYTES), got 9000000" in answer.body) == (413, True)
    assert ask(b" " * (17 << 20)).status == 413


def test_an_input_named_as_a_part_of_a_push_stays_an_input(serve: Serve) -> None:
    ask = serve(build() / "keras_sequential", KEY_FIELD="message")
    body = {"instances": [{"features": [1, 2, 3, 4], "message": {"data": "x"}}]}
    assert json.loads(ask("POST", "/", body).body)["predictions"][0]["message"] == {"data": "x"}


# What the documentation of the platforms shows, years after it was written
SHOWN = {"ce_specversion": "1.0", "ce_time": "2020-12-20T13:37:33.647Z", "ce_id": "1096434104173400"}
SHOWN_HEADERS = [
    {**SHOWN, "ce_source": "//pubsub.googleapis.com/projects/p/topics/t", "ce_type": MESSAGE},
    {**SHOWN, "ce_source": "/mycontext/subcontext", "ce_type": "com.example.someevent", "ce_myext": "a%20value",
     "ce_subject": "Euro%20%E2%82%AC%20%F0%9F%98%80"},
]  # fmt: skip


@pytest.mark.parametrize("headers", SHOWN_HEADERS, ids=["eventarc", "extensions"])
@pytest.mark.parametrize("path", ["/", "/events", PREDICT])
def test_an_event_as_the_documentation_shows_it_gets_its_prediction(
    serve: Serve, examples: dict[str, Any], path: str, headers: dict[str, str]
) -> None:
    ask, body = serve(), examples["pixels"]
    sent = push(json.dumps(body).encode()) if headers["ce_type"] == MESSAGE else body
    answer = ask("POST", path, sent, **headers, content_type="application/json; charset=utf-8")
    assert (answer.status, answer.body) == (200, ask("POST", PREDICT, body).body)
    assert event_of(answer)["specversion"] == "1.0"


# At a model's own address


def test_a_binary_event_at_a_models_address_is_answered_by_one(serve: Serve, examples: dict[str, Any]) -> None:
    ask = serve()
    wanted = ask("POST", PREDICT, examples["pixels"])
    answer = ask("POST", PREDICT, examples["pixels"], **CE)
    event = event_of(answer)
    assert (answer.body, answer.content_type) == (wanted.body, "application/json")
    assert (event["type"], event["source"]) == ("io.kserve.inference.response", "io.kserve.inference.model")
    assert event["id"] == event_of(ask("POST", PREDICT, examples["pixels"], **CE))["id"] != "1"
    many = {**examples["pixels"], "instances": examples["pixels"]["instances"] * 20}
    packed = ask("POST", PREDICT, many, **CE, accept_encoding="gzip")
    assert dict(packed.headers)["Content-Encoding"] == "gzip"
    assert gzip.decompress(packed.body) == ask("POST", PREDICT, many).body


def test_a_structured_event_at_a_models_address_is_answered_by_one(serve: Serve, examples: dict[str, Any]) -> None:
    ask = serve()
    wanted = json.loads(ask("POST", PREDICT, examples["pixels"]).body)
    body, headers = sent_as("structured", examples["pixels"])
    answer = ask("POST", PREDICT, body, **headers)
    event = event_of(answer)
    assert (answer.status, answer.content_type) == (200, "application/cloudevents+json")
    assert (event["type"], event["datacontenttype"], event.get_data()) == ("io.kserve.inference.response", "application/json", wanted)  # fmt: skip
    many = {**examples["pixels"], "instances": examples["pixels"]["instances"] * 20}
    body = gzip.compress(json.dumps({**body, "data": many}).encode())
    packed = ask("POST", PREDICT, body, **headers, content_encoding="gzip", accept_encoding="gzip")
    assert dict(packed.headers)["Content-Encoding"] == "gzip"
    assert json.loads(gzip.decompress(packed.body))["data"] == json.loads(ask("POST", PREDICT, many).body)
    assert (
        ask("POST", "/events", answer.body, content_type=answer.content_type).status == 204
    )  # an answer is no request


V2 = {"id": "7", "inputs": [{"name": "features", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}
INFER = "/v2/models/model/infer"


def test_an_event_at_the_other_protocols_address_is_answered_by_one(serve: Serve) -> None:
    ask = serve(build() / "keras_sequential")
    wanted = ask("POST", INFER, V2)
    answer = ask("POST", INFER, V2, **CE)
    assert (answer.body, event_of(answer)["type"]) == (wanted.body, "io.kserve.inference.response")
    body, headers = sent_as("structured", V2)
    assert event_of(ask("POST", INFER, body, **headers)).get_data() == json.loads(wanted.body)


AT_A_MODEL = [
    # body                                header fields                                             status  words
    (b"{",                                {"content_type": "application/cloudevents+json"},         400,    "body: expected an event as a JSON object"),
    (b'{"specversion": "1.0"}',           {"content_type": "application/cloudevents+json"},         400,    "id: expected text, got nothing"),
    ([],                                  {"content_type": "application/cloudevents-batch+json"},   400,    "body: expected one event, got a batch"),
    (b"{}",                               {"ce_specversion": "1.0", "ce_type": "t", "ce_source": "/s"}, 400, "ce-id: expected text, got nothing"),
    (b"{}",                               {**CE, "ce_specversion": "0.3"},                          400,    "ce-specversion: expected 1.0"),
    ({"instances": ["x"]},                CE,                                                       400,    "instances[0]"),
    (b" " * 9_000_000,                    CE,                                                       413,    "body: expected at most 8388608 bytes"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "headers", "status", "words"), AT_A_MODEL)
def test_what_is_wrong_with_an_event_at_a_models_address_is_told_as_over_http(
    serve: Serve, body: Any, headers: dict[str, str], status: int, words: str
) -> None:
    answer = serve()("POST", PREDICT, body, **headers)
    assert (answer.status, json.loads(answer.body)["error"].startswith(words)) == (status, True), answer.body


def test_header_fields_that_make_no_event_change_nothing_at_a_models_address(
    serve: Serve, examples: dict[str, Any]
) -> None:
    ask = serve()
    wanted = ask("POST", PREDICT, examples["pixels"])
    answer = ask("POST", PREDICT, examples["pixels"], ce_myext="x", ce_subject="Euro%20")
    assert (answer.body, answer.headers) == (wanted.body, ())


# The other protocol


@pytest.mark.parametrize("form", FORMS)
def test_a_request_of_the_other_protocol_is_answered_in_it(serve: Serve, form: str) -> None:
    ask = serve(build() / "keras_sequential")
    wanted = ask("POST", INFER, V2)
    assert wanted.status == 200
    for path in ("/", "/events"):
        body, headers = sent_as(form, V2)
        answer = ask("POST", path, body, **headers)
        assert (answer.status, answer.body) == (200, wanted.body)


def test_vertex_ais_address_takes_either_protocol(serve: Serve) -> None:
    route = "/v1/endpoints/1/deployedModels/2:predict"
    ask = serve(build() / "keras_sequential", AIP_PREDICT_ROUTE=route)
    for body, path in ((V2, INFER), ({"instances": [[1, 2, 3, 4]]}, PREDICT)):
        assert ask("POST", route, body).body == ask("POST", path, body).body
    wrong = {"inputs": [{**V2["inputs"][0], "datatype": "FP99"}]}  # type: ignore[dict-item]
    answer = ask("POST", route, wrong)
    assert (answer.status, answer.body) == (400, ask("POST", INFER, wrong).body)


# The answer


def test_the_answer_follows_from_its_cause(serve: Serve, examples: dict[str, Any]) -> None:
    ask = serve()
    first, again = (ask("POST", "/events", examples["pixels"], **CE) for _ in range(2))
    assert (first.body, dict(first.headers) | {"Server-Timing": ""}) == (
        again.body,
        dict(again.headers) | {"Server-Timing": ""},
    )
    event = event_of(first)
    assert (event["source"], event["subject"]) == ("/v1/models/model", "/shop/1#1")
    others = [event_of(ask("POST", "/events", examples["pixels"], **{**CE, **other}))["id"]
              for other in ({"ce_id": "2"}, {"ce_source": "/shop/2"})]  # fmt: skip
    assert len({event["id"], *others}) == 3


def test_header_fields_of_the_answer_are_safe(serve: Serve, examples: dict[str, Any]) -> None:
    answer = serve()("POST", "/events", examples["pixels"], **{**CE, "ce_id": 'Ω "1"%25'})
    value = dict(answer.headers)["ce-subject"]
    assert re.fullmatch(r"[!-~]+", value)
    assert '"' not in value
    assert value == "/shop/1#%CE%A9%20%221%22%25"


def test_a_batch_is_answered_by_a_batch(serve: Serve, examples: dict[str, Any]) -> None:
    ask = serve()
    whole, headers = sent_as("batched", examples["pixels"])
    broken = {**whole[0], "id": "2", "data": {"instances": ["x"]}}
    answer = ask(
        "POST", "/events", [whole[0], broken, {"id": "3"}, {**whole[0], "type": "savedmodel.predicted.v1"}], **headers
    )
    assert (answer.status, answer.content_type) == (200, "application/cloudevents-batch+json")
    replies = json.loads(answer.body)
    assert [reply["type"] for reply in replies] == [
        "savedmodel.predicted.v1",
        "savedmodel.failed.v1",
        "savedmodel.failed.v1",
    ]
    wanted = ask("POST", PREDICT, examples["pixels"])
    assert replies[0]["data"] == json.loads(wanted.body)
    assert ask("POST", "/events", [], **headers).status == 204


def test_answers_of_lines_come_in_a_batch_too(serve: Serve) -> None:
    ask = serve(build() / "keras_sequential")
    whole = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t", "datacontenttype": "application/x-ndjson",
             "data": "[1,2,3,4]\n[0,0,0,0]\n"}  # fmt: skip
    answer = ask("POST", "/events", [whole, whole], content_type="application/cloudevents-batch+json")
    wanted = ask("POST", PREDICT, whole["data"].encode(), content_type="application/x-ndjson")
    assert wanted.status == 200
    assert [base64.b64decode(reply["data_base64"]) for reply in json.loads(answer.body)] == [wanted.body] * 2


@pytest.fixture
def receiver() -> Iterator[Sink]:
    with sink() as started:
        yield started


def test_the_answer_goes_to_the_sink(serve: Serve, examples: dict[str, Any], receiver: Sink) -> None:
    ask = serve(K_SINK=f"{receiver.address}/place")
    answer = ask("POST", "/events", examples["pixels"], **CE)
    assert (answer.status, answer.body, answer.headers) == (204, b"", ())
    ((path, headers, body),) = receiver.received
    event = from_http(headers, body)
    assert (path, event["type"], event["subject"]) == ("/place", "savedmodel.predicted.v1", "/shop/1#1")
    assert body == ask("POST", PREDICT, examples["pixels"]).body
    assert headers["content-type"] == "application/json"


def test_the_answer_goes_to_a_topic(serve: Serve, examples: dict[str, Any], receiver: Sink) -> None:
    ask = serve(EVENT_REPLY="projects/p/topics/answers", PUBSUB_EMULATOR_HOST=receiver.address.removeprefix("http://"))
    assert ask("POST", "/events", examples["pixels"], **CE).status == 204
    ((path, headers, body),) = receiver.received
    assert path == "/v1/projects/p/topics/answers:publish"
    assert "authorization" not in headers
    (message,) = json.loads(body)["messages"]
    assert base64.b64decode(message["data"]) == ask("POST", PREDICT, examples["pixels"]).body
    wrapped = {"message": {**message, "messageId": "1"}, "subscription": NAME}
    assert ask("POST", "/events", wrapped).status == 204  # our own answer, left alone
    assert len(receiver.received) == 1


def test_the_real_topic_is_asked_with_the_platforms_token(
    serve: Serve, examples: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def send(request: Any, timeout: float) -> io.BytesIO:
        asked.append((request.full_url, request.get_header("Authorization")))
        return io.BytesIO(b"{}")

    monkeypatch.setattr(sinks._opener, "open", send)
    monkeypatch.setattr(sinks, "access_token", lambda: "platforms")
    topic = "projects/p/topics/answers"
    for more in ({}, {"GOOGLE_OAUTH_ACCESS_TOKEN": "mine"}):
        assert serve(EVENT_REPLY=topic, **more)("POST", "/events", examples["pixels"], **CE).status == 204
    address = f"https://pubsub.googleapis.com/v1/{topic}:publish"
    assert asked == [(address, "Bearer platforms"), (address, "Bearer mine")]

    def nobody() -> str:
        raise StorageError("the platform's token cannot be fetched")

    monkeypatch.setattr(sinks, "access_token", nobody)
    assert serve(EVENT_REPLY=topic)("POST", "/events", examples["pixels"], **CE).status == 503


# The table: what happened, status, what is written, whether it comes again


def test_row_a_predict_request(serve: Serve, examples: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert serve()("POST", "/events", examples["pixels"], **CE).status == 200
    assert serve(EVENT_REPLY="none")("POST", "/events", examples["pixels"], **CE).status == 204
    assert {severity for severity, _ in logged(capsys)} == {"INFO"}


def test_an_answer_that_nobody_would_read_is_told_in_the_log(
    serve: Serve, examples: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
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
def test_row_refused_for_good(
    serve: Serve, capsys: pytest.CaptureFixture[str], data: bytes, headers: dict[str, str], words: str
) -> None:
    answer = serve()("POST", "/events", data, **CE, **headers, authorization="s3cr3t")
    event, told = event_of(answer), json.loads(answer.body)
    assert (answer.status, event["type"], event["subject"]) == (200, "savedmodel.failed.v1", "/shop/1#1")
    assert told["error"].startswith(words)
    assert told["event"]["id"] == "1"
    assert base64.b64decode(told["event"].get("data_base64", "")) == (data if len(data) <= 1 << 16 else b"")
    assert b"s3cr3t" not in answer.body
    (error,) = [message for severity, message in logged(capsys) if severity == "ERROR"]
    assert error == f"an event is refused permanently: {told['error']}"


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
def test_row_no_event_at_all(
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
def test_row_a_cloudevent_that_is_none(
    serve: Serve, capsys: pytest.CaptureFixture[str], body: Any, headers: dict[str, str], message: str
) -> None:
    ask = serve()
    for path in ("/", "/events"):
        answer = ask("POST", path, body, **headers)
        assert (answer.status, json.loads(answer.body)) == (400, {"error": message})
    assert logged(capsys) == [("ERROR", f"no event: {message}")] * 2


def test_a_message_of_ten_megabytes_is_refused_by_name_and_read_where_it_may_be(
    serve: Serve, examples: dict[str, Any]
) -> None:
    body = json.dumps(examples["pixels"]).encode().ljust(10_000_000)
    answer = serve()("POST", "/events", push(body))
    told = json.loads(answer.body)
    assert (answer.status, told["event"]["id"]) == (200, "m1")
    assert told["error"] == "body: expected at most 8388608 bytes (MAX_BODY_BYTES), got 10000000"
    assert b"predictions" in serve(MAX_BODY_BYTES="10000000")("POST", "/events", push(body)).body


def test_a_body_that_broke_off_comes_again(serve: Serve) -> None:
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

PLACES = {"EVENT_INPUT": "gs://files/in", "EVENT_OUTPUT": "gs://files/out"}


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


def finalized(ask: Ask, name: str, **more: Any) -> Response:
    return ask("POST", "/events", {**OBJECT, "name": f"in/{name}", **more}, **{**CE, "ce_type": FINALIZED})


@pytest.mark.parametrize(("type_", "data", "words"), LEFT)
def test_row_not_for_us(
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


def test_row_too_old_to_come_again(
    serve: Serve, storage: list[Any], examples: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    old = {**CE, "ce_time": (datetime.now(timezone.utc) - timedelta(seconds=100)).isoformat()}
    ask = serve(EVENT_MAX_AGE="99", **PLACES)
    answer = ask("POST", "/events", examples["pixels"], **old)  # what can be answered is, however old
    assert event_of(answer)["type"] == "savedmodel.predicted.v1"
    assert event_of(ask("POST", "/events", OBJECT, **{**old, "ce_type": FINALIZED}))["type"] == "savedmodel.scored.v1"
    logged(capsys)
    for name, message in AGAIN[:-1]:
        answer = ask("POST", "/events", {**OBJECT, "name": f"in/{name}"}, **{**old, "ce_type": FINALIZED})
        assert (answer.status, event_of(answer)["type"]) == (200, "savedmodel.failed.v1")
        told = json.loads(answer.body)["error"]
        assert told == f"{message}; time: expected an event of the last 99 seconds (EVENT_MAX_AGE), got an older one"  # fmt: skip
        assert ("ERROR", f"an event is refused permanently: {told}") in logged(capsys)
    bug = ask("POST", "/events", {**OBJECT, "name": "in/bug"}, **{**old, "ce_type": FINALIZED})
    assert (bug.status, logged(capsys)[0][0]) == (204, "ERROR")
    ask = serve(EVENT_MAX_AGE="99")  # nowhere to write to, which is no reason to come again for ever
    assert ask("POST", "/events", OBJECT, **{**old, "ce_type": FINALIZED}).status == 200
    ask = serve(build() / "broken" / "nothing", EVENT_MAX_AGE="99")
    assert ask("POST", "/events", examples["pixels"], **old).status == 200
    for limit in ("200", "0"):
        ask = serve(EVENT_MAX_AGE=limit, **PLACES)
        assert ask("POST", "/events", {**OBJECT, "name": "in/passing"}, **{**old, "ce_type": FINALIZED}).status == 503


def test_an_old_event_whose_failure_cannot_be_told_comes_again(
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
def test_row_a_passing_fault(serve: Serve, storage: list[Any], name: str, message: str) -> None:
    answer = finalized(serve(**PLACES), name)
    assert (answer.status, json.loads(answer.body)) == (503, {"error": message})
    assert ("Retry-After", "1") in answer.headers


def test_an_output_place_that_is_not_set_is_a_passing_fault(serve: Serve, storage: list[Any]) -> None:
    answer = finalized(serve(), "a")
    assert (answer.status, storage) == (503, [])
    assert b"EVENT_INPUT and EVENT_OUTPUT: expected gs://BUCKET/FOLDER in each, got nothing" in answer.body


@pytest.mark.parametrize("status", [500, 403, 301])
def test_a_sink_that_refuses_is_a_passing_fault(
    serve: Serve, examples: dict[str, Any], receiver: Sink, status: int
) -> None:
    receiver.status = status
    for reply in (receiver.address, "projects/p/topics/answers"):
        ask = serve(EVENT_REPLY=reply, PUBSUB_EMULATOR_HOST=receiver.address)
        answer = ask("POST", "/events", examples["pixels"], **CE)
        assert (answer.status, json.loads(answer.body)) == (503, {"error": f"the sink answers {status}"})
        assert ask("POST", "/events", b"no event").status == 503  # until it is recorded


def test_a_sink_that_redirects_has_not_taken_the_event(serve: Serve, examples: dict[str, Any], receiver: Sink) -> None:
    receiver.status, receiver.location = 302, f"{receiver.address}/elsewhere"
    answer = serve(EVENT_REPLY=receiver.address)("POST", "/events", examples["pixels"], **CE)
    assert (answer.status, json.loads(answer.body)) == (503, {"error": "the sink answers 302"})


def test_a_sink_that_speaks_no_http_is_a_passing_fault(serve: Serve, examples: dict[str, Any]) -> None:
    with mail_server(1) as address:
        answer = serve(EVENT_REPLY=address)("POST", "/events", examples["pixels"], **CE)
    assert (answer.status, b"the sink cannot be reached" in answer.body) == (503, True)


def test_a_sink_that_is_not_there_is_a_passing_fault(serve: Serve, examples: dict[str, Any]) -> None:
    answer = serve(EVENT_REPLY="http://127.0.0.1:9")("POST", "/events", examples["pixels"], **CE)
    assert answer.status == 503
    assert b"the sink cannot be reached" in answer.body
    assert b"127.0.0.1" not in answer.body


def test_a_model_that_cannot_be_loaded_is_a_passing_fault(serve: Serve, examples: dict[str, Any]) -> None:
    answer = serve(build() / "broken" / "nothing")("POST", "/events", examples["pixels"], **CE)
    assert answer.status == 503
    assert b"the model cannot be loaded" in answer.body


RUNS = [
    # what TensorFlow says     status
    ("INTERNAL",               503),
    ("RESOURCE_EXHAUSTED",     503),
    ("UNIMPLEMENTED",          200),
    ("INVALID_ARGUMENT",       200),
]  # fmt: skip


@pytest.mark.parametrize(("code", "status"), RUNS)
def test_a_failed_run_comes_again_where_it_may_fare_better(
    serve: Serve, examples: dict[str, Any], monkeypatch: pytest.MonkeyPatch, code: str, status: int
) -> None:
    ask = serve()

    def run(*_: Any) -> Any:
        raise RunError(code, "it failed")

    monkeypatch.setattr(model.Model, "run", run)
    assert ask("POST", "/events", examples["pixels"], **CE).status == status


def test_one_passing_fault_brings_the_whole_batch_again(
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


# Delivered at least once


DELIVERIES = int(os.environ.get("EVENT_DELIVERIES", "1000"))  # 10000 takes half a minute


def test_a_thousand_deliveries(serve: Serve, examples: dict[str, Any], receiver: Sink) -> None:
    """A fifth of them comes again, one in twenty is poison: each is answered or recorded, under one id."""
    ask = serve(EVENT_REPLY=receiver.address)
    chance = random.Random(6)
    good = json.dumps(examples["pixels"]).encode()
    poison = [b"{", b'{"instances": ["x"]}', b'{"instance": [[1]]}', b"", b"\xff"]
    wanted = {n: chance.random() >= 0.05 for n in range(DELIVERIES * 4 // 5)}
    deliveries = [*wanted, *chance.choices(list(wanted), k=DELIVERIES // 5)]
    chance.shuffle(deliveries)
    for n in deliveries:
        data = good if wanted[n] else poison[n % len(poison)]
        form = chance.choice(("binary", "push"))
        if form == "binary":
            headers = {**CE, "ce_id": f"m{n}", "ce_source": f"//pubsub.googleapis.com/{NAME}"}
            answer = ask("POST", "/events", data, **headers)
        else:
            wrapped = push(data)
            wrapped["message"]["messageId"] = f"m{n}"
            answer = ask("POST", "/events", wrapped)
        assert answer.status == 204
    kept: dict[str, set[tuple[str, bytes]]] = {}
    for _, headers, body in receiver.received:
        event = from_http(headers, body)
        said = body if event["type"] == "savedmodel.predicted.v1" else json.loads(body)["error"].encode()
        kept.setdefault(event["subject"].rpartition("#m")[2], set()).add((event["type"] + event["id"], said))
    assert sorted(kept) == sorted(str(n) for n in wanted)
    assert {len(outcomes) for outcomes in kept.values()} == {1}  # a duplicate is the same event again
    types = Counter(n for n, ((kind, _),) in kept.items() if kind.startswith("savedmodel.failed.v1"))
    assert sorted(map(int, types)) == [n for n, fine in wanted.items() if not fine]
    assert len(receiver.received) == len(deliveries)


# Called by a platform with its own object


def test_the_decorated_function_takes_a_platforms_event(serve: Serve, examples: dict[str, Any], receiver: Sink) -> None:
    serve(EVENT_REPLY=receiver.address)
    wanted = handle(Request("POST", PREDICT, body=json.dumps(examples["pixels"]).encode())).body
    attributes = {"id": "1", "source": "/s", "type": "t"}
    message = push(json.dumps(examples["pixels"]).encode())
    picture = base64.b64decode(examples["serving_default"]["instances"][0]["b64"])
    for extra, data in (
        ({}, examples["pixels"]),
        ({}, json.dumps(examples["pixels"]).encode()),
        ({"type": MESSAGE}, message),
        ({"datacontenttype": "image/png"}, picture),
    ):
        delivery.receive_object(CloudEvent({**attributes, **extra}, data), handle)
    assert [body == wanted for _, _, body in receiver.received] == [True, True, True, False]
    assert json.loads(receiver.received[3][2])["predictions"][0]["label"] == "3"
    delivery.receive_object(CloudEvent(attributes, None), handle)
    assert receiver.received[4][1]["ce-type"] == "savedmodel.failed.v1"
    receiver.status = 500
    with pytest.raises(RuntimeError, match="the sink answers 500"):
        delivery.receive_object(CloudEvent(attributes, examples["pixels"]), handle)


# The settings


SETTINGS = [
    ("EVENT_INPUT",   "files/in",                       "EVENT_INPUT: expected gs://BUCKET/FOLDER, got 'files/in'"),
    ("EVENT_OUTPUT",  "gs://B/out",                     "EVENT_OUTPUT: expected gs://BUCKET/FOLDER, got 'gs://B/out'"),
    ("EVENT_REPLY",   "topic",                          "EVENT_REPLY: expected response, none, an http"),
    ("EVENT_REPLY",   "projects/p/topics/t",            "EVENT_REPLY: expected response, none, an http"),
    ("K_SINK",        "ftp://x",                        "EVENT_REPLY: expected response, none, an http"),
    ("EVENT_TYPES",   "a,,b",                           "EVENT_TYPES: expected types of events separated by commas"),
    ("EVENT_TYPES",   "a*b",                            "EVENT_TYPES: expected types of events separated by commas"),
    ("EVENT_STRICT",  "yes",                            "EVENT_STRICT: expected one of 0, 1, got 'yes'"),
    ("EVENT_MAX_AGE", "-1",                             "EVENT_MAX_AGE: expected a whole number from 0"),
    ("PUBSUB_EMULATOR_HOST", "a b",                     "PUBSUB_EMULATOR_HOST: expected HOST:PORT, got 'a b'"),
]  # fmt: skip


@pytest.mark.parametrize(("variable", "value", "words"), SETTINGS)
def test_a_bad_setting_is_named(variable: str, value: str, words: str) -> None:
    with pytest.raises(settings.SettingError) as raised:
        settings.read({variable: value})
    assert str(raised.value).startswith(words)


PAIRS = [
    # input                 output                 fine
    ("gs://files/in",       "gs://files/out",      True),
    ("gs://files/in",       "gs://files/in-out",   True),
    ("gs://files",          "gs://files/out",      True),
    ("gs://files/in",       "gs://files/in",       False),
    ("gs://files/in/",      "gs://files/in",       False),
    ("gs://files/in/a",     "gs://files/in",       False),
    ("gs://files/in",       "gs://files",          False),
    ("gs://files",          "gs://files",          False),
]  # fmt: skip


@pytest.mark.parametrize(("place", "output", "fine"), PAIRS)
def test_an_output_place_that_holds_the_input_place_is_refused_at_the_start(
    place: str, output: str, fine: bool
) -> None:
    environment = {"EVENT_INPUT": place, "EVENT_OUTPUT": output}
    if fine:
        assert settings.read(environment).event_output == output.rstrip("/") + "/"
    else:
        with pytest.raises(
            settings.SettingError, match="EVENT_OUTPUT: expected a folder that does not contain EVENT_INPUT"
        ):
            settings.read(environment)


@pytest.mark.parametrize(("given", "missing"), [("EVENT_INPUT", "EVENT_OUTPUT"), ("EVENT_OUTPUT", "EVENT_INPUT")])
def test_one_place_without_the_other_is_refused_at_the_start(given: str, missing: str) -> None:
    with pytest.raises(settings.SettingError) as raised:
        settings.read({given: "gs://files/in"})
    assert (
        str(raised.value) == f"{missing}: expected gs://BUCKET/FOLDER beside {given}, or neither of them, got nothing"
    )
