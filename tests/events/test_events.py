"""An event is answered as the same request over HTTP, byte for byte, in each of its forms."""

import base64
import gzip
import io
import json
import re
from typing import Any

import pytest

from serving.core.http import Request, Response
from serving.pipeline.handler import handle
from tests.conftest import Serve
from tests.events.asked import CE, FORMS, MESSAGE, NAME, event_of, push, sent_as
from tests.models.zoo import build
from tests.pipeline.test_handler import PREDICT

# The same bytes


@pytest.mark.parametrize("form", FORMS)
def test_an_event_is_answered_with_the_bytes_of_the_same_request(
    serve: Serve, examples: dict[str, Any], form: str
) -> None:
    ask = serve()
    ask("GET", "/readyz")
    for body in examples.values():
        wanted = ask("POST", PREDICT, body)
        message, headers = sent_as(form, body)
        answer = ask("POST", "/events", message, **headers)
        assert (answer.status, answer.body, answer.content_type) == (200, wanted.body, wanted.content_type)
        assert event_of(answer)["type"] == "savedmodel.predicted.v1"


def test_a_message_may_name_another_address(serve: Serve) -> None:
    ask, path = serve(build() / "keras_sequential"), "/v2/models/model/infer"
    body = {"id": "7", "inputs": [{"name": "features", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}
    wanted = ask("POST", path, body)
    assert wanted.status == 200
    assert ask("POST", "/events", push(json.dumps(body).encode(), path=path)).body == wanted.body
    assert ask("POST", "/events", body, **CE, ce_path=path).body == wanted.body


def test_the_data_of_an_event_may_be_any_predict_request(serve: Serve, examples: dict[str, Any]) -> None:
    ask = serve()
    picture = base64.b64decode(examples["serving_default"]["instances"][0]["b64"])
    wanted = ask("POST", PREDICT, picture, content_type="image/png")
    assert wanted.status == 200
    assert ask("POST", "/events", picture, **CE, content_type="image/png").body == wanted.body
    assert ask("POST", "/events", push(picture, **{"content-type": "image/png"})).body == wanted.body
    assert ask("POST", "/events", gzip.compress(picture), **CE, content_type="image/png", content_encoding="gzip").body == wanted.body  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_the_root_address_accepts_every_form_of_event(serve: Serve, examples: dict[str, Any], form: str) -> None:
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
def test_at_the_root_address_a_bad_push_is_acknowledged_and_a_bad_request_gets_an_error(
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


def test_an_input_named_like_a_field_of_a_push_stays_an_input(serve: Serve) -> None:
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
def test_the_documented_event_gets_its_prediction(
    serve: Serve, examples: dict[str, Any], path: str, headers: dict[str, str]
) -> None:
    ask, body = serve(), examples["pixels"]
    sent = push(json.dumps(body).encode()) if headers["ce_type"] == MESSAGE else body
    answer = ask("POST", path, sent, **headers, content_type="application/json; charset=utf-8")
    assert (answer.status, answer.body) == (200, ask("POST", PREDICT, body).body)
    assert event_of(answer)["specversion"] == "1.0"


# The answer
def test_the_same_event_gets_the_same_answer_and_another_event_another_id(
    serve: Serve, examples: dict[str, Any]
) -> None:
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


def test_answers_to_lines_come_in_a_batch_too(serve: Serve) -> None:
    ask = serve(build() / "keras_sequential")
    whole = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t", "datacontenttype": "application/x-ndjson",
             "data": "[1,2,3,4]\n[0,0,0,0]\n"}  # fmt: skip
    answer = ask("POST", "/events", [whole, whole], content_type="application/cloudevents-batch+json")
    wanted = ask("POST", PREDICT, whole["data"].encode(), content_type="application/x-ndjson")
    assert wanted.status == 200
    assert [base64.b64decode(reply["data_base64"]) for reply in json.loads(answer.body)] == [wanted.body] * 2
