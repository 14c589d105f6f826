"""Sends traces to OTEL_EXPORTER_OTLP_ENDPOINT, through OpenTelemetry's SDK, which only this module imports.

A request is a span with the caller's as its parent and with children decode, run and encode. The spans are made when
the request has been answered, from the times of its record, and a thread of the SDK sends them over HTTP in protobuf.
The SDK reads its own variables: OTEL_TRACES_SAMPLER, OTEL_RESOURCE_ATTRIBUTES, OTEL_EXPORTER_OTLP_HEADERS and so on.
"""

import os
import re
import sys
import threading
import time
from functools import lru_cache
from typing import Any, NamedTuple

from serving.core.http import Request
from serving.core.record import Record
from serving.core.settings import Settings
from serving.core.telemetry.log import handler, log

MISSING = "the SDK of OpenTelemetry is not installed: pip install -r requirements/observe.txt"

on = False
_options: Settings | None = None
_sdk: Any = None
_tracer: Any = None
_lock = threading.Lock()


class Trace(NamedTuple):
    """The trace context of a request: both ids in hexadecimal digits, `span` empty where the caller has none."""

    id: str
    span: str
    sampled: bool


def begin(options: Settings) -> None:
    """Import the SDK if the settings name a collector; its thread starts with the first request, after any fork."""
    global on, _options, _sdk, _tracer
    on, _tracer = False, None
    if not options.traced:
        return
    try:
        import opentelemetry.exporter.otlp.proto.http.trace_exporter
        import opentelemetry.sdk.resources
        import opentelemetry.sdk.trace.export
        import opentelemetry.trace.status  # noqa: F401
    except ImportError:
        log("WARNING", f"OTEL_EXPORTER_OTLP_ENDPOINT is set, but {MISSING}")
        return
    on, _options, _sdk = True, options, sys.modules["opentelemetry"]


def _begin_tracer() -> Any:
    """Make the tracer of this process."""
    global _tracer
    with _lock:
        if _tracer is None:
            assert _options
            from serving.core.telemetry.background import at_exit  # most functions have no traces

            sdk = _sdk.sdk
            provider = sdk.trace.TracerProvider(resource=resource(sdk, _options), shutdown_on_exit=False)
            exporter = _sdk.exporter.otlp.proto.http.trace_exporter.OTLPSpanExporter()
            provider.add_span_processor(sdk.trace.export.BatchSpanProcessor(exporter))
            at_exit(provider.shutdown)
            _tracer = provider.get_tracer("serving")
        return _tracer


def resource(sdk: Any, options: Settings, **attributes: str) -> Any:
    """Return the SDK's resource, which says what sends spans and metrics; called before the first exporter is made.

    The SDK's own messages, such as of an unreachable collector, go to the log.
    """
    import logging

    # An exporter waits for a collector that does not answer, and the platform allows ten seconds to exit.
    os.environ.setdefault("OTEL_EXPORTER_OTLP_TIMEOUT", "3")
    logger = logging.getLogger("opentelemetry")
    if not logger.handlers:
        logger.addHandler(handler())
    logger.propagate = False
    named = {"service.name": options.otel_service_name} if options.otel_service_name else {}
    return sdk.resources.Resource.create({**named, **attributes})


def trace(request: Request, status: int, parent: Trace | None, names: tuple[str, str], rows: int) -> Trace:
    """Make the spans of a request that has just been answered; return the context of its own span."""
    tracer, api = _tracer or _begin_tracer(), _sdk.trace
    record: Record = request.record
    now = time.perf_counter_ns()
    offset = time.time_ns() - now
    template = _template(record.route.path) if record.route else ""
    method = request.method if request.method in METHODS else "_OTHER"
    attributes = {"http.request.method": method, "http.response.status_code": status,
                  "serving.protocol": names[0], "serving.action": names[1], "serving.rows": rows}  # fmt: skip
    if template:
        attributes["http.route"] = template
    if record.signature is not None:
        attributes["serving.signature"] = record.signature
    span = tracer.start_span(
        f"{method} {template}".rstrip(), _context(parent, request.headers.get("tracestate")), api.SpanKind.SERVER,
        attributes, start_time=record.began + offset,
    )  # fmt: skip
    if span.is_recording():
        inside = api.set_span_in_context(span)
        for child in record.children or (record,):
            stamps = zip(STEPS, (child.decoding, child.decoded, child.ran), (child.decoded, child.ran, child.encoded))
            for step, start, end in stamps:
                if end:
                    tracer.start_span(step, inside, start_time=start + offset).end(end + offset)
        if status >= 500:
            span.set_status(api.Status(api.StatusCode.ERROR))
        span.end(now + offset)
    own = span.get_span_context()
    return Trace(f"{own.trace_id:032x}", f"{own.span_id:016x}", own.trace_flags.sampled)


STEPS = ("decode", "run", "encode")
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"})


def _context(parent: Trace | None, state: str | None) -> Any:
    """Return a context that holds the caller's span alone, independent of this thread's current context."""
    api, nothing = _sdk.trace, _sdk.context.Context()
    if parent is None or not parent.span:
        return nothing
    trace_state = api.TraceState.from_header([state[:LONGEST_STATE]]) if state else None
    flags = api.TraceFlags(api.TraceFlags.SAMPLED if parent.sampled else api.TraceFlags.DEFAULT)
    caller = api.SpanContext(int(parent.id, 16), int(parent.span, 16), True, flags, trace_state)
    return api.set_span_in_context(api.NonRecordingSpan(caller), nothing)


LONGEST_STATE = 512  # characters that every vendor should propagate - W3C trace context, 3.3.1.5


@lru_cache(maxsize=64)
def _template(pattern: str) -> str:
    """Return a route's pattern as OpenTelemetry's http.route: /v1/models/{name}:predict."""
    path = re.sub(r"\(\?P<(\w+)>[^()]*\)", r"{\1}", pattern)
    return re.sub(r"\(\?:[^()]*\)\?|/\?|\\", "", path)
