"""Events for the tests, and what is read of their answers."""

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from cloudevents.http import CloudEvent, from_http

from serving.core.http import Response

CE: Any = {"ce_specversion": "1.0", "ce_id": "1", "ce_source": "/shop/1", "ce_type": "com.example.asked"}
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


PLACES = {"EVENT_INPUT": "gs://files/in", "EVENT_OUTPUT": "gs://files/out"}


def finalized(ask: Ask, name: str, **more: Any) -> Response:
    return ask("POST", "/events", {**OBJECT, "name": f"in/{name}", **more}, **{**CE, "ce_type": FINALIZED})


FORMS = ["binary", "structured", "batched", "push", "published", "legacy"]


def sent_as(form: str, data: Any) -> tuple[Any, dict[str, Any]]:
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
