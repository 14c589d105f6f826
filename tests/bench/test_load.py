"""The load generator counts what a server really did, and a budget is met only by figures that were measured."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from operator import le
from pathlib import Path

import pytest

from bench.budgets import Budget, verdicts
from bench.measure import CORES
from bench.page import markdown
from bench.report import Results, parts
from tools.load import load


class Server(ThreadingHTTPServer):
    """Answers with these statuses in turn; 0 closes the connection. Counts what it answered."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, statuses: list[int], close: bool) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.statuses, self.close, self.answered = statuses, close, dict.fromkeys(statuses, 0)
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        assert self.rfile.read(int(self.headers["Content-Length"])) == b'{"instances": []}'
        with self.server.lock:
            status = self.server.statuses[sum(self.server.answered.values()) % len(self.server.statuses)]
            self.server.answered[status] += 1
        if not status:
            self.close_connection = True
            return
        self.send_response(status)
        self.send_header("Content-Length", "2")
        if self.server.close:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *arguments: object) -> None: ...


@pytest.fixture
def body(tmp_path: Path) -> Path:
    file = tmp_path / "body.json"
    file.write_text('{"instances": []}')
    return file


@pytest.fixture
def started() -> Iterator[list[Server]]:
    servers: list[Server] = []
    yield servers
    for server in servers:
        server.shutdown()
        server.server_close()


# statuses                  connections are closed   rate
CASES = [
    ([200],                 False,                   0),
    ([200],                 True,                    0),
    ([200, 503],            False,                   0),
    ([200, 503, 429],       True,                    0),
    ([200, 500],            False,                   0),
    ([200, 200, 0],         False,                   0),
    ([200, 503],            False,                   50),
]  # fmt: skip


@pytest.mark.parametrize(("statuses", "close", "rate"), CASES)
def test_what_the_load_counts_is_what_the_server_did(
    started: list[Server], body: Path, statuses: list[int], close: bool, rate: int
) -> None:
    started.append(server := Server(statuses, close))
    loaded = load(server.server_port, "/", body, 0.5, set(CORES), connections=64 if rate else 4, rate=rate)
    assert loaded.answered == server.answered[200] > 0
    assert loaded.refused == sum(count for status, count in server.answered.items() if status in (429, 503))
    assert loaded.failed == sum(count for status, count in server.answered.items() if status in (0, 500))
    assert 0 < loaded.p50_ms <= loaded.p99_ms
    if rate:
        assert sum(server.answered.values()) <= 0.5 * rate + 1  # fewer where the machine is too busy to send them


def test_a_server_that_is_gone_ends_the_load_with_failures(started: list[Server], body: Path) -> None:
    started.append(server := Server([200], False))
    server.server_close()
    loaded = load(server.server_port, "/", body, 0.2, set(CORES), connections=4)
    assert loaded.answered == loaded.refused == 0
    assert loaded.failed > 0


BUDGET = Budget("ours", "start_seconds", le, 0.5, "naive")
# ours                      naive                     verdict
VERDICTS = [
    ({"start_seconds": 1.0}, {"start_seconds": 2.0},  "met"),
    ({"start_seconds": 1.1}, {"start_seconds": 2.0},  "MISSED"),
    ({"start_seconds": 1.0}, {},                      "not measured"),
    ({},                     {"start_seconds": 2.0},  "not measured"),
]  # fmt: skip


@pytest.mark.parametrize(("ours", "naive", "word"), VERDICTS)
def test_a_budget_is_met_only_where_both_sides_were_measured(
    monkeypatch: pytest.MonkeyPatch, ours: dict[str, float], naive: dict[str, float], word: str
) -> None:
    monkeypatch.setattr("bench.budgets.BUDGETS", (BUDGET,))
    (verdict,) = verdicts({"mlp": {"ours": ours, "naive": naive}})
    assert verdict.word == word


def test_a_budget_compares_two_models_where_it_names_two(monkeypatch: pytest.MonkeyPatch) -> None:
    budget = Budget("baked", "start_seconds", le, 1.3, "baked", model="mobilenet", of_model="mlp")
    monkeypatch.setattr("bench.budgets.BUDGETS", (budget,))
    small, large = {"baked": {"start_seconds": 2.0}}, {"baked": {"start_seconds": 2.5}}
    assert [(verdict.ratio, verdict.word) for verdict in verdicts({"mlp": small, "mobilenet": large})] == [
        (1.25, "met")
    ]
    assert verdicts({"mobilenet": large}) == []


def test_the_page_names_each_subject_that_was_not_measured_with_its_reason() -> None:
    results = Results()
    results.add("mlp", "naive", {"start_seconds": 2.0, "start: model": 3.0})
    results.add("mlp", "naive", {"start_seconds": 4.0, "start: model": 5.0})
    results.fail("mlp", "mosec", "not measured: it cannot be installed")
    results.fail("digits", "twin", "not measured: strings")
    text = "\n".join(markdown(part) for part in parts(results, [1, 16]))
    assert "| naive | 3.000 |" in text
    assert "- mosec: not measured: it cannot be installed" in text
    assert "- twin: not measured: strings" in text
    assert json.dumps("ours") not in text
