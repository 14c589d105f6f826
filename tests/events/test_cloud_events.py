"""The parser against the CloudEvents SDK and functions-framework's own conversions, and against malformed events."""

import base64
import json
from typing import Any

import pytest
from cloudevents.conversion import to_binary, to_structured
from cloudevents.http import CloudEvent, from_http

from serving.events.cloud_events import FINALIZED, MESSAGE, Event, Malformed, parse, seconds

OURS = {"specversion": "1.0", "id": "1", "source": "/shop/1", "type": "com.example.asked"}
BINARY = {f"ce-{name}": value for name, value in OURS.items()}
JSON = {"content-type": "application/json"}
STRUCTURED = {"content-type": "application/cloudevents+json; charset=utf-8"}
BATCHED = {"content-type": "application/cloudevents-batch+json"}


def to_bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else json.dumps(value).encode()


def lower(headers: dict[str, str]) -> dict[str, str]:
    """Return header fields as a server keeps them, found by their names in lower case."""
    return {name.lower(): value for name, value in headers.items()}


def one(headers: dict[str, str], body: Any) -> Event:
    (event,) = parse(lower(headers), to_bytes(body))
    assert isinstance(event, Event), event
    return event


def problem(headers: dict[str, str], body: Any) -> str:
    (event,) = parse(lower(headers), to_bytes(body))
    assert isinstance(event, Malformed), event
    return event.message


NAMES = ("id", "source", "type", "subject", "time")
SENT = [
    {"type": "t", "source": "/s"},
    {"type": "com.example.someevent", "source": "https://example.com/a?b=c#d", "subject": "a b/ü", "id": "ü-1"},
    {"type": "t", "source": "/s", "time": "2026-11-22T10:00:00.123456+01:00", "subject": "x" * 1000},
]
DATA = [{"instances": [1, 2.5, None, "ü", True]}, [1, [2]], "text", 5, None, b"\x89PNG\r\n\x00\xff"]


@pytest.mark.parametrize("attributes", SENT)
@pytest.mark.parametrize("data", DATA, ids=repr)
def test_structured_events_of_the_sdk_are_read_as_the_sdk_reads_them(attributes: dict[str, str], data: Any) -> None:
    headers, body = to_structured(CloudEvent(attributes, data))
    event, wanted = one(headers, body), from_http(headers, body)
    assert [getattr(event, name) for name in NAMES] == [wanted.get(name) or "" for name in NAMES]
    assert (event.data if isinstance(data, bytes) else json.loads(event.data or b"null")) == wanted.get_data()


@pytest.mark.parametrize("attributes", [SENT[0], SENT[2]])
def test_binary_events_of_the_sdk_are_read_as_the_sdk_reads_them(attributes: dict[str, str]) -> None:
    headers, body = to_binary(CloudEvent({**attributes, "datacontenttype": "application/json"}, DATA[0]))
    event, wanted = one(headers, body), from_http(headers, body)
    assert [getattr(event, name) for name in NAMES] == [wanted.get(name) or "" for name in NAMES]
    assert (json.loads(event.data), event.content_type) == (wanted.get_data(), "application/json")


def test_binary_data_are_unchanged() -> None:
    picture = b"\x89PNG\r\n\x1a\n\x00\xff"
    assert one({**BINARY, "content-type": "image/png"}, picture)[6:7] == (picture,)
    text = {**OURS, "datacontenttype": "image/png", "data_base64": base64.b64encode(picture).decode()}
    assert one(STRUCTURED, text).data == picture


def test_data_inside_json_keep_every_digit() -> None:
    data = b'{"instances": [ 1.10, 1e400, -0.0, 12345678901234567890123, NaN ], "instances": "\\ud800"}'
    body = b'{"data":' + data + b"," + json.dumps(OURS).encode()[1:]
    assert one(STRUCTURED, body).data == data
    assert [event.data for event in parse(BATCHED, b"[%b, %b ]" % (body, body))] == [data, data]


# Of the HTTP binding, 3.1.3.2: first the quotation is undone, then one round of percent-decoding
VALUES = [
    # header field                            attribute
    ("Euro%20%E2%82%AC %F0%9F%98%80",         "Euro € 😀"),
    ("Euro%20%e2%82%ac",                      "Euro €"),
    ("%2525",                                 "%25"),
    ("100%",                                  "100%"),
    ('"quoted text"',                         "quoted text"),
    (r'"a \"b\" \\ c%20d"',                     r'a "b" \ c d'),
    ('"',                                     '"'),
    ('a "b" c',                               'a "b" c'),
    ("%22a%22",                               '"a"'),
]  # fmt: skip


@pytest.mark.parametrize(("value", "wanted"), VALUES)
def test_header_values_are_unquoted_and_percent_decoded(value: str, wanted: str) -> None:
    assert one({**BINARY, "ce-subject": value}, b"").subject == wanted


def test_text_that_is_not_json_stays_text() -> None:
    assert one(STRUCTURED, {**OURS, "datacontenttype": "text/csv", "data": "a,b\n1,2\n"}).data == b"a,b\n1,2\n"


MESSAGE_ID, TIME = "1215011316659232", "2020-05-18T12:13:19.209Z"
NAME = "projects/sample-project/subscriptions/sample-subscription"
TEXT = base64.b64encode(b'{"instances":[1]}').decode()
BODY: dict[str, Any] = {"data": TEXT, "messageId": MESSAGE_ID, "publishTime": TIME, "attributes": {"attr1": "one"}}
TOPIC = "projects/sample-project/topics/gcf-test"
RESOURCE = {
    "service": "storage.googleapis.com",
    "name": "projects/_/buckets/some-bucket/objects/folder/Test.cs",
    "type": "storage#object",
}
OBJECT = {
    "bucket": "some-bucket",
    "name": "folder/Test.cs",
    "generation": "1587627537231057",
    "kind": "storage#object",
    "metageneration": "1",
}


def pubsub_context(kind: str, resource: Any) -> dict[str, Any]:
    return {"eventId": MESSAGE_ID, "timestamp": TIME, "eventType": kind, "resource": resource}


TOPIC_RESOURCE = {
    "service": "pubsub.googleapis.com",
    "name": TOPIC,
    "type": "type.googleapis.com/google.pubsub.v1.PubsubMessage",
}
PUBLISHED = {
    "@type": "type.googleapis.com/google.pubsub.v1.PubsubMessage",
    "data": TEXT,
    "attributes": {"attr1": "one"},
}
LEGACY = [
    {"context": pubsub_context("google.pubsub.topic.publish", TOPIC_RESOURCE), "data": PUBLISHED},
    {"context": pubsub_context("providers/cloud.pubsub/eventTypes/topic.publish", TOPIC), "data": PUBLISHED},
    {**pubsub_context("google.pubsub.topic.publish", TOPIC_RESOURCE), "data": PUBLISHED},
    {"context": pubsub_context("google.storage.object.finalize", {**RESOURCE, "name": "projects/_/buckets/some-bucket/objects/folder/Test.cs"}), "data": OBJECT},
    {"context": pubsub_context("google.storage.object.delete", RESOURCE), "data": OBJECT},
    {"context": pubsub_context("google.storage.object.archive", RESOURCE), "data": OBJECT},
    {"context": pubsub_context("google.storage.object.metadataUpdate", RESOURCE), "data": OBJECT},
    {"context": pubsub_context("providers/cloud.storage/eventTypes/object.change", RESOURCE), "data": OBJECT},
]  # fmt: skip


@pytest.mark.parametrize("body", LEGACY, ids=lambda body: body.get("context", body)["eventType"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_legacy_bodies_become_the_event_that_functions_framework_makes(body: dict[str, Any]) -> None:
    import flask
    from functions_framework.event_conversion import background_event_to_cloud_event

    with flask.Flask("test").test_request_context("/", method="POST", json=body):
        wanted = background_event_to_cloud_event(flask.request)
    event = one(JSON, body)
    assert [getattr(event, name) for name in NAMES] == [wanted.get(name) or "" for name in NAMES]
    if event.type == MESSAGE:
        assert event.data == base64.b64decode(wanted.get_data()["message"]["data"])
    else:
        assert json.loads(event.data) == wanted.get_data()


def test_a_legacy_deletion_becomes_a_deletion_event() -> None:
    body = {"context": pubsub_context("providers/cloud.storage/eventTypes/object.change", RESOURCE),
            "data": {**OBJECT, "resourceState": "not_exists"}}  # fmt: skip
    assert one(JSON, body).type == "google.cloud.storage.object.v1.deleted"


PUSHES = [
    # header fields                                                       body
    (JSON,                                                                {"message": BODY, "subscription": NAME}),
    ({"content-type": "application/x-www-form-urlencoded"},               {"message": BODY, "subscription": NAME}),
    (JSON,                                                                {"message": {**BODY, "message_id": MESSAGE_ID, "publish_time": TIME}, "subscription": NAME}),
    ({"X-Goog-Pubsub-Message-Id": MESSAGE_ID, "X-Goog-Pubsub-Publish-Time": TIME,
      "X-Goog-Pubsub-Subscription-Name": NAME, "Attr1": "one"},           b'{"instances":[1]}'),
]  # fmt: skip


@pytest.mark.parametrize(("headers", "body"), PUSHES)
def test_a_wrapped_and_an_unwrapped_push_are_the_same_event(headers: dict[str, str], body: Any) -> None:
    event = one(headers, body)
    assert event._replace(content_type="") == Event(
        MESSAGE_ID, f"//pubsub.googleapis.com/{NAME}", MESSAGE, "", TIME, "", b'{"instances":[1]}', "", True
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_raw_push_has_the_id_time_and_type_that_functions_framework_gives_it() -> None:
    import flask
    from functions_framework.event_conversion import background_event_to_cloud_event

    with flask.Flask("test").test_request_context("/", method="POST", json={"message": BODY, "subscription": NAME}):
        wanted = background_event_to_cloud_event(flask.request)
    event = one(JSON, {"message": BODY, "subscription": NAME})
    assert (event.id, event.time, event.type) == (wanted["id"], wanted["time"], wanted["type"])


def test_an_eventarc_event_of_a_pubsub_message_is_read_as_the_message() -> None:
    headers = {**BINARY, "ce-type": MESSAGE, "ce-source": f"//pubsub.googleapis.com/{TOPIC}", **JSON}
    event = one(headers, {"message": BODY, "subscription": NAME})
    assert (event.id, event.source, event.data) == ("1", f"//pubsub.googleapis.com/{TOPIC}", b'{"instances":[1]}')


def test_a_message_without_data_is_an_event_without_data() -> None:
    for message in ({"messageId": "1", "attributes": {"a": "b"}}, {"messageId": "1", "data": ""}):
        assert one(JSON, {"message": message, "subscription": NAME}).data == b""


NOTIFIED = {
    "bucketId": "some-bucket",
    "objectId": "folder/Test.cs",
    "objectGeneration": "1587627537231057",
    "payloadFormat": "NONE",
}


@pytest.mark.parametrize("payload", [b"", to_bytes(OBJECT)])
@pytest.mark.parametrize("wrapped", [True, False])
def test_a_notification_of_cloud_storage_becomes_its_event(payload: bytes, wrapped: bool) -> None:
    attributes = {**NOTIFIED, "eventType": "OBJECT_FINALIZE"}
    if wrapped:
        data = base64.b64encode(payload).decode()
        event = one(JSON, {"message": {"messageId": "1", "data": data, "attributes": attributes}, "subscription": NAME})
    else:
        event = one({**attributes, "X-Goog-Pubsub-Message-Id": "1"}, payload)
    assert event[:4] == (
        "1",
        "//storage.googleapis.com/projects/_/buckets/some-bucket",
        FINALIZED,
        "objects/folder/Test.cs",
    )
    notification = json.loads(event.data)
    assert (notification["bucket"], notification["name"], notification["generation"]) == (
        "some-bucket",
        "folder/Test.cs",
        "1587627537231057",
    )


def test_a_message_may_hold_a_cloudevent() -> None:
    attributes = {f"ce-{name}": value for name, value in OURS.items()}
    inner = Event("1", "/shop/1", "com.example.asked", data=b"[1]", content_type="text/csv", pushed=True)
    message = {"messageId": "9", "data": base64.b64encode(b"[1]").decode()}
    binary = {**message, "attributes": {**attributes, "content-type": "text/csv"}}
    assert one(JSON, {"message": binary, "subscription": NAME}) == inner
    whole = base64.b64encode(to_bytes({**OURS, "datacontenttype": "text/csv", "data": "[1]"})).decode()
    structured = {"messageId": "9", "data": whole, "attributes": {"content-type": "application/cloudevents+json"}}
    assert one(JSON, {"message": structured, "subscription": NAME}) == inner
    assert one({**attributes, "X-Goog-Pubsub-Message-Id": "9", "content-type": "text/csv"}, b"[1]") == inner


def test_a_batch_is_read_one_by_one() -> None:
    good, bad = json.dumps(OURS), json.dumps({**OURS, "specversion": "0.3"})
    events = parse(BATCHED, f" [ {good}\n,{bad} , 5, {good} ] ".encode())
    assert [type(event) for event in events] == [Event, Malformed, Malformed, Event]
    assert events[1][0] == "[1].specversion: expected 1.0, got another version"
    assert events[2][0] == "[2]: expected an event as a JSON object, got no such"
    assert parse(BATCHED, b"[]") == []


def test_a_structured_event_without_its_content_type_is_recognised_by_its_fields() -> None:
    assert one({}, OURS).id == "1"
    assert [event.data for event in parse({}, to_bytes([OURS, OURS]))] == [b"", b""]


def without(name: str) -> dict[str, str]:
    return {key: value for key, value in OURS.items() if key != name}


def notified(payload: Any, **attributes: str) -> dict[str, Any]:
    """Return a push of a notification of Cloud Storage."""
    data = base64.b64encode(to_bytes(payload)).decode()
    message = {"messageId": "1", "data": data, "attributes": {**NOTIFIED, "eventType": "OBJECT_FINALIZE", **attributes}}
    return {"message": message, "subscription": NAME}


SECRET = "s3cr3t"
DEEP = {"bucket": "b", "name": "n", "more": json.loads("[" * 300 + "]" * 300)}
WRONG = [
    # header fields                                body                                        message
    ({},                                           b"",                                        "body: expected an event, got neither ce- header fields nor JSON"),
    ({},                                           b"\xff\xfe",                                "body: expected an event, got neither ce- header fields nor JSON"),
    ({},                                           {"instances": [1]},                         "body: expected a CloudEvent, a push of Pub/Sub or a legacy event, got other JSON"),
    ({},                                           [],                                         "body: expected a CloudEvent, a push of Pub/Sub or a legacy event, got other JSON"),
    ({},                                           b"[" * 500_000,                             "body: expected an event, got neither ce- header fields nor JSON"),
    (STRUCTURED,                                   b"[" * 500_000,                             "body: expected an event as a JSON object, got no such"),
    (STRUCTURED,                                   b'{"a":' * 500_000,                         "body: expected an event as a JSON object, got no such"),
    (STRUCTURED,                                   b"{",                                       "body: expected an event as a JSON object, got no such"),
    (STRUCTURED,                                   b'{"id": "1", "id": "2"}',                  "body: expected an event as a JSON object, got no such"),
    (STRUCTURED,                                   b'{"id": 1 "x": 2}',                        "body: expected an event as a JSON object, got no such"),
    (STRUCTURED,                                   b'{"id": "1"} x',                           "body: expected an event as a JSON object, got no such"),
    (STRUCTURED,                                   b"\xff",                                    "body: expected UTF-8, got other bytes"),
    (STRUCTURED,                                   b"",                                        "body: expected an event as a JSON object, got no such"),
    (BATCHED,                                      b"[1,]",                                    "body: expected a list of events in JSON, got no such"),
    (BATCHED,                                      OURS,                                       "body: expected a list of events in JSON, got no such"),
    (BATCHED,                                      [1] * 10_001,                               "body: expected at most 10000 events in a batch, got more"),
    ({"content-type": "application/cloudevents+xml"}, b"<event/>",                             "Content-Type: expected application/cloudevents+json or application/cloudevents-batch+json, got another format of events"),
    ({"content-type": "text/plain"},               b"hello",                                   "body: expected an event, got neither ce- header fields nor JSON"),
    ({**BINARY, "ce-specversion": "0.3"},          b"{}",                                      "ce-specversion: expected 1.0, got another version"),
    ({**BINARY, "ce-specversion": SECRET},         b"{}",                                      "ce-specversion: expected 1.0, got another version"),
    ({"ce-id": SECRET},                            b"{}",                                      "ce-specversion: expected text, got nothing"),
    ({**BINARY, "ce-id": ""},                      b"{}",                                      "ce-id: expected text, got empty text"),
    ({**BINARY, "ce-id": "x" * 1025},              b"{}",                                      "ce-id: expected at most 1024 printable characters, got other text"),
    ({**BINARY, "ce-id": SECRET + "%0d%0aSet-Cookie: a"}, b"{}",                               "ce-id: expected at most 1024 printable characters, got other text"),
    ({**BINARY, "ce-id": "%ff"},                   b"{}",                                      "ce-id: expected UTF-8 in percent-encoding, got other bytes"),
    (JSON,                                         {**LEGACY[1], "context": pubsub_context("google.pubsub.topic.publish", "a\r\nb")}, "context.resource: expected at most 2048 printable characters, got other text"),
    (JSON,                                         {**LEGACY[3], "context": pubsub_context("google.storage.object.finalize", {"name": "projects/_/buckets/b/objects/a\0"})}, "context.resource: expected at most 2048 printable characters, got other text"),
    (JSON,                                         notified({"bucket": "b", "name": "a\nb"}),   "message.data.name: expected at most 1024 printable characters, got other text"),
    (JSON,                                         notified({"bucket": {"b": 1}, "name": "a"}), "message.data.bucket: expected text, got something else"),
    (JSON,                                         notified({}, objectId="a\0"),               "message.data.name: expected at most 1024 printable characters, got other text"),
    ({**BINARY, "ce-id": "x" * 257},               b"{}",                                      "id: expected at most 256 bytes, got more"),
    ({**BINARY, "ce-source": "%C3%BC" * 257},      b"{}",                                      "source: expected at most 512 bytes, got more"),
    (JSON,                                         {"eventId": "1", "eventType": "x", "data": 1, "resource": "x" * 513}, "source: expected at most 512 bytes, got more"),
    ({**BINARY, "ce-time": SECRET},                b"{}",                                      "ce-time: expected a time of RFC 3339, such as 2026-01-31T23:59:59Z, got other text"),
    ({**BINARY, "ce-time": "2026-13-01T00:00:00Z"}, b"{}",                                     "ce-time: expected a time of RFC 3339, got one that does not exist"),
    ({**BINARY, "ce-time": "0000-01-01T00:00:00Z"}, b"{}",                                     "ce-time: expected a time of RFC 3339, got one that does not exist"),
    ({**BINARY, "ce-type": MESSAGE},               b"{",                                       "data: expected a message as a JSON object, got no JSON"),
    ({**BINARY, "ce-type": MESSAGE},               b"{}",                                      "data.message: expected an object, got something else"),
    (STRUCTURED,                                   without("id"),                              "id: expected text, got nothing"),
    (STRUCTURED,                                   without("source"),                          "source: expected text, got nothing"),
    (STRUCTURED,                                   without("type"),                            "type: expected text, got nothing"),
    (STRUCTURED,                                   without("specversion"),                     "specversion: expected text, got nothing"),
    (STRUCTURED,                                   {**OURS, "id": 5},                          "id: expected text, got something else"),
    (STRUCTURED,                                   {**OURS, "id": "\ud800"},                   "id: expected at most 1024 printable characters, got other text"),
    (STRUCTURED,                                   {**OURS, "datacontenttype": 5},             "datacontenttype: expected text, got something else"),
    (STRUCTURED,                                   {**OURS, "data_base64": SECRET + "!"},      "data_base64: expected base64, got something else"),
    (STRUCTURED,                                   {**OURS, "data_base64": 5},                 "data_base64: expected base64, got something else"),
    (STRUCTURED,                                   {**OURS, "data_base64": "ü"},               "data_base64: expected base64, got something else"),
    (STRUCTURED,                                   {**OURS, "data": 1, "data_base64": ""},     "data: expected either data or data_base64, got both"),
    (STRUCTURED,                                   {**OURS, "datacontenttype": "text/plain", "data": "\ud800"}, "data: expected text, got half of a surrogate pair"),
    (JSON,                                         {"message": 5, "subscription": NAME},       "message: expected an object, got something else"),
    (JSON,                                         {"message": {"data": ""}, "subscription": NAME}, "message.messageId: expected text, got nothing".replace("messageId", "message_id")),
    (JSON,                                         {"message": {**BODY, "data": "%%%"}},       "message.data: expected base64, got something else"),
    (JSON,                                         {"message": {**BODY, "data": {"a": 1}}},    "message.data: expected base64, got something else"),
    (JSON,                                         {"message": {**BODY, "attributes": []}, "subscription": 5}, "subscription: expected text, got something else"),
    (JSON,                                         {"message": {**BODY, "attributes": {"a": 5}}}, "message.attributes: expected text in each, got something else"),
    (JSON,                                         {"message": {**BODY, "attributes": "ab"}},  "message.attributes: expected an object, got something else"),
    (JSON,                                         {"message": {**BODY, "publishTime": "now"}}, "message.publishTime: expected a time of RFC 3339, such as 2026-01-31T23:59:59Z, got other text"),
    (JSON,                                         {"message": {**BODY, "attributes": {"ce-id": "1"}}}, "message.attributes.ce-specversion: expected text, got nothing"),
    (JSON,                                         {"context": 5, "data": {}},                 "context: expected an object, got something else"),
    (JSON,                                         {"context": {"eventId": "1"}, "data": {}},  "context.eventType: expected text, got nothing"),
    (JSON,                                         {**LEGACY[0], "data": 5},                   "data: expected an object, got something else"),
    (JSON,                                         {**LEGACY[3], "data": None},                "data: expected an object, got something else"),
    (JSON,                                         {**LEGACY[3], "data": DEEP},                "data: expected an object of Cloud Storage, got one nested too deeply"),
    (JSON,                                         {"message": {"messageId": "1", "data": base64.b64encode(to_bytes(DEEP)).decode(), "attributes": {**NOTIFIED, "eventType": "OBJECT_FINALIZE"}}}, "data: expected an object of Cloud Storage, got one nested too deeply"),
]  # fmt: skip


@pytest.mark.parametrize(("headers", "body", "message"), WRONG)
def test_a_malformed_event_is_refused_with_the_field_named_and_its_content_left_out(
    headers: dict[str, str], body: Any, message: str
) -> None:
    assert problem({"authorization": SECRET, **headers}, body) == message
    assert SECRET not in message


TIMES = [
    ("2026-11-22T10:00:00Z",                1795341600),
    ("2026-11-22t11:00:00.999999999+01:00", 1795341600),
    ("2026-11-22T00:30:00-09:30",           1795341600),
    ("2024-02-29T23:59:60Z",                1709251200),
]  # fmt: skip


@pytest.mark.parametrize(("time", "wanted"), TIMES)
def test_the_time_of_an_event_is_read(time: str, wanted: int) -> None:
    assert seconds(time) == wanted
