"""The scripts by themselves, and what the cloud build does with the requirements."""

import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.conftest import ROOT


def test_shellcheck_has_nothing_to_say() -> None:
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


@pytest.mark.parametrize("path", ["requirements.txt", "container/requirements.txt"])
def test_what_the_requirements_require_is_there_in_a_version_they_take(path: str) -> None:
    """`pip check`, which the cloud build ends with, over these alone."""
    lines = [line for line in (ROOT / path).read_text().splitlines() if line and not line.startswith("#")]
    pending, seen = [Requirement(line) for line in lines], set()
    direct = {one.name for one in pending if not one.marker or one.marker.evaluate()}
    while pending:
        wanted = pending.pop()
        if wanted.marker and not wanted.marker.evaluate({"extra": ""}):
            continue
        found = distribution(wanted.name)
        assert wanted.specifier.contains(found.version, prereleases=True), f"{wanted}, got {found.version}"
        if found.name not in seen:
            seen.add(found.name)
            pending += [Requirement(text) for text in found.requires or []]
    assert len(seen) >= len(direct) > 0
