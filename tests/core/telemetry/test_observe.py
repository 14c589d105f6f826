"""The log: a line for each request, of one form for every server."""

import json
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from serving import __version__
from serving.core.telemetry import log, observe
from tests.conftest import ROOT, Serve, plain_environment
from tests.core.telemetry.asked import PARENT, SPAN, TRACE, ask, entries, of_requests
from tests.harness.waiting import until
from tests.pipeline.test_handler import PREDICT
from tests.server import running


# The log
def test_a_log_line_describes_its_request(
    serve: Serve, examples: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    serve(GOOGLE_CLOUD_PROJECT="my-project", LOG_REQUESTS="all")
    body = json.dumps({"signature_name": "pixels", "instances": examples["pixels"]["instances"] * 3}).encode()
    sent_headers = {
        "HTTP_USER_AGENT": "curl/8",
        "HTTP_TRACEPARENT": PARENT,
        "HTTP_X_REQUEST_ID": "7f3c",
        "QUERY_STRING": "key=secret",
    }
    for cold in (True, False):
        _, headers = ask("POST", PREDICT, body, **sent_headers)
        text = capsys.readouterr().out
        (entry,) = of_requests(text)
        milliseconds, http = entry.pop("milliseconds"), entry.pop("httpRequest")
        assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", entry.pop("time"))
        assert entry == {
            "severity": "INFO", "message": f"POST {PREDICT} 200", "protocol": "tensorflow_serving", "action": "predict",
            "signature": "pixels", "rows": 3, "cold": cold, "request_id": "7f3c",
            "logging.googleapis.com/trace": f"projects/my-project/traces/{TRACE}",
            "logging.googleapis.com/spanId": SPAN, "logging.googleapis.com/trace_sampled": True,
        }  # fmt: skip
        assert float(http.pop("latency").removesuffix("s")) * 1000 == pytest.approx(milliseconds["total"], abs=0.0011)
        assert http == {
            "requestMethod": "POST", "requestUrl": PREDICT, "requestSize": str(len(body)), "status": 200,
            "responseSize": headers["Content-Length"], "userAgent": "curl/8",
        }  # fmt: skip
        assert milliseconds.keys() == {"decode", "run", "encode", "total"}
        assert sum(milliseconds[step] for step in observe.STEPS) <= milliseconds["total"]
        assert "secret" not in text


HOSTILE = [
    "/a\r\n{\"severity\":\"EMERGENCY\"}", "/\x00\x1b[2J\x7f", "/v1/models/\u0085\u2028\u202e:predict", "/" + "\\" * 8000,
    "/" + '"' * 8000, "/" + "\u00ff" * 8000, "/\udcff\ud800", "/%0d%0a", "x" * 100_000,
]  # fmt: skip


def latin(text: str) -> str:
    """Give text as a server hands over its bytes."""
    return text.encode("utf-8", "surrogatepass").decode("latin-1")


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_text_from_a_request_cannot_start_a_log_line(
    serve: Serve, text: str, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    serve(LOG_REQUESTS="all")
    names: Any = {
        name: latin(text)
        for name in ("HTTP_USER_AGENT", "HTTP_TRACEPARENT", "HTTP_X_CLOUD_TRACE_CONTEXT", "HTTP_X_REQUEST_ID")
    }
    ask("GET", latin(text), **names)
    ask(latin(text), "/", **names)
    lines = capfdbinary.readouterr().out.splitlines(keepends=True)
    assert len(lines) == 2
    for line in lines:
        assert len(line) <= 4096
        assert re.fullmatch(rb"[ -~]+\n", line)
        (entry,) = entries(line.decode())
        assert entry["severity"] == "WARNING"
        assert len(entry["httpRequest"]["requestUrl"]) <= observe.LONGEST + 3


def test_a_long_or_unserialisable_entry_is_one_line(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    log.log("ERROR", "m" * 9000, traceback="t" * 9000 + "the end", path="p" * 9000)
    log.log("ERROR", "\ud800", number=10**40, nested={"bytes": b"x"}, **{f"f{n}": "\u00e9" * 999 for n in range(60)})
    first, second = capfdbinary.readouterr().out.splitlines(keepends=True)
    assert len(first) <= 4096
    assert len(second) <= 4096
    assert json.loads(first)["traceback"].endswith("the end")
    assert json.loads(second)["message"] == "\\ud800"


WANTED = [
    # LOG_REQUESTS   lines of 4 that succeed and 4 that fail
    ("all",          [200, 200, 200, 200, 400, 400, 400, 400]),
    ("errors",       [400, 400, 400, 400]),
    ("none",         []),
    ("3",            [200, 200, 200, 400, 400, 400]),
]  # fmt: skip


@pytest.mark.parametrize(("wanted", "expected"), WANTED)
def test_LOG_REQUESTS_limits_the_lines_a_second(
    serve: Serve, examples: dict[str, Any], wanted: str, expected: list[int],
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    serve(LOG_REQUESTS=wanted)
    monkeypatch.setattr(observe, "_until", 0)
    monkeypatch.setattr(observe, "_skipped", 0)
    for body in (json.dumps(examples["pixels"]).encode(), b"{"):
        for _ in range(4):
            monkeypatch.setattr(observe, "_until", observe._until and 1 << 62)  # this second does not end
            ask("POST", "/", body)
    entries = of_requests(capsys.readouterr().out)
    assert [entry["httpRequest"]["status"] for entry in entries] == expected
    monkeypatch.setattr(observe, "_until", 0)
    ask("POST", "/", b"{")
    if wanted == "3":
        counts = [
            entry.get("requests_without_a_line", 0) for entry in (*entries, *of_requests(capsys.readouterr().out))
        ]
        assert counts == [0, 0, 0, 1, 0, 0, 1]


TRACES = [
    # traceparent                       X-Cloud-Trace-Context    trace            span       sampled
    (PARENT,                            None,                    TRACE,           SPAN,      True),
    (f"00-{TRACE}-{SPAN}-00",           None,                    TRACE,           SPAN,      False),
    (f"cc-{TRACE}-{SPAN}-01-more",      None,                    TRACE,           SPAN,      True),
    (f"00-{TRACE}-{SPAN}-01-more",      None,                    None,            None,      None),
    (f"ff-{TRACE}-{SPAN}-01",           None,                    None,            None,      None),
    (f"00-{'0' * 32}-{SPAN}-01",        None,                    None,            None,      None),
    (f"00-{TRACE}-{'0' * 16}-01",       None,                    None,            None,      None),
    (f"00-{TRACE}-{SPAN}",              None,                    None,            None,      None),
    ("x",                               f"{TRACE}/10;o=1",       TRACE,           "0" * 15 + "a", True),
    (None,                              f"{TRACE.upper()}/0",    TRACE,           "",        False),
    (None,                              f"{TRACE};o=1",          TRACE,           "",        True),
    (None,                              f"{TRACE}/{1 << 64}",    TRACE,           "",        False),
    (None,                              f"{'0' * 32}/1;o=1",     None,            None,      None),
    (None,                              f"{TRACE[1:]}/1;o=1",    None,            None,      None),
]  # fmt: skip


@pytest.mark.parametrize(("parent", "cloud", "trace", "span", "sampled"), TRACES)
def test_a_valid_trace_header_is_read_and_an_invalid_one_ignored(
    parent: str | None, cloud: str | None, trace: str | None, span: str | None, sampled: bool | None
) -> None:
    headers = {name: value for name, value in (("traceparent", parent), ("x-cloud-trace-context", cloud)) if value}
    trace_read = observe._trace(headers)
    assert trace_read == (None if trace is None else (trace, span, sampled))
    if parent and not cloud:  # as OpenTelemetry itself reads it
        propagator = pytest.importorskip("opentelemetry.trace.propagation.tracecontext")
        api = pytest.importorskip("opentelemetry.trace")
        context = api.get_current_span(propagator.TraceContextTextMapPropagator().extract(headers)).get_span_context()
        theirs = (f"{context.trace_id:032x}", f"{context.span_id:016x}", context.trace_flags.sampled)
        assert trace_read == (theirs if context.is_valid else None)


STATUSES = [
    # method  path             status  times
    ("POST",  "/",             200,    ["decode", "run", "encode", "total"]),
    ("POST",  "/x",            404,    ["total"]),
    ("PUT",   PREDICT,         405,    ["total"]),
    ("GET",   "/healthz",      200,    ["total"]),
    ("GET",   "/openapi.json", 200,    ["total"]),
]  # fmt: skip


def test_every_response_has_the_duration_of_each_step(serve: Serve, examples: dict[str, Any]) -> None:
    serve()
    body = json.dumps(examples["pixels"]).encode()
    ask("POST", "/", body)  # reports the start
    for method, path, status, steps in STATUSES:
        answered, headers = ask(method, path, body if method == "POST" else b"")
        assert answered == status
        timings = re.fullmatch(r"(\w+;dur=\d+\.\d{3}(, |$))+", headers["Server-Timing"])
        assert timings, headers
        assert re.findall(r"(\w+);", timings[0]) == steps


def test_an_event_is_one_request_with_its_id(
    serve: Serve, examples: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    serve(LOG_REQUESTS="all")
    sent = {"HTTP_CE_SPECVERSION": "1.0", "HTTP_CE_ID": "a%C3%A9", "HTTP_CE_SOURCE": "/s", "HTTP_CE_TYPE": "t"}
    event = {"specversion": "1.0", "id": "b", "source": "/s", "type": "t", "data": examples["pixels"]}
    batch = {"CONTENT_TYPE": "application/cloudevents-batch+json"}
    assert ask("POST", "/events", json.dumps(examples["pixels"]).encode(), **sent)[0] == 200
    assert ask("POST", "/", json.dumps([event, event]).encode(), **batch)[0] == 200
    first, second = of_requests(capsys.readouterr().out)
    assert (first["protocol"], first["action"], first["rows"]) == ("event", "receive", 1)
    assert (second["protocol"], second["events"], second["rows"]) == ("event", ["b", "b"], 2)
    assert first["events"] == ["a\\xe9"]
    assert {"decode", "run", "encode", "total"} == second["milliseconds"].keys()


SERVERS = [("standalone", "1"), ("functions-framework", "1"), ("functions-framework", "2")]


@pytest.mark.parametrize(("kind", "workers"), SERVERS)
def test_every_request_has_one_whole_line_when_the_server_has_ended(
    examples: dict[str, Any], kind: str, workers: str
) -> None:
    with running(kind, LOG_REQUESTS="all", WORKERS=workers) as server:
        ids = [f"request-{number}" for number in range(300)]
        with ThreadPoolExecutor(8) as pool:
            sent = [
                pool.submit(server.ask, "POST", "/", examples["pixels"], X_Request_Id=request_id) for request_id in ids
            ]
            assert {answer.result().status for answer in sent} == {200}
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(15) == 0
        assert sorted(entry["request_id"] for entry in of_requests(server.log)) == sorted(ids)
        messages = [entry["message"] for entry in entries(server.log)]
        assert messages[0].startswith("starting behind ")
        assert entries(server.log)[0]["version"] == __version__
        assert messages[-1] == "ended"


@pytest.mark.parametrize("kind", ["standalone", "functions-framework"])
def test_the_servers_own_messages_are_logged_in_the_same_form(kind: str) -> None:
    psutil = pytest.importorskip("psutil")
    with running(kind) as server:
        until(psutil.Process(server.process.pid).children)[0].kill()
        errors = until(lambda: [entry for entry in entries(server.log) if entry["severity"] == "ERROR"])
    assert "worker" in errors[0]["message"].lower()


def test_a_closed_log_pipe_fails_no_request(examples: dict[str, Any]) -> None:
    script = (
        "import os, sys\nreader, writer = os.pipe()\nos.dup2(writer, 1)\nos.close(reader)\n"
        "from serving.core.telemetry.log import log\nlog('INFO', 'x')\nlog('INFO', 'y')\nprint('alive', file=sys.stderr)"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=plain_environment(), capture_output=True, text=True
    )
    assert (run.returncode, run.stderr) == (0, "alive\n")
