"""What the house promises of itself."""

import ast
import re
from pathlib import Path

import pytest

from tests.conftest import ROOT

SERVING = sorted((ROOT / "serving").rglob("*.py"))


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("path", SERVING, ids=lambda path: str(path.relative_to(ROOT)))
def test_serving_never_imports_tensorflows_python_package(path: Path) -> None:
    never = {"tensorflow", "keras", "exporting", "examples", "bench", "tests"}
    if path.name != "__main__.py":  # whose commands plan and verify are there where tools/ is
        never.add("tools")
    assert not imports(path) & never


@pytest.mark.parametrize("path", SERVING, ids=lambda path: str(path.relative_to(ROOT)))
def test_flask_and_ctypes_and_the_environment_stay_behind_their_doors(path: Path) -> None:
    if path.name not in ("flask.py", "functions.py", "delivered.py", "gunicorn.py"):
        assert not imports(path) & {"flask", "functions_framework", "werkzeug"}
    if path.name != "tensorflow_c.py":
        assert "ctypes" not in imports(path)
    if path.name not in ("settings.py", "build.py"):  # the codec's compiler is no part of what serves
        assert not re.search(r"os\.getenv|os\.environ(?!\.setdefault)", path.read_text())


@pytest.mark.parametrize("path", sorted((ROOT / "bench").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_benchmarks_import_nothing_of_the_tests(path: Path) -> None:
    assert "tests" not in imports(path)


def test_nothing_tracked_names_the_machine_it_was_written_on() -> None:
    pattern = re.compile(r"(?<![\w.])/(?:work|root|home|Users)/\w")
    for path in ROOT.rglob("*"):
        parts = path.relative_to(ROOT).parts
        tracked = path.suffix in {".py", ".md", ".sh", ".toml", ".txt", ".json"} and not parts[0].startswith(".")
        if tracked and path != Path(__file__):
            assert not pattern.search(path.read_text(errors="replace")), path
