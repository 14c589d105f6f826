"""One version: pyproject.toml's, in the changelog and in what a deployed copy says, which has no pyproject.toml."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import orjson

from serving import __version__
from serving.protocols import open_inference
from tests.conftest import ROOT

PROJECT = (ROOT / "pyproject.toml").read_text()
CHANGELOG = (ROOT / "CHANGELOG.md").read_text()


def test_pyproject_the_code_and_the_newest_release_in_the_changelog_have_one_version() -> None:
    assert re.findall(r'^version = "(.+?)"', PROJECT, re.MULTILINE) == [__version__]
    assert re.findall(r"^## \[(\d.*?)\] - \d{4}-\d\d-\d\d$", CHANGELOG, re.MULTILINE)[0] == __version__


def test_the_changelog_begins_with_what_is_unreleased_and_goes_back_in_time() -> None:
    headings = re.findall(r"^## \[(.+?)\](?: - (.+))?$", CHANGELOG, re.MULTILINE)
    assert headings[0] == ("Unreleased", "")
    dates = [date for _, date in headings[1:]]
    assert dates == sorted(dates, reverse=True)
    sections = set(re.findall(r"^### (.+)$", CHANGELOG, re.MULTILINE))
    assert sections <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_the_command_line_says_the_version_where_only_serving_is_deployed(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "serving", tmp_path / "serving", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "serving", "--version"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ended.stdout == f"stateless-serving {__version__}\n"


def test_the_servers_metadata_has_the_version() -> None:
    assert orjson.loads(open_inference.server())["version"] == __version__


def test_the_license_has_its_spdx_identifier() -> None:
    assert 'license = "Apache-2.0"' in PROJECT
    assert (ROOT / "LICENSE").read_text().startswith("SPDX-License-Identifier: Apache-2.0\n")
