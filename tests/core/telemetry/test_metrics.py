"""Metrics and traces: what is counted, exported and left out."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from serving.core.http import Response
from serving.core.telemetry import observe
from tests.conftest import ROOT, Serve, plain_environment
from tests.core.telemetry.asked import PARENT, SPAN, TRACE, ask, collector, entries, exposed, of_requests, scraped
from tests.pipeline.test_handler import PREDICT
from tests.server import running

# Metrics


@pytest.fixture
def metered(serve: Serve) -> Serve:
    pytest.importorskip("prometheus_client")
    serve(METRICS="1")
    ask("GET", "/healthz")  # the settings are applied
    return serve


def test_metrics_count_the_answered_requests(metered: Serve, examples: dict[str, Any]) -> None:
    rows = {"signature_name": "pixels", "instances": examples["pixels"]["instances"] * 5}
    for _ in range(3):
        assert ask("POST", "/", json.dumps(rows).encode())[0] == 200
    ask("POST", "/", b"{")
    ask("POST", "/", b" " * 9_000_000)
    values = scraped(exposed())
    predict = (("action", "predict"), ("protocol", "tensorflow_serving"))
    assert values["serving_requests_total", (*predict, ("status", "2xx"))] == 3
    assert values["serving_requests_total", (*predict, ("status", "4xx"))] == 2
    assert values["serving_request_seconds_count", predict] == 5
    assert values["serving_request_seconds_bucket", (predict[0], ("le", "+Inf"), predict[1])] == 5
    assert values["serving_rows_total", predict] == 15
    assert values["serving_refused_total", (("status", "413"),)] == 1
    assert values["serving_loads_total", (("outcome", "loaded"),)] == 1
    assert values["serving_requests_in_flight", ()] == 1  # the scrape itself
    assert {values["serving_step_seconds_count", (("step", step),)] for step in observe.STEPS} == {3}
    assert values["serving_start_seconds", (("phase", "model"),)] > 0
    assert values["serving_cold_requests_total", ()] >= 1
    assert (
        "openmetrics"
        in ask("GET", "/metrics", HTTP_ACCEPT="application/openmetrics-text; version=1.0.0")[1]["Content-Type"]
    )


def test_values_chosen_by_a_client_create_no_series(metered: Serve, examples: dict[str, Any]) -> None:
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


def test_a_scrape_adds_up_the_counts_of_all_workers(examples: dict[str, Any]) -> None:
    pytest.importorskip("prometheus_client")
    with running("functions-framework", METRICS="1", WORKERS="2") as server:
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: server.ask("POST", "/", examples["pixels"]).status, range(60)))
        assert set(answers) == {200}
        for _ in range(8):  # whichever worker answers
            values = scraped(server.ask("GET", "/metrics").body.decode())
            predict = (("action", "predict"), ("protocol", "tensorflow_serving"), ("status", "2xx"))
            assert values["serving_requests_total", predict] == 60
            assert values["serving_loads_total", (("outcome", "loaded"),)] in (1, 2)


def test_metrics_are_off_by_default(serve: Serve) -> None:
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


def test_metrics_and_traces_are_imported_only_when_a_setting_enables_them() -> None:
    assert alone(blocked=False)[-1] == "[]"


def test_a_missing_package_is_named_and_requests_are_still_answered() -> None:
    lines = alone(blocked=True, METRICS="1", OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9")
    warnings = [entry["message"] for entry in entries("\n".join(lines[:-2])) if entry["severity"] == "WARNING"]
    assert [warning.partition(":")[0].partition(",")[0] for warning in warnings] == [
        "METRICS=1", "OTEL_EXPORTER_OTLP_ENDPOINT is set",
    ]  # fmt: skip
    assert (
        json.loads(lines[-2])["error"] == "prometheus_client is not installed: pip install -r requirements/observe.txt"
    )


@contextmanager
def spans_of() -> Iterator[tuple[str, list[Any]]]:
    """Run a collector of OpenTelemetry; give its address, and the spans that it gets, with their resource."""
    service = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
    spans: list[Any] = []

    def receive(_path: str, body: bytes) -> None:
        for resource in service.ExportTraceServiceRequest.FromString(body).resource_spans:
            named = {attribute.key: attribute.value.string_value for attribute in resource.resource.attributes}
            spans.extend((named, span) for scope in resource.scope_spans for span in scope.spans)

    with collector(receive) as address:
        yield address, spans


@pytest.mark.parametrize("kind", ["standalone", "functions-framework"])
def test_traces_reach_a_collector_when_the_server_ends(examples: dict[str, Any], kind: str) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    with spans_of() as (address, spans):
        variables: Any = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": address,
            "OTEL_BSP_SCHEDULE_DELAY": "60000",
            "K_SERVICE": "digits",
        }
        with running(kind, **variables) as server:
            assert server.ask("POST", PREDICT, examples["pixels"], traceparent=PARENT).status == 200
            assert server.ask("POST", PREDICT, examples["pixels"], traceparent=PARENT[:-1] + "0").status == 200
            assert server.ask("GET", "/nothing/of/the/kind").status == 404
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(15) == 0
            lines = of_requests(server.log)
    assert {named["service.name"] for named, _ in spans} == {"digits"}
    exported = [span for _, span in spans]
    assert sorted(span.name for span in exported) == sorted(
        ["GET", "POST /v1/models/{name}:predict", "decode", "run", "encode"]
    )  # the one that its caller does not sample is not among them
    (root,) = [span for span in exported if span.name.startswith("POST")]
    assert (root.trace_id.hex(), root.parent_span_id.hex()) == (TRACE, SPAN)
    assert root.kind == type(root).SPAN_KIND_SERVER
    steps = sorted(
        (span for span in exported if span.parent_span_id == root.span_id), key=lambda span: span.start_time_unix_nano
    )
    assert [span.name for span in steps] == ["decode", "run", "encode"]
    assert root.start_time_unix_nano <= steps[0].start_time_unix_nano
    assert all(span.start_time_unix_nano <= span.end_time_unix_nano for span in exported)
    assert steps[-1].end_time_unix_nano <= root.end_time_unix_nano
    assert abs(root.end_time_unix_nano / 1e9 - time.time()) < 120
    attributes = {attribute.key: attribute.value for attribute in root.attributes}
    assert attributes["http.response.status_code"].int_value == 200
    assert attributes["serving.rows"].int_value == 1
    assert "nothing" not in str([span for span in exported if span.name == "GET"])
    assert lines[0]["logging.googleapis.com/spanId"] == root.span_id.hex()
    assert lines[2]["logging.googleapis.com/trace"]  # made here, for there was none


def test_an_unreachable_collector_is_logged_and_delays_no_request(examples: dict[str, Any]) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    with running("standalone", OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9") as server:
        assert server.ask("POST", "/", examples["pixels"]).status == 200
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(10) == 0
        logged = [entry for entry in entries(server.log) if entry.get("logger", "").startswith("opentelemetry")]
        assert logged, server.log
        assert {entry["severity"] for entry in logged} <= {"WARNING", "ERROR"}
