"""The dependencies: exact versions, the installed ones, none with a known vulnerability."""

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests.conftest import ROOT

FOLDER = ROOT / "requirements"
ROOT_FILE, CONSTRAINTS = ROOT / "requirements.txt", FOLDER / "constraints.txt"
MEASURED = sorted((ROOT / "bench" / "functions").glob("*/requirements.txt"))  # of functions that ours is compared with
SETS = [*sorted(path for path in FOLDER.glob("*.txt") if path != CONSTRAINTS), *MEASURED]
ADVISORIES = Path(__file__).parents[1] / "data" / "advisories.txt"
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
OF_MOSEC = {"defspec", "msgspec", "offapi"}  # what it brings along; it isn't in the developers' environment
HAS = set[str]()  # no extra


def name_of(file: Path) -> str:
    return str(file.relative_to(ROOT))


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def holds(requirement: Requirement, python: str | None = None, extras: Iterable[str] = HAS) -> bool:
    """Say whether a requirement's marker holds on this machine, for these extras, under a version of Python."""
    under = {"python_version": python, "python_full_version": f"{python}.0"} if python else {}
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra, **under}) for extra in ("", *extras))


def lines(file: Path) -> list[Requirement]:
    """Return the requirements that a file itself states."""
    texts = [line.partition(" #")[0].strip() for line in file.read_text().splitlines()]
    return [Requirement(text) for text in texts if text and not text.startswith(("#", "-"))]


def named(file: Path, python: str | None = None) -> list[Requirement]:
    """Return the requirements of a file and of those that it includes, if they hold on this machine."""
    included = re.findall(r"^-r (.+)$", file.read_text(), re.MULTILINE)
    inherited = [requirement for path in included for requirement in named(file.parent / path, python)]
    return inherited + [requirement for requirement in lines(file) if holds(requirement, python)]


def pins(python: str | None = None) -> dict[str, Requirement]:
    """Return every pin by package, those that hold on this machine."""
    both = [*lines(ROOT_FILE), *lines(CONSTRAINTS)]
    return {canonical(requirement.name): requirement for requirement in both if holds(requirement, python)}


def closure(requirements: Iterable[Requirement], python: str | None = None) -> dict[str, str]:
    """Return what requirements bring along, themselves included: installed version by package.

    With a version of Python, what that needs and this environment doesn't have counts too, with an empty version.
    """
    versions: dict[str, str] = {}
    pending, seen = list(requirements), set()
    while pending:
        requirement = pending.pop()
        name, extras = canonical(requirement.name), frozenset(requirement.extras)
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            if python is None:
                raise
            versions[name] = ""
            continue
        versions[name] = distribution.version
        needed = map(Requirement, distribution.requires or [])
        pending += [requirement for requirement in needed if holds(requirement, python, extras)]
    return versions


def run_time() -> dict[str, str]:
    return closure(named(ROOT_FILE))


def test_every_pin_is_one_exact_version_of_one_package() -> None:
    for requirement in (*lines(ROOT_FILE), *lines(CONSTRAINTS)):
        assert re.fullmatch(r"==[0-9][0-9a-z.]*", str(requirement.specifier)), requirement
        assert requirement.url is None
        assert not requirement.extras  # pip takes none in constraints


@pytest.mark.parametrize("python", PYTHONS)
def test_no_version_stands_twice(python: str) -> None:
    both = [*lines(ROOT_FILE), *lines(CONSTRAINTS)]
    names = Counter(canonical(requirement.name) for requirement in both if holds(requirement, python))
    assert [name for name, count in names.items() if count > 1] == []


@pytest.mark.parametrize("file", SETS, ids=name_of)
def test_a_set_names_packages_and_leaves_their_versions_to_the_constraints(file: Path) -> None:
    assert f"-c {os.path.relpath(CONSTRAINTS, file.parent)}" in file.read_text().splitlines()
    assert [str(requirement) for requirement in lines(file) if requirement.specifier] == []


@pytest.mark.parametrize("file", [ROOT_FILE, *SETS], ids=name_of)
def test_every_requirement_has_its_reason(file: Path) -> None:
    reason = False
    for line in file.read_text().partition("\n\n")[2].splitlines():
        if line.startswith("#"):
            reason = True
        elif not line:
            reason = False
        else:
            assert reason or line.startswith("-r "), line


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("file", [ROOT_FILE, *SETS], ids=name_of)
def test_everything_that_is_installed_is_pinned(file: Path, python: str) -> None:
    """The indirect requirements too: the same file makes the same environment."""
    needed = closure(named(file, python), python).keys()
    pinned = {canonical(requirement.name) for requirement in lines(ROOT_FILE) if holds(requirement, python)}
    if file != ROOT_FILE:
        pinned |= pins(python).keys()
    assert needed - pinned == set()


def test_the_platforms_indirect_requirements_are_checked_too() -> None:
    for python in PYTHONS:
        needed = closure(named(ROOT_FILE, python), python).keys()
        assert {"gunicorn", "werkzeug", "h5py"} <= needed
        assert ("exceptiongroup" in needed) == (python == "3.10")


def test_no_pin_is_unused() -> None:
    direct = ROOT_FILE.read_text().partition("# What those bring along.")[0]
    platform = closure(filter(holds, map(Requirement, re.findall(r"^[a-z].*", direct, re.MULTILINE))))
    everything = closure((requirement for file in SETS for requirement in named(file)), python="")
    assert {canonical(requirement.name) for requirement in lines(ROOT_FILE) if holds(requirement)} == platform.keys()
    assert pins().keys() == platform.keys() | everything.keys() | OF_MOSEC


def test_what_is_installed_is_what_is_pinned() -> None:
    """As `pip check` does, and each version by its pin: the developers' environment, with nothing that no pin names."""
    pinned = pins()
    installed = closure(requirement for requirement in named(FOLDER / "dev.txt"))
    assert len(installed) > 100
    wrong = {name: version for name, version in installed.items() if version not in pinned[name].specifier}
    assert wrong == {}
    for name in installed:
        for text in metadata.distribution(name).requires or []:
            requirement = Requirement(text)
            if holds(requirement):
                version = metadata.version(requirement.name)
                assert requirement.specifier.contains(version, prereleases=True), (name, text)


def advisories() -> list[tuple[str, Version, str]]:
    """Return what is known: name, the first version without it, its number."""
    lines = [line.split() for line in ADVISORIES.read_text().splitlines() if line and not line.startswith("#")]
    return [(name, Version(fixed), number) for name, fixed, number in lines]


def test_no_package_has_a_known_fixed_vulnerability() -> None:
    installed = run_time()
    known = advisories()
    assert {"orjson", "gunicorn", "werkzeug", "tensorflow-cpu"} <= {name for name, _, _ in known}
    old = [
        f"{name} {installed[name]}: {number} is fixed in {fixed}"
        for name, fixed, number in known
        if name in installed and Version(installed[name]) < fixed
    ]
    assert old == []


def test_an_old_package_would_be_found() -> None:
    assert any(Version("3.9.14") < fixed for name, fixed, _ in advisories() if name == "orjson")


def test_the_python_packages_index_knows_of_no_vulnerability(tmp_path: Path) -> None:
    """Skips where there is no pip-audit, or no network: the list above stands in."""
    program = shutil.which("pip-audit", path=f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin")
    if program is None:
        pytest.skip("pip-audit is not installed")
    installed = tmp_path / "installed.txt"
    installed.write_text("".join(f"{name}=={version}\n" for name, version in run_time().items()))
    command = [program, "--disable-pip", "--no-deps", "--progress-spinner", "off", "--timeout", "10"]
    run = subprocess.run([*command, "-r", str(installed)], cwd=ROOT, capture_output=True, text=True)
    if run.returncode and "No known vulnerabilities" not in run.stdout + run.stderr and "ID" not in run.stdout:
        pytest.skip(f"pip-audit cannot ask: {run.stderr.strip().splitlines()[-1:]}")
    assert run.returncode == 0, run.stdout
