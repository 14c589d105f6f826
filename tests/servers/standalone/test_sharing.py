"""With dynamic batching requests share runs, and each client gets the answer that it gets without."""

import json
import socket
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from serving.pipeline.native import build
from tests.conftest import EMBEDDED, plain_environment
from tests.harness.waiting import until
from tests.models.zoo import build as zoo
from tests.pipeline.native.conftest import built
from tests.server import Server, running
from tests.servers.standalone.hanging import BEHIND, HANGS, HOLDS
from tools.server import free_port, spawn

PATH = "/v1/models/model:predict"
HALF = zoo() / "versions" / "1"


def requests(examples: dict[str, Any]) -> list[bytes]:
    """Return bodies: pictures and pixels, a picture that is none, a body for Python, and one that is no JSON."""
    pictures, pixels = examples["serving_default"]["instances"], examples["pixels"]["instances"]
    bodies: list[Any] = [{"instances": [picture]} for picture in pictures]
    bodies += [{"signature_name": "pixels", "instances": [row]} for row in pixels]
    bodies += [{"instances": [{"b64": "bm9uZQ=="}]}, {"instances": [{"image": pictures[0], "key": 1}]}, {"inputs": []}]
    return [*(json.dumps(body).encode() for body in bodies), b"{"]


def http(body: bytes) -> bytes:
    return b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (PATH.encode(), len(body), body)


def parts(answers: bytes) -> list[tuple[bytes, bytes]]:
    """Return the status and body of each answer on a connection."""
    read = []
    while answers:
        head, _, rest = answers.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        read.append((head[9:12], rest[:length]))
        answers = rest[length:]
    return read


@pytest.fixture(
    scope="module", params=[("standalone", "native"), ("standalone", "off"), ("functions-framework", "native")]
)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    kind, codec = request.param
    extension: Path | str = built(build.cached) if codec == "native" else "off"
    settings: Any = {"ACCELERATOR": str(extension), "BATCH_ROWS": "16", "MAX_WAIT": "30"}
    # Eigen's kernels, which some CPUs get by default, round a row differently in each size of a batch.
    with running(kind, EMBEDDED, TF_ENABLE_ONEDNN_OPTS="1", **settings) as started:
        assert started.ask("GET", "/readyz").status == 200
        yield started


def test_concurrent_clients_get_the_answers_of_single_ones(server: Server, examples: dict[str, Any]) -> None:
    bodies = requests(examples)
    alone = [part for body in bodies for part in parts(server.raw(http(body)))]
    assert {status for status, _ in alone} == {b"200", b"400"}

    def ask(client: int) -> list[tuple[int, tuple[bytes, bytes]]]:
        order = [(client + step) % len(bodies) for step in range(len(bodies))]
        pipelined = b"".join(http(bodies[index]) for index in order)
        return list(zip(order, parts(server.raw(pipelined)), strict=True))

    with ThreadPoolExecutor(24) as pool:
        for answers in pool.map(ask, range(48)):
            assert [answer for index, answer in answers if answer != alone[index]] == []


def test_a_client_that_disconnects_in_a_shared_run_does_not_affect_the_others(
    server: Server, examples: dict[str, Any]
) -> None:
    body = requests(examples)[0]
    ((_, answer),) = parts(server.raw(http(body)))
    for _ in range(20):
        gone = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(4)]
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as other:
            for client in gone:
                client.sendall(http(body))
            other.sendall(http(body))
            for client in gone:
                client.close()
            assert other.recv(1 << 16).partition(b"\r\n\r\n")[2] == answer
    assert server.ask("GET", "/healthz").status == 200


def test_every_slot_is_released(server: Server, examples: dict[str, Any]) -> None:
    body = requests(examples)[0]
    for _ in range(3):
        with ThreadPoolExecutor(40) as pool:
            assert {answer.status for answer in pool.map(lambda _: server.ask("POST", PATH, body), range(120))} == {200}


@pytest.mark.parametrize("codec", ["native", "off"])
def test_where_a_run_never_ends_every_request_in_it_and_behind_it_gets_504(codec: str, tmp_path: Path) -> None:
    extension = str(built(build.cached)) if codec == "native" else "off"
    settings = {"MODEL_DIR": str(HALF), "ACCELERATOR": extension, "BATCH_ROWS": "4", "RUN_TIMEOUT": "3"}
    port = free_port()
    command = [sys.executable, "-m", "tests.servers.standalone.hanging"]
    process = spawn(command, plain_environment(PORT=str(port), **settings), tmp_path / "log")
    server = Server(process, port, tmp_path / "log")
    try:
        server.wait_for_port()
        assert server.ask("POST", PATH, {"instances": [3.0]}).status == 200
        with ThreadPoolExecutor(1 + BEHIND) as pool:
            first = pool.submit(server.ask, "POST", PATH, {"instances": [HOLDS]})
            until(lambda: "a run is held" in server.log, lambda: server.log)
            behind = [pool.submit(server.ask, "POST", PATH, {"instances": [HANGS]}) for _ in range(BEHIND)]
            assert first.result().status == 200
            answers = [future.result() for future in behind]
        assert [answer.status for answer in answers] == [504] * BEHIND
        assert {answer.json["error"] for answer in answers} == {"the model has run for more than 3 s (RUN_TIMEOUT)"}
        until(lambda: "it is replaced" in server.log, lambda: server.log)
        assert server.ask("POST", PATH, {"instances": [3.0]}).status == 200
    finally:
        server.kill()
