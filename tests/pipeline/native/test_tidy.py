"""clang-tidy finds nothing in the native codec; its configuration is serving/pipeline/native/.clang-tidy."""

import shutil
import subprocess
import sysconfig

import pytest

from serving.pipeline.native import build
from tests.conftest import ROOT


@pytest.mark.skipif(shutil.which("clang-tidy") is None, reason="needs clang-tidy")
def test_clang_tidy_finds_nothing() -> None:
    command = ["clang-tidy", "--quiet", str(build.SOURCE), "--", "-std=c++17", f"-I{sysconfig.get_path('include')}"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (0, ""), ran.stdout
