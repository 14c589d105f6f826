"""The load generator counts answers, refusals, failures and times."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bench.measure import CORES
from tools.load import SHARES, load


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
def test_the_load_generator_counts_the_servers_answers(
    started: list[Server], body: Path, statuses: list[int], close: bool, rate: int
) -> None:
    started.append(server := Server(statuses, close))
    loaded = load(server.server_port, "/", body, 0.5, set(CORES), connections=64 if rate else 4, rate=rate)
    assert loaded.answered == server.answered[200] > 0
    assert loaded.refused == sum(count for status, count in server.answered.items() if status in (429, 503))
    assert loaded.failed == sum(count for status, count in server.answered.items() if status in (0, 500))
    assert 0 < loaded.p50_ms <= loaded.p99_ms
    assert list(loaded.quantiles_ms) == sorted(loaded.quantiles_ms)
    assert (loaded.quantiles_ms[SHARES.index(0.5)], loaded.quantiles_ms[SHARES.index(0.99)]) == (
        loaded.p50_ms,
        loaded.p99_ms,
    )
    assert loaded.busy > 0
    if rate:
        assert sum(server.answered.values()) <= 0.5 * rate + 1  # fewer where the machine is too busy to send them


def test_a_server_that_is_gone_ends_the_load_with_failures(started: list[Server], body: Path) -> None:
    started.append(server := Server([200], False))
    server.server_close()
    loaded = load(server.server_port, "/", body, 0.2, set(CORES), connections=4)
    assert loaded.answered == loaded.refused == 0
    assert loaded.failed > 0
