"""Many clients of every kind at once: each request gets its own answer or a refusal, and nothing is held afterwards."""

import gzip
import json
import os
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest

from serving.core import inflight, machine, settings
from serving.pipeline import admission
from serving.pipeline.accelerator import Quick
from serving.pipeline.handler import handle
from serving.pipeline.native import build as native
from serving.runtime import loading
from serving.runtime.model import Model
from serving.servers.standalone.loop import Loop
from tests.conftest import Serve
from tests.harness.waiting import until
from tests.models.zoo import build
from tests.pipeline.native.conftest import built

ADDS_ONE = build() / "versions" / "1"
CONNECTIONS = 8  # of a client, one after another
PATIENCE = 30  # seconds for an answer
SEED = int(os.environ.get("SEED", "1"))
PREDICT, INFER = "/v1/models/model:predict", "/v2/models/model/infer"
REFUSALS = {503, 504}
LEAST = 20  # requests that have had a slot, before the server is stopped


KINDS_OF_REQUESTS = (
    *["plain"] * 6, "options", "infer", "origin", "packed", "large", "late", "late", "wrong", "elsewhere", "foreign", "GET", "HEAD",
)  # fmt: skip


class Asked(NamedTuple):
    """A request, and the status and the values of its answer unless it is refused."""

    sent: bytes
    status: int
    values: list[float] | None = None


def post(
    body: bytes, status: int = 200, values: list[float] | None = None, path: str = PREDICT, more: str = ""
) -> Asked:
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\n{more}Content-Length: {len(body)}\r\n\r\n"
    return Asked(head.encode() + body, status, values)


def any_request(chance: random.Random) -> Asked:
    kind = chance.choice(KINDS_OF_REQUESTS)
    values = [float(chance.randrange(1 << 20))] * (20_000 if kind == "large" else chance.choice([1, 1, 3]))
    answer, body = [value + 1 for value in values], json.dumps({"instances": values}).encode()
    if kind in ("GET", "HEAD"):
        return Asked(f"{kind} /healthz HTTP/1.1\r\nHost: x\r\n\r\n".encode(), 200)
    if kind == "infer":
        tensor = {"name": "x", "shape": [len(values)], "datatype": "FP32", "data": values}
        return post(json.dumps({"inputs": [tensor]}).encode(), 200, answer, INFER)
    if kind == "late":
        seconds = chance.choice(["0", "0.001", "0.005", "0.01", "0.03"])
        return post(body, 200, answer, more=f"X-Request-Timeout: {seconds}\r\n")
    if kind == "packed":
        return post(gzip.compress(body), 200, answer, more="Content-Encoding: gzip\r\n")
    if kind == "origin":
        return post(body, 200, answer, more="Origin: https://a.example\r\nContent-Type: application/json\r\n")
    if kind == "foreign":
        return post(body, 403, more="Origin: https://a.example\r\n")
    if kind == "wrong":
        return post(b'{"instances": ["a"]}', 400)
    if kind == "elsewhere":
        return post(body, 404, path="/v1/models/none:predict")
    return post(body, 200, answer, PREDICT + ("?signature_name=serving_default" if kind == "options" else ""))


class Client:
    """A connection to the server; `check` reads its answers in the order of its requests."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self._file = self.socket.makefile("rb")
        self.is_ended = False  # the server has said that no other answer follows
        self.statuses: list[int] = []

    def send(self, *requests: Asked) -> None:
        self.socket.sendall(b"".join(request.sent for request in requests))

    def check(self, *requests: Asked) -> None:
        """Read answers, each of which must be that of its request or a refusal; raise EOFError where there is none."""
        for request in requests:
            status, body = self._read(has_body=not request.sent.startswith(b"HEAD"))
            self.statuses.append(status)
            if status in REFUSALS and request.status in (200, 400):
                assert json.loads(body)["error"]
                continue
            assert status == request.status, (request, body)
            if request.values is not None:
                answer = json.loads(body)
                values = answer["outputs"][0]["data"] if "outputs" in answer else answer["predictions"]
                assert values == request.values

    def _read(self, *, has_body: bool) -> tuple[int, bytes]:
        if not (line := self._file.readline()):
            raise EOFError
        fields = {}
        while (field := self._file.readline()) != b"\r\n":
            name, _, value = field.decode().partition(":")
            fields[name.lower()] = value.strip()
        self.is_ended = fields.get("connection") == "close"
        return int(line[9:12]), self._file.read(int(fields["content-length"])) if has_body else b""

    def ends(self) -> bool:
        return self._file.read(1) == b""

    def close(self, *, resets: bool = False) -> None:
        if resets:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._file.close()
        self.socket.close()


def one_after_another(client: Client, chance: random.Random) -> None:
    for _ in range(4):
        if not client.is_ended:
            request = any_request(chance)
            client.send(request)
            client.check(request)


def pipelined(client: Client, chance: random.Random) -> None:
    requests = [any_request(chance) for _ in range(chance.choice([2, 3, 9]))]
    client.send(*requests)
    client.check(*requests)


def half_closed(client: Client, chance: random.Random) -> None:
    requests = [any_request(chance) for _ in range(3)]
    client.send(*requests)
    client.socket.shutdown(socket.SHUT_WR)
    client.check(*requests)
    assert client.ends()


def slow(client: Client, chance: random.Random) -> None:
    request = any_request(chance)
    cut = chance.randrange(1, len(request.sent))
    client.socket.sendall(request.sent[:cut])
    time.sleep(0.01)
    client.socket.sendall(request.sent[cut:])
    client.check(request)


def gone(client: Client, chance: random.Random) -> None:
    client.send(*(any_request(chance) for _ in range(chance.choice([1, 3]))))
    time.sleep(chance.choice([0, 0.005, 0.03]))
    client.close(resets=chance.random() < 0.5)


def cut_off(client: Client, chance: random.Random) -> None:
    sent = any_request(chance).sent
    client.socket.sendall(sent[: chance.randrange(len(sent))])


KINDS = (one_after_another, one_after_another, pipelined, pipelined, half_closed, slow, gone, gone, cut_off)


def connect(port: int, number: int) -> Counter[int]:
    """Open connections of any kind, one after another, until the server has stopped; count the statuses of the answers."""
    chance, counts = random.Random(f"{SEED} {number}"), Counter[int]()
    for _ in range(CONNECTIONS):
        try:
            client = Client(port)
        except OSError:
            assert admission.stopping
            break
        act = chance.choice(KINDS)
        try:
            act(client, chance)
        except (EOFError, OSError) as error:
            assert admission.stopping
            assert not isinstance(error, TimeoutError)
            # An idle connection may be closed as its next request is on the way; of others the client knows.
            assert client.is_ended or not client.statuses or act is one_after_another
        finally:
            client.close()
        counts.update(client.statuses)
    return counts


@contextmanager
def running() -> Iterator[tuple[Loop, int]]:
    """Run the loop of a worker in a thread of this process, until `stop` or the end."""
    parent, alive = os.pipe()
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    loop = Loop(settings.current(), listener, parent, handle)
    thread = threading.Thread(target=loop.run)
    thread.start()
    try:
        yield loop, port
    finally:
        stop(loop)
        thread.join(60)
        assert not thread.is_alive()
        loop._poll.close()
        for descriptor in (parent, alive, loop._waking, loop._wake):
            os.close(descriptor)


def stop(loop: Loop) -> None:
    """Do what SIGTERM does."""
    admission.stop()
    os.write(loop.waker, b"\0")


def all_is_free(loop: Loop) -> bool:
    """Return whether no slot, run, connection or byte is held."""
    control, batching = admission.current(), loading.batching()
    queues: Any = [(slots._free == slots.count, slots._queue) for slots in (control.alone, control.sharing)]
    if batching is not None:
        queues.append((batching.queue._free == machine.cores(), batching.queue._waiting))
    return (
        all(is_free and not queue for is_free, queue in queues)
        and all(connection.busy is None for connection in [*loop._connections.values()])
        and not loop._answering._waiting
        and (control._bytes, inflight._runs, len(inflight._free)) == (0, {}, inflight.SLOTS)
    )


SERVED = [
    # BATCH_ROWS   native codec   clients   stopped while they ask
    ("0",          True,          40,       False),
    ("0",          True,          3,        False),  # most requests find a slot free
    ("0",          False,         40,       True),
    ("16",         True,          40,       False),
    ("16",         True,          40,       True),
    ("16",         False,         40,       False),
]  # fmt: skip


@pytest.mark.parametrize(("rows", "codec", "count", "stops"), SERVED)
def test_each_request_gets_its_own_answer_or_a_refusal_and_then_all_slots_are_free(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, rows: str, codec: bool, count: int, stops: bool
) -> None:
    chance = random.Random(SEED)

    def slowed(run: Callable[..., Any]) -> Callable[..., Any]:
        def run_later(*arguments: Any) -> Any:
            time.sleep(chance.choice([0, 0, 0.002, 0.02]))
            return run(*arguments)

        return run_later

    extension = str(built(native.cached)) if codec else "off"
    options = {"MODEL_NAME": "model", "MAX_ROWS": "100000", "LOG_REQUESTS": "none", "THREADS": "4", "MAX_WAIT": "0.2"}
    ask = serve(ADDS_ONE, BATCH_ROWS=rows, ACCELERATOR=extension, **options)
    assert ask("POST", "/", {"instances": [1.0]}).status == 200
    for owner, name in ((Quick, "alone"), (Quick, "together"), (Model, "run")):
        monkeypatch.setattr(owner, name, slowed(getattr(owner, name)))
    answers = Counter[int]()
    with running() as (loop, port), ThreadPoolExecutor(count) as pool:
        clients = [pool.submit(connect, port, number) for number in range(count)]
        if stops:
            until(lambda: admission.current().alone._done + admission.current().sharing._done > LEAST)
            stop(loop)
        if any(client.exception() for client in wait(clients, return_when=FIRST_EXCEPTION).done):
            stop(loop)  # the others need not go on
        for client in clients:
            answers += client.result()
        until(lambda: all_is_free(loop))
        if not stops:
            last, request = Client(port), post(b'{"instances": [1]}', 200, [2.0])
            last.send(request)
            last.check(request)
            assert last.statuses == [200]
            last.close()
        until(lambda: not loop._connections)
    assert answers.keys() <= {200, 400, 403, 404, *REFUSALS}
    assert answers[200]
