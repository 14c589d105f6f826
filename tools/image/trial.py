"""Start the server on a folder of packages and send it each signature's example."""

import json
import os
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from serving.core import settings
from serving.core.errors import LoadError
from serving.protocols import tensorflow_serving
from serving.savedmodel.signature import DEFAULT
from serving.savedmodel.source import Source
from tools.image.bind import ROOT
from tools.image.elf import Refused
from tools.server import Server, free_port, spawn

SECONDS = 300

Answers = dict[str, tuple[int, bytes]]


def answers(packages: Path, model: Path, root: Path = ROOT) -> Answers:
    """Return what the server of `root` answers for each signature of the model; raise Refused where it does not start.

    Only `packages` and the standard library can be imported. For an answer that differs between two runs, as of a model
    that draws random numbers, only the status is returned.
    """
    bodies = _bodies(model)
    with _serving(packages, model, root) as address:
        rounds = [{name: _ask(address, body) for name, body in bodies.items()} for _ in range(2)]
    return {name: (answer[0], answer[1] if answer == rounds[1][name] else b"") for name, answer in rounds[0].items()}


def differences(before: Answers, after: Answers) -> str:
    """Describe where answers differ; empty where they do not."""
    texts = []
    for name, (status, body) in before.items():
        now_status, now_body = after.get(name, (0, b""))
        if status != now_status or (body and now_body and body != now_body):
            texts.append(f"{name}: {status} {body[:80]!r}, now {now_status} {now_body[:80]!r}")
    return "; ".join(texts)


def _bodies(model: Path) -> dict[str, bytes]:
    try:
        source = Source(model.absolute(), "model")
    except LoadError as error:
        raise Refused(f"{model}: {error}") from None
    bodies = {}
    for name, signature in source.signatures.items():
        if signature.refusal is None:
            body = json.loads(tensorflow_serving.example(signature, source.examples.get(name)))
            bodies[name] = json.dumps(body if name == DEFAULT else body | {"signature_name": name}).encode()
    return bodies


@contextmanager
def _serving(packages: Path, model: Path, root: Path) -> Iterator[str]:
    port = free_port()
    unwanted = {*settings.VARIABLES, "PYTHONHOME", "PYTHONSTARTUP"} - {"SAVED_MODEL_TAGS"}  # by which it was built
    environment = {name: value for name, value in os.environ.items() if name not in unwanted} | {
        "PYTHONPATH": str(packages.absolute()),
        "PYTHONDONTWRITEBYTECODE": "1",
        "MODEL_DIR": str(model.absolute()),
        "HOST": "127.0.0.1",
        "PORT": str(port),
    }
    # -S: without the packages of the Python that runs this
    command = [sys.executable, "-S", "-m", "serving.servers.standalone"]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        server = Server(spawn(command, environment, log, root), port, log)
        try:
            _wait(server)
            yield server.url
        except Refused as refused:
            raise Refused(f"{packages}: {refused}: {server.last_line}") from None
        finally:
            server.stop(15)


def _wait(server: Server) -> None:
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        if server.process.poll() is not None:
            raise Refused(f"the server ended with status {server.process.returncode}")
        try:
            with urllib.request.urlopen(f"{server.url}/readyz", timeout=SECONDS):
                return
        except urllib.error.HTTPError as error:
            raise Refused(f"the model cannot be served: {error.read().decode(errors='replace')[:300]}") from None
        except OSError:
            time.sleep(0.05)
    raise Refused(f"the server was not ready after {SECONDS} seconds")


def _ask(address: str, body: bytes) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(f"{address}/v1/models/model:predict", body, timeout=SECONDS) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
