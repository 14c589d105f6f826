"""What it costs to be seen from outside: the log, Server-Timing, metrics and traces: `python -m bench.observe`.

In process: the CPU time of one request through the WSGI door (`time.thread_time_ns`), in one process for each way, all
of them alive at once and asked in turn, round by round; a cost is the median over the rounds of what a way takes more
than nothing does in the same round. Requests come one by one there, so that each writes its own line, into a pipe that
somebody reads; what a thread of the library's does later is not in it. Under load (16 connections) lines are written
together. It counts answers for each CPU second of Granian on one core, all of its threads included.
"""

import argparse
import io
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from statistics import median

from bench.client import post
from bench.compiled import compile_all
from bench.machine import about
from bench.measure import LOAD, SERVER, first_right_answer, started, under_load
from bench.models import ROOT, Model, load
from bench.page import Part, publish
from bench.process import clean
from bench.subjects import BY_NAME, free_port

TRACES = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
UNSEEN = "UNSEEN"  # a variable of this script's: the handler's answer as it is, without what tells of it

# fmt: off
WAYS: dict[str, dict[str, str]] = {
    "nothing":                       {UNSEEN: "1"},
    "Server-Timing":                 {"LOG_REQUESTS": "none"},
    "the default: 100 lines/s too":  {},
    "a line for each request":       {"LOG_REQUESTS": "all"},
    "default and metrics":           {"METRICS": "1"},
    "default and traces, 1 in 100":  {TRACES: "", "OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.01"},
    "default and traces, all":       {TRACES: ""},
}
# fmt: on
BASE = "nothing"
LOADED = [way for way in WAYS if way != BASE]  # those that a server has


def child(path: str, body_file: str) -> None:
    """Measure when a line with a number of requests comes; answer with their median, in microseconds, to `stderr`."""
    from serving import handler, observe, settings, wsgi

    observe.begin(settings.current())
    if os.environ.get(UNSEEN):
        wsgi.handle = handler.answer
    with open(body_file, "rb") as file:
        body = file.read()
    environ = {
        "REQUEST_METHOD": "POST", "PATH_INFO": path, "QUERY_STRING": "", "CONTENT_LENGTH": str(len(body)),
        "CONTENT_TYPE": "application/json", "HTTP_HOST": "127.0.0.1", "HTTP_USER_AGENT": "bench/1.0",
    }  # fmt: skip

    def ask() -> int:
        told = {**environ, "wsgi.input": io.BytesIO(body)}
        began = time.thread_time_ns()
        wsgi.app(told, lambda status, _headers: None)
        return time.thread_time_ns() - began

    for line in sys.stdin:
        took = median(ask() for _ in range(int(line)))
        print(f"took {took / 1000:.3f}", file=sys.stderr, flush=True)


class Child:
    """A process that serves one way."""

    def __init__(self, model: Model, settings: dict[str, str]) -> None:
        subject = BY_NAME["fast"]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.observe", "--child", subject.path, str(model.request_file)],
            cwd=ROOT, env={**clean(), "MODEL_DIR": str(model.saved_model), **settings},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._process.stdout
        # As a platform does, somebody reads the log.
        self._reader = subprocess.Popen(["cat"], stdin=self._process.stdout, stdout=subprocess.DEVNULL)
        self._process.stdout.close()

    def ask(self, requests: int) -> float:
        process = self._process
        assert process.stdin
        assert process.stderr
        print(requests, file=process.stdin, flush=True)
        for line in process.stderr:
            if line.startswith("took "):
                return float(line[5:])
        raise SystemExit(f"bench.observe: a child ended with status {process.wait()}")

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.wait()


@contextmanager
def collector() -> Iterator[str]:
    """Take traces, and throw them away; give the address."""

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
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a sender that was ended
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1/traces"
    finally:
        server.shutdown()


def settings_of(way: str, traces: str) -> dict[str, str]:
    return {name: traces if name == TRACES else value for name, value in WAYS[way].items()}


def in_process(model: Model, rounds: int, requests: int, traces: str) -> dict[str, list[float]]:
    """Give the microseconds of every way, a figure for each round."""
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    with ExitStack() as ends:
        children = {}
        for way in WAYS:
            children[way] = Child(model, settings_of(way, traces))
            ends.callback(children[way].end)
        for one in children.values():
            one.ask(requests)  # warm
        for number in range(rounds):
            ways = list(WAYS)
            for way in ways[number % len(ways) :] + ways[: number % len(ways)]:
                found[way].append(children[way].ask(requests))
    return found


def loaded(model: Model, rounds: int, seconds: float, traces: str) -> dict[str, list[float]]:
    """Give the answers for each CPU second of every way."""
    found: dict[str, list[float]] = {way: [] for way in LOADED}
    for number in range(rounds):
        for way in LOADED[number % len(LOADED) :] + LOADED[: number % len(LOADED)]:
            told = settings_of(way, traces)
            subject, port = replace(BY_NAME["fast"], settings=lambda _model, told=told: told), free_port()
            with started(subject, model, port, {SERVER}) as process:
                request = post(port, subject.path, model.request_file.read_bytes())
                first_right_answer(process, port, request, subject, model)
                under_load(process, port, subject.path, model.request_file, seconds / 2, {LOAD})
                figures = under_load(process, port, subject.path, model.request_file, seconds, {LOAD})
            found[way].append(figures["requests_per_cpu_second"])
            print(f"{way}: {found[way][-1]:.0f} requests a CPU second", flush=True)
    return found


def costs(found: dict[str, list[float]]) -> Part:
    table = [["told", "µs a request", "more than nothing"]]
    for way, figures in found.items():
        more = median(one - base for one, base in zip(figures, found[BASE]))
        table.append([way, f"{median(figures):.1f}", "" if way == BASE else f"{more:+.1f}"])
    return table


def shares(found: dict[str, list[float]]) -> Part:
    first = next(iter(found))
    table = [["told", "requests a CPU second", f"of {first} alone"]]
    for way, figures in found.items():
        share = median(one / base for one, base in zip(figures, found[first]))
        table.append([way, f"{median(figures):.0f}", f"{share:.2f}"])
    return table


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.observe", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15, help="rounds in process, interleaved (default 15)")
    parser.add_argument("--requests", type=int, default=1500, help="requests of a round (default 1500)")
    parser.add_argument("--loads", type=int, default=5, help="rounds under load, interleaved (default 5); 0: none")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each load (default 2)")
    parser.add_argument("--child", nargs=2, metavar=("PATH", "BODY"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(*options.child)
        return
    compile_all()
    facts = about(options.rounds, "python -m bench.observe")
    model = load("mlp", print)
    parts: list[Part] = [" ".join((__doc__ or "").partition("\n\n")[2].split())]
    with collector() as traces:
        parts += ["## In process", costs(in_process(model, options.rounds, options.requests, traces))]
        if options.loads:
            parts += ["## Under load", shares(loaded(model, options.loads, options.seconds, traces))]
    publish("OBSERVE.md", "What it costs to be seen from outside", facts, parts)


if __name__ == "__main__":
    main()
