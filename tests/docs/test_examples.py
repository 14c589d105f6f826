"""Every example of README and docs, run as it is written: what is printed is what the page shows."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, plain_environment
from tests.docs.pages import Example, examples, python_blocks, written_by_hand
from tests.server import Server, running

EXAMPLES = [example for page in written_by_hand() for example in examples(page)]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running() as started:
        yield started


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder that looks like the repository; what an example writes stays in it."""
    for path in ROOT.iterdir():
        if path.name != ".venv":
            (tmp_path / path.name).symlink_to(path)
    binaries = tmp_path / ".venv" / "bin"
    binaries.mkdir(parents=True)
    (binaries / "python").symlink_to(sys.executable)
    return tmp_path


def run(commands: str, folder: Path, **environment: str) -> str:
    done = subprocess.run(
        ["bash", "-euc", commands.replace(".venv/bin/python", sys.executable)],
        cwd=folder, env=plain_environment(PYTHONPATH=str(ROOT), **environment), capture_output=True, text=True,
        timeout=600,  # several processes that import TensorFlow, maybe on a busy machine
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def alike(shown: Any, printed: Any) -> bool:
    """Compare two JSON values; numbers may be rounded differently by another processor."""
    if isinstance(shown, dict) and isinstance(printed, dict):
        return list(shown) == list(printed) and all(alike(shown[key], printed[key]) for key in shown)
    if isinstance(shown, list) and isinstance(printed, list):
        return len(shown) == len(printed) and all(map(alike, shown, printed))
    if isinstance(shown, float) or isinstance(printed, float):
        return bool(shown == pytest.approx(printed, rel=1e-3, abs=1e-6))
    return type(shown) is type(printed) and shown == printed


def test_the_pages_have_examples() -> None:
    assert len(EXAMPLES) >= 10
    assert EXAMPLES[0].page == "README.md"


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: f"{example.page}: {example.commands[:50]!r}")
def test_an_example_prints_the_output_that_its_page_shows(example: Example, server: Server, folder: Path) -> None:
    if "curl" in example.commands and not shutil.which("curl"):
        pytest.skip("curl is not installed")
    printed = run(example.commands.replace("localhost:8080", f"127.0.0.1:{server.port}"), folder)
    if example.language == "http":  # header fields that are not shown differ from run to run
        shown_head, _, shown = example.output.partition("\n\n")
        head, _, printed = printed.replace("\r\n", "\n").partition("\n\n")
        assert not [line for line in shown_head.splitlines() if line not in head.splitlines()]
    else:
        shown = example.output
    if example.language == "jsonl":  # what a file holds; the command says more
        printed = "\n".join(line for line in printed.splitlines() if line.startswith("{"))
    lines, printed_lines = shown.strip().splitlines(), printed.strip().splitlines()
    assert len(lines) == len(printed_lines)
    for line, printed_line in zip(lines, printed_lines, strict=True):
        assert alike(json.loads(line), json.loads(printed_line)), printed_line


def test_the_training_script_exports_a_model_that_passes_the_commands_below_it(folder: Path) -> None:
    pytest.importorskip("keras")
    page = ROOT / "docs" / "exporting.md"
    (script,) = python_blocks(page)
    (folder / "train.py").write_text(script)
    block = re.search(r"```sh\n(?:\S*pip install [^\n]*\n)?(\.venv/bin/python train\.py.*?)```", page.read_text(), re.S)
    assert block
    run(block[1].replace("MODEL_DIR=baked make serve", ""), folder, KERAS_BACKEND="tensorflow")
    assert (folder / "exported.state.json").is_file()
    assert "serving_default" in run(".venv/bin/python -m serving show baked", folder)
