"""The clients of examples/clients/, each run by its own program: a prediction, an error, and a server that is busy at first."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.server import Server, running, serving

FOLDER = ROOT / "examples" / "clients"
CLIENTS = {
    # file                  how it is run                 its program, where tests may lack it
    "requests_client.py":   ([sys.executable],            ""),
    "httpx_client.py":      ([sys.executable],            ""),
    "client.mjs":           (["node"],                    "node"),
    "client.go":            (["go", "run"],               "go"),
    "Client.java":          (["java"],                    "java"),
    "client.sh":            (["sh"],                      "curl"),
}  # fmt: skip
WHOLE = {"Client.java", "client.sh"}  # print the answer's JSON


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running("standalone") as started:
        assert started.ask("GET", "/readyz").status == 200
        yield started


def ask(client: str, url: str, file: Path) -> "subprocess.CompletedProcess[str]":
    command, program = CLIENTS[client]
    if program and shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    return subprocess.run(
        [*command, FOLDER / client, url, file], capture_output=True, text=True, timeout=120, check=False
    )


def labels(client: str, output: str) -> list[str]:
    return [row["label"] for row in json.loads(output)["predictions"]] if client in WHOLE else output.split()


def test_every_client_is_tested() -> None:
    assert {path.name for path in FOLDER.iterdir() if path.is_file()} == set(CLIENTS)
    page = (ROOT / "docs" / "clients.md").read_text()
    assert [client for client in CLIENTS if f"(../examples/clients/{client})" not in page] == []


@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_gets_an_answer_and_shows_an_error(server: Server, tmp_path: Path, client: str) -> None:
    run = ask(client, server.url, ROOT / "examples" / "three.json")
    assert (run.returncode, run.stderr) == (0, "")
    assert labels(client, run.stdout) == ["3"]
    (tmp_path / "wrong.json").write_text('{"instances": [5]}')
    run = ask(client, server.url, tmp_path / "wrong.json")
    assert run.returncode != 0
    assert "instances[0]: expected a string" in run.stdout + run.stderr


@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_waits_for_a_server_that_is_busy(client: str) -> None:
    asked: list[str] = []

    class Busy(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            asked.append(self.path)
            status, body = (
                (503, b'{"error": "busy"}') if len(asked) == 1 else (200, b'{"predictions": [{"label": "3"}]}')
            )
            self.send_response(status)
            for name, value in (("Retry-After", "1"), ("Content-Length", str(len(body)))):
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Busy)
    with serving(server):
        run = ask(client, f"http://127.0.0.1:{server.server_port}", ROOT / "examples" / "three.json")
    assert run.returncode == 0, run.stderr
    assert labels(client, run.stdout.splitlines()[-1]) == ["3"]
    assert set(asked) == {"/v1/models/model:predict"}
    assert len(asked) > 1
