"""Observability: the log line, the metrics, the trace and the Server-Timing header of each answered request.

Every answer has a `Server-Timing` header <https://www.w3.org/TR/server-timing/>, in milliseconds:

    decode   bytes into arrays        encode   arrays into bytes, compressed if the client accepts it
    run      the model                total    all of it; the rest is mostly reading and waiting

Only a request that waited for a load of the model also has `cold`, the phases of that start
(`serving.core.telemetry.phases`), their sum as `start`, and its own waiting time as `wait`.

Each request has a line in the log, up to a hundred a second of those that succeed and as many of those that fail
(LOG_REQUESTS): more lines cost time to write and money to keep. The next line says how many requests had none. Each is
counted in the metrics (METRICS) and has a trace (OTEL_EXPORTER_OTLP_ENDPOINT).

Nothing of a body or a query is recorded; paths and headers are bounded, and characters other than printable ASCII are
escaped.
"""

import re
import threading
import time
from functools import lru_cache
from time import perf_counter_ns
from typing import Any

from serving.core import settings
from serving.core.http import Headers, Request, Response
from serving.core.plain_json import to_text
from serving.core.record import Record
from serving.core.settings import Settings
from serving.core.telemetry import metrics, phases, tracing
from serving.core.telemetry.log import log, starting, timestamp, write
from serving.core.telemetry.tracing import Trace

LONGEST = 200  # characters of a path or a user agent
LONGEST_ID = 100  # of a request's or an event's id
MOST_EVENTS = 10  # of a batch, whose ids are logged

# decode, run, encode, total, in microseconds; None for a step that was not reached.
Steps = tuple[int | None, int | None, int | None, int]

_options: Settings | None = None  # those that metrics and traces were started with
_push: Any = None  # serving.core.telemetry.push, where metrics may be sent
_beginning = threading.Lock()


def begin(options: Settings) -> None:
    """Start metrics and traces if the settings enable them; called before a fork, so that workers share them."""
    global _options, _push
    with _beginning:
        if options is not _options:
            metrics.begin(options)
            tracing.begin(options)
            _push = _pushing(options) if metrics.on else None
            _options = options


def _pushing(options: Settings) -> Any:
    """Return the module that sends the metrics to a collector, begun; None where the settings name none."""
    if not options.otel_exporter_otlp_endpoint and not options.otel_exporter_otlp_metrics_endpoint:
        return None
    from serving.core.telemetry import push  # most functions do without

    push.begin(options)
    return push


def start(server: str, options: Settings) -> None:
    """Start metrics and traces, and log that a server starts; called before it forks its workers."""
    begin(options)
    starting(server, options)


def finish(request: Request, response: Response) -> Response:
    """Log, count and trace an answered request, and return its response with a Server-Timing header."""
    options = settings.current()
    if options is not _options:
        begin(options)
    record, status, now, text = request.record, response.status, perf_counter_ns(), _milliseconds
    if record.encoded and not record.waited and not phases.pending:  # the usual case, written out for speed
        decoded, ran = record.decoded, record.ran
        timing = (
            f"decode;dur={text((decoded - record.decoding) // 1000)}, run;dur={text((ran - decoded) // 1000)}, "
            f"encode;dur={text((record.encoded - ran) // 1000)}, total;dur={text((now - record.began) // 1000)}"
        )
    else:
        timing = _timing(request, status, now)
    trace = _watch(request, status, now) if metrics.on or tracing.on else None
    if _has_line(options.log_requests, status, now):
        write(_line(request, status, len(response.body), now, trace, _take_skipped()))
    return Response(status, response.body, response.content_type, (*response.headers, ("Server-Timing", timing)))


def _watch(request: Request, status: int, now: int) -> Trace | None:
    """Count and trace a request, each if it is enabled."""
    record = request.record
    called, rows, trace = named(record), _rows(record), None
    if tracing.on:
        trace = tracing.trace(request, status, _trace(request.headers), called, rows)
    if metrics.on:
        metrics.count(*called, status, _steps(record, now), rows, record.began < phases.loaded_at)
        if _push is not None and _push.pending:
            _push.start()
    return trace


_lines_left = [0, 0]  # lines that may still be written before `_until`, of those that succeed and of those that fail
_until = 0
_skipped = 0  # requests without a line since the last that has one


def _has_line(mode: str, status: int, now: int) -> bool:
    """Return whether a request gets a line in the log; `mode` is LOG_REQUESTS."""
    global _lines_left, _until, _skipped
    failed = status >= 400
    if mode == "all" or (failed and mode == "errors"):
        return True
    if not mode.isdecimal():
        return False
    if now > _until:
        _until, _lines_left = now + 1_000_000_000, [int(mode)] * 2
    if _lines_left[failed] > 0:
        _lines_left[failed] -= 1
        return True
    _skipped += 1
    return False


def _take_skipped() -> int:
    global _skipped
    count, _skipped = _skipped, 0
    return count


def _steps(record: Record, now: int) -> Steps:
    total = (now - record.began) // 1000
    if record.encoded:
        decoded, ran = record.decoded, record.ran
        return (
            (decoded - record.decoding) // 1000, (ran - decoded) // 1000, (record.encoded - ran) // 1000, total,
        )  # fmt: skip
    if record.children:
        children = [_steps(child, now)[:3] for child in record.children]
        decode, run, encode = ([step for step in column if step is not None] for column in zip(*children))
        return sum(decode) if decode else None, sum(run) if run else None, sum(encode) if encode else None, total
    decode_ = (record.decoded - record.decoding) // 1000 if record.decoded else None
    return decode_, (record.ran - record.decoded) // 1000 if record.ran else None, None, total


# Most times repeat, and a cached text takes a fifth of the time.
@lru_cache(maxsize=4096)
def _milliseconds(microseconds: int) -> str:
    return f"{microseconds / 1000:.3f}"


COLD = 'cold;desc="the model was not loaded yet"'


def _timing(request: Request, status: int, now: int) -> str:
    record = request.record
    durations = zip((*STEPS, "total"), _steps(record, now))
    timing = ", ".join(f"{step};dur={_milliseconds(took)}" for step, took in durations if took is not None)
    if phases.pending and status == 200 and (record.signature is not None or record.children):
        _log_first()
    if waited := max([record.waited, *(child.waited for child in record.children)]):
        return f"{COLD}, {_start()}wait;dur={_milliseconds(waited // 1000)}, {timing}"
    return timing


def _log_first() -> None:
    if phase_times := phases.first():
        total = round(sum(phase_times.values()), 1)
        log("INFO", f"first answer after {total:g} ms of starting", milliseconds=phase_times)


def _start() -> str:
    """Return the phases of the start as Server-Timing entries, without the run, which is the request's own."""
    phase_times = {phase: round(1000 * seconds, 1) for phase, seconds in phases.durations().items() if phase != "run"}
    phase_times["start"] = round(sum(phase_times.values()), 1)
    return "".join(f"{phase};dur={milliseconds}, " for phase, milliseconds in phase_times.items())


def named(record: Record) -> tuple[str, str]:
    """Return the protocol and the action of a request, from the table of routes; "none" where there is none."""
    if record.route is None:
        return "none", "none"
    if record.events:
        return "event", "receive"
    protocol = record.protocol or record.route.protocol
    return _named(record.route.name, protocol.name if protocol else "none")


@lru_cache(maxsize=64)
def _named(name: str, protocol: str) -> tuple[str, str]:
    if name == "receive":
        return "event", name
    if name == "predict" and protocol == "open_inference":
        return protocol, "infer"
    return "tensorflow_serving" if protocol == name else protocol, name


def _rows(record: Record) -> int:
    """Return the size of the batch, 0 where nothing was decoded."""
    return sum(map(_rows, record.children)) if record.children else record.rows


def plain(text: str, most: int = LONGEST) -> str:
    """Return text of a request for a log: at most `most` characters, escaped where they are not printable ASCII."""
    if len(text) <= most and text.isascii() and text.isprintable():
        return text
    text = text[: most + 1].encode("unicode_escape").decode("ascii")
    return text if len(text) <= most else f"{text[:most]}..."


# Patterns are compiled at their first use: the first answer needs none.
_TRACEPARENT = r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]([0-9a-f])(-.*)?"
_CLOUD = r"(?!0{32})([0-9a-fA-F]{32})(?:/([0-9]{1,20}))?(?:;o=([0-9]))?"


def _trace(headers: Headers) -> Trace | None:
    """Read `traceparent` <https://www.w3.org/TR/trace-context/>, or else X-Cloud-Trace-Context: TRACE/SPAN;o=1."""
    text = headers.get("traceparent")
    if text and (match := re.fullmatch(_TRACEPARENT, text)) and (text[:2] != "00" or not match[4]):
        return Trace(match[1], match[2], int(match[3], 16) & 1 == 1)
    text = headers.get("x-cloud-trace-context")
    if text and (match := re.fullmatch(_CLOUD, text)):
        span = int(match[2] or 0)
        return Trace(match[1].lower(), f"{span:016x}" if 0 < span < 1 << 64 else "", match[3] == "1")
    return None


def about(request: Request) -> dict[str, Any]:
    """Return the fields that tie another log entry to its request: path, request id and trace."""
    trace, project = _trace(request.headers), settings.current().google_cloud_project
    fields: dict[str, Any] = {"path": plain(request.path)}
    if (id_ := request.headers.get("x-request-id")) is not None:
        fields["request_id"] = plain(id_, LONGEST_ID)
    return {**fields, **_traced(trace, project)} if trace else fields


def _traced(trace: Trace, project: str) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "logging.googleapis.com/trace": f"projects/{project}/traces/{trace.id}" if project else trace.id,
        "logging.googleapis.com/trace_sampled": trace.sampled,
    }
    if trace.span:
        fields["logging.googleapis.com/spanId"] = trace.span
    return fields


def _line(request: Request, status: int, size: int, ended: int, trace: Trace | None, skipped: int) -> bytes:
    """Return the log line of a request. Formatting it directly takes a third of the time of a dictionary as JSON."""
    headers, record, length = request.headers, request.record, request.length
    get, text = headers.get, _milliseconds
    rows, steps = _rows(record), _steps(record, ended)
    quiet, agent = record.route is not None and record.route.quiet, get("user-agent") or ""
    path = request.path[: LONGEST + 1]
    head = _head(request.method, path, status, agent, named(record), record.signature, quiet)
    total = steps[3]
    more = "}" if length is None else f',"requestSize":"{length}"}}'
    if rows:
        more += f',"rows":{rows}'
    if record.events:
        more += f',"events":{to_text([plain(event, LONGEST_ID) for event in record.events[:MOST_EVENTS]])}'
    if id_ := get("x-request-id"):
        more += f',"request_id":{to_text(plain(id_, LONGEST_ID))}'
    if trace := trace or _trace(headers):
        more += f",{to_text(_traced(trace, settings.current().google_cloud_project))[1:-1]}"
    if skipped:
        more += f',"requests_without_a_line":{skipped}'
    durations = "".join([f'"{step}":{text(took)},' for step, took in zip(STEPS, steps) if took is not None])
    return (
        f'{{"time":"{timestamp(time.time_ns() - (perf_counter_ns() - ended))}",{head}"latency":"{total // 1_000_000}.'
        f'{total % 1_000_000:06d}s","responseSize":"{size}"{more},'
        f'"cold":{"true" if record.began < phases.loaded_at else "false"},'
        f'"milliseconds":{{{durations}"total":{text(total)}}}}}\n'
    ).encode()


STEPS = ("decode", "run", "encode")


@lru_cache(maxsize=256)
def _head(
    method: str, path: str, status: int, agent: str, called: tuple[str, str], signature: str | None, quiet: bool
) -> str:
    """Return the beginning of a line, which many requests share; `httpRequest` is left open at its end."""
    protocol, action = called
    http: dict[str, Any] = {"requestMethod": plain(method), "requestUrl": plain(path), "status": status}
    if agent:
        http["userAgent"] = plain(agent)
    severity = "ERROR" if status >= 500 else "WARNING" if status >= 400 else "DEBUG" if quiet else "INFO"
    entry = {
        "severity": severity, "message": f"{http['requestMethod']} {http['requestUrl']} {status}",
        "protocol": protocol, "action": action,
        **({} if signature is None else {"signature": signature}), "httpRequest": http,
    }  # fmt: skip
    return f"{to_text(entry)[1:-2]},"
