"""Bytecode for everything that is measured: without it each import takes twice as long, for some and not for others."""

import compileall
import importlib.util
import sysconfig
from pathlib import Path

from bench.models import ROOT

OURS = ("main.py", "serving", "fallback", "container", "exporting", "bench")


def compile_all() -> list[str]:
    """Compile this repository and what its environment lacks; give the files that cannot be compiled."""
    for name in OURS:
        compile_one(ROOT / name)
    installed = Path(sysconfig.get_path("purelib"))
    lacking = [
        file for file in installed.rglob("*.py") if not Path(importlib.util.cache_from_source(str(file))).exists()
    ]
    return [str(file.relative_to(installed)) for file in lacking if not compile_one(file)]


def compile_one(path: Path) -> bool:
    compiler = compileall.compile_dir if path.is_dir() else compileall.compile_file
    return bool(path.exists() and compiler(path, quiet=2))
