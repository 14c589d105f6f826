"""The rules of the code's structure: imports, private names, sizes of folders, files and functions."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

SERVING = sorted((ROOT / "serving").rglob("*.py"))
OURS = [ROOT / "main.py", *(path for name in ("serving", "exporting", "tools", "fallback", "deploy", "bench", "examples")
                            for path in sorted((ROOT / name).rglob("*.py")))]  # fmt: skip


def modules(path: Path) -> set[str]:
    """Return what a file imports, at its top or in a function: the names of modules and of what is in them."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def packages(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in modules(path)}


def private_names(path: Path) -> Iterator[str]:
    """Yield what a file takes of our modules' private names: `from x import _y`, or `x._y` of an imported module."""
    tree = ast.parse(path.read_text())
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and (ROOT / node.module.partition(".")[0]).is_dir():
            for alias in node.names:
                if alias.name.startswith("_") and not alias.name.endswith("__"):
                    yield f"from {node.module} import {alias.name}"
                module = ROOT / node.module.replace(".", "/") / alias.name
                if module.is_dir() or module.with_suffix(".py").is_file():
                    imported.add(alias.asname or alias.name)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in imported:
            private = node.attr.startswith("_") and not node.attr.endswith("__")
            yield from [f"{node.value.id}.{node.attr}"] if private else []


def imports_by_string(path: Path) -> Iterator[str]:
    """Yield the calls that import a module by a string."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and node.args:
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in ("import_module", "__import__"):
                yield ast.unparse(node.args[0])


@pytest.mark.parametrize("path", SERVING, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_their_own_modules_use_flask_ctypes_and_the_environment(path: Path) -> None:
    if path.name not in ("flask.py", "functions.py", "delivered.py", "gunicorn.py"):
        assert not packages(path) & {"flask", "functions_framework", "werkzeug"}
    if path.parent.name not in ("tensorflow_c", "litert_c") and path.name not in (
        "opening.py",
        "heap.py",
        "inflight.py",
    ):  # the latter: addresses
        assert "ctypes" not in packages(path)
    if path.name not in ("settings.py", "build.py"):  # the codec's compiler is no part of what serves
        assert not re.search(r"os\.getenv|os\.environ(?!\.setdefault)", path.read_text())


def test_no_module_uses_private_names_of_another_module() -> None:
    assert {str(path.relative_to(ROOT)): taken for path in OURS if (taken := [*private_names(path)])} == {}


def test_a_private_name_of_another_module_would_be_found(tmp_path: Path) -> None:
    file = tmp_path / "x.py"
    file.write_text(
        "from serving.core import files, http as h\nfrom serving.core.http import _a, __doc__\nfiles._b, h._c, self._d"
    )
    assert list(private_names(file)) == ["from serving.core.http import _a", "files._b", "h._c"]


def test_only_the_fallback_and_LAYER_are_imported_by_a_string() -> None:
    """A contract on imports sees statements alone."""
    hidden = {str(path.relative_to(ROOT)): names for path in OURS if (names := [*imports_by_string(path)])}
    assert hidden == {
        "serving/runtime/sessions.py": ["'fallback.tensorflow_python'"],
        "serving/pipeline/layers.py": ["module"],  # what the setting LAYER names
    }


def test_serving_has_few_packages() -> None:
    assert len([path for path in (ROOT / "serving").iterdir() if path.name != "__pycache__"]) <= 10


def test_no_folder_of_serving_has_more_than_15_files() -> None:
    files = [
        path for path in (ROOT / "serving").rglob("[!.]*") if path.is_file() and path.suffix not in (".pyc", ".so")
    ]
    counts = Counter(path.parent for path in files)
    assert {str(folder): count for folder, count in counts.items() if count > 15} == {}


PROTOCOLS = sorted((ROOT / "serving" / "protocols").rglob("*.py"))


LONGEST_FUNCTION = 50  # lines


def long_functions(path: Path) -> Iterator[str]:
    """Yield the functions of a file that have more than LONGEST_FUNCTION lines."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            if lines > LONGEST_FUNCTION:
                yield f"{node.name}: {lines} lines"


def test_no_function_has_more_than_50_lines() -> None:
    assert {str(path.relative_to(ROOT)): long for path in OURS if (long := [*long_functions(path)])} == {}


def test_a_function_of_51_lines_would_be_named(tmp_path: Path) -> None:
    file = tmp_path / "x.py"
    file.write_text("def short():\n" + "    1\n" * 49 + "async def long():\n" + "    1\n" * 50)
    assert list(long_functions(file)) == ["long: 51 lines"]


def test_no_file_has_more_than_400_lines() -> None:
    tests = (ROOT / "tests").rglob("*.py")
    lines = {str(path.relative_to(ROOT)): path.read_text().count("\n") for path in (*OURS, *tests)}
    assert {name: count for name, count in lines.items() if count > 400} == {}


def test_no_folder_of_the_protocols_has_more_than_15_files() -> None:
    assert max(len(list(folder.glob("*.py"))) for folder in {path.parent for path in PROTOCOLS}) <= 15


def test_nothing_tracked_names_the_machine_it_was_written_on() -> None:
    pattern = re.compile(r"(?<![\w.])/(?:work|root|home|Users)/\w")
    for path in ROOT.rglob("*"):
        parts = path.relative_to(ROOT).parts
        tracked = path.suffix in {".py", ".md", ".sh", ".toml", ".txt", ".json"} and not parts[0].startswith(".")
        if tracked and path != Path(__file__):
            assert not pattern.search(path.read_text(errors="replace")), path
