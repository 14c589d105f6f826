"""Requests that the loop receives in one turn share runs of the native codec, before each of them is handled.

shared = sharing.plan(request)          None: the request is handled by itself
... serving.runtime.batching.run_together ...
sharing.keep(request, shared, result)   then `handle(request)` does not run the model again
"""

from typing import NamedTuple

from serving.core.http import HttpError, Request
from serving.pipeline import accelerator, routes
from serving.pipeline.accelerator import Answer, Body, Prepared, Quick, Result
from serving.pipeline.admission import can_share
from serving.pipeline.layers import NATIVE, request_size
from serving.runtime import loading
from serving.runtime.batching import Queue

PREDICTIONS = (routes.predict, routes.predict_at_root)


class Shared(NamedTuple):
    """The call of the native codec for a request, and the queue for it."""

    queue: Queue
    quick: Quick
    asks: Body


def plan(request: Request) -> Shared | None:
    """Return the call with which a request can share a run of the native codec; None if it cannot, or not yet.

    Must not be called with LAYER: the model would run before that layer has seen the request.
    """
    if not can_share(request) or request.method != "POST" or request.query:
        return None
    quick, body = accelerator.of(loading.cache().get()), request.body
    batching = quick.served.batching if quick.shares_runs else None
    if batching is None or not isinstance(body, bytes):
        return None
    try:
        route = routes.find(request.method, request.path)[0]
        if route.action not in PREDICTIONS or route.protocol not in NATIVE:
            return None
        size = request_size(route.protocol, request.headers, body)
    except HttpError:
        return None
    return Shared(batching.queue, quick, (body, size))


def keep(request: Request, shared: Shared, result: Result | None) -> bool:
    """Keep the result of a shared run for `handle`; return whether the model has answered the request."""
    if result is not None:
        request.record.prepared = Prepared(shared.quick, *shared.asks, result)
    return isinstance(result, tuple) and len(result) == len(Answer._fields)
