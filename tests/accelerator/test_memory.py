"""The extension under AddressSanitizer and UndefinedBehaviorSanitizer, over a library that stands in for TensorFlow's."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from accelerator import build
from tests.accelerator import models
from tests.conftest import ROOT, plain_environment

SANITIZED = (
    "-fsanitize=address,undefined",
    "-fno-sanitize=vptr",
    "-fno-sanitize-recover=all",
    "-fno-omit-frame-pointer",
)
FAKE = Path(__file__).with_name("fake_tensorflow.cc")


def environment() -> dict[str, str]:
    """Return the environment in which a process can load what is sanitized; skip where there is none."""
    try:
        names = [build._run([*build._compiler(), f"-print-file-name={name}"], "it").strip() for name in
                 ("libasan.so", "libubsan.so")]  # fmt: skip
    except build.Refused as refused:
        pytest.skip(str(refused))
    if not all(os.path.isabs(name) for name in names):
        pytest.skip("the compiler has no AddressSanitizer")
    return plain_environment(
        LD_PRELOAD=names[0], PYTHONMALLOC="malloc", ASAN_OPTIONS="detect_leaks=0:allocator_may_return_null=1"
    )


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return the paths of the extension and of the library, compiled with both sanitizers."""
    folder = tmp_path_factory.mktemp("sanitized")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment().items():
            patch.setenv(name, value)
        try:
            extension = build.build(folder, SANITIZED)
        except build.Refused as refused:
            pytest.fail(str(refused))
        library = folder / "libfake.so"
        command = [
            *build._compiler(),
            "-std=c++17",
            "-O1",
            "-g",
            "-fPIC",
            "-shared",
            *SANITIZED,
            str(FAKE),
            "-o",
            str(library),
        ]
        subprocess.run(command, check=True)
    models.build()
    return [str(extension), str(library)]


def run(sanitized: list[str], check: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "tests.accelerator.memory", *sanitized, check]
    return subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True)


@pytest.mark.parametrize(
    "check", ["bodies", "large", "infers", "strings", "lengths", "pictures", "refusal", "threads", "leaks"]
)
def test_memory_is_used_as_it_may_be(sanitized: list[str], check: str) -> None:
    ran = run(sanitized, check)
    assert (ran.returncode, ran.stdout) == (0, "done\n"), ran.stderr[-4000:]
    assert "ERROR" not in ran.stderr
    assert "runtime error" not in ran.stderr


def test_a_fault_would_be_seen(sanitized: list[str]) -> None:
    ran = run(sanitized, "overrun")
    assert ran.returncode != 0
    assert "heap-buffer-overflow" in ran.stderr
