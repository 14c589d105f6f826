"""Find what a program imports by reading its code: at the top of a module or inside a function."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path


def imported(entry: str, root: Path) -> set[str]:
    """Return the top-level names that module `entry` of the folder `root` imports, directly or through its package.

    Modules of its own package are followed; other modules are named. The standard library is left out.
    """
    package = entry.partition(".")[0]
    outside: set[str] = set()
    visited: set[str] = set()
    pending = [entry]
    while pending:
        name = pending.pop()
        if name in visited:
            continue
        visited.add(name)
        if name != package and not name.startswith(f"{package}."):
            outside.add(name.partition(".")[0])
            continue
        pending.append(name.rpartition(".")[0] or package)
        path = root.joinpath(*name.split("."))
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if path.is_file():  # else it is a name in a module
            pending += asked(
                ast.parse(path.read_bytes()), name if path.name == "__init__.py" else name.rpartition(".")[0]
            )
    return outside - sys.stdlib_module_names


def asked(tree: ast.AST, package: str) -> Iterator[str]:
    """Yield each module that code of `package` may import; of `from a import b`, both a and a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            base = ".".join(parents[: len(parents) + 1 - node.level]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in {"import_module", "__import__"} and isinstance(node.args[0].value, str):
                yield node.args[0].value
