"""The server as a process, with real HTTP clients."""

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import psutil
import pytest
import requests
import tritonclient.http

from serving.servers.standalone.__main__ import main
from tests.harness.waiting import until
from tests.models.zoo import build
from tests.product.test_workers import answered, workers
from tests.server import COMMANDS, Server, running

BYTES = 300_000  # of a body, in several pieces


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running("standalone") as started:
        assert started.ask("GET", "/readyz").status == 200
        yield started


@pytest.fixture(scope="module")
def address(server: Server) -> str:
    return f"http://127.0.0.1:{server.port}"


@pytest.fixture(scope="module")
def body(examples: dict[str, Any]) -> bytes:
    """A body of several pieces."""
    text = json.dumps(examples["pixels"])
    return (text + " " * (BYTES - len(text))).encode()


def test_requests_keeps_its_connection(server: Server, address: str, body: bytes) -> None:
    with requests.Session() as session:
        for _ in range(3):
            assert session.post(f"{address}/", data=body, timeout=30).status_code == 200
            assert session.post(f"{address}/", data=iter([body[:9], body[9:]]), timeout=30).status_code == 200
            assert session.head(f"{address}/healthz", timeout=30).content == b""
        pools = session.get_adapter(address).poolmanager.pools  # type: ignore[attr-defined]
        assert pools[next(iter(pools.keys()))].num_connections == 1


def test_httpx_keeps_its_connection(address: str, body: bytes) -> None:
    ports = set()
    with httpx.Client(timeout=30) as client:
        for content in (body, iter([body[:9], body[9:]]), body):
            answer = client.post(f"{address}/", content=content)
            assert answer.status_code == 200
            ports.add(answer.extensions["network_stream"].get_extra_info("client_addr"))
    assert len(ports) == 1


async def _with_aiohttp(address: str, body: bytes) -> list[int]:
    async def pieces() -> Any:
        yield body[:9]
        yield body[9:]

    async with aiohttp.ClientSession() as session:
        statuses = []
        for data in (body, pieces()):
            async with session.post(f"{address}/", data=data, expect100=True) as answer:
                await answer.read()
                statuses.append(answer.status)
        return statuses


def test_aiohttp_asks_before_it_sends(address: str, body: bytes) -> None:
    import asyncio

    assert asyncio.run(_with_aiohttp(address, body)) == [200, 200]


def test_tritonclient_is_answered(server: Server) -> None:
    with tritonclient.http.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
        assert client.is_server_ready()
        assert client.get_model_metadata("model")["name"] == "model"


CURL = [
    # options
    ["--http1.0"],
    ["--http1.1", "-H", "Expect: 100-continue"],
    ["--http2"],  # an upgrade, which is declined
    ["-H", "Transfer-Encoding: chunked"],
    ["-H", "Connection: close"],
]  # fmt: skip


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("options", CURL, ids=[" ".join(case) for case in CURL])
def test_curl_is_answered(address: str, body: bytes, options: list[str], tmp_path: Path) -> None:
    (tmp_path / "body").write_bytes(body)
    command = ["curl", "-sS", "-m", "30", *options, "--data-binary", f"@{tmp_path}/body", "-w", "%{http_code}"]
    run = subprocess.run([*command, f"{address}/", f"{address}/"], capture_output=True, text=True, timeout=60)
    assert (run.stdout.count('{"predictions"'), run.stdout.count("}200")) == (2, 2), run


@pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is not installed")
def test_node_fetch_is_answered(address: str, body: bytes) -> None:
    script = """
      const [address, size, text] = process.argv.slice(1);
      const body = text.padEnd(Number(size));
      const ask = () => fetch(address, {method: "POST", body}).then(async (r) => [r.status, await r.json()]);
      const all = await Promise.all([1, 2, 3].map(ask));
      console.log(JSON.stringify([...all, await ask()].map(([status, json]) => [status, Object.keys(json)])));
    """
    text = body.decode().rstrip()
    run = subprocess.run(
        ["node", "--input-type=module", "-e", script, address, str(BYTES), text],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert json.loads(run.stdout or "null") == [[200, ["predictions"]]] * 4, run.stderr


def test_the_thread_that_receives_answers_what_is_short_with_the_same_bytes() -> None:
    with running("standalone", build() / "versions" / "1") as server:
        (worker,) = begun(server, 1)
        client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        bodies = set()

        def ask(times: int) -> None:
            for _ in range(times):
                client.request("POST", "/", b'{"instances": [1.0]}')
                answer = client.getresponse()
                bodies.add(answer.read())
                assert answer.status == 200

        def seconds() -> float:
            times = {thread.id: thread.user_time + thread.system_time for thread in worker.threads()}
            return times.pop(worker.pid) / sum(times.values())

        ask(20)  # the first ones are measured in another thread
        before = seconds()
        ask(2000)
        client.close()
        assert len(bodies) == 1
        assert seconds() > before  # the others did nothing


# The process


def begun(server: Server, count: int) -> list[psutil.Process]:
    """Return the workers once there are as many."""
    until(lambda: len(workers(server)) == count, lambda: server.log, pause=0.02)
    return workers(server)


def test_on_another_system_one_line_says_that_it_needs_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("select.epoll")
    with pytest.raises(SystemExit, match=r"^serving\.servers\.standalone: expected Linux, got "):
        main()


def test_a_second_signal_ends_it_at_once() -> None:
    with running("standalone") as server, socket.create_connection(("127.0.0.1", server.port)) as client:
        assert server.ask("GET", "/healthz").status == 200
        client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
        (worker,) = workers(server)
        until(worker.connections)
        os.kill(worker.pid, signal.SIGSTOP)  # it ends nothing by itself
        server.process.send_signal(signal.SIGTERM)
        parent = psutil.Process(server.process.pid)
        until(lambda: all(connection.status != psutil.CONN_LISTEN for connection in parent.connections()))
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(60) == 0  # the worker that is stopped would never end
        assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE


def test_workers_end_when_their_parent_is_killed() -> None:
    with running("standalone", WORKERS="2") as server:
        both = begun(server, 2)
        assert len(both) == 2
        server.process.kill()
        assert psutil.wait_procs(both, timeout=20)[1] == []
        with pytest.raises(OSError):  # noqa: PT011 - refused
            socket.create_connection(("127.0.0.1", server.port), 1)


def test_each_of_several_killed_workers_is_replaced(examples: dict[str, Any]) -> None:
    with running("standalone", WORKERS="2") as server:
        before = begun(server, 2)
        for worker in before:
            os.kill(worker.pid, signal.SIGKILL)
        psutil.wait_procs(before, timeout=20)
        answered(server, examples["pixels"])
        assert not {worker.pid for worker in begun(server, 2)} & {worker.pid for worker in before}


SLOW = [
    # what                      sent by each client, which then stays
    ("nothing",                 b""),
    ("half a head",             b"POST / HT"),
    ("a body begun",            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n{"),
    ("a whole request",         b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"),
]  # fmt: skip


@pytest.fixture(scope="module")
def small() -> Iterator[Server]:
    """A server that may hold 64 connections."""
    command = ["bash", "-c", f"ulimit -n 320; exec {' '.join(COMMANDS['standalone'])}"]
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(COMMANDS, "small", command)
        with running("small", READ_TIMEOUT="40") as started:
            assert started.ask("GET", "/readyz").status == 200
            yield started


@pytest.mark.parametrize(("what", "data"), SLOW, ids=[case[0] for case in SLOW])
def test_connections_above_the_limit_do_not_block_others(
    small: Server, examples: dict[str, Any], what: str, data: bytes
) -> None:
    with ExitStack() as held:
        for _ in range(200):
            client = held.enter_context(socket.create_connection(("127.0.0.1", small.port), timeout=30))
            client.sendall(data)
        for _ in range(3):
            assert small.ask("POST", "/", examples["pixels"], timeout=20).status == 200
