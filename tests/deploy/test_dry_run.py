"""--dry-run prints exactly the commands, one in each line, and needs no gcloud."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.deploy.conftest import WHERE, Deploy

GOLDEN = Path(__file__).parent / "golden.txt"


def cases() -> list[tuple[str, list[str]]]:
    """Return each command of golden.txt with its lines."""
    commands: list[tuple[str, list[str]]] = []
    for line in GOLDEN.read_text().splitlines():
        if line.startswith("$ ./deploy.sh "):
            commands.append((line.removeprefix("$ ./deploy.sh "), []))
        elif line and not line.startswith("#"):
            commands[-1][1].append(line)
    return commands


CASES = cases()


def stable(deploy: Deploy) -> Deploy:
    deploy.variables["PYTHON"] = "fast-python"  # as golden.txt has it
    return deploy


@pytest.mark.parametrize(("command", "lines"), CASES, ids=[command[:70] for command, _ in CASES])
def test_the_dry_run_prints_the_golden_lines(deploy: Deploy, command: str, lines: list[str]) -> None:
    run = stable(deploy)(*shlex.split(command))
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == lines
    for line in lines:
        words = shlex.split(line)
        assert words[0] in {"gcloud", "fast-python", "./deploy.sh"}
        # bash reads every line as shlex does
        printed = subprocess.run(
            ["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, text=True, check=True
        ).stdout
        assert printed.split("\0")[:-1] == words


def test_the_golden_lines_hold_every_command_that_sends_something() -> None:
    commands = {command.split()[0] for command, _ in CASES}
    assert commands >= {"run", "container", "events", "smoke", "canary", "promote", "rollback", "delete"}


VALUES = [
    "a,b",
    "two words",
    "it's",
    '"quoted"',
    "$HOME `id` \\",
    "^@^",
    "@",
    "@1~@2~",
    "ends with @",
    "#x",
    "",
    "a=b",
    "ü€",
    "two\nlines\tand tabs",
    "*",
]


def parsed(flag: str) -> dict[str, str]:
    """Read the ^DELIMITER^ form as `gcloud topic escaping` has it."""
    match = re.fullmatch(r"\^([^^]+)\^(.*)", flag, re.DOTALL)
    assert match
    return dict(pair.split("=", 1) for pair in match[2].split(match[1]))


def test_any_value_is_passed_to_gcloud_unchanged(deploy: Deploy) -> None:
    for values in (VALUES, *([value] for value in VALUES)):
        flags = [word for number, value in enumerate(values) for word in ("--env", f"V{number}={value}")]
        run = deploy("run", "--dry-run", *flags)
        assert run.returncode == 0, run.stderr
        line = run.stdout.splitlines()[1]
        words = subprocess.run(
            ["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, text=True, check=True
        ).stdout.split("\0")
        (flag,) = (word.removeprefix("--set-env-vars=") for word in words if word.startswith("--set-env-vars="))
        variables = parsed(flag)
        assert [variables[f"V{number}"] for number in range(len(values))] == values


def test_a_refusal_prints_no_command(deploy: Deploy) -> None:
    for command in ("run", "container", "canary"):
        (deploy.folder / "Procfile").touch()
        run = deploy(command, "--dry-run", *WHERE)
        assert (run.returncode, run.stdout) == (1, "")


@pytest.mark.parametrize("command", ["container", "events", "delete"])
def test_commands_that_change_a_project_need_it_named(deploy: Deploy, command: str) -> None:
    places = ["--event-input=gs://bkt/in", "--event-output=gs://bkt/out"]
    run = deploy(command, "--dry-run", *places)
    assert (run.returncode, run.stdout) == (1, "")
    assert "project: not set; use --project, or: gcloud config set project PROJECT" in run.stderr
    run = deploy(command, "--dry-run", *places, "--project=my-project")
    assert "region: not set; use --region, or: gcloud config set run/region REGION" in run.stderr


def test_help_and_config_need_neither_gcloud_nor_a_project(deploy: Deploy) -> None:
    assert deploy("help").stdout.startswith("usage: ./deploy.sh")
    assert deploy("--help").stdout == deploy("help").stdout
    for command in re.findall(r"^  ([a-z]+) ", deploy("help").stdout, re.MULTILINE):
        assert deploy(command, "--help").returncode == 0
