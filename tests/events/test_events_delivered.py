"""Answers reach a sink or a topic, each event at least once; settings that name where."""

import base64
import io
import json
import os
import random
from collections import Counter
from typing import Any

import pytest
from cloudevents.http import CloudEvent, from_http

from serving.core import settings
from serving.core.http import Request
from serving.core.storage import StorageError
from serving.events import delivery, sinks
from serving.pipeline.handler import handle
from tests.conftest import Serve
from tests.events.asked import CE, MESSAGE, NAME, push
from tests.events.sink import Sink, mail_server
from tests.models.zoo import build
from tests.pipeline.test_handler import PREDICT


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

    def no_token() -> str:
        raise StorageError("the platform's token cannot be fetched")

    monkeypatch.setattr(sinks, "access_token", no_token)
    assert serve(EVENT_REPLY=topic)("POST", "/events", examples["pixels"], **CE).status == 503


@pytest.mark.parametrize("status", [500, 403, 301])
def test_a_sink_that_refuses_is_a_transient_failure(
    serve: Serve, examples: dict[str, Any], receiver: Sink, status: int
) -> None:
    receiver.status = status
    for reply in (receiver.address, "projects/p/topics/answers"):
        ask = serve(EVENT_REPLY=reply, PUBSUB_EMULATOR_HOST=receiver.address)
        answer = ask("POST", "/events", examples["pixels"], **CE)
        assert (answer.status, json.loads(answer.body)) == (503, {"error": f"the sink answers {status}"})
        assert ask("POST", "/events", b"no event").status == 503  # until it is recorded


def test_a_redirect_of_the_sink_is_a_failure(serve: Serve, examples: dict[str, Any], receiver: Sink) -> None:
    receiver.status, receiver.location = 302, f"{receiver.address}/elsewhere"
    answer = serve(EVENT_REPLY=receiver.address)("POST", "/events", examples["pixels"], **CE)
    assert (answer.status, json.loads(answer.body)) == (503, {"error": "the sink answers 302"})


def test_a_sink_that_does_not_speak_http_is_a_transient_failure(serve: Serve, examples: dict[str, Any]) -> None:
    with mail_server(1) as address:
        answer = serve(EVENT_REPLY=address)("POST", "/events", examples["pixels"], **CE)
    assert (answer.status, b"the sink cannot be reached" in answer.body) == (503, True)


def test_an_unreachable_sink_is_a_transient_failure(serve: Serve, examples: dict[str, Any]) -> None:
    answer = serve(EVENT_REPLY="http://127.0.0.1:9")("POST", "/events", examples["pixels"], **CE)
    assert answer.status == 503
    assert b"the sink cannot be reached" in answer.body
    assert b"127.0.0.1" not in answer.body


def test_a_model_that_cannot_be_loaded_is_a_transient_failure(serve: Serve, examples: dict[str, Any]) -> None:
    answer = serve(build() / "broken" / "nothing")("POST", "/events", examples["pixels"], **CE)
    assert answer.status == 503
    assert b"the model cannot be loaded" in answer.body


# Delivered at least once
DELIVERIES = int(os.environ.get("EVENT_DELIVERIES", "1000"))  # 10000 takes half a minute


def test_a_thousand_deliveries_are_each_answered_or_recorded_under_one_id(
    serve: Serve, examples: dict[str, Any], receiver: Sink
) -> None:
    """A fifth is delivered twice and one in twenty is malformed."""
    ask = serve(EVENT_REPLY=receiver.address)
    chance = random.Random(6)
    good = json.dumps(examples["pixels"]).encode()
    malformed = [b"{", b'{"instances": ["x"]}', b'{"instance": [[1]]}', b"", b"\xff"]
    wanted = {n: chance.random() >= 0.05 for n in range(DELIVERIES * 4 // 5)}
    deliveries = [*wanted, *chance.choices(list(wanted), k=DELIVERIES // 5)]
    chance.shuffle(deliveries)
    for n in deliveries:
        data = good if wanted[n] else malformed[n % len(malformed)]
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
def test_the_decorated_function_accepts_an_event_of_the_platform(
    serve: Serve, examples: dict[str, Any], receiver: Sink
) -> None:
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


@pytest.mark.parametrize(("source", "output", "fine"), PAIRS)
def test_EVENT_OUTPUT_that_contains_EVENT_INPUT_is_refused_at_the_start(source: str, output: str, fine: bool) -> None:
    environment = {"EVENT_INPUT": source, "EVENT_OUTPUT": output}
    if fine:
        assert settings.read(environment).event_output == output.rstrip("/") + "/"
    else:
        with pytest.raises(
            settings.SettingError, match="EVENT_OUTPUT: expected a folder that does not contain EVENT_INPUT"
        ):
            settings.read(environment)


@pytest.mark.parametrize(("given", "missing"), [("EVENT_INPUT", "EVENT_OUTPUT"), ("EVENT_OUTPUT", "EVENT_INPUT")])
def test_one_of_EVENT_INPUT_and_EVENT_OUTPUT_without_the_other_is_refused(given: str, missing: str) -> None:
    with pytest.raises(settings.SettingError) as raised:
        settings.read({given: "gs://files/in"})
    assert (
        str(raised.value) == f"{missing}: expected gs://BUCKET/FOLDER beside {given}, or neither of them, got nothing"
    )
