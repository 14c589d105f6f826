"""The plain WSGI application: valid WSGI, and the same bytes as Flask's for every kind of request."""

import gzip
import io
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from wsgiref.validate import validator

import flask
import pytest

from serving.pipeline.handler import handle
from serving.servers import wsgi
from serving.servers.flask import from_flask, to_flask
from tests.conftest import ROOT, Serve, plain_environment
from tests.pipeline.test_handler import ADDRESSES, PREDICT, REFUSED
from tests.server import running

Answer = tuple[str, dict[str, str], bytes]


def environ(method: str, path: str, body: bytes = b"", **more: str) -> dict[str, Any]:
    return {
        "REQUEST_METHOD": method, "SCRIPT_NAME": "", "PATH_INFO": path.encode().decode("latin-1"), "QUERY_STRING": "",
        "SERVER_NAME": "localhost", "SERVER_PORT": "80", "SERVER_PROTOCOL": "HTTP/1.1",
        "CONTENT_TYPE": "application/json", "CONTENT_LENGTH": str(len(body)), "wsgi.input": io.BytesIO(body),
        "wsgi.version": (1, 0), "wsgi.url_scheme": "http", "wsgi.errors": sys.stderr,
        "wsgi.multithread": True, "wsgi.multiprocess": False, "wsgi.run_once": False, **more,
    }  # fmt: skip


def call(application: Any, request: dict[str, Any]) -> Answer:
    started: list[Any] = []
    parts = application(request, lambda status, headers, error=None: started.append((status, headers)))
    try:
        body = b"".join(parts)
    finally:
        if hasattr(parts, "close"):
            parts.close()
    status, headers = started[0]
    return status, untimed(headers), body


def untimed(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the headers without the only one in which two answers to one request may differ."""
    fields = {name.lower(): value for name, value in headers}
    assert "dur=" in fields.pop("server-timing")
    return fields


def through_flask(request: dict[str, Any]) -> Answer:
    with flask.Flask("test").request_context(request):
        answer = to_flask(handle(from_flask(flask.request)))
    return answer.status, untimed(answer.headers.items()), answer.get_data()


def requests(examples: dict[str, Any]) -> list[tuple[str, str, bytes, dict[str, str]]]:
    """Return one request of every kind that the other tests know."""
    asked = [(method, path, b"", {}) for method, path, _, _ in ADDRESSES]
    asked += [("POST", PREDICT, body, {}) for name, body, _, _ in REFUSED if name == "image"]
    asked += [("POST", "/", json.dumps(body).encode(), {}) for body in examples.values()]
    packed = gzip.compress(json.dumps(examples["pixels"]).encode())
    asked += [("POST", "/", packed, {"HTTP_CONTENT_ENCODING": coding}) for coding in ("gzip", "deflate", "br")]
    asked += [("POST", "/", b" " * 9_000_000, {}), ("POST", "/é", b"", {})]
    return asked


def test_wsgi_and_flask_answer_every_request_with_the_same_bytes(serve: Serve, examples: dict[str, Any]) -> None:
    serve()("POST", "/", examples["pixels"])  # the first answer reports the start, in a header
    for method, path, body, more in requests(examples):
        plain = call(wsgi.app, environ(method, path, body, **more))
        by_flask = through_flask(environ(method, path, body, **more))
        if method == "HEAD":
            assert plain[2] == b""
            plain = (*plain[:2], by_flask[2])  # a server sends no body there; Flask's answer still holds it
        assert plain == by_flask, (method, path, body[:60])


def test_the_application_is_valid_wsgi(serve: Serve, examples: dict[str, Any]) -> None:
    serve()
    for method, path, body, more in requests(examples):
        if method.isalpha() and method != "BREW":
            status, headers, _ = call(validator(wsgi.app), environ(method, path, body, **more))
            assert status[:3].isdecimal()
            assert headers["content-type"] == "application/json"


LENGTHS = [
    # CONTENT_LENGTH   more                                        read
    ("2",              {},                                         200),
    ("",               {},                                         400),  # no length and no chunks: no body
    ("",               {"HTTP_TRANSFER_ENCODING": "chunked"},      200),
    ("9",              {},                                         400),
    ("-1",             {},                                         400),
    ("x",              {},                                         400),
    ("9" * 30,         {},                                         413),
]  # fmt: skip


@pytest.mark.parametrize(("length", "more", "status"), LENGTHS)
def test_the_body_is_read_to_its_end_and_no_further(
    serve: Serve, examples: dict[str, Any], length: str, more: dict[str, str], status: int
) -> None:
    serve()
    body = json.dumps(examples["pixels"]).encode()
    length = str(len(body)) if length == "2" else str(len(body) + 7) if length == "9" else length
    request = environ("POST", "/", body, **{"CONTENT_LENGTH": length, **more})
    assert call(wsgi.app, request)[0].startswith(str(status))


def test_an_incomplete_body_is_400(serve: Serve) -> None:
    class Broken:
        def read(self, size: int) -> bytes:
            raise OSError("reset")

    serve()
    request = environ("POST", "/", b"{}")
    request["wsgi.input"] = Broken()
    status, _, body = call(wsgi.app, request)
    assert status == "400 Bad Request"
    assert json.loads(body)["error"] == "body: cannot be read (OSError)"


def test_the_wsgi_server_imports_no_web_framework(tmp_path: Path) -> None:
    script = "import sys, serving.servers.wsgi; print([m for m in ('flask', 'werkzeug', 'functions_framework') if m in sys.modules])"
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=plain_environment(), capture_output=True, text=True
    )
    assert run.stdout.strip() == "[]", run.stderr


def test_the_standalone_server_answers_with_the_same_bytes_and_stops_at_once(examples: dict[str, Any]) -> None:
    limit = "9000"
    with (
        running("functions-framework", MAX_BODY_BYTES=limit) as platform,
        running("standalone", MAX_BODY_BYTES=limit, THREADS="2") as fast,
    ):
        for body in (*examples.values(), b"", b"{", b" " * 9001, {"instances": [5]}):
            first, second = (server.ask("POST", "/", body) for server in (platform, fast))
            assert (first.status, first.body) == (second.status, second.body)
        for path in ("/readyz", "/nothing", "/favicon.ico", "/v1/models/a%0d%0aX:%20y", "/v1/models/model/metadata"):
            first, second = (server.ask("GET", path) for server in (platform, fast))
            assert (first.status, first.body) == (second.status, second.body)
        assert fast.log.count("serving model version 1") == 1
        fast.process.send_signal(signal.SIGTERM)
        assert fast.process.wait(10) == 0


STEPS = ["decode", "run", "encode", "total"]


START = ["interpreter", "imports", "library", "model", "start", "wait"]


def timing(answer: Any) -> dict[str, float]:
    steps = re.findall(r"(\w+);dur=([0-9.]+)", answer.headers["server-timing"])
    assert len(dict(steps)) == len(steps)
    return {step: float(milliseconds) for step, milliseconds in steps}


@pytest.mark.parametrize("kind", ["functions-framework", "standalone"])
def test_a_request_that_waited_for_the_load_reports_the_steps_of_the_start(kind: str, examples: dict[str, Any]) -> None:
    with running(kind) as server:
        with ThreadPoolExecutor(4) as pool:
            cold = list(pool.map(lambda _: server.ask("POST", "/", examples["pixels"]), range(4)))
        for answer in cold:
            timings = timing(answer)
            assert timings.keys() in ({*START, *STEPS}, {*STEPS})  # one may have come after the load
            if "wait" in timings:
                assert timings["wait"] <= timings["total"]
                assert sum(timings[phase] for phase in START[:4]) == pytest.approx(timings["start"], abs=0.5)
        assert any("wait" in timing(answer) for answer in cold)
        assert timing(server.ask("POST", "/", examples["pixels"])).keys() == {*STEPS}
        assert server.log.count("first answer after") == 1


@pytest.mark.parametrize("kind", ["functions-framework", "standalone"])
def test_after_a_probe_that_loaded_the_model_no_request_reports_a_start(kind: str, examples: dict[str, Any]) -> None:
    with running(kind) as server:
        assert timing(server.ask("GET", "/readyz")).keys() == {*START, "warmup", "total"}
        assert timing(server.ask("GET", "/readyz")).keys() == {"total"}
        assert timing(server.ask("POST", "/", examples["pixels"])).keys() == {*STEPS}
        assert server.log.count("first answer after") == 1


def test_a_bad_setting_ends_the_wsgi_server_with_one_line() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "serving.servers.standalone"], cwd=ROOT, env=plain_environment(THREADS="many"),
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert run.returncode == 1
    assert run.stderr == "serving.servers.standalone: THREADS: expected a whole number from 1 to 1024, got 'many'\n"
