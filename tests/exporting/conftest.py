"""Everything audited and baked once, by one process that imports tensorflow."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.models.once import ROOT, locked
from tests.models.zoo import build


def python(*arguments: str, **options: Any) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1", **options.pop("env", {})}
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False, **options
    )


@pytest.fixture(scope="session")
def baked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    build()
    mine = tmp_path_factory.getbasetemp()
    shared = mine.parent if "PYTEST_XDIST_WORKER" in os.environ else mine  # parallel workers bake once between them
    folder = shared / "baked"
    with locked(shared / "baked.lock"):
        if not (folder / "results.json").exists():
            folder.mkdir(exist_ok=True)
            done = python("-m", "tests.exporting.work", str(folder))
            assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="session")
def results(baked: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((baked / "results.json").read_text())
    return found
