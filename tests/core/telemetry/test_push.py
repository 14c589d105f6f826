"""Metrics that are sent to a collector: the values of a scrape, from every worker, until it stops."""

import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from serving.core.telemetry import push
from tests.conftest import Serve
from tests.core.telemetry.asked import ask, collector, entries, exposed, scraped
from tests.harness.waiting import until
from tests.pipeline.test_handler import PREDICT
from tests.server import running

pytest.importorskip("prometheus_client")
service = pytest.importorskip("opentelemetry.proto.collector.metrics.v1.metrics_service_pb2")
Point = tuple[str, tuple[tuple[str, str], ...]]


@contextmanager
def sendings_of() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Run a collector of OpenTelemetry; give its address, and each sending: its instance, its metrics by name and labels."""
    sendings: list[dict[str, Any]] = []

    def receive(path: str, body: bytes) -> None:
        if path == "/v1/metrics":
            sendings.append(read(service.ExportMetricsServiceRequest.FromString(body)))

    with collector(receive) as address:
        yield address, sendings


def read(request: Any) -> dict[str, Any]:
    """Return a sending by OpenTelemetry's own classes: its resource, its points by name and labels."""
    (resource,) = request.resource_metrics
    sent: dict[str, Any] = {attribute.key: attribute.value.string_value for attribute in resource.resource.attributes}
    for metric in resource.scope_metrics[0].metrics:
        for point in getattr(metric, metric.WhichOneof("data")).data_points:
            labels = tuple(sorted((attribute.key, attribute.value.string_value) for attribute in point.attributes))
            sent[(metric.name, labels)] = point
    return sent


def total(sendings: list[dict[str, Any]], name: str, **labels: str) -> float:
    """Add up a sum, or the count of a histogram, over the last sending of each instance."""
    last = {sent["service.instance.id"]: sent for sent in sendings}
    points = [sent.get((name, tuple(sorted(labels.items())))) for sent in last.values()]
    return sum(getattr(point, "count", 0) or getattr(point, "as_double", 0) for point in points if point is not None)


V1 = {"protocol": "tensorflow_serving", "action": "predict"}


@pytest.mark.parametrize(("kind", "workers"), [("standalone", "1"), ("standalone", "2"), ("functions-framework", "2")])
def test_every_worker_sends_its_final_counts_when_it_stops(examples: dict[str, Any], kind: str, workers: str) -> None:
    with sendings_of() as (address, sendings):
        settings: Any = {"METRICS": "1", "OTEL_EXPORTER_OTLP_ENDPOINT": address, "OTEL_SERVICE_NAME": "digits"}
        with running(kind, WORKERS=workers, **settings) as server:
            for _ in range(20):
                assert server.ask("POST", PREDICT, examples["pixels"]).status == 200
            assert server.ask("POST", PREDICT, b"{").status == 400
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(15) == 0
    assert {sent["service.name"] for sent in sendings} == {"digits"}
    assert len(sendings) <= int(workers)  # the period is longer than the test
    assert total(sendings, "serving_requests", **V1, status="2xx") == 20
    assert total(sendings, "serving_requests", **V1, status="4xx") == 1
    assert total(sendings, "serving_request_seconds", **V1) == 21
    assert total(sendings, "serving_rows", **V1) == 20
    point = sendings[0]["serving_step_seconds", (("step", "run"),)]
    assert point.start_time_unix_nano < point.time_unix_nano
    assert abs(point.time_unix_nano / 1e9 - time.time()) < 120


def test_metrics_are_sent_every_interval_with_the_values_of_a_scrape(
    serve: Serve, examples: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    with sendings_of() as (address, sendings):
        serve(
            METRICS="1", OTEL_EXPORTER_OTLP_METRICS_ENDPOINT=f"{address}/v1/metrics", OTEL_METRIC_EXPORT_INTERVAL="100"
        )
        for body in (json.dumps(examples["pixels"]).encode(), b"{"):
            assert ask("POST", "/", body)[0] in (200, 400)
        before = len(sendings)
        until(lambda: len(sendings) >= before + 2)
        assert push._periodic
        push._periodic.end()
        scrape = scraped(exposed())
    sent: Any = {key: value for key, value in sendings[-1].items() if isinstance(key, tuple)}
    assert {name for name, _ in sent} >= {"serving_requests", "serving_request_seconds", "process_cpu_seconds"}
    assert not any(name.endswith("_created") for name, _ in sent)
    for (name, labels), point in sent.items():
        if name.startswith("process_") or name == "serving_requests_in_flight":
            continue  # they change from one look to the next
        if hasattr(point, "bucket_counts"):
            assert point.count == scrape[f"{name}_count", labels] == sum(point.bucket_counts)
            assert point.sum == scrape[f"{name}_sum", labels]
            assert len(point.bucket_counts) == len(point.explicit_bounds) + 1
            for index, bound in enumerate(point.explicit_bounds):
                le = (
                    "le",
                    next(
                        dict(key)["le"]
                        for n, key in scrape
                        if n == f"{name}_bucket" and float(dict(key)["le"]) == bound
                    ),
                )
                assert sum(point.bucket_counts[: index + 1]) == scrape[f"{name}_bucket", tuple(sorted((*labels, le)))]
        else:
            assert point.as_double == scrape.get((f"{name}_total", labels), scrape.get((name, labels)))
    assert "Exception" not in capsys.readouterr().out


OFF = [
    {"METRICS": "0", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"},
    {"METRICS": "1", "OTEL_METRICS_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"},
    {"METRICS": "1", "OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"},
    {"METRICS": "1", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9"},
    {"METRICS": "1"},
]


@pytest.mark.parametrize("settings", OFF)
def test_nothing_is_sent_unless_a_setting_enables_it(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str]
) -> None:
    started: list[bool] = []
    monkeypatch.setattr(push, "start", lambda: started.append(True))
    serve(**settings)
    assert ask("GET", "/healthz")[0] == 200
    assert started == []
    serve(METRICS="1", OTEL_EXPORTER_OTLP_METRICS_ENDPOINT="http://127.0.0.1:9/v1/metrics")
    assert ask("GET", "/healthz")[0] == 200
    assert started == [True]


def test_an_unreachable_collector_is_logged_and_does_not_delay_the_stop(examples: dict[str, Any]) -> None:
    settings: Any = {"METRICS": "1", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://127.0.0.1:9/v1/metrics"}
    with running("standalone", **settings) as server:
        assert server.ask("POST", "/", examples["pixels"]).status == 200
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(10) == 0
        messages = [entry for entry in entries(server.log) if entry.get("logger", "").startswith("opentelemetry")]
        assert {entry["severity"] for entry in messages} <= {"WARNING", "ERROR"}
        assert messages, server.log
