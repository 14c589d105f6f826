"""The real functions-framework, started as `make serve` does, with real requests over real sockets."""

import gzip
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from serving.core.comparison import difference
from serving.core.http import Response
from serving.servers.flask import from_flask, to_flask
from tests.conftest import ROOT, plain_environment
from tests.models.zoo import build
from tests.pipeline.test_handler import PREDICT
from tests.server import Server, running
from tools.server import free_port


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running() as started:
        yield started


def test_the_examples_are_answered(server: Server, examples: dict[str, Any], answers: dict[str, Any]) -> None:
    for name, body in examples.items():
        for path in ("/", PREDICT):
            answer = server.ask("POST", path, body)
            assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
            assert difference(answers[name]["predictions"], answer.json["predictions"]) is None


LABELS = ["application/x-www-form-urlencoded", "application/octet-stream", "text/plain; charset=no-such", "", "x" * 200]


@pytest.mark.parametrize("label", LABELS)
def test_the_content_type_does_not_decide_what_is_json(server: Server, examples: dict[str, Any], label: str) -> None:
    assert server.ask("POST", "/", examples["pixels"], content_type=label).status == 200


def test_curl_is_answered_with_its_default_headers(server: Server, examples: dict[str, Any], tmp_path: Path) -> None:
    body = tmp_path / "body.json"
    large = {"signature_name": "pixels", "instances": examples["pixels"]["instances"] * 8000}
    body.write_text(json.dumps(large))
    assert body.stat().st_size > 1 << 20  # curl asks first: Expect: 100-continue
    try:
        run = subprocess.run(
            ["curl", "-sS", f"localhost:{server.port}", "-d", f"@{body}"], capture_output=True, timeout=60
        )
    except FileNotFoundError:
        pytest.skip("curl is not installed")
    assert {row["label"] for row in json.loads(run.stdout)["predictions"]} == {"3"}


def test_chunked_and_compressed_bodies_are_read(server: Server, examples: dict[str, Any]) -> None:
    body = json.dumps(examples["pixels"]).encode()
    assert server.ask("POST", "/", iter([body[:9], body[9:]])).status == 200
    assert server.ask("POST", "/", gzip.compress(body), content_encoding="gzip").status == 200


def test_a_broken_chunk_is_400(server: Server) -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    for broken in (b"zz\r\nabc\r\n0\r\n\r\n", b"5\r\nab"):
        status = server.raw(head + broken).split(b"\r\n", 1)[0]
        assert b" 400 " in status or status == b"", status


def test_a_body_shorter_than_declared_is_400(server: Server) -> None:
    answer = server.raw(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{}")
    assert answer == b"" or b" 400 " in answer.split(b"\r\n", 1)[0]


# At the root, a body of up to 16 MB may be a push of Pub/Sub's.
@pytest.mark.parametrize(("path", "declared"), [(PREDICT, 9 << 20), ("/", 17 << 20), ("/", 100 << 20), ("/", 10**10)])
def test_a_body_declared_too_large_is_refused_before_it_is_read(server: Server, path: str, declared: int) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n{" % (path.encode(), declared))
        received = connection.recv(1 << 16)
    assert received.startswith(b"HTTP/1.1 413 ")
    assert b'"error"' in received or server.ask("GET", "/healthz").status == 200


def test_a_hundred_megabytes_are_refused_and_the_next_request_answered(
    server: Server, examples: dict[str, Any]
) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        connection.request("POST", "/", (b" " * (1 << 20) for _ in range(100)), {"Content-Length": str(100 << 20)})
        assert connection.getresponse().status == 413
    except (BrokenPipeError, ConnectionResetError):
        pass  # closed on us while we were still sending: refused as well
    finally:
        connection.close()
    assert server.ask("POST", "/", examples["pixels"]).status == 200


ODD_PATHS = ["/v1/models/a%0d%0aX: y", "/favicon.ico", "/robots.txt", "//v1//models", "/%ff", "/%00", "/..%2f..%2fetc"]


@pytest.mark.parametrize("path", ODD_PATHS)
def test_every_path_is_answered_in_json(server: Server, path: str) -> None:
    answer = server.ask("GET", path.replace(" ", "%20"))
    assert (answer.status, answer.headers["content-type"]) == (404, "application/json")
    assert "there is" in answer.json["error"]


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "HEAD", "TRACE"])
def test_a_wrong_method_gets_405_with_the_allowed_ones(server: Server, method: str) -> None:
    answer = server.ask(method, PREDICT)
    assert (answer.status, answer.headers["allow"]) == (405, "POST, OPTIONS")


def test_concurrent_first_requests_share_one_load_and_get_their_own_answers(examples: dict[str, Any]) -> None:
    with running() as cold:
        pixels = examples["pixels"]["instances"][0]
        bodies = [{"signature_name": "pixels", "instances": [pixels] * (1 + n % 5)} for n in range(32)]
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda body: cold.ask("POST", "/", body), bodies))
        for body, answer in zip(bodies, answers):
            assert (answer.status, len(answer.json["predictions"])) == (200, len(body["instances"]))
        assert cold.log.count("serving model version 1") == 1


@pytest.mark.parametrize(("folder", "words"), [("no_variables", "variables.index is missing"), ("html_pb", "not a SavedModel"),
                                                ("truncated_variables", "TensorFlow cannot load it"), ("nothing", "no such folder")])  # fmt: skip
def test_a_broken_model_is_503_with_its_reason_and_no_path(folder: str, words: str) -> None:
    with running(directory=build() / "broken" / folder) as broken:
        for method, path in (("GET", "/readyz"), ("POST", "/")):
            answer = broken.ask(method, path)
            assert answer.status == 503
            assert words in answer.json["error"]
            assert str(build()) not in answer.body.decode()
            assert answer.headers["retry-after"]
        assert broken.ask("GET", "/healthz").status == 200
        assert '"severity":"ERROR"' in broken.log


def test_on_sigterm_the_server_answers_and_stops(examples: dict[str, Any]) -> None:
    with running() as leaving:
        assert leaving.ask("POST", "/", examples["pixels"]).status == 200
        leaving.process.send_signal(signal.SIGTERM)
        assert leaving.process.wait(15) == 0


def test_workers_load_after_the_fork_and_each_answers(examples: dict[str, Any]) -> None:
    with running(WORKERS="2", THREADS="2") as workers:
        deadline = time.monotonic() + 30
        while workers.log.count("serving model version 1") < 2 and time.monotonic() < deadline:
            with ThreadPoolExecutor(8) as pool:
                answers = list(pool.map(lambda _: workers.ask("POST", "/", examples["pixels"]), range(32)))
            assert {answer.status for answer in answers} == {200}
        assert workers.log.count("serving model version 1") == 2


def test_gunicorn_takes_no_commands_by_a_socket_of_its_own(server: Server) -> None:
    assert server.ask("GET", "/healthz").status == 200
    for number in server.processes():
        assert [unix.laddr for unix in psutil.Process(number).connections("unix") if unix.laddr] == []
        assert "_asyncio" not in Path(f"/proc/{number}/maps").read_text()


def test_what_gunicorn_shares_with_its_workers_is_exempt_from_garbage_collection() -> None:
    """A collection writes to each object that it looks at, and each page written to is copied for the worker."""
    code = """if True:
        import gc
        from functions_framework._http.gunicorn import GunicornApplication
        from serving.core import settings
        from serving.servers import gunicorn
        gunicorn.prepare(settings.current())
        application = GunicornApplication(None, "127.0.0.1", "0", False)
        before = gc.get_freeze_count()
        application.cfg.pre_fork(None, None)
        print(before, gc.get_freeze_count() > 10_000, len(gc.get_objects()) < 1_000)
    """
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ran.stdout == "0 True True\n", ran.stderr


def test_a_worker_ends_when_gunicorn_is_killed() -> None:
    with running() as server:
        assert server.ask("GET", "/healthz").status == 200
        (worker,) = psutil.Process(server.process.pid).children()
        server.process.kill()
        worker.wait(60)  # raises where it stays


def test_wsgi_servers_execute_main_several_times_and_load_once(examples: dict[str, Any]) -> None:
    """`functions_framework:app` executes main.py once for each parallel first request."""
    pytest.importorskip("gunicorn")
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "-b", f"127.0.0.1:{port}", "-k", "gthread", "--threads", "8",
               "--log-level", "error", "functions_framework:app"]  # fmt: skip
    process = subprocess.Popen(
        command, cwd=ROOT, env=plain_environment(FUNCTION_TARGET="predict"), stdout=subprocess.PIPE, text=True
    )
    try:
        server = Server(process, port, Path(os.devnull))  # type: ignore[arg-type]
        for _ in range(500):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.02)
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: server.ask("POST", "/", examples["pixels"]), range(8)))
        assert {answer.status for answer in answers} == {200}
    finally:
        process.terminate()
        output, _ = process.communicate(timeout=30)
    assert output.count("serving model version 1") == 1


def test_our_package_has_priority_over_an_installed_one_of_the_same_name(
    tmp_path: Path, examples: dict[str, Any]
) -> None:
    (tmp_path / "serving").mkdir()
    (tmp_path / "serving" / "__init__.py").write_text("raise SystemExit('the wrong package')")
    with running(PYTHONPATH=str(tmp_path)) as server:
        assert server.ask("POST", "/", examples["pixels"]).status == 200


def test_the_working_folder_does_not_matter(tmp_path: Path, examples: dict[str, Any]) -> None:
    with running(source=tmp_path, FUNCTION_SOURCE=str(ROOT / "main.py")) as server:
        assert server.ask("POST", "/", examples["pixels"]).status == 200


def test_a_session_opened_before_the_fork_is_refused_and_not_left_hanging(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from serving.runtime import loading\n"
        "loading.cache().get()  # the mistake: this runs in gunicorn's master\n"
        "import importlib.util\n"
        f"spec = importlib.util.spec_from_file_location('real', {str(ROOT / 'main.py')!r})\n"
        "real = importlib.util.module_from_spec(spec); spec.loader.exec_module(real)\n"
        "def predict(request): return real.predict(request)\n"
    )
    with running(source=tmp_path) as server:
        answer = server.ask("GET", "/readyz", timeout=20)
        assert answer.status == 503
        assert "fork first, then load" in answer.json["error"]


def test_flask_passes_bodies_on_unread() -> None:
    import flask

    app = flask.Flask("test")
    with app.test_request_context("/a/b?c=d", method="POST", data=b"body", headers={"X-Y": "z"}):
        request = from_flask(flask.request)
        assert (request.method, request.path, request.query, request.length) == ("POST", "/a/b", "c=d", 4)
        assert request.headers.get("x-y") == "z"
        assert not isinstance(request.body, bytes)
        assert request.body.read(10) == b"body"
        assert flask.request.get_data() == b""
    answer = to_flask(Response(405, b"{}", headers=(("Allow", "GET"),)))
    assert (answer.status_code, answer.content_type, answer.headers["Allow"]) == (405, "application/json", "GET")


def test_make_serve_prints_a_request_that_works(answers: dict[str, Any]) -> None:
    port = free_port()
    banner = subprocess.run(
        [sys.executable, "-m", "serving", "banner", "--port", str(port)],
        cwd=ROOT, env=plain_environment(), capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert banner.startswith("Serving model as 'model', version 1 (serving_default, pixels). Try:")
    command = re.search(r"curl .*", banner)
    assert command
    with running() as server:
        run = subprocess.run(
            ["bash", "-c", command[0].replace(str(port), str(server.port)).replace("curl", "curl -sS")],
            capture_output=True,
        )
    if run.returncode == 127:
        pytest.skip("curl is not installed")
    assert difference(answers["serving_default"]["predictions"], json.loads(run.stdout)["predictions"]) is None
