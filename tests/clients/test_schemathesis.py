"""Schemathesis sends a running server requests that its OpenAPI document allows and forbids."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.clients.conftest import Served

BIN = Path(sys.executable).parent
HOOKS = Path(__file__).parent / "schemathesis_hooks.py"

PREDICTIONS = ["--include-path-regex", "^/v1/models/[^/]+:|^/v2/models/[^/]+/infer$"]  # what depends on the model
MODELS: list[tuple[str, list[str]]] = [
    # model              what is asked; nothing: every path
    ("model",            []),           # pictures and pixels; two signatures
    ("keras_functional", PREDICTIONS),  # two inputs, two outputs
    ("tf1_classify",     PREDICTIONS),
]  # fmt: skip


@pytest.mark.parametrize(("name", "paths"), MODELS, ids=[name for name, _ in MODELS])
def test_schemathesis_finds_no_failure(served: Served, name: str, paths: list[str], tmp_path: Path) -> None:
    command = shutil.which("st", path=os.pathsep.join([str(BIN), os.environ.get("PATH", "")]))
    if command is None:
        pytest.skip("schemathesis is not installed: pip install -r requirements/dev.txt")
    server = served(name)
    address = f"http://127.0.0.1:{server.port}/openapi.json"
    ended = subprocess.run(
        [
            command,
            "run",
            address,
            *paths,
            "--checks",
            "all",
            "--max-examples",
            "10",
            "--generation-deterministic",
            "--no-color",
        ],
        env={**os.environ, "SCHEMATHESIS_HOOKS": str(HOOKS), "COLUMNS": "200"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 0, f"{ended.stdout}\n{ended.stderr}\n{server.log[-2000:]}"
