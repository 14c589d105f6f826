"""The short form of `make fuzz`: every seed, every input that once failed, some new inputs for each target, two servers."""

import http.client
import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.conftest import EMBEDDED, ROOT, forget, plain_environment
from tests.fuzz import rounds
from tests.fuzz.__main__ import CORPUS, attempt, seeds
from tests.fuzz.mutate import mutate
from tests.fuzz.requests import INSIDE, ask, message, served
from tests.fuzz.targets import TARGETS, prepare
from tests.harness.forks import python
from tests.pipeline.native.conftest import built
from tests.server import running

SHORT = 400  # inputs
REQUESTS = rounds(400)  # to each server


@pytest.fixture(autouse=True)
def _restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leave settings and model as they were."""
    for variable in ("FUZZ_ORACLE", "MODEL_DIR"):
        monkeypatch.setenv(variable, "")
    yield
    forget()


@pytest.mark.parametrize("name", TARGETS)
def test_inputs_that_once_broke_a_parser_are_handled(name: str) -> None:
    built(lambda: prepare(name))
    assert len(seeds(name)) >= 2
    for path in sorted((CORPUS / name).iterdir()):
        assert attempt(TARGETS[name], path.read_bytes()) is None, path


@pytest.mark.parametrize("name", TARGETS)
def test_new_random_inputs_break_no_parser(name: str) -> None:
    built(lambda: prepare(name))
    pool, random_ = seeds(name), random.Random(f"{name} 1")
    for _ in range(SHORT):
        data = mutate(random_.choice(pool), pool, random_)
        assert attempt(TARGETS[name], data) is None, data[:2000]


def test_parsers_agree_with_tensorflows_own_messages() -> None:
    """In a process of its own: TensorFlow's Python package, even its messages alone, must not be imported here."""
    targets = ("saved_model", "prediction_logs", "examples")
    run = python("-m", "tests.fuzz", "--runs", "300", *targets, env=plain_environment(FUZZ_ORACLE="1"))
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.count(" 0 broke it") == 3


def test_the_mutations_reach_all_kinds_of_answers() -> None:
    """That a fuzzer finds nothing says little where all its inputs fail at the first step."""
    served(EMBEDDED)
    pool, random_, statuses = seeds("request"), random.Random(3), Counter[int]()
    for _ in range(1200):
        statuses[ask(mutate(random_.choice(pool), pool, random_))[0]] += 1
    assert {200, 204, 400, 404, 405} <= statuses.keys()
    assert statuses[200] > 60


def test_a_target_that_fails_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(data: bytes) -> None:
        raise ValueError(len(data))

    assert (attempt(broken, b"abc") or "").startswith("ValueError: 3")


SENT = ("content-type", "accept-encoding", "content-encoding", "inference-header-content-length", "ce-id", "ce-type",
        "ce-source", "ce-specversion", "ce-time", "x-goog-pubsub-message-id", "x-request-timeout")  # fmt: skip


def _send(connection: http.client.HTTPConnection, data: bytes) -> tuple[int, dict[str, str], bytes]:
    """Send a message as a client would that frames it rightly."""
    method, path, query, fields, body = message(data)
    target = "".join(c if 32 < ord(c) < 127 else f"%{ord(c):02X}" for c in f"{path}?{query}" if ord(c) < 256)
    target = target if target.startswith("/") else "/" + target
    method = method if method in ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS") else "POST"
    connection.putrequest(method, target.replace("//", "/"), skip_accept_encoding=True)
    for name in SENT:
        value = fields.get(name, "").replace("\0", "").replace("\n", "").replace("\r", "")
        if value:
            connection.putheader(name, value.encode("latin-1", "replace"))
    connection.putheader("content-length", str(len(body)))
    connection.endheaders(body)
    response = connection.getresponse()
    return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()


def _ask_all(connection: http.client.HTTPConnection, kind: str, statuses: Counter[int]) -> None:
    pool, random_ = seeds("request"), random.Random(f"{kind} {REQUESTS}")
    for _ in range(REQUESTS):
        data = mutate(random_.choice(pool), pool, random_)
        try:
            status, headers, body = _send(connection, data)
        except (ConnectionError, http.client.RemoteDisconnected):
            connection.close()  # a server closes after it has refused a message
            status, headers, body = _send(connection, data)
        statuses[status] += 1
        if status == 503:
            assert b"EVENT_OUTPUT" in body, data
        else:
            assert status < 500 or (status == 504 and b"x-request-timeout" in data), (status, body, data)
        if status >= 400 and headers.get("content-type") == "application/json" and body:
            assert not any(part in json.loads(body)["error"] for part in INSIDE), body
        if headers.get("connection") == "close":
            connection.close()


@pytest.mark.parametrize("kind", ["functions-framework", "standalone"])
def test_every_request_over_http_gets_a_clean_answer(kind: str) -> None:
    statuses = Counter[int]()
    with running(kind) as server:
        with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)) as connection:
            _ask_all(connection, kind, statuses)
        assert server.process.poll() is None
        answer = server.ask("GET", "/readyz")
        log = server.log
    assert answer.status == 200
    assert statuses[200] > REQUESTS // 20
    assert "Traceback" not in log
    lines = [line for line in log.splitlines() if line.startswith("{")]
    assert all(isinstance(json.loads(line), dict) for line in lines)


def test_the_search_through_the_kernels_finds_what_the_checks_prevent() -> None:
    command = [sys.executable, "-m", "tests.fuzz.kernels", "--trials", "40", "AvgPoolGrad"]
    environment = plain_environment(TF_ENABLE_ONEDNN_OPTS="1")  # not every CPU has these kernels by default
    unchecked, checked = (
        subprocess.run([*command, *more], cwd=ROOT, env=environment, capture_output=True, text=True)
        for more in (["--trusted"], [])
    )
    assert unchecked.returncode == 1
    assert "AvgPoolGrad                      SIGABRT" in unchecked.stdout
    assert checked.returncode == 0, checked.stdout
