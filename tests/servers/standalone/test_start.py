"""The start: imports before the first answer, requests right after it, and a start that fails."""

import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from serving.pipeline.native import build
from tests.conftest import ROOT, plain_environment
from tests.pipeline.native.conftest import built
from tests.server import Answer, Server
from tools.server import free_port, spawn

# What the first plain answer does without: each takes milliseconds of the start.
UNUSED = {
    "ast", "asyncio", "base64", "dataclasses", "datetime", "email", "http", "inspect", "logging", "numpy", "orjson",
    "pickle", "shutil", "simdjson", "ssl", "tempfile", "textwrap", "tokenize", "traceback", "urllib", "uuid",
    "serving.events", "serving.pipeline.inference", "serving.protocols.call", "serving.protocols.json_tensors",
    "serving.protocols.open_inference", "serving.protocols.raw", "serving.protocols.tensorflow_serving",
    "serving.runtime.litert", "serving.scoring",
}  # fmt: skip
# Without `site`, whose .pth files may import anything.
START = """
import sys
sys.path[:0] = sys.argv[1:]
import serving.servers.standalone.__main__ as server
server.main()
"""
PATHLIB = {"urllib"} if sys.version_info < (3, 13) else set()  # what pathlib imports
COMMAND = [sys.executable, "-S", "-X", "importtime", "-c", START, *filter(None, sys.path)]
PREDICT = "/v1/models/model:predict"


WRONG = {"signature_name": "pixels", "instances": [["a"]]}
DIGIT = (ROOT / "tests" / "data" / "digit-3.png").read_bytes()


class Started(NamedTuple):
    """What a server has logged at its first answer, that answer, and those right behind it."""

    log: str
    first: Answer
    behind: dict[str, Answer]


def imported(log: str) -> set[str]:
    """Return the names in the output of `-X importtime`, each with the packages that it is in."""
    names = [line.rpartition("|")[2].strip() for line in log.splitlines() if line.startswith("import time:")]
    return {name.rsplit(".", count)[0] for name in names for count in range(name.count(".") + 1)}


@pytest.fixture(scope="module")
def started(examples: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Started:
    """Ask a new server, set as `make serve-fast` sets it, first what is plain, then what the native codec declines."""
    port, log = free_port(), tmp_path_factory.mktemp("start") / "log"
    environment = plain_environment(ACCELERATOR=str(built(build.cached)), PORT=str(port), BATCH_ROWS="auto")
    server = Server(spawn(COMMAND, environment, log), port, log)
    pixels = examples["pixels"]
    keyed = {**pixels, "instances": [{"pixels": row, "key": 7} for row in pixels["instances"]]}
    try:
        server.wait_for_port()
        first = server.ask("POST", PREDICT, pixels)
        return Started(server.log, first, {
            "a query": server.ask("POST", f"{PREDICT}?on_error=row", pixels),
            "a key": server.ask("POST", PREDICT, keyed),
            "a picture": server.ask("POST", PREDICT, DIGIT, content_type="image/png"),
            "a wrong body": server.ask("POST", PREDICT, WRONG),
            "metadata": server.ask("GET", "/v2/models/model"),
            "no address": server.ask("GET", "/v3"),
            "plain": server.ask("POST", PREDICT, pixels),
        })  # fmt: skip
    finally:
        server.kill()


def test_the_first_plain_answer_imports_neither_numpy_nor_the_codecs(started: Started) -> None:
    before, first, _ = started.log.partition('"first answer after')
    assert first
    assert "serving.pipeline.layers" in imported(before)
    assert imported(before) & UNUSED - PATHLIB == set()


def test_requests_right_after_the_first_answer_are_answered_correctly(
    started: Started, answers: dict[str, Any]
) -> None:
    behind, expected = started.behind, answers["pixels"]["predictions"]
    assert started.first.status == 200
    labels = [row["label"] for row in expected]
    assert [row["label"] for row in started.first.json["predictions"]] == labels
    assert behind["plain"].body == behind["a query"].body == started.first.body
    assert [(row["label"], row["key"]) for row in behind["a key"].json["predictions"]] == [(name, 7) for name in labels]
    assert behind["a picture"].json["predictions"][0]["label"] == "3"
    assert behind["a wrong body"].status == 400
    assert "instances[0][0]: expected" in behind["a wrong body"].json["error"]
    assert behind["metadata"].json["name"] == "model"
    assert behind["no address"].status == 404


def test_a_server_whose_worker_cannot_be_prepared_ends_and_says_why(tmp_path: Path) -> None:
    (tmp_path / "httptools.py").write_text("raise ImportError('httptools is broken')")
    port, log = free_port(), tmp_path / "log"
    command = [sys.executable, "-m", "serving.servers.standalone"]
    server = Server(spawn(command, plain_environment(PORT=str(port), PYTHONPATH=str(tmp_path)), log), port, log)
    try:
        assert server.process.wait(60) == 1
    finally:
        server.kill()
    assert "ImportError: httptools is broken" in server.log
    assert "a worker cannot start" in server.log


def test_a_readiness_probe_imports_the_modules_of_all_requests() -> None:
    code = """
import sys
from serving.core.http import Request
from serving.pipeline.handler import handle
assert "serving.pipeline.inference" not in sys.modules
assert handle(Request("GET", "/readyz")).status == 200
assert "serving.pipeline.inference" in sys.modules
"""
    environment = plain_environment(ACCELERATOR=str(built(build.cached)))
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
