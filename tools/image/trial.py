"""Start the server on a folder of packages and send it each signature's example."""

import json
import os
import sys
import tempfile
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
from tools.server import Server, StartError, running

SECONDS = 300

Answers = dict[str, tuple[int, bytes]]


def answers(packages: Path, model: Path, root: Path = ROOT) -> Answers:
    """Return the answers of the server in `root` for each signature of the model; raise Refused if it does not start.

    Only `packages` and the standard library can be imported. For an answer that differs between two runs, as of a model
    that draws random numbers, only the status is returned.
    """
    bodies = _bodies(model)
    path = "/v1/models/model:predict"
    with _serving(packages, model, root) as server:
        rounds = [{name: server.send("POST", path, body, SECONDS) for name, body in bodies.items()} for _ in range(2)]
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
def _serving(packages: Path, model: Path, root: Path) -> Iterator[Server]:
    unwanted = {*settings.VARIABLES, "PYTHONHOME", "PYTHONSTARTUP"} - {"SAVED_MODEL_TAGS"}  # by which it was built
    environment = {name: value for name, value in os.environ.items() if name not in unwanted}
    environment |= {"PYTHONPATH": str(packages.absolute()), "PYTHONDONTWRITEBYTECODE": "1"}
    python = (sys.executable, "-S")  # without the packages of the Python that runs this
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with running(model.absolute(), log, environment, ending=15, python=python, folder=root) as server:
            try:
                server.wait_until_ready(SECONDS)
                yield server
            except StartError as error:
                raise Refused(f"{packages}: the model cannot be served: {error}") from None
