"""Requests that the loop receives in one turn share runs of the native codec, before each of them is handled.

shared = sharing.plan(request)          None: the request is handled by itself
... serving.runtime.batching.run_together ...
sharing.keep(request, shared, result)   then `handle(request)` does not run the model again
sharing.respond(request)                the same response in half of the time, where the result is final
"""

from typing import NamedTuple

from serving.core import settings
from serving.core.http import HttpError, Request, Response
from serving.pipeline import accelerator, routes
from serving.pipeline.accelerator import Answer, Asks, Prepared, Quick, Result
from serving.pipeline.exchange import Exchange, stack
from serving.pipeline.layers import (
    NATIVE,
    accelerated,
    admitted,
    check_labels,
    compressed,
    errors_answered,
    observed,
    options_of,
    protocol_of,
    request_size,
)
from serving.protocols.named import Named
from serving.runtime import loading
from serving.runtime.batching import Queue


class Shared(NamedTuple):
    """The call of the native codec for a request, and the queue for it."""

    queue: Queue
    quick: Quick
    asks: Asks
    route: routes.Route
    protocol: Named
    is_plain: bool  # no layer refuses the request or changes it before the run


def plan(request: Request) -> Shared | None:
    """Return the call with which a prediction can share a run of the native codec; None if it cannot, or not yet.

    Its slots are those of requests that can share runs. Must not be called with LAYER: the model would run before that
    layer has seen the request.
    """
    quick, body, options = accelerator.of(loading.cache().get()), request.body, settings.current()
    batching = quick.served.batching if quick.shares_runs else None
    if batching is None or not isinstance(body, bytes) or len(body) > options.max_body_bytes:
        return None
    try:
        route, labels, _ = routes.find(request.method, request.path)
        if route.protocol is None:
            return None
        if labels:
            check_labels(labels)
        protocol = protocol_of(request, route.protocol, body)
        if protocol not in NATIVE:
            return None
        size, asked = request_size(protocol, request.headers, body), options_of(request, protocol)
    except HttpError:
        return None
    if asked is None or _is_logged(body, options.log_predictions):
        return None
    is_plain = not options.cors_origins and request.headers.get("origin") is None
    return Shared(batching.queue, quick, (body, size, asked), route, protocol, is_plain)


def _is_logged(body: bytes, share: float) -> bool:
    """Return whether LOG_PREDICTIONS logs the request, which is then answered in Python."""
    if not share:
        return False
    from serving.pipeline.predictions import is_sampled  # it loads what most functions do without

    return is_sampled(body, share)


def keep(request: Request, shared: Shared, result: Result | None) -> bool:
    """Keep the result of a shared run for `handle`; return whether the model has answered the request."""
    if result is None:
        return False
    is_answer = isinstance(result, tuple) and len(result) == len(Answer._fields)
    record, is_final = request.record, is_answer and shared.is_plain
    record.prepared = Prepared(shared.quick, shared.asks, result, is_final)
    if is_final:
        record.route, record.protocol = shared.route, shared.protocol
    return is_answer


def respond(request: Request) -> Response:
    """Return the response of `handle` to a request whose result is final: the layers before the run do nothing."""
    return _respond(Exchange(request, _respond))


def _accelerated(exchange: Exchange) -> Response:
    prepared = exchange.record.prepared
    return accelerated(prepared.quick, prepared.result, exchange.record)


_respond = stack(_accelerated, compressed, admitted, errors_answered, observed)
