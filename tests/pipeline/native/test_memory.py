"""The extension under AddressSanitizer and UndefinedBehaviorSanitizer, over a library that stands in for TensorFlow's."""

import subprocess
import sys
from pathlib import Path

import pytest

from serving.pipeline.native import build
from tests.conftest import ROOT
from tests.exporting import twins
from tests.pipeline.native import models, sanitizers
from tests.pipeline.native.conftest import built
from tests.pipeline.native.sanitizers import ADDRESS

FAKE = Path(__file__).with_name("fake_tensorflow.cc")


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return the paths of the extension and of the library, compiled with both sanitizers."""
    folder = tmp_path_factory.mktemp("sanitized")
    extension, library = built(lambda: sanitizers.extension(ADDRESS, folder)), folder / "libfake.so"
    command = [*build.compiler(), "-std=c++17", "-fPIC", "-shared", *ADDRESS.flags, str(FAKE), "-o", str(library)]
    subprocess.run(command, check=True)
    models.build()
    return [str(extension), str(library)]


def run(sanitized: list[str], check: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "tests.pipeline.native.memory", *sanitized, check]
    return subprocess.run(command, cwd=ROOT, env=sanitizers.environment(ADDRESS), capture_output=True, text=True)


@pytest.mark.parametrize(
    "check", ["bodies", "shared", "large", "infers", "strings", "lengths", "pictures", "refusal", "threads", "leaks"]
)
def test_the_sanitizers_report_nothing(sanitized: list[str], check: str) -> None:
    ran = run(sanitized, check)
    assert (ran.returncode, ran.stdout) == (0, "done\n"), ran.stderr[-4000:]
    assert "ERROR" not in ran.stderr
    assert "runtime error" not in ran.stderr


def test_the_sanitizers_report_nothing_for_twins(sanitized: list[str]) -> None:
    twins.build()
    command = [sys.executable, "-m", "tests.pipeline.native.races", sanitized[0], "twin"]
    environment = sanitizers.environment(ADDRESS)
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout.splitlines()[-1:]) == (0, ["done"]), ran.stderr[-4000:]
    assert "runtime error" not in ran.stderr


def test_the_sanitizers_report_a_planted_error(sanitized: list[str]) -> None:
    ran = run(sanitized, "overrun")
    assert ran.returncode != 0
    assert "heap-buffer-overflow" in ran.stderr
