"""clang-tidy finds nothing in the native codec; its configuration is serving/pipeline/native/.clang-tidy.

The static analyzer looks at each function with few of those that it calls, in a second; `make fuzz` has it go through all
of them, which takes twenty.
"""

import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

from serving.pipeline.native import build
from tests.conftest import ROOT
from tests.fuzz import ROUNDS

SHALLOW = [f"--extra-arg={word}" for word in ("-Xclang", "-analyzer-config", "-Xclang", "mode=shallow")]
FAULT = "int read(bool is_set) { int *number = is_set ? new int(1) : nullptr; return *number; }\n"

pytestmark = pytest.mark.skipif(shutil.which("clang-tidy") is None, reason="needs clang-tidy")


def tidy(source: Path, *more: str) -> "subprocess.CompletedProcess[str]":
    options = [*more, *(SHALLOW if ROUNDS == 1 else [])]
    command = ["clang-tidy", "--quiet", *options, str(source), "--", "-std=c++17", f"-I{sysconfig.get_path('include')}"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_clang_tidy_finds_nothing() -> None:
    ran = tidy(build.SOURCE)
    assert (ran.returncode, ran.stdout) == (0, ""), ran.stdout


def test_the_analyzer_reports_a_planted_fault(tmp_path: Path) -> None:
    (tmp_path / "planted.cc").write_text(FAULT)
    ran = tidy(tmp_path / "planted.cc", f"--config-file={build.SOURCE.with_name('.clang-tidy')}")
    assert ran.returncode != 0
    assert "clang-analyzer-core.NullDereference" in ran.stdout
