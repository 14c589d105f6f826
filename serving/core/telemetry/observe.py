"""Seen from outside: what is told of a request when it has been answered.

Every answer has a `Server-Timing` header <https://www.w3.org/TR/server-timing/>, in milliseconds:

    decode   bytes into arrays        encode   arrays into bytes, packed where the client takes that
    run      the model                total    all of it; what is beside the three is mostly reading and waiting

A request that has waited for a load of the model, and no other, has what that start was made of before those
(`serving.core.telemetry.phases`), their sum as `start`, and as `wait` for how long it waited itself.

Each has a line in the log, up to a hundred a second of those that succeed and as many of those that fail
(LOG_REQUESTS): writing more costs time, and keeping them money. The next line says how many requests had none. Each has
a count in the metrics (METRICS) and a trace (OTEL_EXPORTER_OTLP_ENDPOINT).

Nothing of a body is told and nothing of a query; paths and headers are bounded, and what is not printable ASCII in
them is escaped.
"""

import atexit
import os
import re
import threading
import time
from functools import lru_cache
from time import perf_counter_ns
from typing import Any

import orjson

from serving import __version__
from serving.core import settings
from serving.core.http import Headers, Request, Response
from serving.core.record import Record
from serving.core.settings import Settings
from serving.core.telemetry import metrics, phases, tracing
from serving.core.telemetry.log import log, write
from serving.core.telemetry.tracing import Trace

LONGEST = 200  # characters of a path or a user agent
LONGEST_ID = 100  # of a request's or an event's id
MOST_EVENTS = 10  # whose ids are told, of a batch

# In microseconds; None for a step that was not gone through: decode, run, encode, total.
Steps = tuple[int | None, int | None, int | None, int]

_options: Settings | None = None  # those that metrics and traces were begun with
_beginning = threading.Lock()


def begin(options: Settings) -> None:
    """Begin metrics and traces where the settings ask for them; before a server forks, so that workers share them."""
    global _options
    with _beginning:
        if options is not _options:
            metrics.begin(options)
            tracing.begin(options)
            _options = options


def start(door: str, options: Settings) -> None:
    """Say in the log that a server starts, and at its end that it ended; called before it forks its workers."""
    begin(options)
    began, process = time.monotonic(), os.getpid()
    log("INFO", f"starting behind {door}", version=__version__, model=str(options.model_dir), workers=options.workers,
        threads=options.threads, metrics=metrics.on, traces=tracing.on)  # fmt: skip

    def ended() -> None:
        if os.getpid() == process:  # a worker has this from its parent, and ends before it
            log("INFO", "ended", seconds=round(time.monotonic() - began, 1))

    atexit.register(ended)


def finish(request: Request, response: Response) -> Response:
    """Tell what happened to a request, and return its response with the times in a header."""
    options = settings.current()
    if options is not _options:
        begin(options)
    record, status, now, text = request.record, response.status, perf_counter_ns(), _milliseconds
    if record.encoded and not record.waited and not phases.pending:  # as most are
        decoded, ran = record.decoded, record.ran
        timing = (
            f"decode;dur={text((decoded - record.decoding) // 1000)}, run;dur={text((ran - decoded) // 1000)}, "
            f"encode;dur={text((record.encoded - ran) // 1000)}, total;dur={text((now - record.began) // 1000)}"
        )
    else:
        timing = _timing(request, status, now)
    trace = _watch(request, status, now) if metrics.on or tracing.on else None
    if _is_told(options.log_requests, status, now):
        write(_line(request, status, len(response.body), now, trace, _untold()))
    return Response(status, response.body, response.content_type, (*response.headers, ("Server-Timing", timing)))


def _watch(request: Request, status: int, now: int) -> Trace | None:
    """Count a request, and trace it, where that is asked for."""
    record = request.record
    called, rows, trace = named(record), _rows(record), None
    if tracing.on:
        trace = tracing.trace(request, status, _trace(request.headers), called, rows)
    if metrics.on:
        metrics.count(*called, status, _steps(record, now), rows, record.began < phases.loaded_at)
    return trace


_left = [0, 0]  # lines that may still be written before `_until`, of those that succeed and of those that fail
_until = 0
_passed_over = 0  # requests without a line since the last that has one


def _is_told(wanted: str, status: int, now: int) -> bool:
    """Say whether a request has its line."""
    global _left, _until, _passed_over
    failed = status >= 400
    if wanted == "all" or (failed and wanted == "errors"):
        return True
    if not wanted.isdecimal():
        return False
    if now > _until:
        _until, _left = now + 1_000_000_000, [int(wanted)] * 2
    if _left[failed] > 0:
        _left[failed] -= 1
        return True
    _passed_over += 1
    return False


def _untold() -> int:
    global _passed_over
    count, _passed_over = _passed_over, 0
    return count


def _steps(record: Record, now: int) -> Steps:
    total = (now - record.began) // 1000
    if record.encoded:
        decoded, ran = record.decoded, record.ran
        return (
            (decoded - record.decoding) // 1000, (ran - decoded) // 1000, (record.encoded - ran) // 1000, total,
        )  # fmt: skip
    if record.children:
        told = [_steps(child, now)[:3] for child in record.children]
        decode, run, encode = ([step for step in column if step is not None] for column in zip(*told))
        return sum(decode) if decode else None, sum(run) if run else None, sum(encode) if encode else None, total
    decode_ = (record.decoded - record.decoding) // 1000 if record.decoded else None
    return decode_, (record.ran - record.decoded) // 1000 if record.ran else None, None, total


# Most times have been written before, which saves four fifths of writing them.
@lru_cache(maxsize=4096)
def _milliseconds(microseconds: int) -> str:
    return f"{microseconds / 1000:.3f}"


def _timing(request: Request, status: int, now: int) -> str:
    record = request.record
    told = zip((*STEPS, "total"), _steps(record, now))
    timing = ", ".join(f"{step};dur={_milliseconds(took)}" for step, took in told if took is not None)
    if phases.pending and status == 200 and (record.signature is not None or record.children):
        _log_first()
    if waited := max([record.waited, *(child.waited for child in record.children)]):
        return f"{_start()}wait;dur={_milliseconds(waited // 1000)}, {timing}"
    return timing


def _log_first() -> None:
    if told := phases.first():
        log("INFO", f"first answer after {round(sum(told.values()), 1):g} ms of starting", milliseconds=told)


def _start() -> str:
    """Tell a request that has waited for the load what the start was made of; its run is the request's own."""
    told = {phase: round(1000 * seconds, 1) for phase, seconds in phases.durations().items() if phase != "run"}
    return "".join(f"{phase};dur={took}, " for phase, took in {**told, "start": round(sum(told.values()), 1)}.items())


def named(record: Record) -> tuple[str, str]:
    """Return the protocol and the action of a request, both from our own table, "none" where there is none."""
    if record.route is None:
        return "none", "none"
    if record.events:
        return "event", "receive"
    codec = record.protocol or record.route.codec
    return _named(record.route.name, codec.__name__ if codec else "none")


@lru_cache(maxsize=64)
def _named(name: str, codec: str) -> tuple[str, str]:
    module = codec.rpartition(".")[2]
    if name == "receive":
        return "event", name
    if name == "predict" and module == "open_inference":
        return module, "infer"
    return "tensorflow_serving" if module == name else module, name


def _rows(record: Record) -> int:
    """Return the size of the batch, 0 where nothing was decoded."""
    return sum(map(_rows, record.children)) if record.children else record.rows


def plain(text: str, most: int = LONGEST) -> str:
    """Return text of a request as a log may hold it: printable ASCII, the rest escaped, and bounded."""
    if len(text) <= most and text.isascii() and text.isprintable():
        return text
    text = text[: most + 1].encode("unicode_escape").decode("ascii")
    return text if len(text) <= most else f"{text[:most]}..."


_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]([0-9a-f])(-.*)?")
_CLOUD = re.compile(r"(?!0{32})([0-9a-fA-F]{32})(?:/([0-9]{1,20}))?(?:;o=([0-9]))?")


def _trace(headers: Headers) -> Trace | None:
    """Read `traceparent` <https://www.w3.org/TR/trace-context/>, or else X-Cloud-Trace-Context: TRACE/SPAN;o=1."""
    text = headers.get("traceparent")
    if text and (found := _TRACEPARENT.fullmatch(text)) and (text[:2] != "00" or not found[4]):
        return Trace(found[1], found[2], int(found[3], 16) & 1 == 1)
    text = headers.get("x-cloud-trace-context")
    if text and (found := _CLOUD.fullmatch(text)):
        span = int(found[2] or 0)
        return Trace(found[1].lower(), f"{span:016x}" if 0 < span < 1 << 64 else "", found[3] == "1")
    return None


def about(request: Request) -> dict[str, Any]:
    """Return what other entries say of the request that they are about."""
    trace, project = _trace(request.headers), settings.current().google_cloud_project
    told: dict[str, Any] = {"path": plain(request.path)}
    if (id_ := request.headers.get("x-request-id")) is not None:
        told["request_id"] = plain(id_, LONGEST_ID)
    return {**told, **_traced(trace, project)} if trace else told


def _traced(trace: Trace, project: str) -> dict[str, Any]:
    told: dict[str, Any] = {
        "logging.googleapis.com/trace": f"projects/{project}/traces/{trace.id}" if project else trace.id,
        "logging.googleapis.com/trace_sampled": trace.sampled,
    }
    if trace.span:
        told["logging.googleapis.com/spanId"] = trace.span
    return told


def _line(request: Request, status: int, size: int, ended: int, trace: Trace | None, untold: int) -> bytes:
    """Return the log's line. Writing it by hand takes a third of the time that a dictionary and its JSON take."""
    headers, record, length = request.headers, request.record, request.length
    get, text = headers.get, _milliseconds
    rows, steps = _rows(record), _steps(record, ended)
    seconds, nanoseconds = divmod(time.time_ns() - (perf_counter_ns() - ended), 1_000_000_000)
    quiet, agent = record.route is not None and record.route.quiet, get("user-agent") or ""
    path = request.path[: LONGEST + 1]
    head = _head(request.method, path, status, agent, named(record), record.signature, quiet)
    total = steps[3]
    more = "}" if length is None else f',"requestSize":"{length}"}}'
    if rows:
        more += f',"rows":{rows}'
    if record.events:
        more += f',"events":{_json([plain(event, LONGEST_ID) for event in record.events[:MOST_EVENTS]])}'
    if id_ := get("x-request-id"):
        more += f',"request_id":{_json(plain(id_, LONGEST_ID))}'
    if trace := trace or _trace(headers):
        more += f",{_json(_traced(trace, settings.current().google_cloud_project))[1:-1]}"
    if untold:
        more += f',"requests_without_a_line":{untold}'
    took = "".join([f'"{step}":{text(one)},' for step, one in zip(STEPS, steps) if one is not None])
    return (
        f'{{"time":"{_second(seconds)}.{nanoseconds // 1000:06d}Z",{head}"latency":"{total // 1_000_000}.'
        f'{total % 1_000_000:06d}s","responseSize":"{size}"{more},'
        f'"cold":{"true" if record.began < phases.loaded_at else "false"},'
        f'"milliseconds":{{{took}"total":{text(total)}}}}}\n'
    ).encode()


STEPS = ("decode", "run", "encode")


@lru_cache(maxsize=256)
def _head(
    method: str, path: str, status: int, agent: str, called: tuple[str, str], signature: str | None, quiet: bool
) -> str:
    """Return the beginning of a line, in which most requests are alike; `httpRequest` is still open at its end."""
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
    return f"{_json(entry)[1:-2]},"


@lru_cache(maxsize=8)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()
