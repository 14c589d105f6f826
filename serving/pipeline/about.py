"""Answers other than predictions: the state of the server and of the model, its signatures, the addresses."""

import time
from time import perf_counter_ns

from serving.core import settings
from serving.core.errors import DeadlineError
from serving.core.http import NotFound, Response, Unavailable, compress, to_json, varied
from serving.core.record import Record
from serving.core.telemetry import metrics
from serving.pipeline import admission, watchdog
from serving.pipeline.exchange import Exchange
from serving.runtime import loading
from serving.runtime.model import Model

PATIENCE = 5.0  # seconds that a probe waits for a load that another request has begun; one comes every second


def live(_exchange: Exchange) -> Response:
    """Say that the process answers, in any state of the model."""
    return Response(200, b'{"live":true}')


def ready(exchange: Exchange) -> Response:
    """Load the model if it is not loaded, warm it up, and answer that it is ready."""
    _ready(exchange.record)
    return Response(200, b'{"ready":true}')


def model_ready(exchange: Exchange) -> Response:
    """Do the same as `ready`, and answer in the form of the Open Inference Protocol."""
    _ready(exchange.record)
    from serving.protocols import open_inference  # not needed for a prediction

    return Response(200, open_inference.ready(exchange.labels.get("name")))


def status(exchange: Exchange) -> Response:
    """Answer that the model is available; load it first if it is not loaded."""
    from serving.protocols import tensorflow_serving

    served = _ready(exchange.record)
    return Response(200, to_json({
        "model_version_status": tensorflow_serving.status(served.version), "name": served.name, "ready": True,
    }))  # fmt: skip


def _ready(record: Record) -> Model:
    if admission.stopping:
        raise Unavailable("the server is stopping")
    cache, began = loading.cache(), perf_counter_ns()
    waits = not cache.warm
    if waits:
        watchdog.watch(settings.current())
    try:
        served = cache.ready(time.monotonic() + PATIENCE)
        if waits:
            from serving.pipeline import inference  # noqa: F401 - a probe can wait for it, so that no prediction has to
    except DeadlineError:
        raise Unavailable("the model is being loaded") from None
    finally:
        if waits:
            record.waited = perf_counter_ns() - began
    return served


def models(_exchange: Exchange) -> Response:
    """List the one model."""
    return Response(200, to_json({"models": [settings.current().model_name]}))


def metadata(exchange: Exchange) -> Response:
    """Describe every signature; reads saved_model.pb, and the model's card where there is one."""
    source = loading.cache().source()
    return Response(200, exchange.codec.metadata(source.name, source.version, source.contents, source.card))


def server(_exchange: Exchange) -> Response:
    """Say what this server is, in any state of the model."""
    from serving.protocols import open_inference

    return Response(200, open_inference.server())


def index(exchange: Exchange) -> Response:
    """List what is served and the addresses; a browser gets the page to try the model."""
    options, headers = settings.current(), exchange.request.headers
    accept = headers.get("accept") or ""
    if options.page and "text/html" in accept.lower():
        from serving.pipeline import page  # read when it is first asked for

        if page.is_preferred(accept):
            return page.answer(headers)
    addresses = [route.address(options.model_name) for route in exchange.routes]
    body = to_json({"status": "alive", "model": options.model_name, "addresses": addresses})
    return varied(Response(200, body), "Accept") if options.page else Response(200, body)


def options(allow: str, _exchange: Exchange) -> Response:
    """List the methods of an address (RFC 9110, 9.3.7)."""
    return Response(204, b"", headers=(("Allow", allow),))


def describe(exchange: Exchange) -> Response:
    """Describe every address and its bodies for this model, as OpenAPI; reads saved_model.pb alone."""
    from serving.pipeline import openapi  # not needed for an answer

    response = Response(200, openapi.document(loading.cache().source(), settings.current(), tuple(exchange.routes)))
    return compress(response, exchange.request.headers.get("accept-encoding"))


def expose(exchange: Exchange) -> Response:
    """Render the metrics in the form that Prometheus reads."""
    try:
        body, content_type = metrics.expose(exchange.request.headers.get("accept") or "")
    except LookupError as error:
        raise NotFound(str(error)) from None
    return Response(200, body, content_type)
