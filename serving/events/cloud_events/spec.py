"""CloudEvents 1.0 over HTTP <https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/http-protocol-binding.md>.

binary       ce-id: 1, ce-source: /s, ce-type: t, ce-specversion: 1.0   the body is the data
structured   application/cloudevents+json         {"specversion": "1.0", "id": "1", ..., "data": {...}}
batched      application/cloudevents-batch+json   [{...}, {...}]

Data inside JSON keep the text that was sent, digit for digit.
"""

import base64
import binascii
import json
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, unquote

import orjson

from serving.core.http import JSON, Headers
from serving.events.cloud_events.event import VERSION, Event, Malformed, NotAnEvent, from_attributes

STRUCTURED = "application/cloudevents+json"
BATCHED = "application/cloudevents-batch+json"
ANY_FORMAT = "application/cloudevents"
ATTRIBUTES = ("specversion", "id", "source", "type")
MOST_EVENTS = 10_000  # of a batch: an event of a few bytes may cause an answer and a log line of a kilobyte


def is_binary(headers: Headers) -> bool:
    """Return whether the header fields hold any attribute of an event."""
    return any(headers.get(f"ce-{name}") is not None for name in ATTRIBUTES)


def from_binary(headers: Headers, body: bytes) -> Event:
    """Return the event whose attributes are header fields; raise NotAnEvent."""

    def get(name: str) -> str | None:
        value = headers.get(f"ce-{name}")
        try:
            return None if value is None else unquote(_unquoted(value.strip()), errors="strict")
        except UnicodeDecodeError:
            raise NotAnEvent(f"ce-{name}: expected UTF-8 in percent-encoding, got other bytes") from None

    return from_attributes(get, body, headers.get("content-type") or "", "ce-")


def _unquoted(value: str) -> str:
    """Return a header field's value without double quotes and their escapes, as the binding specifies."""
    if len(value) > 1 and value[0] == value[-1] == '"':
        return re.sub(r"\\(.)", r"\1", value[1:-1])
    return value


def from_structured(text: str, place: str = "") -> Event:
    """Return the event in a JSON object; `place` names the object in errors. Raise NotAnEvent."""
    try:
        members = _members(text)
    except (ValueError, RecursionError):
        raise NotAnEvent(f"{place.rstrip('.') or 'body'}: expected an event as a JSON object, got no such") from None
    values = {name: value for name, (value, _) in members.items()}
    content_type = values.get("datacontenttype")
    if content_type is not None and not isinstance(content_type, str):
        raise NotAnEvent(f"{place}datacontenttype: expected text, got something else")
    return from_attributes(values.get, _data(members, content_type or JSON, place), content_type or JSON, place)


def from_batch(text: str) -> list[Event | Malformed]:
    """Return each event of a JSON list, or a Malformed; raise NotAnEvent where the body is no such list."""
    try:
        parts = _elements(text)
    except NotAnEvent:
        raise
    except (ValueError, RecursionError):
        raise NotAnEvent("body: expected a list of events in JSON, got no such") from None
    return [_element(part, f"[{index}].") for index, part in enumerate(parts)]


def _element(text: str, place: str) -> Event | Malformed:
    try:
        return from_structured(text, place)
    except NotAnEvent as error:
        return Malformed(str(error), text.encode())


def _data(members: dict[str, tuple[Any, str]], content_type: str, place: str) -> bytes:
    if "data_base64" in members:
        if "data" in members:
            raise NotAnEvent(f"{place}data: expected either data or data_base64, got both")
        return from_base64(members["data_base64"][0], f"{place}data_base64")
    value, text = members.get("data", (None, ""))
    if isinstance(value, str) and not is_json(content_type):
        try:
            return value.encode()
        except UnicodeEncodeError:
            raise NotAnEvent(f"{place}data: expected text, got half of a surrogate pair") from None
    return b"" if value is None else text.encode()


def is_json(content_type: str) -> bool:
    """Return whether a content type is JSON: application/json, or anything that ends with +json."""
    kind = content_type.partition(";")[0].strip().lower()
    return kind.endswith(("/json", "+json"))


def from_base64(value: Any, place: str) -> bytes:
    """Return the bytes of a base64 string; raise NotAnEvent where it is malformed."""
    try:
        return base64.b64decode(value, validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise NotAnEvent(f"{place}: expected base64, got something else") from None


# Returns a JSON value and where it ends, so that its text can be kept.
_value = json.JSONDecoder().raw_decode
_SPACE = re.compile(r"[ \t\n\r]*")


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _items(text: str, ends: str, item: Callable[[int], int]) -> None:
    """Read one JSON object or list that fills the text: `item` reads the item at a position and returns its end."""
    at = _skip(text, 0)
    if text[at : at + 1] != ends[0]:
        raise ValueError
    at = _skip(text, at + 1)
    more = text[at : at + 1] != ends[1]
    while more:
        at = _skip(text, item(at))
        more = text[at : at + 1] == ","
        at = _skip(text, at + 1) if more else at
    if text[at : at + 1] != ends[1] or _skip(text, at + 1) != len(text):
        raise ValueError


def _members(text: str) -> dict[str, tuple[Any, str]]:
    """Return the members of a JSON object, each as (value, text); raise ValueError for a repeated name."""
    members: dict[str, tuple[Any, str]] = {}

    def member(at: int) -> int:
        name, at = _value(text, at)
        at = _skip(text, at)
        if not isinstance(name, str) or name in members or text[at : at + 1] != ":":
            raise ValueError
        begin = _skip(text, at + 1)
        value, end = _value(text, begin)
        members[name] = value, text[begin:end]
        return end

    _items(text, "{}", member)
    return members


def _elements(text: str) -> list[str]:
    """Return the text of each element of a JSON list."""
    parts: list[str] = []

    def element(at: int) -> int:
        if len(parts) == MOST_EVENTS:
            raise NotAnEvent(f"body: expected at most {MOST_EVENTS} events in a batch, got more")
        _, end = _value(text, at)
        parts.append(text[at:end])
        return end

    _items(text, "[]", element)
    return parts


def to_attributes(event: Event) -> dict[str, str]:
    """Return the attributes of an event by name, without the content type."""
    attributes = {
        "specversion": VERSION, "id": event.id, "source": event.source, "type": event.type,
        "subject": event.subject, "time": event.time,
    }  # fmt: skip
    return {name: value for name, value in attributes.items() if value}


# "space, double-quote, percent and everything outside U+0021-U+007E" - http-protocol-binding, 3.1.3.2
_SAFE = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')


def to_binary(event: Event) -> dict[str, str]:
    """Return the header fields of an event, without Content-Type; the body is its data."""
    return {f"ce-{name}": quote(value, safe=_SAFE) for name, value in to_attributes(event).items()}


def to_batch(events: list[Event]) -> bytes:
    """Return events as a JSON list."""
    return orjson.dumps([_to_structured(event) for event in events])


def to_structured(event: Event) -> bytes:
    """Return an event as a JSON object, its data included."""
    return orjson.dumps(_to_structured(event))


def _to_structured(event: Event) -> dict[str, Any]:
    attributes: dict[str, Any] = {**to_attributes(event), "datacontenttype": event.content_type}
    if is_json(event.content_type):
        return {**attributes, "data": orjson.Fragment(event.data)}
    return {**attributes, "data_base64": base64.b64encode(event.data).decode()}
