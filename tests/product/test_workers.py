"""Real servers: signals, crashed workers, ports in use, runs that do not end."""

import http.client
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import EMBEDDED, ROOT, plain_environment
from tests.harness.waiting import until
from tests.models.zoo import build
from tests.server import COMMANDS, Server, running

SERVERS = ["functions-framework", "standalone"]


# Real servers
@pytest.mark.parametrize("kind", SERVERS)
def test_sigterm_answers_the_requests_in_flight_and_stops_in_time(kind: str, examples: dict[str, Any]) -> None:
    body = json.dumps(examples["pixels"]).encode()
    head = b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body)
    with running(kind) as server, ExitStack() as held:
        assert server.ask("GET", "/readyz").status == 200
        kept = http.client.HTTPConnection("127.0.0.1", server.port)
        held.callback(kept.close)
        kept.request("GET", "/healthz")
        assert kept.getresponse().read()
        _silent, *begun = (
            held.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=30)) for _ in range(5)
        )
        for client in begun:
            client.sendall(head)
            assert client.recv(1 << 16).startswith(b"HTTP/1.1 100 ")  # the server has this one in hand
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)  # in place of a model that takes so long
        for client in begun:
            client.sendall(body)
        assert [client.recv(1 << 16).split(b" ")[1] for client in begun] == [b"200"] * 4
        assert server.process.wait(10) == 0
        with pytest.raises(OSError):  # noqa: PT011 - refused
            socket.create_connection(("127.0.0.1", server.port), 1)


@pytest.mark.parametrize("kind", SERVERS)
def test_a_server_stops_although_a_client_never_finishes_its_request(kind: str) -> None:
    with running(kind) as server:
        assert server.ask("GET", "/readyz").status == 200
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n{")
            time.sleep(0.2)
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(10) == 0


def workers(server: Server) -> list[psutil.Process]:
    return [child for child in psutil.Process(server.process.pid).children() if child.is_running()]


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with running(request.param) as started:
        yield started


def answered(server: Server, body: Any, seconds: float = 30) -> int:
    """Ask as a client does that tries again, and return how often it had to."""
    end = time.monotonic() + seconds
    for again in range(10_000):
        try:
            if server.ask("POST", "/", body).status == 200:
                return again
        except OSError:
            pass  # the worker was gone
        assert time.monotonic() < end, server.log
        time.sleep(0.02)
    raise AssertionError


def test_a_crashed_worker_is_replaced_every_time(server: Server, examples: dict[str, Any]) -> None:
    for how in (signal.SIGKILL, signal.SIGABRT, signal.SIGSEGV, signal.SIGKILL, signal.SIGABRT):
        answered(server, examples["pixels"])
        (before,) = workers(server)
        os.kill(before.pid, how)
        before.wait(60)
        answered(server, examples["pixels"])
        (after,) = workers(server)
        assert after.pid != before.pid
        assert server.process.poll() is None
    if "-m" in server.process.args:  # type: ignore[operator]
        replacements = [line for line in server.log.splitlines() if "it is replaced" in line]
        assert [json.loads(line)["message"].split(";")[0] for line in replacements] == [
            f"worker 1 ended: killed by {name}" for name in ("SIGKILL", "SIGABRT", "SIGSEGV", "SIGKILL", "SIGABRT")
        ]


def test_connections_wait_for_the_replacement_worker(examples: dict[str, Any]) -> None:
    with running("standalone") as server:
        assert server.ask("GET", "/readyz").status == 200
        (before,) = workers(server)
        os.kill(before.pid, signal.SIGKILL)
        before.wait(60)
        assert server.ask("POST", "/", examples["pixels"]).status == 200  # not refused, and tried once


TAKEN = [
    # who holds the port      shares it
    ("another program",       False),
    ("a server that shares",  True),
]  # fmt: skip


@pytest.mark.parametrize("name", SERVERS)
@pytest.mark.parametrize(("what", "shared"), TAKEN, ids=[case[0] for case in TAKEN])
def test_a_port_in_use_is_reported_in_one_line(name: str, what: str, shared: bool) -> None:
    with socket.socket() as held:
        if shared:
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind(("0.0.0.0", 0))
        held.listen()
        port = held.getsockname()[1]
        command = [part.format(port=port) for part in COMMANDS[name]]
        run = subprocess.run(
            command, cwd=ROOT, env=plain_environment(PORT=str(port)), capture_output=True, text=True, timeout=60
        )
    said = run.stdout + run.stderr
    assert run.returncode != 0
    assert str(port) in said
    assert not any(word in said for word in ("Traceback", "panicked"))
    if name == "standalone":
        refusal = f"serving.servers.standalone: cannot listen on 0.0.0.0:{port} (HOST, PORT): Address already in use\n"
        assert run.stderr == refusal


@pytest.mark.parametrize("name", SERVERS)
def test_the_log_names_the_shapes_that_a_worker_died_with(name: str) -> None:
    endless = {"signature_name": "loop", "inputs": {"n": 1 << 60}}
    with running(name, build() / "control_flow") as server, ThreadPoolExecutor(1) as pool:
        answered(server, {"signature_name": "loop", "inputs": {"n": 3}})
        lost = pool.submit(server.ask, "POST", "/", endless)
        (before,) = workers(server)
        computed = before.cpu_times().user
        until(lambda: before.cpu_times().user >= computed + 0.3, pause=0.02)  # it runs
        before.kill()
        with pytest.raises(OSError):  # noqa: PT011 - reset
            lost.result()
        answered(server, {"signature_name": "loop", "inputs": {"n": 3}})
        assert '"runs":["loop: n []"]' in server.log
        assert str(1 << 60) not in server.log


@pytest.mark.parametrize("name", SERVERS)
def test_a_run_that_does_not_end_gets_504_and_its_worker_is_replaced(name: str) -> None:
    def loop(n: int) -> dict[str, Any]:
        return {"signature_name": "loop", "inputs": {"n": n}}

    with running(name, build() / "control_flow", RUN_TIMEOUT="2") as server, ThreadPoolExecutor(1) as pool:
        answered(server, loop(3))
        (before,) = workers(server)
        endless = pool.submit(server.ask, "POST", "/", loop(1 << 60))
        answer = endless.result()
        assert (answer.status, answer.headers["content-type"]) == (504, "application/json")
        assert answer.json == {"error": "the model has run for more than 2 s (RUN_TIMEOUT)"}
        before.wait(60)
        answered(server, loop(3))
        (after,) = workers(server)
        assert after.pid != before.pid
        assert '"runs":["loop: n []"]' in server.log


@pytest.mark.parametrize("name", SERVERS)
def test_a_model_that_appears_later_is_served_without_a_restart(
    name: str, tmp_path: Path, examples: dict[str, Any]
) -> None:
    with running(name, tmp_path / "model") as server:
        for _ in range(3):
            answer = server.ask("POST", "/", examples["pixels"])
            assert (answer.status, answer.headers["retry-after"]) == (503, "1")
            assert answer.json["error"] == "the model cannot be loaded: there is no such folder"
        assert server.ask("GET", "/healthz").status == 200
        assert server.log.count('"again_in_seconds"') == 1
        (tmp_path / "model").symlink_to(EMBEDDED)
        answered(server, examples["pixels"])
