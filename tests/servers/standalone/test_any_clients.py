"""Many clients of every kind at once: each request gets its own answer or a refusal, and nothing is held afterwards."""

import gzip
import json
import os
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import pytest

from serving.core import inflight, settings
from serving.pipeline import admission
from serving.pipeline.accelerator import Quick
from serving.pipeline.handler import handle
from serving.pipeline.native import build as native
from serving.runtime import loading
from serving.runtime.model import Model
from serving.servers.standalone.loop import Loop
from tests.conftest import Serve
from tests.models.zoo import build
from tests.pipeline.native.conftest import built

ADDS_ONE = build() / "versions" / "1"
CLIENTS, TURNS = 40, 8
REFUSED = {503, 504}


class Ask(NamedTuple):
    """A request, and what its answer may be: a status, and the values in the body where that is 200."""

    sent: bytes
    status: int
    values: list[float] | None = None
    is_head: bool = False


def ask(chance: random.Random) -> Ask:
    """Return a request of any kind."""
    kind = chance.choice(["plain"] * 6 + ["infer", "late", "bad", "large", "gzip", "other", "live", "head", "query", "page"])
    number = chance.randrange(1 << 20)
    values = [float(number)] * (20_000 if kind == "large" else chance.choice([1, 1, 1, 3]))
    body, path, more = json.dumps({"instances": values}).encode(), "/v1/models/model:predict", ""
    if kind in ("live", "head"):
        return Ask(f"{'GET' if kind == 'live' else 'HEAD'} /healthz HTTP/1.1\r\nHost: x\r\n\r\n".encode(), 200, None, kind == "head")
    if kind == "infer":
        tensor = {"name": "x", "shape": [len(values)], "datatype": "FP32", "data": values}
        body, path = json.dumps({"inputs": [tensor]}).encode(), "/v2/models/model/infer"
    elif kind == "late":
        more = f"X-Request-Timeout: {chance.choice(['0', '0.001', '0.01', '0.03'])}\r\n"
    elif kind == "bad":
        return _post(b'{"instances": ["a"]}', path, "", 400, None)
    elif kind == "gzip":
        body, more = gzip.compress(body), "Content-Encoding: gzip\r\n"
    elif kind == "other":
        return _post(body, "/v1/models/none:predict", "", 404, None)
    elif kind == "query":
        path += "?signature_name=serving_default"
    elif kind == "page":
        more = "Origin: https://a.example\r\nContent-Type: application/json\r\n"
    return _post(body, path, more, 200, [value + 1 for value in values])


def _post(body: bytes, path: str, more: str, status: int, values: list[float] | None) -> Ask:
    return Ask(f"POST {path} HTTP/1.1\r\nHost: x\r\n{more}Content-Length: {len(body)}\r\n\r\n".encode() + body, status, values)


class Client:
    """A connection that knows what it asks."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.file = self.socket.makefile("rb")
        self.ends = False  # the server has said that it closes the connection
        self.answers = 0

    def check(self, asked: Ask) -> int:
        """Read one answer, which must be the right one or a refusal; return its status."""
        if not (line := self.file.readline()):
            raise EOFError
        assert line.startswith(b"HTTP/1.1 "), line
        status, length = int(line[9:12]), 0
        while (field := self.file.readline()) != b"\r\n":
            if field.lower().startswith(b"content-length:"):
                length = int(field[15:])
            self.ends = self.ends or field.lower() == b"connection: close\r\n"
        body = b"" if asked.is_head else self.file.read(length)
        self.answers += 1
        if status in REFUSED and asked.status != 404:
            assert "error" in json.loads(body)
            return status
        assert status == asked.status, (status, body, asked.sent[:200])
        if asked.values is not None:
            answer = json.loads(body)
            assert (answer["outputs"][0]["data"] if "outputs" in answer else answer["predictions"]) == asked.values
        return status

    def close(self, *, rudely: bool = False) -> None:
        if rudely:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.file.close()
        self.socket.close()


def sequential(client: Client, chance: random.Random) -> list[int]:
    statuses = []
    for _ in range(4):
        if client.ends:
            break
        asked = ask(chance)
        client.socket.sendall(asked.sent)
        statuses.append(client.check(asked))
    return statuses


def pipelined(client: Client, chance: random.Random) -> list[int]:
    asks = [ask(chance) for _ in range(chance.choice([2, 3, 9]))]
    client.socket.sendall(b"".join(asked.sent for asked in asks))
    return [client.check(asked) for asked in asks]


def half_closed(client: Client, chance: random.Random) -> list[int]:
    asks = [ask(chance) for _ in range(3)]
    client.socket.sendall(b"".join(asked.sent for asked in asks))
    client.socket.shutdown(socket.SHUT_WR)
    statuses = [client.check(asked) for asked in asks]
    assert client.file.read() == b""
    return statuses


def slow(client: Client, chance: random.Random) -> list[int]:
    asked = ask(chance)
    cut = chance.randrange(1, len(asked.sent))
    for part in (asked.sent[:cut], asked.sent[cut:]):
        client.socket.sendall(part)
        time.sleep(0.01)
    return [client.check(asked)]


def gone(client: Client, chance: random.Random) -> list[int]:
    client.socket.sendall(b"".join(ask(chance).sent for _ in range(chance.choice([1, 3]))))
    time.sleep(chance.choice([0, 0.005, 0.03]))
    client.close(rudely=chance.random() < 0.5)
    return []


def cut_off(client: Client, chance: random.Random) -> list[int]:
    sent = ask(chance).sent
    client.socket.sendall(sent[: chance.randrange(len(sent))])
    client.close()
    return []


KINDS = (sequential, sequential, pipelined, pipelined, half_closed, slow, gone, gone, cut_off)


def clients(port: int, seed: int) -> list[int]:
    """Be one client after another; return the statuses of all answers."""
    chance, statuses = random.Random(seed), []
    for _ in range(TURNS):
        client = Client(port)
        try:
            statuses += chance.choice(KINDS)(client, chance)
        finally:
            client.close()
    return statuses


@contextmanager
def running(stops: bool = True) -> Iterator[tuple[Loop, int]]:
    """Run the loop of a worker in a thread of this process."""
    parent, alive = os.pipe()
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    loop = Loop(settings.current(), listener, parent, handle)
    thread = threading.Thread(target=loop.run)
    thread.start()
    try:
        yield loop, port
    finally:
        admission.stop()
        os.write(loop.waker, b"\0")
        thread.join(30)
        loop._poll.close()
        for descriptor in (parent, alive, loop._waking, loop._wake):
            os.close(descriptor)
        assert not thread.is_alive()


@pytest.fixture(params=["0", "16"])
def rows(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def slowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each run of the model take up to 20 ms."""
    chance = random.Random(7)

    def later(run: Callable[..., Any]) -> Callable[..., Any]:
        def run_later(*arguments: Any) -> Any:
            time.sleep(chance.choice([0, 0, 0.002, 0.02]))
            return run(*arguments)

        return run_later

    monkeypatch.setattr(Quick, "alone", later(Quick.alone))
    monkeypatch.setattr(Quick, "together", later(Quick.together))
    monkeypatch.setattr(Model, "run", later(Model.run))


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


SEEDS = [int(x) for x in os.environ.get("SEEDS", "1").split(",")]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("codec", ["native", "off"])
def test_any(serve: Serve, monkeypatch: pytest.MonkeyPatch, rows: str, codec: str, seed: int) -> None:
    extension = str(built(native.cached)) if codec == "native" else "off"
    one = serve(ADDS_ONE, BATCH_ROWS=rows, ACCELERATOR=extension, THREADS="4", MAX_WAIT="0.2", LOG_REQUESTS="none", MODEL_NAME="model", MAX_ROWS="100000")
    assert one("POST", "/", {"instances": [1.0]}).status == 200
    slowed(monkeypatch)
    with running() as (loop, port):
        began = time.monotonic()
        with ThreadPoolExecutor(CLIENTS) as pool:
            statuses = [status for part in pool.map(lambda n: clients(port, seed * 1000 + n), range(CLIENTS)) for status in part]
        print(rows, codec, {status: statuses.count(status) for status in sorted(set(statuses))}, round(time.monotonic() - began, 2), "s",
              "threads", threading.active_count(), loop._answering._pool._count)
        control = admission.current()
        until(lambda: all(connection.busy is None for connection in [*loop._connections.values()]))
        for slots in (control.alone, control.sharing):
            until(lambda slots=slots: slots._free == slots.count)
            assert not slots._queue
        until(lambda: not inflight._runs)
        assert not loop._answering._waiting
        assert len(inflight._free) == inflight.SLOTS
        assert control._bytes == 0
        batching = loading.batching()
        if batching is not None:
            assert (batching.queue._free, len(batching.queue._waiting)) == (2, 0)
        client = Client(port)
        asked = _post(b'{"instances": [1]}', "/", "", 200, [2.0])
        client.socket.sendall(asked.sent)
        assert client.check(asked) == 200
        client.close()
        until(lambda: not loop._connections)
        assert 200 in statuses and set(statuses) <= {200, 400, 404, 503, 504}
