"""Events that arrive over HTTP: at /events, at the root, and at the address of a model."""

import re
from collections.abc import Callable

from serving.core import settings
from serving.core.http import Changed, Request, Response
from serving.core.http import receive as receive_body
from serving.core.record import Record
from serving.pipeline import admission
from serving.pipeline.exchange import Answer, Exchange
from serving.protocols.kinds import is_raw

PREDICT = rb'[ \t\r\n]*\{[ \t\r\n]*"(?:instances|inputs|signature_name)"'  # how most bodies at the root begin


def receive(exchange: Exchange) -> Response:
    """Handle the events of a request."""
    return _with_counted_body(exchange.request, lambda request: _receive(exchange, request))


def _receive(exchange: Exchange, request: Request) -> Response:
    from serving.events import delivery  # most requests are not events

    def answer(part: Request) -> Response:  # each request in an event belongs to the request that brought the event
        record = Record()
        exchange.record.children += (record,)
        return exchange.inside(Exchange(part._replace(record=record), exchange.inside))

    return delivery.receive(request, answer)


def events_at_root(answer: Answer) -> Answer:
    """Handle a request that is an event by its header fields or its body as /events does."""

    def answer_or_receive(exchange: Exchange) -> Response:
        if _says_event(exchange.request) or _is_pushed(exchange.request):
            return receive(exchange)
        try:
            return answer(exchange)
        except _BodyIsEvent:
            headers = Changed(exchange.request.headers, {"content-encoding": None})
            return _receive(exchange, exchange.request._replace(headers=headers, body=exchange.body))

    return answer_or_receive


def bodies_that_are_events(answer: Answer) -> Answer:
    """Pass a body that is an event to `events_at_root`, outside of the admission: its requests are admitted instead."""

    def answer_unless_event(exchange: Exchange) -> Response:
        if _is_event_body(exchange.request, exchange.body):
            raise _BodyIsEvent
        exchange.body = receive_body(exchange.body, None, settings.current().max_body_bytes)
        return answer(exchange)

    return answer_unless_event


class _BodyIsEvent(Exception):
    """A body at the root is an event."""


def events_in_kind(answer: Answer) -> Answer:
    """Answer an event at a model's address by an event, as KServe does."""

    def answer_in_kind(exchange: Exchange) -> Response:
        if not _says_event(exchange.request):
            return answer(exchange)
        from serving.events import delivery

        def infer(request: Request) -> Response:
            exchange.request = request
            return answer(exchange)

        return _with_counted_body(exchange.request, lambda request: delivery.answer_in_kind(request, infer))

    return answer_in_kind


def is_self_contained(request: Request) -> bool:
    """Return whether a request with its body needs nothing but the model and this process.

    An event may have its answer delivered or a file scored, which waits for other systems; a compressed body may be
    much larger after decompression.
    """
    if request.method != "POST":
        return True
    if request.path == "/events" or request.headers.get("content-encoding") is not None or _says_event(request):
        return False
    if request.path != "/":
        return True
    return isinstance(request.body, bytes) and re.match(PREDICT, request.body) is not None and not _is_pushed(request)


def _says_event(request: Request) -> bool:
    """Return whether the header fields of a request are those of a CloudEvent."""
    get = request.headers.get
    return get("ce-specversion") is not None or (get("content-type") or "")[:23].lower() == "application/cloudevents"


def _is_pushed(request: Request) -> bool:
    """Return whether the header fields are those of a push, or some of a CloudEvent's."""
    get = request.headers.get
    return get("ce-id") is not None or get("ce-type") is not None or get("x-goog-pubsub-message-id") is not None


def _is_event_body(request: Request, body: bytes) -> bool:
    """Return whether a body is an event by its fields; most bodies are not parsed for that."""
    if re.match(PREDICT, body):
        return False
    # Every event's body contains one of these names.
    if not (b'"message"' in body or b'"context"' in body or b'"eventId"' in body or b'"specversion"' in body):
        return False
    if is_raw(request.headers.get("content-type") or "", body):
        return False
    from serving.events import cloud_events  # most requests are not events

    return cloud_events.body_is_event(body)


def _with_counted_body(request: Request, act: Callable[[Request], Response]) -> Response:
    metered = admission.current().metered(request)
    if metered is None:
        return act(request)
    try:
        return act(request._replace(body=metered))
    finally:
        metered.close()
