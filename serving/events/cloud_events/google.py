"""The events of Google's platforms that are not CloudEvents.

wrapped push     {"message": {"data": "BASE64", "attributes": {...}, "messageId": "1"}, "subscription": "projects/..."}
unwrapped push   the body is the message's data; X-Goog-Pubsub-Message-Id and the attributes are header fields
legacy           {"context": {"eventId": "1", "timestamp": "...", "eventType": "...", "resource": ...}, "data": {...}},
                 or with the members of "context" beside "data"

A message may be a notification of Cloud Storage <https://cloud.google.com/storage/docs/pubsub-notifications>, or hold
a CloudEvent (<https://github.com/google/knative-gcp/blob/main/docs/spec/pubsub-protocol-binding.md>); it becomes that
event.
"""

import re
from collections.abc import Mapping
from typing import Any

import orjson

from serving.core.http import JSON, Headers
from serving.events.cloud_events.event import (
    LONGEST,
    Event,
    NotAnEvent,
    attribute,
    from_attributes,
    is_object,
    printable,
    seconds,
)
from serving.events.cloud_events.spec import ANY_FORMAT, from_base64, from_structured

LARGEST_MESSAGE = 16 << 20  # bytes: Pub/Sub's largest message, 10 MB, in base64 in JSON
PUBSUB, STORAGE = "//pubsub.googleapis.com/", "//storage.googleapis.com/"
MESSAGE = "google.cloud.pubsub.topic.v1.messagePublished"
OBJECT = "google.cloud.storage.object.v1."
FINALIZED = f"{OBJECT}finalized"

# fmt: off
NOTIFICATIONS = {
    "OBJECT_FINALIZE":        FINALIZED,
    "OBJECT_DELETE":          f"{OBJECT}deleted",
    "OBJECT_ARCHIVE":         f"{OBJECT}archived",
    "OBJECT_METADATA_UPDATE": f"{OBJECT}metadataUpdated",
}
# <https://github.com/GoogleCloudPlatform/functions-framework-conformance/blob/main/docs/mapping.md>
LEGACY = {
    "google.pubsub.topic.publish":                      MESSAGE,
    "providers/cloud.pubsub/eventTypes/topic.publish":  MESSAGE,
    "google.storage.object.finalize":                   FINALIZED,
    "google.storage.object.delete":                     f"{OBJECT}deleted",
    "google.storage.object.archive":                    f"{OBJECT}archived",
    "google.storage.object.metadataUpdate":             f"{OBJECT}metadataUpdated",
    "providers/cloud.storage/eventTypes/object.change": FINALIZED,
}
# fmt: on
_BUCKET = re.compile(r"(projects/[^/]+/buckets/[^/]+)/(objects/.+)", re.DOTALL)


def is_push(value: Any) -> bool:
    """Return whether a JSON value is a wrapped push."""
    return isinstance(value, dict) and "message" in value and "context" not in value


def is_legacy(value: Any) -> bool:
    """Return whether a JSON value is an event of first-generation functions."""
    return isinstance(value, dict) and "data" in value and ("context" in value or "eventId" in value)


def from_push(value: Mapping[str, Any]) -> Event:
    """Return the event that a wrapped push holds."""
    message = is_object(value["message"], "message")
    subscription = attribute(value.get, "subscription", "")
    event = Event(_id(message), PUBSUB + subscription, MESSAGE, "", _time(message), pushed=True)
    return _from_message(event, message)


def from_published(event: Event) -> Event:
    """Return the event inside a CloudEvent of the type MESSAGE, whose data are a wrapped push."""
    try:
        message = is_object(is_object(orjson.loads(event.data), "data").get("message"), "data.message")
    except orjson.JSONDecodeError:
        raise NotAnEvent("data: expected a message as a JSON object, got no JSON") from None
    return _from_message(event._replace(data=b"", content_type=""), message)


def is_unwrapped(headers: Headers) -> bool:
    """Return whether the header fields are those of an unwrapped push."""
    return headers.get("x-goog-pubsub-message-id") is not None


# The attributes that have a meaning here: header fields are read by name.
ATTRIBUTES_READ = (
    "eventType", "bucketId", "objectId", "objectGeneration", "path", "content-type", "ce-specversion", "ce-id",
    "ce-source", "ce-type", "ce-subject", "ce-time", "ce-path",
)  # fmt: skip


def from_unwrapped(headers: Headers, body: bytes) -> Event:
    """Return the event that an unwrapped push holds."""

    def get(name: str) -> str | None:
        return headers.get(f"x-goog-pubsub-{name}")

    attributes = {name: _utf8(value) for name in ATTRIBUTES_READ if (value := headers.get(name.lower())) is not None}
    time = attribute(get, "publish-time", "x-goog-pubsub-")
    source = PUBSUB + attribute(get, "subscription-name", "x-goog-pubsub-")
    if time:
        seconds(time, "x-goog-pubsub-publish-time")
    event = Event(attribute(get, "message-id", "x-goog-pubsub-"), source, MESSAGE, "", time, pushed=True)
    return _from_attributes(event, attributes, body)


def _utf8(value: str) -> str:
    """Decode a header field, which a server decoded as Latin-1, as UTF-8; return it unchanged if it is not UTF-8."""
    try:
        return value.encode("latin-1").decode()
    except UnicodeError:
        return value


def from_legacy(value: Mapping[str, Any]) -> Event:
    """Return the event of a legacy body; for an unknown type, its attributes without data."""
    context = is_object(value["context"], "context") if "context" in value else value
    place = "context." if "context" in value else ""
    data = value["data"]
    kind = attribute(context.get, "eventType", place, required=True)
    resource = context.get("resource")
    name = resource.get("name") if isinstance(resource, dict) else resource
    name = printable(name, f"{place}resource", 2 * LONGEST) if isinstance(name, str) and name else ""
    time = attribute(context.get, "timestamp", place)
    if time:
        seconds(time, f"{place}timestamp")
    event = Event(attribute(context.get, "eventId", place, required=True), name, LEGACY.get(kind, kind), "", time)
    if event.type == MESSAGE:
        return _from_message(event._replace(source=PUBSUB + name, pushed=True), is_object(data, "data"))
    if event.type.startswith(OBJECT):
        data = is_object(data, "data")
        match = _BUCKET.fullmatch(name)
        source, subject = match.groups() if match else (name, "")
        deleted = data.get("resourceState") == "not_exists"
        return event._replace(
            type=f"{OBJECT}deleted" if deleted else event.type, source=STORAGE + source, subject=subject,
            content_type=JSON, data=_dumps(data),
        )  # fmt: skip
    return event


def _id(message: Mapping[str, Any]) -> str:
    name = "messageId" if "messageId" in message else "message_id"
    return attribute(message.get, name, "message.", required=True)


def _time(message: Mapping[str, Any]) -> str:
    name = "publishTime" if "publishTime" in message else "publish_time"
    time = attribute(message.get, name, "message.")
    if time:
        seconds(time, f"message.{name}")
    return time


def _from_message(event: Event, message: Mapping[str, Any]) -> Event:
    attributes = is_object(message.get("attributes") or {}, "message.attributes")
    for value in attributes.values():
        if not isinstance(value, str):
            raise NotAnEvent("message.attributes: expected text in each, got something else")
    data = message.get("data")
    return _from_attributes(event, attributes, b"" if data is None else from_base64(data, "message.data"))


def _from_attributes(event: Event, attributes: Mapping[str, str], data: bytes) -> Event:
    """Return the event that a message holds: a notification, a CloudEvent, or plain data."""
    content_type = attributes.get("content-type", "")
    if attributes.get("eventType") in NOTIFICATIONS and "bucketId" in attributes and "objectId" in attributes:
        return _notification(event, attributes, data)
    if "ce-specversion" in attributes or "ce-id" in attributes:
        inner = from_attributes(lambda name: attributes.get(f"ce-{name}"), data, content_type, "message.attributes.ce-")
        return inner._replace(pushed=event.pushed)
    if content_type.startswith(ANY_FORMAT):
        return from_structured(_text(data, "message.data"), "message.data.")._replace(pushed=event.pushed)
    path = attribute(attributes.get, "path", "message.attributes.")
    return event._replace(content_type=content_type, data=data, path=path)


def _notification(event: Event, attributes: Mapping[str, str], payload: bytes) -> Event:
    """Return a notification as an event of Cloud Storage; its payload may be absent."""
    try:
        object_ = orjson.loads(payload)
    except orjson.JSONDecodeError:
        object_ = None
    if not isinstance(object_, dict) or not {"bucket", "name"} <= object_.keys():
        object_ = {"bucket": attributes["bucketId"], "name": attributes["objectId"]}
        if "objectGeneration" in attributes:
            object_["generation"] = attributes["objectGeneration"]
    bucket, name = (attribute(object_.get, field, "message.data.", required=True) for field in ("bucket", "name"))
    return event._replace(
        type=NOTIFICATIONS[attributes["eventType"]],
        source=f"{STORAGE}projects/_/buckets/{bucket}",
        subject=f"objects/{name}",
        content_type=JSON,
        data=_dumps(object_),
    )


def _dumps(object_: Mapping[str, Any]) -> bytes:
    try:
        return orjson.dumps(object_)
    except orjson.JSONEncodeError:  # orjson reads deeper nesting than it writes
        raise NotAnEvent("data: expected an object of Cloud Storage, got one nested too deeply") from None


def _text(data: bytes, place: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise NotAnEvent(f"{place}: expected UTF-8, got other bytes") from None
