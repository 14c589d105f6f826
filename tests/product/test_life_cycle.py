"""Loading, readiness and stopping, in this process."""

import io
import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from shutil import copytree, ignore_patterns
from typing import Any

import pytest

from serving.core.errors import DeadlineError, LoadError
from serving.core.http import Request
from serving.core.record import Record
from serving.pipeline import about, admission
from serving.pipeline.handler import handle
from serving.runtime import loading, model, sessions
from serving.savedmodel import protobuf, source
from tests.conftest import EMBEDDED, Serve


def health(ask: Any) -> tuple[int, int]:
    """Return the statuses of /readyz and /healthz."""
    return ask("GET", "/readyz").status, ask("GET", "/healthz").status


# States, in this process
def test_during_the_load_the_process_is_alive_and_not_ready(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_every_request_that_waited_for_the_load_reports_the_start_and_no_other(
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
        answers = [future.result() for future in cold]
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


def test_a_failed_load_is_answered_for_a_while_then_retried(
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
    failures = [entry for entry in logged if entry["message"] == "the model cannot be loaded: the disk is away"]
    assert [entry["again_in_seconds"] for entry in failures] == pauses
    assert {entry["severity"] for entry in failures} == {"ERROR"}


@pytest.mark.parametrize(
    ("error", "words"), [(MemoryError(), "out of memory"), (KeyError("/x"), "the log has the reason")]
)
def test_any_failure_of_a_load_is_503_and_remembered_for_a_while(
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
    # what a reader of the model raises       answered
    (LoadError("it is only part of one"),     "it is only part of one"),
    (OSError(28, "No space left on device"),  "a file of it cannot be read or written: No space left on device"),
    (PermissionError(13, "Permission denied", "/secret"), "a file of it cannot be read or written: Permission denied"),
    (TypeError("memoryview < memoryview"),    "the log has the reason"),
    (RecursionError("/secret"),               "the log has the reason"),
    (MemoryError(),                           "out of memory"),
]  # fmt: skip


@pytest.mark.parametrize("reader", ["read", "Source.parts"])
@pytest.mark.parametrize(("error", "words"), READING)
def test_any_failure_to_read_the_model_is_503_everywhere_and_remembered_for_a_while(
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
        failures = [line for line in capsys.readouterr().out.splitlines() if "the model cannot be loaded" in line]
        assert len([line for line in failures if '"severity":"ERROR"' in line]) == 1, first  # tried once: all shared it
    monkeypatch.setattr(loading.cache(), "_again", 0.0)  # the pause is over
    assert [ask(method, path).status for method, path in READERS[:3]] == [200] * 3


def test_a_duplicate_map_key_in_the_model_is_503_everywhere(serve: Serve, tmp_path: Path) -> None:
    whole = (EMBEDDED / "saved_model.pb").read_bytes()
    (graph,) = protobuf.each_field(memoryview(whole), 2)
    entries: list[dict[int, Any]] = [
        dict(protobuf.fields_of(value)) for value in protobuf.each_field(memoryview(graph), 5)
    ]
    again = protobuf.write_field(1, entries[0][1]) + protobuf.write_field(2, entries[1][2])
    copytree(EMBEDDED, tmp_path / "model", ignore=ignore_patterns("manifest.json"))
    (tmp_path / "model" / "saved_model.pb").write_bytes(protobuf.write_field(2, graph, protobuf.write_field(5, again)))
    ask = serve(tmp_path / "model")
    for method, path in READERS:
        assert ask(method, path, {"instances": [1]} if method == "POST" else b"").status == 503, path


def test_a_process_that_is_stopping_is_not_ready_and_still_answers(serve: Serve, examples: dict[str, Any]) -> None:
    ask = serve()
    assert health(ask) == (200, 200)
    admission.stop()
    assert health(ask) == (503, 200)
    assert ask("GET", "/v2/models/model/ready").status == 503
    assert ask("POST", "/", examples["pixels"]).status == 200


def test_a_request_that_a_stopping_server_cuts_off_may_be_retried(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = serve()
    cut = Request("POST", "/", "", {}, io.BytesIO(b'{"instances"'), 100)
    assert handle(cut).status == 400
    admission.stop()
    answer = handle(cut._replace(body=io.BytesIO(b'{"instances"')))
    assert (answer.status, dict(answer.headers)["Retry-After"]) == (503, "1")
    assert ask("POST", "/", b"{").status == 400  # his own fault


def test_no_request_waits_for_a_load_beyond_its_timeout(serve: Serve) -> None:
    serve()
    with loading.cache()._lock, pytest.raises(DeadlineError):
        loading.cache().get(time.monotonic() + 0.01)


def test_a_request_whose_time_passes_while_it_loads_the_model_is_not_begun(
    serve: Serve, examples: dict[str, Any]
) -> None:
    ask = serve()
    late = ask("POST", "/", examples["pixels"], **{"x-request-timeout": "0.001"})
    assert (late.status, b"still being loaded" in late.body) == (504, True)
    assert ask("POST", "/", examples["pixels"], **{"x-request-timeout": "30"}).status == 200
