"""A process from its start to its end: loading, failing, stopping, crashing; what is told in each state."""

import http.client
import io
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from shutil import copytree, ignore_patterns
from typing import Any

import psutil
import pytest

from serving.core.errors import DeadlineError, LoadError
from serving.core.http import Request
from serving.core.record import Record
from serving.pipeline import about, admission
from serving.pipeline.handler import handle
from serving.runtime import loading, model, sessions
from serving.savedmodel import protobuf, source
from tests.conftest import EMBEDDED, ROOT, Serve, plain_environment
from tests.models.zoo import build
from tests.server import DOORS as DOOR_COMMANDS
from tests.server import Server, running

DOORS = ["functions-framework", "standalone"]


def health(ask: Any) -> tuple[int, int]:
    """Return the statuses of /readyz and /healthz."""
    return ask("GET", "/readyz").status, ask("GET", "/healthz").status


# States, in this process


def test_while_the_model_is_loaded_it_lives_and_is_not_ready(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(about, "PATIENCE", 0.02)
    ask, opened = serve(), sessions.open_session
    begun, go = threading.Event(), threading.Event()

    def slowly(*arguments: Any) -> Any:
        begun.set()
        assert go.wait(30)
        return opened(*arguments)

    monkeypatch.setattr(loading, "open_session", slowly)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(ask, "GET", "/readyz")
        assert begun.wait(30)
        assert health(ask) == (503, 200)
        answer = ask("GET", "/v2/health/ready")
        assert json.loads(answer.body) == {"error": "the model is being loaded"}
        assert ("Retry-After", "1") in answer.headers
        late = ask("POST", "/", {"instances": [1]}, **{"x-request-timeout": "0.02"})
        assert (late.status, b"still being loaded" in late.body) == (504, True)
        assert ("Retry-After", "1") in late.headers
        go.set()
        assert first.result().status == 200
    assert health(ask) == (200, 200)


def test_every_request_that_waited_for_the_load_is_told_and_no_other(
    serve: Serve, examples: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    serve()
    opened, go, waiting = sessions.open_session, threading.Event(), threading.Semaphore(0)
    get = loading.Cache.get

    def ask(method: str, path: str, body: Any = b"") -> Any:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return handle(Request(method, path, body=data, record=Record()))

    def slowly(*arguments: Any) -> Any:
        assert go.wait(30)
        return opened(*arguments)

    def counted(self: loading.Cache, until: float = float("inf")) -> model.Model:
        waiting.release()
        return get(self, until)

    monkeypatch.setattr(loading, "open_session", slowly)
    monkeypatch.setattr(loading.Cache, "get", counted)
    timings = []
    with ThreadPoolExecutor(3) as pool:
        cold = [pool.submit(ask, "POST", "/", body) for body in (examples["pixels"], b"{")]
        cold.append(pool.submit(ask, "GET", "/v1/models/model"))
        for _ in cold:
            assert waiting.acquire(timeout=30)
        go.set()
        answers = [one.result() for one in cold]
        assert sorted(answer.status for answer in answers) == [200, 200, 400]
        timings += [dict(answer.headers)["Server-Timing"] for answer in answers]
    assert [re.fullmatch("cold;desc=.*, start;dur=.*, wait;dur=.*", timing) is not None for timing in timings] == [
        True
    ] * 3
    for method, path, body in (
        ("POST", "/", examples["pixels"]),
        ("POST", "/", b"{"),
        ("GET", "/v1/models/model", b""),
    ):
        timing = dict(ask(method, path, body).headers)["Server-Timing"]
        assert not re.search("cold|start|wait", timing)


def test_a_failed_load_stands_for_a_while_then_is_tried_again(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ask, opened, tries = serve(), sessions.open_session, list[int]()

    def fail(*arguments: Any) -> Any:
        tries.append(1)
        if len(tries) < 4:
            raise LoadError("the disk is away")
        return opened(*arguments)

    monkeypatch.setattr(loading, "open_session", fail)
    pauses = []
    for attempt in range(1, 4):
        for _ in range(5):
            answer = ask("POST", "/", {"instances": [1]})
            assert (answer.status, b"the disk is away" in answer.body) == (503, True)
            assert ("Retry-After", "1") in answer.headers
            assert health(ask) == (503, 200)
        assert len(tries) == attempt
        pauses.append(loading.cache()._pause)
        monkeypatch.setattr(loading.cache(), "_again", 0.0)  # the pause is over
    assert pauses == [1.0, 2.0, 4.0]
    assert health(ask) == (200, 200)
    logged = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    told = [entry for entry in logged if entry["message"] == "the model cannot be loaded: the disk is away"]
    assert [entry["again_in_seconds"] for entry in told] == pauses
    assert {entry["severity"] for entry in told} == {"ERROR"}


@pytest.mark.parametrize(
    ("error", "words"), [(MemoryError(), "out of memory"), (KeyError("/x"), "the log has the reason")]
)
def test_any_failure_of_a_load_is_503_and_stands_for_a_while(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    ask, tries = serve(), list[int]()

    def fail(*_: Any) -> Any:
        tries.append(1)
        raise error

    monkeypatch.setattr(loading, "open_session", fail)
    for _ in range(3):
        answer = ask("GET", "/readyz")
        assert (answer.status, json.loads(answer.body)["error"]) == (503, f"the model cannot be loaded: {words}")
    assert len(tries) == 1


# Every address that reads the model, loaded or not
READERS = [
    # method  path
    ("GET",   "/openapi.json"),
    ("GET",   "/v1/models/model/metadata"),
    ("GET",   "/v2/models/model"),
    ("GET",   "/v1/models/model/versions/1"),
    ("GET",   "/v1/models/model"),
    ("GET",   "/readyz"),
    ("POST",  "/"),
    ("POST",  "/v1/models/model/versions/1:predict"),
    ("POST",  "/v2/models/model/infer"),
]  # fmt: skip
READING = [
    # what a reader of the model raises       what is told
    (LoadError("it is only part of one"),     "it is only part of one"),
    (OSError(28, "No space left on device"),  "a file of it cannot be read or written: No space left on device"),
    (PermissionError(13, "Permission denied", "/secret"), "a file of it cannot be read or written: Permission denied"),
    (TypeError("memoryview < memoryview"),    "the log has the reason"),
    (RecursionError("/secret"),               "the log has the reason"),
    (MemoryError(),                           "out of memory"),
]  # fmt: skip


@pytest.mark.parametrize("reader", ["read", "Source.parts"])
@pytest.mark.parametrize(("error", "words"), READING)
def test_any_failure_to_read_the_model_is_503_everywhere_and_stands_for_a_while(
    serve: Serve,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    reader: str,
    error: Exception,
    words: str,
) -> None:
    def fail(*_: Any) -> Any:
        raise error

    for first in READERS:
        ask = serve()
        with monkeypatch.context() as patched:
            patched.setattr(source, "read", fail) if reader == "read" else patched.setattr(
                source.Source, "parts", property(fail)
            )
            for method, path in (first, *READERS):
                answer = ask(method, path, {"instances": [1]} if method == "POST" else b"")
                assert (answer.status, json.loads(answer.body)["error"]) == (
                    503,
                    f"the model cannot be loaded: {words}",
                )
                assert "Retry-After" in dict(answer.headers)
        told = [line for line in capsys.readouterr().out.splitlines() if "the model cannot be loaded" in line]
        assert len([line for line in told if '"severity":"ERROR"' in line]) == 1, first  # tried once: all shared it
    monkeypatch.setattr(loading.cache(), "_again", 0.0)  # the pause is over
    assert [ask(method, path).status for method, path in READERS[:3]] == [200] * 3


def test_a_name_that_stands_twice_in_a_map_is_503_everywhere(serve: Serve, tmp_path: Path) -> None:
    def written(number: int, value: Any) -> bytes:
        return protobuf.write_varint(number << 3 | 2) + protobuf.write_varint(len(value)) + bytes(value)

    whole = (EMBEDDED / "saved_model.pb").read_bytes()
    (graph,) = protobuf.each_field(memoryview(whole), 2)
    entries = [dict(protobuf.fields_of(value)) for value in protobuf.each_field(memoryview(graph), 5)]
    again = written(1, entries[0][1]) + written(2, entries[1][2])
    copytree(EMBEDDED, tmp_path / "model", ignore=ignore_patterns("manifest.json"))
    (tmp_path / "model" / "saved_model.pb").write_bytes(written(2, bytes(graph) + written(5, again)))
    ask = serve(tmp_path / "model")
    for method, path in READERS:
        assert ask(method, path, {"instances": [1]} if method == "POST" else b"").status == 503, path


def test_a_process_that_is_told_to_stop_is_not_ready_and_still_answers(serve: Serve, examples: dict[str, Any]) -> None:
    ask = serve()
    assert health(ask) == (200, 200)
    admission.stop()
    assert health(ask) == (503, 200)
    assert ask("GET", "/v2/models/model/ready").status == 503
    assert ask("POST", "/", examples["pixels"]).status == 200


def test_whoever_is_cut_off_by_a_server_that_stops_may_try_again(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = serve()
    cut = Request("POST", "/", "", {}, io.BytesIO(b'{"instances"'), 100)
    assert handle(cut).status == 400
    admission.stop()
    answer = handle(cut._replace(body=io.BytesIO(b'{"instances"')))
    assert (answer.status, dict(answer.headers)["Retry-After"]) == (503, "1")
    assert ask("POST", "/", b"{").status == 400  # his own fault


def test_nobody_waits_for_a_load_beyond_his_time(serve: Serve) -> None:
    serve()
    with loading.cache()._lock, pytest.raises(DeadlineError):
        loading.cache().get(time.monotonic() + 0.01)


# Real servers


@pytest.mark.parametrize("door", DOORS)
def test_sigterm_answers_what_is_in_flight_and_leaves_in_time(door: str, examples: dict[str, Any]) -> None:
    body = json.dumps(examples["pixels"]).encode()
    head = b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body)
    with running(door) as server, ExitStack() as held:
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
        time.sleep(0.2)  # as if the model took as long; the longer, the stricter
        for client in begun:
            client.sendall(body)
        assert [client.recv(1 << 16).split(b" ")[1] for client in begun] == [b"200"] * 4
        assert server.process.wait(10) == 0
        with pytest.raises(OSError):  # noqa: PT011 - refused
            socket.create_connection(("127.0.0.1", server.port), 1)


@pytest.mark.parametrize("door", DOORS)
def test_a_server_leaves_though_a_client_never_ends_its_request(door: str) -> None:
    with running(door) as server:
        assert server.ask("GET", "/readyz").status == 200
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n{")
            time.sleep(0.2)
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(10) == 0


def workers(server: Server) -> list[psutil.Process]:
    return [child for child in psutil.Process(server.process.pid).children() if child.is_running()]


@pytest.fixture(scope="module", params=DOORS)
def door(request: pytest.FixtureRequest) -> Iterator[Server]:
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


def test_however_often_a_worker_crashes_it_is_replaced(door: Server, examples: dict[str, Any]) -> None:
    for how in (signal.SIGKILL, signal.SIGABRT, signal.SIGSEGV, signal.SIGKILL, signal.SIGABRT):
        answered(door, examples["pixels"])
        (before,) = workers(door)
        os.kill(before.pid, how)
        before.wait(10)
        answered(door, examples["pixels"])
        (after,) = workers(door)
        assert after.pid != before.pid
        assert door.process.poll() is None
    if "-m" in door.process.args:  # type: ignore[operator]
        told = [line for line in door.log.splitlines() if "it is replaced" in line]
        assert [json.loads(line)["message"].split(";")[0] for line in told] == [
            f"worker 1 ended: killed by {name}" for name in ("SIGKILL", "SIGABRT", "SIGSEGV", "SIGKILL", "SIGABRT")
        ]


def test_connections_wait_for_the_worker_that_takes_the_place_of_another(examples: dict[str, Any]) -> None:
    with running("standalone") as server:
        assert server.ask("GET", "/readyz").status == 200
        (before,) = workers(server)
        os.kill(before.pid, signal.SIGKILL)
        before.wait(10)
        assert server.ask("POST", "/", examples["pixels"]).status == 200  # not refused, and tried once


TAKEN = [
    # who holds the port      shares it
    ("another program",       False),
    ("a server that shares",  True),
]  # fmt: skip


@pytest.mark.parametrize("name", DOORS)
@pytest.mark.parametrize(("what", "shared"), TAKEN, ids=[case[0] for case in TAKEN])
def test_a_port_that_is_taken_is_told_in_a_line(name: str, what: str, shared: bool) -> None:
    with socket.socket() as held:
        if shared:
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind(("0.0.0.0", 0))
        held.listen()
        port = held.getsockname()[1]
        command = [part.format(port=port) for part in DOOR_COMMANDS[name]]
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


@pytest.mark.parametrize("name", DOORS)
def test_the_log_names_the_shapes_that_a_worker_died_with(name: str) -> None:
    endless = {"signature_name": "loop", "inputs": {"n": 1 << 60}}
    with running(name, build() / "control_flow") as server, ThreadPoolExecutor(1) as pool:
        answered(server, {"signature_name": "loop", "inputs": {"n": 3}})
        lost = pool.submit(server.ask, "POST", "/", endless)
        (before,) = workers(server)
        computed = before.cpu_times().user
        while before.cpu_times().user < computed + 0.3:  # it runs
            time.sleep(0.02)
        before.kill()
        with pytest.raises(OSError):  # noqa: PT011 - reset
            lost.result()
        answered(server, {"signature_name": "loop", "inputs": {"n": 3}})
        assert '"runs":["loop: n []"]' in server.log
        assert str(1 << 60) not in server.log


@pytest.mark.parametrize("name", DOORS)
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
        before.wait(10)
        answered(server, loop(3))
        (after,) = workers(server)
        assert after.pid != before.pid
        assert '"runs":["loop: n []"]' in server.log


@pytest.mark.parametrize("name", DOORS)
def test_a_model_that_comes_later_is_served_without_a_restart(
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
