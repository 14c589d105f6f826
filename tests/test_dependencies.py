"""What the function is made of besides its own code: exact versions, those that are installed, none known to be broken."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests.conftest import ROOT

RUN_TIME = ("requirements.txt", "container/requirements.txt")
FILES = sorted({*RUN_TIME, "tests/fuzz/requirements.txt", *(path.name for path in ROOT.glob("requirements*.txt"))})
ADVISORIES = Path(__file__).parent / "data" / "advisories.txt"


def holds(requirement: Requirement, python: str | None = None) -> bool:
    """Say whether a requirement's marker holds on this machine, under a version of Python."""
    environment = {"extra": ""} | ({"python_version": python, "python_full_version": f"{python}.0"} if python else {})
    return requirement.marker is None or requirement.marker.evaluate(environment)


def pins(file: str, python: str | None = None) -> dict[str, Requirement]:
    """Return the requirements of a file by name, those that hold on this machine."""
    found = {}
    for line in (ROOT / file).read_text().splitlines():
        text = line.partition(" #")[0].strip()
        if text and not text.startswith(("#", "-r ")):
            requirement = Requirement(text)
            if holds(requirement, python):
                found[requirement.name.lower().replace("_", "-")] = requirement
    return found


def closure(names: Iterable[str] | None = None, python: str | None = None) -> dict[str, str]:
    """Return everything that requirements bring along, those of the run time by default: the installed versions.

    What another version of Python needs and this one has not counts by its name alone.
    """
    found: dict[str, str] = {}
    installed = {name for file in RUN_TIME for name in pins(file, python)}
    pending = list(installed if names is None else installed & set(names))
    while pending:
        name = pending.pop().lower().replace("_", "-")
        if name in found:
            continue
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            if python is None:
                raise
            found[name] = ""
            continue
        found[name] = distribution.version
        needed = map(Requirement, distribution.requires or [])
        pending += [requirement.name for requirement in needed if holds(requirement, python)]
    return found


@pytest.mark.parametrize("file", FILES)
def test_every_requirement_is_one_exact_version(file: str) -> None:
    for name, requirement in pins(file).items():
        assert re.fullmatch(r"==[0-9][0-9a-z.]*", str(requirement.specifier)), f"{file}: {name}"
        assert requirement.url is None


@pytest.mark.parametrize("file", RUN_TIME)
def test_what_is_installed_is_what_is_pinned(file: str) -> None:
    for name, requirement in pins(file).items():
        assert metadata.version(name) in requirement.specifier, name


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
def test_everything_that_runs_is_pinned(python: str) -> None:
    """The indirect requirements too: gunicorn's private members are overridden, and the rest makes a build repeatable."""
    pinned = {name for file in RUN_TIME for name in pins(file, python)}
    needed = closure(python=python).keys()
    assert {"gunicorn", "werkzeug", "h5py"} <= needed
    assert needed - pinned == set()
    assert ("exceptiongroup" in needed) == (python == "3.10")


def test_no_pin_is_left_of_what_nothing_requires() -> None:
    needed, direct = set[str](), set[str]()
    for line in (ROOT / "requirements.txt").read_text().splitlines():
        if line.startswith("# What those bring along."):
            direct = set(needed)
        elif line and not line.startswith("#"):
            needed.add(Requirement(line).name.lower().replace("_", "-"))
    assert len(direct) > 8
    assert (needed & pins("requirements.txt").keys()) - closure(direct).keys() == set()


def test_what_is_installed_fits_together() -> None:
    """As `pip check` does, for what runs."""
    for name in closure():
        for text in metadata.distribution(name).requires or []:
            requirement = Requirement(text)
            if holds(requirement):
                assert requirement.specifier.contains(metadata.version(requirement.name), prereleases=True), (
                    name,
                    text,
                )


def advisories() -> list[tuple[str, Version, str]]:
    """Return what is known: name, the first version without it, its number."""
    lines = [line.split() for line in ADVISORIES.read_text().splitlines() if line and not line.startswith("#")]
    return [(name, Version(fixed), number) for name, fixed, number in lines]


def test_no_package_is_older_than_the_mend_of_what_is_known() -> None:
    installed = closure()
    known = advisories()
    assert {"orjson", "gunicorn", "werkzeug", "tensorflow-cpu"} <= {name for name, _, _ in known}
    old = [
        f"{name} {installed[name]}: {number} is mended in {fixed}"
        for name, fixed, number in known
        if name in installed and Version(installed[name]) < fixed
    ]
    assert old == []


def test_an_old_package_would_be_found() -> None:
    assert any(Version("3.9.14") < fixed for name, fixed, _ in advisories() if name == "orjson")


def test_the_python_packages_index_knows_of_no_vulnerability() -> None:
    """Skips where there is no pip-audit, or no network: the list above stands in."""
    program = shutil.which("pip-audit", path=f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin")
    if program is None:
        pytest.skip("pip-audit is not installed")
    command = [program, "--disable-pip", "--no-deps", "--progress-spinner", "off", "--timeout", "10"]
    for file in RUN_TIME:
        run = subprocess.run([*command, "-r", file], cwd=ROOT, capture_output=True, text=True)
        if run.returncode and "No known vulnerabilities" not in run.stdout + run.stderr and "ID" not in run.stdout:
            pytest.skip(f"pip-audit cannot ask: {run.stderr.strip().splitlines()[-1:]}")
        assert run.returncode == 0, run.stdout
