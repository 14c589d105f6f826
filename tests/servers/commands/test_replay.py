"""The golden requests of the embedded model, sent to a real server by `python -m serving replay`."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.servers.commands.replay import replay as answers
from tests.conftest import EMBEDDED, ROOT, plain_environment
from tests.events.sink import mail_server
from tests.server import Server, running


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running("standalone") as launched:
        yield launched


def replay(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "serving", "replay", *arguments]
    return subprocess.run(command, cwd=ROOT, env=plain_environment(), capture_output=True, text=True, check=False)


def test_the_embedded_model_answers_as_when_it_was_exported(server: Server) -> None:
    done = replay(f"http://127.0.0.1:{server.port}/", "--header", "X-Any: thing")
    assert done.stdout == "serving_default: answered as by TensorFlow\npixels: answered as by TensorFlow\n"
    assert (done.returncode, done.stderr) == (0, "")


def test_in_a_folder_of_versions_the_requests_of_the_highest_are_sent(server: Server, tmp_path: Path) -> None:
    for version in ("1", "2"):
        shutil.copytree(EMBEDDED, tmp_path / version)
    (tmp_path / "1" / "assets.extra" / "examples.json").unlink()
    assert replay(f"http://127.0.0.1:{server.port}", str(tmp_path)).returncode == 0


def test_a_different_answer_is_named_by_its_signature_and_output(server: Server, tmp_path: Path) -> None:
    copy = tmp_path / "model"
    shutil.copytree(EMBEDDED, copy)
    file = copy / "assets.extra" / "answers.json"
    answers = json.loads(file.read_bytes())
    answers["pixels"]["predictions"][0]["probabilities"][3] -= 2e-4
    file.write_text(json.dumps(answers))
    done = replay(f"http://127.0.0.1:{server.port}", str(copy))
    assert done.returncode == 1
    assert (
        "serving_default: answered as by TensorFlow\npixels: predictions[0].probabilities[3]: expected" in done.stdout
    )


def test_what_cannot_be_replayed_is_reported_in_one_line(server: Server, tmp_path: Path) -> None:
    here = f"http://127.0.0.1:{server.port}"
    for arguments, status, reason in [
        ((here, "--name", "other"), 1, "status 404: "),
        (("http://127.0.0.1:9",), 1, "no answer from http://127.0.0.1:9/v1/models/model:predict: "),
        ((here, str(tmp_path)), 2, "there is no assets.extra/examples.json"),
        (("localhost:8080",), 2, "expected http://HOST:PORT or https://HOST, got 'localhost:8080'"),
        ((here, "--header", "no colon"), 2, "expected 'NAME: VALUE', got 'no colon'"),
    ]:
        done = replay(*arguments)
        assert done.returncode == status
        lines = (done.stdout or done.stderr).splitlines()
        assert all(reason in line for line in lines)
        assert lines


def test_a_server_that_does_not_speak_http_is_named_by_its_address() -> None:
    with mail_server(2) as address:
        problems = list(answers(address, EMBEDDED, "model"))
    assert [name for name, _ in problems] == ["serving_default", "pixels"]
    assert all((problem or "").startswith(f"no answer from {address}/v1/") for _, problem in problems)
