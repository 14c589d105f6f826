"""Metrics for Prometheus, at GET /metrics if METRICS=1, through prometheus_client, which only this module imports.

    serving_requests_total            {protocol, action, status}   status: 2xx, 4xx, 5xx
    serving_request_seconds           {protocol, action}           a histogram
    serving_step_seconds              {step}                       a histogram; decode, run, encode
    serving_rows_total                {protocol, action}
    serving_refused_total             {status}                     413, 429, 503, 504
    serving_native_requests_total     {outcome}                    accelerated, refused, or why Python answered
    serving_logged_predictions_total  {outcome}                    lines of LOG_PREDICTIONS: written, lost
    serving_requests_in_flight
    serving_loads_total               {outcome}                    loaded, failed
    serving_cold_requests_total                                    arrived before the model was loaded
    serving_start_seconds             {phase}                      the phases of the start, see `phases`

No label has a value that a client chooses (paths, names, versions), so clients cannot add series.

With OTEL_EXPORTER_OTLP_ENDPOINT they are also sent to a collector, see `push`.

Several workers write to files in one folder, which `begin` makes before the fork; any worker exposes the sums of all.
"""

import atexit
import os
from collections.abc import Callable, Iterator
from typing import Any

from serving.core.settings import Settings
from serving.core.telemetry import phases
from serving.core.telemetry.log import log

# fmt: off
REQUEST_SECONDS = (.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60)
STEP_SECONDS = (.00001, .000025, .00005, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 5)
# fmt: on
STEPS = ("decode", "run", "encode")
REFUSED = (413, 429, 503, 504)

on = False
_meters: "Meters | None" = None


class Meters:
    """The metrics of this process."""

    def __init__(self, client: Any, shared: str) -> None:
        """Make the metrics; `shared` is the folder that several workers share, empty for one worker."""
        self.client, self.shared = client, shared
        self.registry = client.CollectorRegistry()
        # Several workers' metrics are collected from their files, not from this process.
        own = None if shared else self.registry
        self.process = client.ProcessCollector(registry=own)

        def counter(name: str, help_: str, *labels: str) -> Any:
            return client.Counter(name, help_, labels, registry=own)

        requests = "protocol", "action"
        self.requests = counter("serving_requests", "Requests answered.", *requests, "status")
        self.seconds = client.Histogram(
            "serving_request_seconds", "From the request's head to its response.", requests,
            registry=own, buckets=REQUEST_SECONDS,
        )  # fmt: skip
        self.steps = client.Histogram(
            "serving_step_seconds", "The steps of a prediction.", ("step",), registry=own, buckets=STEP_SECONDS,
        )  # fmt: skip
        self.rows = counter("serving_rows", "Rows predicted.", *requests)
        self.refused = counter("serving_refused", "Requests too large, too many, too early, too late.", "status")
        self.loads = counter("serving_loads", "Loads of the model.", "outcome")
        self.cold = counter("serving_cold_requests", "Requests that arrived before the model was loaded.")
        self.native = counter(
            "serving_native_requests", "Predictions: accelerated, refused, or why Python answered.", "outcome"
        )
        self.logged = counter("serving_logged_predictions", "Lines of LOG_PREDICTIONS.", "outcome")
        self.flying = client.Gauge(
            "serving_requests_in_flight", "Requests begun and not answered.", registry=own, multiprocess_mode="livesum",
        )  # fmt: skip
        self.start = client.Gauge(
            "serving_start_seconds", "The parts of the start of a process.", ("phase",),
            registry=own, multiprocess_mode="max",
        )  # fmt: skip
        self.all = (
            self.requests, self.seconds, self.steps, self.rows, self.refused, self.loads, self.cold, self.native,
            self.logged, self.flying, self.start, self.process,
        )  # fmt: skip
        self.by_step = [self.steps.labels(step) for step in STEPS]
        self.by_request: dict[tuple[str, str, str], tuple[Any, Any, Any]] = {}  # `labels` takes a lock

    def of(self, protocol: str, action: str, status: str) -> tuple[Any, Any, Any]:
        """Return the counter, the histogram and the row counter of requests with these labels."""
        meters = self.by_request.get((protocol, action, status))
        if meters is None:
            meters = (
                self.requests.labels(protocol, action, status),
                self.seconds.labels(protocol, action),
                self.rows.labels(protocol, action),
            )
            self.by_request[protocol, action, status] = meters
        return meters


def begin(options: Settings) -> None:
    """Import the library and make the metrics if METRICS=1."""
    global on, _meters
    if not options.metrics:
        on = False
        return
    shared = _share(options)
    try:
        import prometheus_client
        import prometheus_client.multiprocess
        import prometheus_client.openmetrics.exposition
    except ImportError:
        log("WARNING", f"METRICS=1, but {MISSING}")
        return
    _meters = Meters(prometheus_client, shared)
    on = True


MISSING = "prometheus_client is not installed: pip install -r requirements/observe.txt"


def _share(options: Settings) -> str:
    """Return the folder in which workers share metrics, made if the setting names none; "" for one worker."""
    if options.prometheus_multiproc_dir is None and options.workers > 1:
        return _folder()
    return str(options.prometheus_multiproc_dir or "")


def _folder() -> str:
    """Make a folder for this process and those that it forks; it is deleted when this one ends."""
    import shutil
    import tempfile

    folder, process = tempfile.mkdtemp(prefix="metrics-"), os.getpid()
    atexit.register(lambda: shutil.rmtree(folder, ignore_errors=True) if os.getpid() == process else None)
    os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", folder)  # before the library is imported, which reads it then
    return folder


def count(protocol: str, action: str, status: int, steps: tuple[int | None, ...], rows: int, cold: bool) -> None:
    """Count an answered request; `steps` are decode, run, encode and the total, in microseconds."""
    assert _meters
    requests, seconds, counted = _meters.of(protocol, action, f"{status // 100}xx")
    requests.inc()
    seconds.observe((steps[3] or 0) / 1e6)
    if rows:
        counted.inc(rows)
    for meter, microseconds in zip(_meters.by_step, steps):
        if microseconds is not None:
            meter.observe(microseconds / 1e6)
    if status in REFUSED:
        _meters.refused.labels(str(status)).inc()
    if cold:
        _meters.cold.inc()


def count_native(outcome: str) -> None:
    """Count a prediction by its outcome in the native codec."""
    assert _meters
    _meters.native.labels(outcome).inc()


def count_logged(outcome: str, lines: int) -> None:
    """Count lines of LOG_PREDICTIONS: written or lost."""
    if on and _meters:
        _meters.logged.labels(outcome).inc(lines)


def began() -> None:
    """Count a request that is in flight until `ended`."""
    if _meters:
        _meters.flying.inc()


def ended() -> None:
    """Count the request as no longer in flight."""
    if _meters:
        _meters.flying.dec()


def loaded(outcome: str) -> None:
    """Count a load of the model: loaded or failed."""
    if on and _meters:
        _meters.loads.labels(outcome).inc()


def expose(accept: str) -> tuple[bytes, str]:
    """Return all metrics in a format that the scraper accepts, and its content type; raise LookupError if disabled."""
    if not on or _meters is None:
        raise LookupError(MISSING)
    _set_phases(_meters)
    registry = _meters.registry
    if _meters.shared:
        multiprocess = _meters.client.multiprocess
        _drop_ended_workers(multiprocess.mark_process_dead, _meters.shared)
        registry = _meters.client.CollectorRegistry()
        multiprocess.MultiProcessCollector(registry, path=_meters.shared)
    encode, content_type = _meters.client.exposition.choose_encoder(accept)
    return encode(registry), content_type


def families() -> Iterator[Any]:
    """Yield the metrics of this process alone, as prometheus_client's `Metric`s."""
    assert _meters
    _set_phases(_meters)
    for meter in _meters.all:
        yield from meter.collect()


def _set_phases(meters: Meters) -> None:
    for phase, seconds in phases.durations().items():
        meters.start.labels(phase).set(seconds)


def _drop_ended_workers(forget: Callable[[int, str], None], shared: str) -> None:
    """Drop the requests in flight of workers that have ended."""
    for name in os.listdir(shared):
        _, _, process = name.removesuffix(".db").rpartition("_")
        if name.startswith("gauge_live") and process.isdecimal() and not os.path.exists(f"/proc/{process}"):
            forget(int(process), shared)
