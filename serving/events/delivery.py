"""Handles one delivered event: decides, acts and reports the outcome. Delivery is at least once, in any order.

what happened                                status   what is written                          delivered again
a predict request, answered                  200/204  the prediction, as an event              no
an object, scored (or scored before)         200/204  the predictions; an event that says so   no
refused permanently: a bad request or file   200/204  an error object; a failed-event; log     no
an invalid CloudEvent                        400      log                                      no
not an event                                 200/204  a failed-event; log (EVENT_STRICT: 400)  no (yes)
not for us, sent by us, deleted, a folder    204      log                                      no
failed, and older than EVENT_MAX_AGE         200/204  a failed-event; log                      no
storage, sink, memory or model missing       503      log                                      yes

200: the answer is an event in the response; 204: it was sent elsewhere, or there is none (EVENT_REPLY).
400 is for a body that claims to be a CloudEvent: brokers do not send it again, and its sender gets the error. Pub/Sub
delivers again whatever is not acknowledged, so a bad message in a push is acknowledged.
The answer's id is derived from the event's source and id: a duplicate delivery is answered under the same id.
"""

import base64
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import orjson

from serving.core import settings
from serving.core.errors import LoadError
from serving.core.http import (
    JSON,
    SMALLEST_COMPRESSED,
    BadRequest,
    Changed,
    Headers,
    HttpError,
    Request,
    Response,
    TooLarge,
    compress,
    media_type,
    read_body,
    to_json,
)
from serving.core.telemetry.log import log, log_exception
from serving.events import cloud_events
from serving.events.cloud_events import FINALIZED, Event, Malformed, NotAnEvent
from serving.protocols.kinds import is_open_inference

Answer = Callable[[Request], Response]

# The types of the events sent here, and the prefixes of types that are no predict requests.
PREDICTED, SCORED, FAILED = "savedmodel.predicted.v1", "savedmodel.scored.v1", "savedmodel.failed.v1"
KSERVE = "io.kserve.inference.response"  # KServe's type of an answer at a model's own address
OURS, PLATFORMS = ("savedmodel.", KSERVE), ("google.", "providers/")
LARGEST_KEPT = 64 << 10  # bytes of a refused event's data that a failed-event repeats


class Outcome(NamedTuple):
    """The outcome of one event: status 204, or 503 or 400 with a message, or 200 with the event to answer with."""

    status: int
    message: str = ""
    reply: Event | None = None


DONE = Outcome(204)
RETRIED = (429, 500, 502, 503, 504)  # another delivery may succeed


def receive(request: Request, answer: Answer) -> Response:
    """Act on every event of a request, and return one response; `answer` handles a predict request."""
    events = _read(request)
    request.record.events = tuple(_cause(event)["id"] for event in events)
    deliver = request.deliver or act
    outcomes = [(act if isinstance(event, Malformed) else deliver)(event, answer) for event in events]
    for status in (503, 400):
        if failures := [outcome for outcome in outcomes if outcome.status == status]:
            headers = (("Retry-After", "1"),) if status == 503 else ()
            return Response(status, to_json({"error": failures[0].message}), headers=headers)
    replies = [outcome.reply for outcome in outcomes if outcome.reply]
    if not replies:
        return Response(204, b"")
    if len(events) > 1:
        return Response(200, cloud_events.to_batch(replies), cloud_events.BATCHED)
    (reply,) = replies
    return Response(200, reply.data, reply.content_type, tuple(cloud_events.to_binary(reply).items()))


class Redelivery(RuntimeError):
    """An event must be delivered again."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.message)
        self.outcome = outcome


def receive_object(event: Any, answer: Answer) -> Outcome:
    """Act on a platform's CloudEvent object, and return the outcome; raise Redelivery where it must be delivered again.

    Functions Framework takes no answer from an event function: it is sent where EVENT_REPLY says, else it is lost, with
    a warning in the log.
    """
    received = getattr(event, "unchanged", lambda: None)()
    if received is not None:  # an object of serving.servers.functions
        return _settled(act(received, event.answer))
    attributes, data = event.get_attributes(), event.get_data()
    if data is not None and not isinstance(data, (bytes, bytearray)):
        kind = attributes.get("datacontenttype") or JSON
        text = isinstance(data, str) and not cloud_events.is_json(kind)
        data = (data if text else json.dumps(data, ensure_ascii=False)).encode()
    try:
        parsed = cloud_events.from_attributes(
            attributes.get, bytes(data or b""), attributes.get("datacontenttype") or JSON, ""
        )
        received = cloud_events.checked(cloud_events.unwrap(parsed))._replace(pushed=not hasattr(event, "answer"))
    except NotAnEvent as error:
        received = Malformed(str(error), bytes(data or b""))
    return _settled(act(received, getattr(event, "answer", answer)))


def _settled(outcome: Outcome) -> Outcome:
    if outcome.status != 204 and not outcome.reply:
        raise Redelivery(outcome)
    return outcome


def answer_in_kind(request: Request, infer: Answer) -> Response:
    """Answer an event at a model's own address by an event in the same form, binary or structured, as KServe does.

    Errors are answered as for a request that is no event.
    """
    options, headers = settings.current(), request.headers
    events = cloud_events.parse(headers, read_body(request, options.max_body_bytes))
    if len(events) != 1:
        raise BadRequest("body: expected one event, got a batch, which /events takes", example=False)
    (event,) = events
    if isinstance(event, Malformed):
        raise BadRequest(event.message, example=False)
    structured = media_type(headers) == cloud_events.STRUCTURED
    changed = {"content-type": event.content_type or None, "content-encoding": None}
    if structured:
        changed["accept-encoding"] = None  # the whole event is compressed instead
    response = infer(request._replace(headers=Changed(headers, changed), body=event.data, length=None))
    source = f"io.kserve.inference.{options.model_name}"
    reply = _answer_to(_cause(event), KSERVE, source, response.body, response.content_type)
    if not structured:
        return response._replace(headers=(*response.headers, *cloud_events.to_binary(reply).items()))
    structured_response = Response(200, cloud_events.to_structured(reply), cloud_events.STRUCTURED, response.headers)
    return (
        compress(structured_response, headers.get("accept-encoding"))
        if len(structured_response.body) >= SMALLEST_COMPRESSED
        else structured_response
    )


def _read(request: Request) -> list[Event | Malformed]:
    """Return the events of a request; raise HttpError for a truncated body, so that it is sent again."""
    limit = max(cloud_events.LARGEST_MESSAGE, settings.current().max_body_bytes)
    too_large = f"body: expected at most {limit} bytes, got more"
    try:
        packed = read_body(request._replace(headers={}), limit)
    except TooLarge:
        return [Malformed(too_large, _identifying(request.headers))]
    try:
        body = read_body(request._replace(body=packed), limit)
    except HttpError as error:
        claimed = media_type(request.headers).startswith(cloud_events.STRUCTURED)
        return [Malformed(too_large if isinstance(error, TooLarge) else str(error), packed, claimed)]
    return cloud_events.parse(request.headers, body)


def _identifying(headers: Headers) -> bytes:
    """Return bytes that identify an event whose body is too large to read."""
    names = ("ce-source", "ce-id", "x-goog-pubsub-message-id", "x-cloud-trace-context", "traceparent", "content-length")
    return repr([headers.get(name) for name in names]).encode()


def act(event: Event | Malformed, answer: Answer) -> Outcome:
    """Act on an event. Never raises: the outcome has the error."""
    try:
        return _act(event, answer)
    except LoadError as error:
        return _retry(event, f"the model cannot be loaded: {error}")
    except MemoryError:
        return _retry(event, "out of memory")
    except Exception as error:
        log_exception(f"an event failed: {error!r}", **_cause(event))
        return DONE if isinstance(event, Event) and _too_old(event) else Outcome(503, INTERNAL)


INTERNAL = "internal error; the log has the reason"


def _act(event: Event | Malformed, answer: Answer) -> Outcome:
    options = settings.current()
    if isinstance(event, Malformed):
        if options.event_strict or event.claimed:  # the dead letter, or the sender's error, is the record
            log("ERROR", f"no event: {event.message}", **_cause(event))
            return Outcome(400, event.message)
        return _refuse(event, event.message)
    if event.type == FINALIZED:
        return _score(event)
    if event.type.startswith(OURS):
        return _ignore(event, "it is one of our own answers")
    if event.type != cloud_events.MESSAGE and event.type.startswith(PLATFORMS):
        return _ignore(event, f"no prediction is requested by the type {event.type}")
    if not _matches(event.type, options.event_types):
        return _ignore(event, f"EVENT_TYPES does not contain the type {event.type}")
    return _predict(event, answer)


def _matches(type_: str, patterns: Iterable[str]) -> bool:
    return any(type_.startswith(pattern[:-1]) if pattern.endswith("*") else type_ == pattern for pattern in patterns)


def _too_old(event: Event) -> str:
    limit = settings.current().event_max_age
    age = time.time() - cloud_events.seconds(event.time) if event.time and limit else 0
    problem = f"time: expected an event of the last {limit} seconds (EVENT_MAX_AGE), got an older one"
    return problem if age > limit else ""


def _predict(event: Event, answer: Answer) -> Outcome:
    """Answer a predict request with the same bytes as over HTTP."""
    if event.path and not _is_predict(event.path):
        return _refuse(event, "path: expected the address of a predict or infer, such as /v1/models/model:predict")
    name = settings.current().model_name
    infers = not event.path and is_open_inference(event.data, settings.current())
    path = event.path or (f"/v2/models/{name}/infer" if infers else f"/v1/models/{name}:predict")
    headers = {"content-type": event.content_type} if event.content_type else {}
    response = answer(Request("POST", path, headers=headers, body=event.data))
    if response.status == 200:
        if event.pushed and settings.current().event_reply == "response":
            log(
                "WARNING",
                "this answer is lost: Pub/Sub reads no responses; set EVENT_REPLY to send it elsewhere",
                **_cause(event),
            )
        return _reply(event, PREDICTED, response.body, response.content_type)
    message = orjson.loads(response.body)["error"]
    if response.status in RETRIED:
        return _retry(event, message)
    return _refuse(event, "path: there is no such model here" if response.status == 404 else message)


def _is_predict(path: str) -> bool:
    return path.startswith(("/v1/models/", "/v2/models/")) and path.endswith(
        (":predict", ":classify", ":regress", "/infer")
    )


def _score(event: Event) -> Outcome:
    """Write the predictions of the object that the event is about."""
    from serving import scoring  # most events are requests

    options = settings.current()
    try:
        bucket, name, generation, metadata = _object(event)
    except NotAnEvent as error:
        return _refuse(event, str(error))
    source = f"gs://{bucket}/{name}"
    if name.endswith("/"):
        return _ignore(event, f"{source} is a folder")
    if scoring.ours(bucket, name, metadata):
        return _ignore(event, f"{source} is one of our own outputs")
    if not options.event_input:
        return _retry(
            event,
            "EVENT_INPUT and EVENT_OUTPUT: expected gs://BUCKET/FOLDER in each, got nothing: no objects are scored",
        )
    if not source.startswith(options.event_input):
        return _ignore(event, f"{source} is not in EVENT_INPUT")
    try:
        scored = scoring.score_object(source, generation)
    except scoring.Gone as error:
        return _ignore(event, f"{source} is gone: {error}")
    except scoring.TemporaryFailure as error:
        return _retry(event, f"{source}: {error}")
    except scoring.BadFile as error:
        try:
            scoring.record_error(source, generation, str(error))
        except scoring.TemporaryFailure as failure:
            return _retry(event, f"{source}: {error}; and that cannot be recorded: {failure}")
        return _refuse(event, f"{source}: {error}")
    outcome = "was scored before" if scored.already else "is scored"
    log("INFO", f"{source} {outcome}", output=scored.output, rows=scored.rows, failed=scored.failed, **_cause(event))
    summary = {"source": source, "generation": generation, "predictions": scored.output, "rows": scored.rows,
            "failed": scored.failed}  # fmt: skip
    return _reply(event, SCORED, to_json(summary), JSON)


def _object(event: Event) -> tuple[str, str, str | None, Mapping[str, str]]:
    """Return the bucket, name, generation and metadata of the object in an event of Cloud Storage; raise NotAnEvent."""
    try:
        data = orjson.loads(event.data)
    except orjson.JSONDecodeError:
        raise NotAnEvent("data: expected an object of Cloud Storage as JSON, got no JSON") from None
    if not isinstance(data, dict):
        raise NotAnEvent("data: expected an object of Cloud Storage, got something else")
    for name in ("bucket", "name"):
        if not isinstance(data.get(name), str) or not data[name]:
            raise NotAnEvent(f"data.{name}: expected text, got {'something else' if name in data else 'nothing'}")
    generation = data.get("generation")
    if generation is not None and not (isinstance(generation, (str, int)) and str(generation).isdecimal()):
        raise NotAnEvent("data.generation: expected a whole number, got something else")
    metadata = data.get("metadata")
    kept = metadata if isinstance(metadata, dict) else {}
    return data["bucket"], data["name"], None if generation is None else str(generation), kept


def _ignore(event: Event, reason: str) -> Outcome:
    """Acknowledge an event that needs no action."""
    log("INFO", f"an event is ignored: {reason}", **_cause(event))
    return DONE


def _retry(event: Event | Malformed, reason: str) -> Outcome:
    """Request another delivery, unless the event is older than EVENT_MAX_AGE."""
    if isinstance(event, Event) and (age_problem := _too_old(event)):
        return _refuse(event, f"{reason}; {age_problem}")
    return _later(event, reason)


def _later(event: Event | Malformed, reason: str) -> Outcome:
    log("WARNING", f"an event must be delivered again: {reason}", **_cause(event))
    return Outcome(503, reason)


def _refuse(event: Event | Malformed, reason: str) -> Outcome:
    """Acknowledge an event that can never succeed, and send a failed-event."""
    log("ERROR", f"an event is refused permanently: {reason}", **_cause(event))
    failure: dict[str, Any] = {"error": reason, "event": dict(_cause(event))}
    if len(event.data) <= LARGEST_KEPT:
        failure["event"]["data_base64"] = base64.b64encode(event.data).decode()
    return _reply(event, FAILED, to_json(failure), JSON)


def _cause(event: Event | Malformed) -> dict[str, str]:
    """Return the attributes that identify an event in the log and in a failed-event."""
    if isinstance(event, Malformed):
        return {"id": hashlib.sha256(event.data).hexdigest()[:32]}
    attributes = {"id": event.id, "source": event.source, "type": event.type, "subject": event.subject}
    return {name: value for name, value in attributes.items() if value}


def _reply(event: Event | Malformed, type_: str, data: bytes, content_type: str) -> Outcome:
    """Send the answer where EVENT_REPLY says."""
    options = settings.current()
    reply = _answer_to(_cause(event), type_, f"/v1/models/{options.model_name}", data, content_type)
    if options.event_reply == "response":
        return Outcome(200, reply=reply)
    if options.event_reply != "none":
        from serving.events import sinks  # only needed for answers sent elsewhere

        try:
            sinks.send(reply, options)
        except sinks.SinkError as error:
            return _later(event, str(error)) if type_ == FAILED else _retry(event, str(error))
    return DONE


def _answer_to(cause: Mapping[str, str], type_: str, source: str, data: bytes, content_type: str) -> Event:
    subject = f"{cause.get('source', '')}#{cause['id']}"
    identity = hashlib.sha256(subject.encode()).hexdigest()[:32]
    return Event(identity, source, type_, subject, content_type=content_type, data=data)
