"""What `make` installs, and from which Python: with a Python and a pip that only write down what they are told."""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

PYTHON = """\
#!/bin/sh
# -c is run by the real one, as if its version were another; -m venv makes a folder with a pip that writes down
if [ "$1" = -c ]; then
  exec {real} -c 'import sys; sys.version_info = ({version}, 0, "final", 0); exec(sys.argv.pop(1))' "$2"
fi
echo "python $*" >> {log}
if [ "$2" = venv ]; then
  mkdir -p .venv/bin && cp "$0" .venv/bin/python && cp {folder}/pip .venv/bin/pip
fi
"""
PIP = """\
#!/bin/sh
[ "$1" = --version ] && exit 0
echo "pip $*" >> {log}
test ! -e {folder}/fails
"""


class Made:
    """A folder with the Makefile, and what was done in it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder / "project", folder / "log"
        shutil.copytree(ROOT / "requirements", self.folder / "requirements")
        for name in ("Makefile", "requirements.txt"):
            shutil.copy(ROOT / name, self.folder)
        self.write(folder / "pip", PIP)

    def write(self, file: Path, text: str, version: str = "3, 13") -> Path:
        file.write_text(text.format(real=sys.executable, log=self.log, folder=self.folder.parent, version=version))
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
        return file

    def make(self, target: str, version: str = "3, 13") -> "subprocess.CompletedProcess[str]":
        python = self.write(self.folder.parent / "python", PYTHON, version)
        self.log.write_text("")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
        return subprocess.run(
            ["make", target, f"PYTHON={python}"], cwd=self.folder, env=environment, capture_output=True, text=True
        )

    def done(self, which: str) -> list[str]:
        return [line for line in self.log.read_text().splitlines() if line.startswith(which)]


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path)


INSTALLED = [
    # target        what pip installs
    ("setup",       ["requirements.txt"]),
    ("serve",       ["requirements.txt"]),
    ("serve-fast",  ["requirements.txt", "requirements/fast.txt"]),
    ("compiled",    ["requirements.txt", "requirements/fast.txt", "requirements/dev.txt"]),
]  # fmt: skip


@pytest.mark.parametrize(("target", "files"), INSTALLED)
def test_each_target_installs_what_it_needs_once(made: Made, target: str, files: list[str]) -> None:
    told = made.make(target)
    assert made.done("pip") == [f"pip install -r {name}" for name in files], told.stderr
    assert "GB on the disk" in told.stdout
    made.make(target)
    assert made.done("pip") == []


@pytest.mark.parametrize("version", ["3, 9", "3, 14"])
def test_a_python_out_of_range_is_refused_before_anything_is_made(made: Made, version: str) -> None:
    told = made.make("serve", version)
    assert told.returncode != 0
    assert (
        f"expected Python 3.10 to 3.13, PYTHON={made.folder.parent}/python is {version.replace(', ', '.')}"
        in told.stderr
    )
    assert not (made.folder / ".venv").exists()


def test_nothing_of_a_setup_that_failed_is_trusted(made: Made) -> None:
    (made.folder.parent / "fails").touch()
    assert made.make("compiled").returncode != 0
    assert made.make("compiled").returncode != 0
    (made.folder.parent / "fails").unlink()
    made.make("compiled")
    assert len(made.done("pip")) == 3


def test_an_environment_that_was_left_half_made_is_made_again(made: Made) -> None:
    (made.folder / ".venv" / "bin").mkdir(parents=True)
    made.make("setup")
    assert made.done("python") == ["python -m venv --clear .venv"]


def test_an_environment_of_another_python_is_made_again(made: Made) -> None:
    made.make("setup", "3, 12")
    (made.folder / "requirements.txt").touch()
    os.utime(made.folder / ".venv" / ".ready", (0, 0))
    made.make("setup", "3, 13")
    assert made.done("python") == ["python -m venv --clear .venv"]
