"""An event as a value, independent of its form, and the rules for its attributes.

<https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md>
"""

import re
from calendar import timegm
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

VERSION = "1.0"
LONGEST = 1024  # characters of an attribute; Pub/Sub takes no more bytes in one


class Event(NamedTuple):
    """One event. Its data are the bytes that were sent, decoded from their JSON or base64."""

    id: str
    source: str
    type: str
    subject: str = ""
    time: str = ""  # RFC 3339; empty where it is absent
    content_type: str = ""  # of the data
    data: bytes = b""
    path: str = ""  # an extension: the address of a predict request
    pushed: bool = False  # by Pub/Sub, which reads no reply


class Malformed(NamedTuple):
    """A body that is no event. The message names the place of the error, and quotes nothing of the body."""

    message: str
    data: bytes = b""
    claimed: bool = False  # its header fields say CloudEvent; never a push of Pub/Sub, which would be sent endlessly


class NotAnEvent(ValueError):
    """Part of a body is no event; the text is a Malformed's message."""


# Text of the specification's type String, which is safe in a header field or a log.
_TEXT = re.compile("[^\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]+")
_TIME = re.compile(r"(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(?:\.\d+)?(?:[Zz]|([+-])(\d\d):(\d\d))", re.ASCII)


def from_attributes(get: Callable[[str], Any], data: bytes, content_type: str, place: str) -> Event:
    """Return the event whose attribute NAME is `get(NAME)`; an error names `place` and NAME. Raise NotAnEvent."""
    version = attribute(get, "specversion", place, required=True)
    if version != VERSION:
        raise NotAnEvent(f"{place}specversion: expected {VERSION}, got another version")
    event = Event(
        attribute(get, "id", place, required=True),
        attribute(get, "source", place, required=True),
        attribute(get, "type", place, required=True),
        attribute(get, "subject", place),
        attribute(get, "time", place),
        content_type,
        data,
        attribute(get, "path", place),
    )
    if event.time:
        seconds(event.time, f"{place}time")
    return event


def checked(event: Event) -> Event:
    """Return the event; raise NotAnEvent where its id or source is too long to be repeated in an answer."""
    for name, value, most in (("id", event.id, 256), ("source", event.source, 512)):
        if len(value.encode("utf-8", "surrogatepass")) > most:
            raise NotAnEvent(f"{name}: expected at most {most} bytes, got more")
    return event


def attribute(get: Callable[[str], Any], name: str, place: str, *, required: bool = False) -> str:
    """Return an attribute, empty where an optional one is absent; raise NotAnEvent."""
    value = get(name)
    if value is None and not required:
        return ""
    if value is None:
        raise NotAnEvent(f"{place}{name}: expected text, got nothing")
    if not isinstance(value, str) or not value:
        raise NotAnEvent(f"{place}{name}: expected text, got {'empty text' if value == '' else 'something else'}")
    return printable(value, f"{place}{name}")


def printable(value: str, place: str, most: int = LONGEST) -> str:
    """Return a text of at most `most` characters, none of them a control character; raise NotAnEvent."""
    if len(value) > most or not _TEXT.fullmatch(value):
        raise NotAnEvent(f"{place}: expected at most {most} printable characters, got other text")
    return value


def seconds(time: str, place: str = "time") -> float:
    """Return a time of RFC 3339 in seconds since 1970; raise NotAnEvent."""
    match = _TIME.fullmatch(time)
    if not match:
        raise NotAnEvent(f"{place}: expected a time of RFC 3339, such as 2026-01-31T23:59:59Z, got other text")
    year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
    if not (year and 1 <= month <= 12 and 1 <= day <= 31 and hour < 24 and minute < 60 and second <= 60):
        raise NotAnEvent(f"{place}: expected a time of RFC 3339, got one that does not exist")
    sign, hours, minutes = match.groups()[6:]
    offset = (int(hours) * 60 + int(minutes)) * 60 * (-1 if sign == "-" else 1) if sign else 0
    return timegm((year, month, day, hour, minute, second, 0, 0, 0)) - offset


def is_object(value: Any, place: str) -> Mapping[str, Any]:
    """Return a value that is a JSON object; raise NotAnEvent for any other."""
    if not isinstance(value, dict):
        raise NotAnEvent(f"{place}: expected an object, got something else")
    return value
