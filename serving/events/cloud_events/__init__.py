"""Parses events from requests, in every form that platforms send.

`parse` is a pure function of header fields and body and never raises: a body that is no event becomes a Malformed with
the reason. The content type is unreliable (Pub/Sub's emulator labels JSON as a form), so it decides only as a last
resort.
"""

from collections.abc import Callable
from typing import Any

import orjson

from serving.core.http import Headers, media_type
from serving.events.cloud_events import google, spec
from serving.events.cloud_events.event import Event, Malformed, NotAnEvent, checked, from_attributes, seconds
from serving.events.cloud_events.google import FINALIZED, LARGEST_MESSAGE, MESSAGE
from serving.events.cloud_events.spec import (
    BATCHED,
    STRUCTURED,
    is_json,
    to_attributes,
    to_batch,
    to_binary,
    to_structured,
)

__all__ = [
    "BATCHED", "FINALIZED", "LARGEST_MESSAGE", "MESSAGE", "STRUCTURED", "Event", "Malformed", "NotAnEvent",
    "body_is_event", "checked", "from_attributes", "is_json", "parse", "seconds", "to_attributes", "to_batch",
    "to_binary", "to_structured", "unwrap",
]  # fmt: skip


def body_is_event(body: bytes) -> bool:
    """Return whether a body alone is an event: a push of Pub/Sub, a legacy event or structured CloudEvents."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    if google.is_push(value):  # {"message": "hello"} is not a push
        return isinstance(value["message"], dict)
    return _reader(value) is not None


def parse(headers: Headers, body: bytes) -> list[Event | Malformed]:
    """Return the events of a request: one, or several of a batch."""
    claimed = not google.is_unwrapped(headers) and (
        media_type(headers).startswith(spec.ANY_FORMAT) or spec.is_binary(headers)
    )
    try:
        events = _events(headers, body)
    except NotAnEvent as error:
        return [Malformed(str(error), body, claimed)]
    if claimed and not any(isinstance(event, Event) for event in events):
        return [event._replace(claimed=True) for event in events if isinstance(event, Malformed)]
    return [_unwrapped(event) for event in events]


def unwrap(event: Event) -> Event:
    """Return the event that a message of Pub/Sub holds; any other event as it is."""
    return google.from_published(event) if event.type == MESSAGE and not event.pushed else event


def _unwrapped(event: Event | Malformed) -> Event | Malformed:
    if isinstance(event, Malformed):
        return event
    try:
        return checked(unwrap(event))
    except NotAnEvent as error:
        return Malformed(str(error), event.data)


def _events(headers: Headers, body: bytes) -> list[Event | Malformed]:
    if google.is_unwrapped(headers):
        return [google.from_unwrapped(headers, body)]
    kind = media_type(headers)
    if kind == BATCHED:
        return spec.from_batch(_text(body))
    if kind == STRUCTURED:
        return [spec.from_structured(_text(body))]
    if kind.startswith(spec.ANY_FORMAT):
        raise NotAnEvent(f"Content-Type: expected {STRUCTURED} or {BATCHED}, got another format of events")
    if spec.is_binary(headers):
        return [spec.from_binary(headers, body)]
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise NotAnEvent("body: expected an event, got neither ce- header fields nor JSON") from None
    if (read := _reader(value)) is None:
        raise NotAnEvent("body: expected a CloudEvent, a push of Pub/Sub or a legacy event, got other JSON")
    return read(value, body)


def _reader(value: Any) -> Callable[[Any, bytes], list[Event | Malformed]] | None:
    """Return the function that reads a JSON value with the shape of an event, None for any other."""
    if google.is_push(value):
        return lambda push, _: [google.from_push(push)]
    if google.is_legacy(value):
        return lambda legacy, _: [google.from_legacy(legacy)]
    if isinstance(value, dict) and "specversion" in value:
        return lambda _, body: [spec.from_structured(_text(body))]
    if isinstance(value, list) and value and all(isinstance(item, dict) and "specversion" in item for item in value):
        return lambda _, body: spec.from_batch(_text(body))
    return None


def _text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError:
        raise NotAnEvent("body: expected UTF-8, got other bytes") from None
