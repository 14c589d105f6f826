"""A process of the tests that ends in the middle says how."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

CONFTEST = "from tests.harness.ends import *\nfrom tests.harness.ends import _no_run_is_left\n"
ENDS = [
    # what a test does                                                         what the run prints
    ("from serving.pipeline import admission; admission.end('no run ends')",   "ends with os._exit(70)", "in end"),
    ("import signal; signal.raise_signal(signal.SIGTERM)",                     "ended with status -15",  "in test_it"),
    ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)",                "ended with status -9",   "test_it"),
    ("import os; (child := os.fork()) or os._exit(0); os.waitpid(child, 0)",   "1 passed",               ""),
    ("from serving.core import inflight; inflight.begin('a run that hangs')",  "1 passed, 1 error",      "a run that hangs"),
]  # fmt: skip


@pytest.mark.parametrize(("action", "result", "detail"), ENDS)
def test_the_end_of_a_worker_is_reported(action: str, result: str, detail: str, tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(f"{CONFTEST}from tests.harness import ends\nends.PATIENCE = 0.1\n")
    (tmp_path / "test_it.py").write_text(f"def test_it():\n    {action}\n")
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "xdist", "-n", "1", "--max-worker-restart=0", "-p", "no:cacheprovider", "-c", "/dev/null", tmp_path],
        cwd=ROOT, env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert result in ran.stdout + ran.stderr
    assert detail in ran.stdout + ran.stderr
