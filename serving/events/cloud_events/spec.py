"""CloudEvents 1.0 over HTTP <https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/http-protocol-binding.md>.

binary       ce-id: 1, ce-source: /s, ce-type: t, ce-specversion: 1.0   the body is the data
structured   application/cloudevents+json         {"specversion": "1.0", "id": "1", ..., "data": {...}}
batched      application/cloudevents-batch+json   [{...}, {...}]

Data inside JSON are handed on as the text that was sent, digit for digit.
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
MOST_EVENTS = 10_000  # of a batch: a few bytes of it may ask for an answer, and a line in the log, of a kilobyte


def is_binary(headers: Headers) -> bool:
    """Say whether the header fields hold an event's attributes, be it not all of them."""
    return any(headers.get(f"ce-{name}") is not None for name in ATTRIBUTES)


def from_binary(headers: Headers, body: bytes) -> Event:
    """Return the event whose attributes are header fields."""

    def get(name: str) -> str | None:
        value = headers.get(f"ce-{name}")
        return None if value is None else unquote(_unquoted(value.strip()))

    return from_attributes(get, body, headers.get("content-type") or "", "ce-")


def _unquoted(value: str) -> str:
    """Return a header field's value; one in double quotes without those and their escapes, as the binding has it."""
    if len(value) > 1 and value[0] == value[-1] == '"':
        return re.sub(r"\\(.)", r"\1", value[1:-1])
    return value


def from_structured(text: str, place: str = "") -> Event:
    """Return the event that a JSON object describes; `place` names the object in errors."""
    try:
        found = _members(text)
    except (ValueError, RecursionError):
        raise NotAnEvent(f"{place.rstrip('.') or 'body'}: expected an event as a JSON object, got no such") from None
    values = {name: value for name, (value, _) in found.items()}
    content_type = values.get("datacontenttype")
    if content_type is not None and not isinstance(content_type, str):
        raise NotAnEvent(f"{place}datacontenttype: expected text, got something else")
    return from_attributes(values.get, _data(found, content_type or JSON, place), content_type or JSON, place)


def from_batch(text: str) -> list[Event | Malformed]:
    """Return each event of a JSON list, or what is wrong with it."""
    try:
        parts = _elements(text)
    except NotAnEvent:
        raise
    except (ValueError, RecursionError):
        raise NotAnEvent("body: expected a list of events in JSON, got no such") from None
    return [_one(part, f"[{index}].") for index, part in enumerate(parts)]


def _one(text: str, place: str) -> Event | Malformed:
    try:
        return from_structured(text, place)
    except NotAnEvent as error:
        return Malformed(str(error), text.encode())


def _data(found: dict[str, tuple[Any, str]], content_type: str, place: str) -> bytes:
    if "data_base64" in found:
        if "data" in found:
            raise NotAnEvent(f"{place}data: expected either data or data_base64, got both")
        return from_base64(found["data_base64"][0], f"{place}data_base64")
    value, text = found.get("data", (None, ""))
    if isinstance(value, str) and not is_json(content_type):
        try:
            return value.encode()
        except UnicodeEncodeError:
            raise NotAnEvent(f"{place}data: expected text, got half of a surrogate pair") from None
    return b"" if value is None else text.encode()


def is_json(content_type: str) -> bool:
    """Say whether a content type is JSON: application/json, or anything that ends with +json."""
    kind = content_type.partition(";")[0].strip().lower()
    return kind.endswith(("/json", "+json"))


def from_base64(value: Any, place: str) -> bytes:
    """Return the bytes that base64 stands for."""
    try:
        return base64.b64decode(value, validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise NotAnEvent(f"{place}: expected base64, got something else") from None


# A value of JSON and where it ends: what lies between is handed on as it is.
_value = json.JSONDecoder().raw_decode
_SPACE = re.compile(r"[ \t\n\r]*")


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _items(text: str, ends: str, item: Callable[[int], int]) -> None:
    """Walk through one JSON object or list and nothing behind it: `item` reads one item and says where it ends."""
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
    """Return the members of a JSON object, each as its value and its text; a name that appears twice is an error."""
    found: dict[str, tuple[Any, str]] = {}

    def member(at: int) -> int:
        name, at = _value(text, at)
        at = _skip(text, at)
        if not isinstance(name, str) or name in found or text[at : at + 1] != ":":
            raise ValueError
        begin = _skip(text, at + 1)
        value, end = _value(text, begin)
        found[name] = value, text[begin:end]
        return end

    _items(text, "{}", member)
    return found


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
    """Return the attributes of an event by name, without the type of its data."""
    named = {
        "specversion": VERSION, "id": event.id, "source": event.source, "type": event.type,
        "subject": event.subject, "time": event.time,
    }  # fmt: skip
    return {name: value for name, value in named.items() if value}


# "space, double-quote, percent and everything outside U+0021-U+007E" - http-protocol-binding, 3.1.3.2
_SAFE = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')


def to_binary(event: Event) -> dict[str, str]:
    """Return the header fields of an event but Content-Type; its body is the data."""
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
