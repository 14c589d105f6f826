"""What is told of requests: log lines as JSON, times in a header, metrics and traces as their own libraries read them."""

import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from serving import __version__
from serving.core.http import Response
from serving.core.telemetry import log, observe
from serving.servers import wsgi
from tests.conftest import ROOT, Serve, plain_environment
from tests.pipeline.test_handler import PREDICT
from tests.server import running
from tests.servers.test_wsgi import environ

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"


def ask(method: str, path: str, body: bytes = b"", **more: str) -> tuple[int, dict[str, str]]:
    """Ask through the door of this process; give the status and the headers."""
    started: list[Any] = []
    request = environ(method, "/", body, **more)
    request["PATH_INFO"] = path
    b"".join(wsgi.app(request, lambda status, headers: started.append((int(status[:3]), dict(headers)))))
    return started[0]


def entries(text: str) -> list[dict[str, Any]]:
    """Read a log whose every line has to be a JSON object, but for what TensorFlow itself writes."""
    lines = [line for line in text.split("\n") if line and not re.match(r"WARNING: All log|[IWE]0000 ", line)]
    return [json.loads(line) for line in lines]


def of_requests(text: str) -> list[dict[str, Any]]:
    return [entry for entry in entries(text) if "httpRequest" in entry]


# The log


def test_a_line_tells_what_happened(serve: Serve, examples: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    serve(GOOGLE_CLOUD_PROJECT="my-project", LOG_REQUESTS="all")
    body = json.dumps({"signature_name": "pixels", "instances": examples["pixels"]["instances"] * 3}).encode()
    told = {
        "HTTP_USER_AGENT": "curl/8",
        "HTTP_TRACEPARENT": PARENT,
        "HTTP_X_REQUEST_ID": "7f3c",
        "QUERY_STRING": "key=secret",
    }
    for cold in (True, False):
        _, headers = ask("POST", PREDICT, body, **told)
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
def test_nothing_of_a_request_leaves_its_line(
    serve: Serve, text: str, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    serve(LOG_REQUESTS="all")
    names = {
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


def test_a_long_or_unwritable_entry_is_a_line_all_the_same(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
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
def test_as_many_lines_as_the_setting_says(
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
    told = of_requests(capsys.readouterr().out)
    assert [entry["httpRequest"]["status"] for entry in told] == expected
    monkeypatch.setattr(observe, "_until", 0)
    ask("POST", "/", b"{")
    if wanted == "3":
        counts = [entry.get("requests_without_a_line", 0) for entry in (*told, *of_requests(capsys.readouterr().out))]
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
def test_a_trace_is_read_where_it_is_one(
    parent: str | None, cloud: str | None, trace: str | None, span: str | None, sampled: bool | None
) -> None:
    headers = {name: value for name, value in (("traceparent", parent), ("x-cloud-trace-context", cloud)) if value}
    found = observe._trace(headers)
    assert found == (None if trace is None else (trace, span, sampled))
    if parent and not cloud:  # as OpenTelemetry itself reads it
        propagator = pytest.importorskip("opentelemetry.trace.propagation.tracecontext")
        api = pytest.importorskip("opentelemetry.trace")
        context = api.get_current_span(propagator.TraceContextTextMapPropagator().extract(headers)).get_span_context()
        theirs = (f"{context.trace_id:032x}", f"{context.span_id:016x}", context.trace_flags.sampled)
        assert found == (theirs if context.is_valid else None)


STATUSES = [
    # method  path             status  times
    ("POST",  "/",             200,    ["decode", "run", "encode", "total"]),
    ("POST",  "/x",            404,    ["total"]),
    ("PUT",   PREDICT,         405,    ["total"]),
    ("GET",   "/healthz",      200,    ["total"]),
    ("GET",   "/openapi.json", 200,    ["total"]),
]  # fmt: skip


def test_every_answer_has_its_times(serve: Serve, examples: dict[str, Any]) -> None:
    serve()
    body = json.dumps(examples["pixels"]).encode()
    ask("POST", "/", body)  # tells of the start
    for method, path, status, steps in STATUSES:
        answered, headers = ask(method, path, body if method == "POST" else b"")
        assert answered == status
        told = re.fullmatch(r"(\w+;dur=\d+\.\d{3}(, |$))+", headers["Server-Timing"])
        assert told, headers
        assert re.findall(r"(\w+);", told[0]) == steps


def test_an_event_is_one_request_with_its_id(
    serve: Serve, examples: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    serve(LOG_REQUESTS="all")
    sent = {"HTTP_CE_SPECVERSION": "1.0", "HTTP_CE_ID": "a%C3%A9", "HTTP_CE_SOURCE": "/s", "HTTP_CE_TYPE": "t"}
    event = {"specversion": "1.0", "id": "b", "source": "/s", "type": "t", "data": examples["pixels"]}
    batch = {"CONTENT_TYPE": "application/cloudevents-batch+json"}
    assert ask("POST", "/events", json.dumps(examples["pixels"]).encode(), **sent)[0] == 200
    assert ask("POST", "/", json.dumps([event, event]).encode(), **batch)[0] == 200
    one, two = of_requests(capsys.readouterr().out)
    assert (one["protocol"], one["action"], one["rows"]) == ("event", "receive", 1)
    assert (two["protocol"], two["events"], two["rows"]) == ("event", ["b", "b"], 2)
    assert one["events"] == ["a\\xe9"]
    assert {"decode", "run", "encode", "total"} == two["milliseconds"].keys()


DOORS = [("standalone", "1"), ("functions-framework", "1"), ("functions-framework", "2")]


@pytest.mark.parametrize(("door", "workers"), DOORS)
def test_every_request_has_one_whole_line_when_the_server_has_ended(
    examples: dict[str, Any], door: str, workers: str
) -> None:
    with running(door, LOG_REQUESTS="all", WORKERS=workers) as server:
        ids = [f"request-{number}" for number in range(300)]
        with ThreadPoolExecutor(8) as pool:
            sent = [pool.submit(server.ask, "POST", "/", examples["pixels"], X_Request_Id=one) for one in ids]
            assert {answer.result().status for answer in sent} == {200}
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(15) == 0
        assert sorted(entry["request_id"] for entry in of_requests(server.log)) == sorted(ids)
        messages = [entry["message"] for entry in entries(server.log)]
        assert messages[0].startswith("starting behind ")
        assert entries(server.log)[0]["version"] == __version__
        assert messages[-1] == "ended"


@pytest.mark.parametrize("door", ["standalone", "functions-framework"])
def test_what_the_server_says_of_itself_is_told_in_the_same_form(door: str) -> None:
    psutil = pytest.importorskip("psutil")
    with running(door) as server:
        end = time.monotonic() + 20
        while not (workers := psutil.Process(server.process.pid).children()) and time.monotonic() < end:
            time.sleep(0.05)
        workers[0].kill()
        while (
            not (told := [one for one in entries(server.log) if one["severity"] == "ERROR"]) and time.monotonic() < end
        ):
            time.sleep(0.05)
    assert "worker" in told[0]["message"].lower()


def test_a_reader_that_went_away_fails_no_request(examples: dict[str, Any]) -> None:
    script = (
        "import os, sys\nreader, writer = os.pipe()\nos.dup2(writer, 1)\nos.close(reader)\n"
        "from serving.core.telemetry.log import log\nlog('INFO', 'x')\nlog('INFO', 'y')\nprint('alive', file=sys.stderr)"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=plain_environment(), capture_output=True, text=True
    )
    assert (run.returncode, run.stderr) == (0, "alive\n")


# Metrics


def scraped(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Read metrics as Prometheus' own library does: name and labels → value."""
    parser = pytest.importorskip("prometheus_client.parser")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parser.text_string_to_metric_families(text)
        for sample in family.samples
    }


def exposed() -> str:
    parts: list[bytes] = []
    answer = wsgi.app(environ("GET", "/metrics"), lambda status, headers: parts.append(status.encode()))
    text = b"".join(answer).decode()
    assert parts == [b"200 OK"], text
    return text


@pytest.fixture
def metered(serve: Serve) -> Serve:
    pytest.importorskip("prometheus_client")
    serve(METRICS="1")
    ask("GET", "/healthz")  # the settings are heard
    return serve


def test_metrics_count_what_was_answered(metered: Serve, examples: dict[str, Any]) -> None:
    rows = {"signature_name": "pixels", "instances": examples["pixels"]["instances"] * 5}
    for _ in range(3):
        assert ask("POST", "/", json.dumps(rows).encode())[0] == 200
    ask("POST", "/", b"{")
    ask("POST", "/", b" " * 9_000_000)
    found = scraped(exposed())
    predict = (("action", "predict"), ("protocol", "tensorflow_serving"))
    assert found["serving_requests_total", (*predict, ("status", "2xx"))] == 3
    assert found["serving_requests_total", (*predict, ("status", "4xx"))] == 2
    assert found["serving_request_seconds_count", predict] == 5
    assert found["serving_request_seconds_bucket", (predict[0], ("le", "+Inf"), predict[1])] == 5
    assert found["serving_rows_total", predict] == 15
    assert found["serving_refused_total", (("status", "413"),)] == 1
    assert found["serving_loads_total", (("outcome", "loaded"),)] == 1
    assert found["serving_requests_in_flight", ()] == 1  # the scrape itself
    assert {found["serving_step_seconds_count", (("step", step),)] for step in observe.STEPS} == {3}
    assert found["serving_start_seconds", (("phase", "model"),)] > 0
    assert found["serving_cold_requests_total", ()] >= 1
    assert (
        "openmetrics"
        in ask("GET", "/metrics", HTTP_ACCEPT="application/openmetrics-text; version=1.0.0")[1]["Content-Type"]
    )


def test_what_a_client_chooses_makes_no_series(metered: Serve, examples: dict[str, Any]) -> None:
    def series() -> set[Any]:
        for method, path in (
            ("GET", "/x"),
            ("BREW", "/"),
            ("POST", "/v1/models/x:predict"),
            ("GET", "/v1/models/model/versions/9"),
        ):
            ask(method, path)
        return set(scraped(exposed()))

    series()  # itself counted from now on
    before = series()
    for number in range(2000):
        ask("GET", f"/{number}")
        ask(f"M{number}", f"/v1/models/{number}:predict")
        ask("POST", f"/v1/models/{number}/versions/{number}:predict", HTTP_USER_AGENT=str(number))
    assert series() == before


def test_workers_add_up_what_each_has_counted(examples: dict[str, Any]) -> None:
    pytest.importorskip("prometheus_client")
    with running("functions-framework", METRICS="1", WORKERS="2") as server:
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: server.ask("POST", "/", examples["pixels"]).status, range(60)))
        assert set(answers) == {200}
        for _ in range(8):  # whichever worker answers
            found = scraped(server.ask("GET", "/metrics").body.decode())
            predict = (("action", "predict"), ("protocol", "tensorflow_serving"), ("status", "2xx"))
            assert found["serving_requests_total", predict] == 60
            assert found["serving_loads_total", (("outcome", "loaded"),)] in (1, 2)


def test_without_the_setting_there_are_no_metrics(serve: Serve) -> None:
    answer: Response = serve()("GET", "/metrics")
    assert (answer.status, json.loads(answer.body)["error"]) == (404, "there are no metrics: METRICS=1 turns them on")


ABSENT = """
import io, sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("prometheus_client", "opentelemetry") and {blocked}:
            raise ModuleNotFoundError("No module named " + name, name=name)
sys.meta_path.insert(0, Absent())
from serving.core import settings; from serving.core.telemetry import observe; from serving.servers import wsgi
observe.begin(settings.current())
def ask(path):
    environ = {{"REQUEST_METHOD": "GET", "PATH_INFO": path, "wsgi.input": io.BytesIO()}}
    return b"".join(wsgi.app(environ, lambda status, headers: None)).decode()
ask("/readyz")
print(ask("/metrics"))
names = ("prometheus_client", "opentelemetry", "logging", "multiprocessing")
print(sorted({{name.partition(".")[0] for name in sys.modules}} & set(names)))
"""


def alone(blocked: bool, **settings: str) -> list[str]:
    script = ABSENT.format(blocked=blocked)
    environment = plain_environment(LOG_REQUESTS="none", **settings)
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


def test_what_nobody_asked_for_is_not_imported() -> None:
    assert alone(blocked=False)[-1] == "[]"


def test_what_is_missing_is_named_and_everything_else_works() -> None:
    lines = alone(blocked=True, METRICS="1", OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9")
    warnings = [entry["message"] for entry in entries("\n".join(lines[:-2])) if entry["severity"] == "WARNING"]
    assert [warning.partition(":")[0].partition(",")[0] for warning in warnings] == [
        "METRICS=1", "OTEL_EXPORTER_OTLP_ENDPOINT is set",
    ]  # fmt: skip
    assert (
        json.loads(lines[-2])["error"] == "prometheus_client is not installed: pip install -r requirements/observe.txt"
    )


# Traces


@contextmanager
def collector() -> Iterator[tuple[str, list[Any]]]:
    """A collector of OpenTelemetry's: give its address, and the spans that it gets, with their resource."""
    service = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
    spans: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            for resource in service.ExportTraceServiceRequest.FromString(body).resource_spans:
                named = {one.key: one.value.string_value for one in resource.resource.attributes}
                spans.extend((named, span) for scope in resource.scope_spans for span in scope.spans)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", spans
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("door", ["standalone", "functions-framework"])
def test_traces_reach_a_collector_when_the_server_ends(examples: dict[str, Any], door: str) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    with collector() as (address, spans):
        told = {"OTEL_EXPORTER_OTLP_ENDPOINT": address, "OTEL_BSP_SCHEDULE_DELAY": "60000", "K_SERVICE": "digits"}
        with running(door, **told) as server:
            assert server.ask("POST", PREDICT, examples["pixels"], traceparent=PARENT).status == 200
            assert server.ask("POST", PREDICT, examples["pixels"], traceparent=PARENT[:-1] + "0").status == 200
            assert server.ask("GET", "/nothing/of/the/kind").status == 404
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(15) == 0
            lines = of_requests(server.log)
    assert {named["service.name"] for named, _ in spans} == {"digits"}
    found = [span for _, span in spans]
    assert sorted(span.name for span in found) == sorted(
        ["GET", "POST /v1/models/{name}:predict", "decode", "run", "encode"]
    )  # the one that its caller does not sample is not among them
    (root,) = [span for span in found if span.name.startswith("POST")]
    assert (root.trace_id.hex(), root.parent_span_id.hex()) == (TRACE, SPAN)
    assert root.kind == type(root).SPAN_KIND_SERVER
    steps = sorted(
        (span for span in found if span.parent_span_id == root.span_id), key=lambda span: span.start_time_unix_nano
    )
    assert [span.name for span in steps] == ["decode", "run", "encode"]
    assert root.start_time_unix_nano <= steps[0].start_time_unix_nano
    assert all(span.start_time_unix_nano <= span.end_time_unix_nano for span in found)
    assert steps[-1].end_time_unix_nano <= root.end_time_unix_nano
    assert abs(root.end_time_unix_nano / 1e9 - time.time()) < 120
    told = {one.key: one.value for one in root.attributes}
    assert told["http.response.status_code"].int_value == 200
    assert told["serving.rows"].int_value == 1
    assert "nothing" not in str([span for span in found if span.name == "GET"])
    assert lines[0]["logging.googleapis.com/spanId"] == root.span_id.hex()
    assert lines[2]["logging.googleapis.com/trace"]  # made here, for there was none


def test_a_collector_that_is_not_there_is_told_in_the_log_and_holds_nothing_up(examples: dict[str, Any]) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    with running("standalone", OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9") as server:
        assert server.ask("POST", "/", examples["pixels"]).status == 200
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(10) == 0
        told = [one for one in entries(server.log) if one.get("logger", "").startswith("opentelemetry")]
        assert told, server.log
        assert {entry["severity"] for entry in told} <= {"WARNING", "ERROR"}
