"""What settings bring and what they cost, one by one: `python -m bench.settings`.

Each line is the same server with one setting changed; the first line of a table is what the others are compared with,
in brackets. The server has one core, the load another, 16 connections, except where operations share cores: there both
use all. Lines are measured in turns; a figure is a median.
"""

import argparse
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from statistics import median

from bench import environments
from bench.environments import Unavailable
from bench.machine import about, interleaved
from bench.measure import CORES, LOAD, SERVER, Measured, first_right_answer, started, timed, under_load
from bench.models import PLANS, Model, load
from bench.page import Part, Rows, fraction, publish
from bench.process import Failed
from bench.subjects import BY_NAME, Subject
from tools.client import connect, exchange, post
from tools.load import quantile
from tools.server import free_port

TRACES = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"


@dataclass(frozen=True)
class Group:
    """Settings that are compared with each other."""

    title: str
    model: str
    variants: dict[str, dict[str, str]]  # by what a line says
    subject: str = "fast"
    all_cores: bool = False


# fmt: off
GROUPS = (
    Group("Threads of a process", "mlp", {f"THREADS={count}": {"THREADS": str(count)} for count in (8, 1, 2, 4, 16)}),
    Group("Threads of one operation, a convolutional network", "mobilenet", {
        f"INTRA_OP_THREADS={count}": {"INTRA_OP_THREADS": str(count)} for count in (1, 2, 4, 8)}, all_cores=True),
    Group("Threads of one operation, large dense layers", "dense", {
        f"INTRA_OP_THREADS={count}": {"INTRA_OP_THREADS": str(count)} for count in (1, 2)}, all_cores=True),
    Group("Observability", "mlp", {
        "no log of requests":          {"LOG_REQUESTS": "none"},
        "the default":                 {},
        "a line for each request":     {"LOG_REQUESTS": "all"},
        "metrics":                     {"METRICS": "1"},
        "traces, 1 in 100":            {TRACES: "", "OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.01"},
        "traces, all":                 {TRACES: ""},
        "predictions, not sampled":    {"LOG_PREDICTIONS": "0.000001"},
        "predictions, sampled":        {"LOG_PREDICTIONS": "1"},
    }, subject="observed"),
)
# fmt: on
OBSERVED = replace(BY_NAME["fast"], name="observed", environment="observed")


def subject_of(group: Group) -> Subject:
    return OBSERVED if group.subject == OBSERVED.name else BY_NAME[group.subject]


@contextmanager
def collector() -> Iterator[str]:
    """Receive traces and drop them; give the address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # its senders are killed
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1/traces"
    finally:
        server.shutdown()


def measure(group: Group, settings: dict[str, str], model: Model, seconds: float) -> tuple[Measured, bytes]:
    """Return what one start of the server does with these settings, and the bytes of its answer."""
    subject, port = subject_of(group), free_port()
    own = frozenset(CORES) if group.all_cores else frozenset({SERVER})
    with started(subject, model, port, set(own), settings) as process:
        request = post(port, subject.path, model.request_file.read_bytes())
        first_right_answer(process, port, request, lambda body: subject.answers(model, body))
        with connect(port) as connection:
            for _ in range(5):
                _, answer = exchange(connection, request)
            latencies = sorted(timed(connection, request)[0] for _ in range(max(model.plan.requests // 10, 10)))
        cores = own if group.all_cores else frozenset({LOAD})
        under_load(process, port, subject.path, model.request_file, seconds / 2, cores, connections=16)
        loaded = under_load(process, port, subject.path, model.request_file, seconds, cores, connections=16)
        return loaded | {"p50_ms": quantile(latencies, 0.5)}, answer


def table(samples: dict[str, list[Measured]], answers: dict[str, bytes]) -> Rows:
    columns = (
        ("requests_per_second", "req/s, 16 connections", "{:.0f}"),
        ("cpu_us", "CPU µs a request", "{:.0f}"),
        ("p50_ms", "p50 ms, 1 connection", "{:.2f}"),
    )
    rows: Rows = [["", *(heading for _, heading, _ in columns), "the same bytes"]]
    first: dict[str, float] = {}
    right = next(iter(answers.values()))
    for title, runs in samples.items():
        medians = {key: median(run[key] for run in runs) for key, _, _ in columns}
        first = first or medians
        ratios = ["" if medians is first else f" ({fraction(medians[key] / first[key])})" for key, _, _ in columns]
        cells = [form.format(medians[key]) for key, _, form in columns]
        same = "yes" if answers[title] == right else "no"
        rows.append([title, *(cell + ratio for cell, ratio in zip(cells, ratios, strict=True)), same])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.settings", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="of load for each line (default 2)")
    options = parser.parse_args()
    environments.alone()
    facts = about(interleaved(options.repeat), "python -m bench.settings")
    parts: list[Part] = [" ".join((__doc__ or "").split("\n\n", 1)[1].split())]
    environments.upload()
    try:
        with collector() as traces:
            for group in GROUPS:
                environments.make(subject_of(group).environment, print)
                model = load(group.model, print)
                samples: dict[str, list[Measured]] = {title: [] for title in group.variants}
                answers: dict[str, bytes] = {}
                for _ in range(options.repeat):
                    for title, variant in group.variants.items():
                        settings = {name: value or traces for name, value in variant.items()}
                        measured, answers[title] = measure(group, settings, model, options.seconds)
                        samples[title].append(measured)
                        print(f"{group.title}: {title} {measured['requests_per_second']:.0f}/s", flush=True)
                parts += [f"## {group.title}", PLANS[group.model].title, table(samples, answers)]
    except (Unavailable, Failed) as problem:
        sys.exit(f"bench.settings: {problem}")
    publish("settings.md", "What settings bring and cost", facts, parts)


if __name__ == "__main__":
    main()
