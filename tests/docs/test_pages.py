"""The documentation agrees with the product: its links lead somewhere, its commands exist."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, plain_environment
from tests.docs.pages import anchors, links, name, pages, shell, written_by_hand

EVERY, WRITTEN = pages(), written_by_hand()
FOLDERS = sorted(path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith((".", "_")))
OTHERS = {"pytest", "pip", "venv", "compileall", "http"}  # modules that are not ours


@pytest.mark.parametrize("page", EVERY, ids=name)
def test_every_relative_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for target in links(page):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        linked = (page.parent / file).resolve() if file else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


@pytest.mark.parametrize("page", WRITTEN, ids=name)
def test_every_path_in_a_page_exists(page: Path) -> None:
    for path in re.findall(rf"`((?:{'|'.join(FOLDERS)})/[\w./-]*)(?:::\w+)?`", page.read_text()):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("page", WRITTEN, ids=name)
def test_every_make_target_and_module_in_a_page_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    for target in re.findall(r"(?:^|&& |[A-Z]=\S+ |\n)make ([a-z-]+)", shell(page)):
        assert target in targets, f"make {target}"
    for module in re.findall(r"python[\w.]* (?:-S )?-m ([\w.]+)", shell(page)):
        path = ROOT / module.replace(".", "/")
        exists = path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()
        assert exists or module in OTHERS, f"python -m {module}"


COMMANDS = [
    # command                  how its help is asked for
    ("python -m serving",      [sys.executable, "-m", "serving", "--help"]),
    ("python -m exporting",    [sys.executable, "-m", "exporting", "--help"]),
    ("./deploy.sh",            ["./deploy.sh", "--help"]),
]  # fmt: skip


@pytest.mark.parametrize(("command", "arguments"), COMMANDS)
def test_every_subcommand_and_option_in_a_page_is_in_the_help(command: str, arguments: list[str]) -> None:
    def help_of(*words: str) -> str:
        run = subprocess.run(
            [*arguments[:-1], *words, "--help"], cwd=ROOT, env=plain_environment(), capture_output=True, text=True
        )
        assert run.returncode == 0, run.stderr
        return run.stdout

    used: dict[str, set[str]] = {}
    for page in WRITTEN:
        for words in re.findall(rf"{re.escape(command)} +([a-z]+[^\n`;|&#]*)", shell(page).replace("\\\n", " ")):
            used.setdefault(words.split()[0], set()).update(re.findall(r"(?<!\S)--[a-z0-9-]+", words))
    assert used
    for subcommand, options in sorted(used.items()):
        assert re.search(rf"\b{subcommand}\b", help_of()), f"{command} {subcommand}"
        if command != "./deploy.sh":  # its flags are values too: test_every_flag_of_deploy_sh
            text = help_of(subcommand)
            assert not [option for option in options if option not in text], f"{command} {subcommand}"


def test_every_flag_of_deploy_sh_in_a_page_is_one_of_its_values() -> None:
    values = re.search(r"^VALUES='\n(.*?)^'", (ROOT / "deploy" / "values.sh").read_text(), re.M | re.S)
    assert values
    known = {f"--{line.split()[0].lower().replace('_', '-')}" for line in values[1].splitlines()}
    known |= {"--dry-run", "--yes", "--public", "--env", "--secret"}
    for page in WRITTEN:
        for words in re.findall(r"\./deploy\.sh([^\n`;|&#]*)", shell(page).replace("\\\n", " ")):
            assert set(re.findall(r"(?<!\S)--[a-z0-9-]+", words)) <= known, words


def test_the_readme_is_at_most_200_lines_long() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200


def test_the_readme_names_every_folder_and_every_page() -> None:
    readme = (ROOT / "README.md").read_text()
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    for folder in sorted({path.partition("/")[0] for path in tracked if "/" in path and not path.startswith(".")}):
        assert f"| `{folder}/`" in readme or f", `{folder}/`" in readme, folder
    for page in sorted((ROOT / "docs").glob("*.md")):
        assert f"(docs/{page.name})" in readme, page.name
