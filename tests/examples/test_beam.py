"""The handler for Apache Beam, in a pipeline on the local runner, in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, plain_environment
from tests.scoring.cluster import must_run

PACKAGES = Path(os.environ.get("BEAM_PACKAGES") or ROOT / ".cache" / "beam")


def test_a_pipeline_answers_each_line_or_says_what_is_wrong_with_it(tmp_path: Path) -> None:
    if not (PACKAGES / "apache_beam").is_dir():
        (pytest.fail if must_run() else pytest.skip)(f"apache-beam is not in {PACKAGES}: make test-tools")
    good = (ROOT / "examples" / "rows.jsonl").read_bytes()
    (tmp_path / "in").write_bytes(good + b'{"key": 7, "pixels": "x"}\n\xff\n')
    command = [sys.executable, "-m", "examples.beam_inference", str(tmp_path / "in"), str(tmp_path / "out"), "pixels"]
    environment = plain_environment(PYTHONPATH=str(PACKAGES))
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = list(map(json.loads, (tmp_path / "out").read_bytes().splitlines()))
    assert sorted(line["prediction"]["label"] for line in lines if "prediction" in line) == ["3", "7"]
    assert {json.dumps(line) for line in lines if "error" in line} == {
        '{"key": 7, "error": "pixels: expected float32, got the string \\"x\\""}',
        '{"error": "not JSON: not UTF-8 at byte 0"}',
    }
