"""Sends this process's metrics to OTEL_EXPORTER_OTLP_ENDPOINT, every OTEL_METRIC_EXPORT_INTERVAL and when it ends.

A scrape misses an instance that comes and goes between two of them; what is sent when an instance ends is its whole
count. The values are those of `metrics`, cumulative since the process began, in OpenTelemetry's data model
<https://opentelemetry.io/docs/specs/otel/metrics/data-model/>; its own exporter sends them. Each process is an instance
of the service (`service.instance.id`), so the sum over all is that of all workers.
"""

import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

from serving import __version__
from serving.core.settings import Settings
from serving.core.telemetry import metrics, tracing
from serving.core.telemetry.background import Periodic
from serving.core.telemetry.log import log

pending = False  # metrics are to be sent, and no thread of this process does it yet
_options: Settings | None = None
_periodic: Periodic | None = None
_began = time.time_ns()
_lock = threading.Lock()


def begin(options: Settings) -> None:
    """Import the exporter unless the settings forbid it; called before a fork, and starts no thread."""
    global pending, _options
    pending = False
    if options.otel_sdk_disabled or options.otel_metrics_exporter == "none":
        return
    try:
        import opentelemetry.exporter.otlp.proto.http.metric_exporter
        import opentelemetry.sdk.metrics.export
        import opentelemetry.sdk.resources
        import opentelemetry.sdk.util.instrumentation  # noqa: F401
    except ImportError:
        log("WARNING", f"METRICS=1 and OTEL_EXPORTER_OTLP_ENDPOINT are set, but {tracing.MISSING}")
        return
    pending, _options = True, options


def start() -> None:
    """Start the thread of this process that sends the metrics."""
    global pending, _periodic
    with _lock:
        if not pending:
            return
        pending = False
    assert _options
    sdk = sys.modules["opentelemetry"]
    resource = tracing.resource(sdk.sdk, _options, **{"service.instance.id": os.urandom(16).hex()})
    exporter = sdk.exporter.otlp.proto.http.metric_exporter.OTLPMetricExporter()
    _periodic = Periodic(lambda _last: exporter.export(_data(resource)), _options.otel_metric_export_interval / 1000)


def _data(resource: Any) -> Any:
    """Return all metrics in the SDK's form."""
    from opentelemetry.sdk.metrics import export
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

    now = time.time_ns()
    converted = [_metric(export, family, now) for family in metrics.families() if family.samples]
    scope = export.ScopeMetrics(InstrumentationScope("serving", __version__), converted, "")
    return export.MetricsData([export.ResourceMetrics(resource, [scope], "")])


def _metric(export: Any, family: Any, now: int) -> Any:
    """Return one of prometheus_client's metrics in the SDK's form."""
    cumulative = export.AggregationTemporality.CUMULATIVE
    if family.type == "histogram":
        points = [
            export.HistogramDataPoint(labels, _began, now, int(count), total, counts, bounds, None, None)
            for labels, count, total, counts, bounds in _histograms(family.samples)
        ]
        return export.Metric(family.name, family.documentation, "", export.Histogram(points, cumulative))
    points = [
        export.NumberDataPoint(sample.labels, _began, now, sample.value)
        for sample in family.samples
        if not sample.name.endswith("_created")
    ]
    data = export.Sum(points, cumulative, True) if family.type == "counter" else export.Gauge(points)
    return export.Metric(family.name, family.documentation, "", data)


def _histograms(samples: Iterable[Any]) -> Iterator[tuple[dict[str, str], float, float, list[int], list[float]]]:
    """Yield labels, count, sum, the counts of the buckets and their bounds, the last without one."""
    by_labels: dict[tuple[tuple[str, str], ...], dict[str, Any]] = {}
    for sample in samples:
        labels = {name: value for name, value in sample.labels.items() if name != "le"}
        parts = by_labels.setdefault(tuple(labels.items()), {"labels": labels, "buckets": []})
        if "le" in sample.labels:
            parts["buckets"].append((float(sample.labels["le"]), int(sample.value)))
        else:
            parts[sample.name.rpartition("_")[2]] = sample.value
    for parts in by_labels.values():
        bounds, totals = zip(*sorted(parts["buckets"]))
        counts = [total - before for total, before in zip(totals, (0, *totals))]  # Prometheus' are cumulative
        yield parts["labels"], parts["count"], parts["sum"], counts, list(bounds[:-1])


def _after_fork() -> None:
    global _began, _lock
    _began, _lock = time.time_ns(), threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
