"""A copy of what is deployed, and a stub of gcloud that records its arguments and gives prepared answers."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT

PARTS = (
    "deploy.sh", "deploy", ".gcloudignore", ".gcloudignore.container", ".python-version", "requirements.txt", "main.py",
    "serving", "fallback", "model",
)  # fmt: skip
# What deploy.sh may use besides bash: on its PATH are these, Python, and what a test adds.
TOOLS = (
    "awk",
    "bash",
    "cat",
    "cut",
    "dirname",
    "env",
    "find",
    "git",
    "grep",
    "mktemp",
    "rm",
    "sh",
    "tail",
    "tr",
    "wc",
    "xargs",
)

STUB = r"""#!/usr/bin/env bash
shopt -s nullglob
here=$(dirname "$0")
calls=("$here"/calls/*)
printf '%s\0' "$@" > "$here/calls/$(printf %03d ${#calls[@]})"
for answer in "$here"/answers/*; do
  { read -r pattern && read -r status; } < "$answer"
  if [[ "$*" =~ $pattern ]]; then
    if ((status)); then tail -n +3 "$answer" >&2; else tail -n +3 "$answer"; fi
    exit "$status"
  fi
done
case "$*" in
  'meta list-files-for-upload') find . -type f | cut -c 3- ;;
  'auth print-access-token' | 'auth print-identity-token') echo a-token ;;
  *) ;;
esac
"""
# The model's own check takes a second, and has tests of its own.
FAST = """#!/usr/bin/env bash
case "$*" in
  '-c import numpy') ;;
  '-m serving check'*) echo "$4: version 1" ;;
  '-m deploy.staging'*) cat >/dev/null ;;
  *) exec {python} "$@" ;;
esac
"""


class Deploy:
    """deploy.sh in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        """Copy what is deployed; there is no gcloud yet."""
        self.folder = folder / "source"
        self.folder.mkdir()
        for part in PARTS:
            origin, copy = ROOT / part, self.folder / part
            if origin.is_dir():
                shutil.copytree(origin, copy, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(origin, copy)
        self.programs = folder / "programs"
        self.programs.mkdir()
        for tool in TOOLS:
            (self.programs / tool).symlink_to(shutil.which(tool) or f"/no/{tool}")
        self.variables = {
            "PATH": str(self.programs),
            "PYTHON": self._program("fast-python", FAST.format(python=sys.executable)),
        }

    def _program(self, name: str, text: str) -> str:
        path = self.programs / name
        path.write_text(text)
        path.chmod(0o755)
        return str(path)

    def whole(self) -> "Deploy":
        """Let the model be checked, too."""
        self.variables["PYTHON"] = sys.executable
        return self

    def stub(self) -> "Deploy":
        """Put a gcloud on the PATH that only writes down."""
        for name in ("calls", "answers"):
            (self.programs / name).mkdir()
        self._program("gcloud", STUB)
        return self

    def answers(self, pattern: str, text: str = "", status: int = 0) -> None:
        """Let the stub answer a command that matches; the first answer that was given goes first."""
        folder = self.programs / "answers"
        (folder / f"{len(list(folder.iterdir())):03}").write_text(f"{pattern}\n{status}\n{text}\n")

    @property
    def calls(self) -> list[list[str]]:
        """Return the arguments of the stub's calls, one list for each call."""
        files = sorted((self.programs / "calls").iterdir())
        return [file.read_text().split("\0")[:-1] for file in files]

    @property
    def changes(self) -> list[list[str]]:
        """Return the calls that are no questions."""
        questions = {
            "describe",
            "list",
            "print-access-token",
            "print-identity-token",
            "list-files-for-upload",
            "get-value",
        }
        return [call for call in self.calls if not questions & set(call)]

    def __call__(self, *arguments: str, said: str = "", **environment: str) -> "subprocess.CompletedProcess[str]":
        """Run `./deploy.sh ARGUMENTS`."""
        return subprocess.run(
            ["bash", "./deploy.sh", *arguments], cwd=self.folder, input=said, capture_output=True, text=True, timeout=120,
            env={**self.variables, **environment},
        )  # fmt: skip


@pytest.fixture
def deploy(tmp_path: Path) -> Deploy:
    """Return deploy.sh over a copy of the repository."""
    return Deploy(tmp_path)


WHERE = ("--project=my-project", "--region=europe-west1")
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def gcloud_environment(folder: Path) -> dict[str, str]:
    """Return an environment in which the real gcloud keeps to itself."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("CLOUDSDK_")},
        "CLOUDSDK_CONFIG": str(folder / "gcloud"),
        "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
        "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING": "true",
        "CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK": "1",
    }
