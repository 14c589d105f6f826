"""The scripts of deploy.sh: style, and what they never do."""

import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT


def test_shellcheck_finds_nothing() -> None:
    scripts = ["deploy.sh", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "deploy").glob("*.sh"))]
    run = subprocess.run(
        [Path(sys.executable).parent / "shellcheck", "-x", *scripts],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.stdout + run.stderr == ""


def test_no_script_evaluates_text() -> None:
    for path in [ROOT / "deploy.sh", *(ROOT / "deploy").glob("*.sh")]:
        words = path.read_text().replace("\n", " ").split(" ")
        assert not {"eval", "source"} & set(words), path
