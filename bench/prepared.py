"""What some subjects need first, made once and kept: the accelerator, the bound library, baked models, mosec."""

import functools
import hashlib
import os
import subprocess
import sys
from pathlib import Path

from accelerator.build import Refused, cached
from bench.models import CACHE, ROOT, Model, recipe_of


class Skipped(Exception):
    """A subject cannot be measured here; says why."""


def bound(model: Model) -> dict[str, str]:
    """Serve with the library whose symbols are bound."""
    return {"TENSORFLOW_LIBRARY_DIR": _bound()}


def accelerated(model: Model) -> dict[str, str]:
    """Serve with the accelerator."""
    return {"ACCELERATOR": _accelerator()}


def baked(model: Model) -> dict[str, str]:
    """Serve the model frozen and optimized."""
    return {"MODEL_DIR": _baked(model.name, model.saved_model)}


def with_mosec(model: Model) -> dict[str, str]:
    """Nothing to set, but mosec has to be there."""
    _mosec()
    return {}


def _remembered(make):  # functools.cache, for refusals too: what failed once is not tried at each repetition
    @functools.cache
    def made(*arguments):
        try:
            return make(*arguments), None
        except Skipped as skipped:
            return None, str(skipped)

    def value(*arguments):
        found, refusal = made(*arguments)
        if refusal:
            raise Skipped(refusal)
        return found

    return value


def _output(command: list[str], title: str) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "no word").splitlines()[-1]
        raise Skipped(f"{title}: {said[:200]}")
    return done.stdout


@_remembered
def _bound() -> str:
    return _output([sys.executable, "-m", "container.bind", "--cached"], "the library cannot be bound").strip()


@_remembered
def _accelerator() -> str:
    try:
        return str(cached())
    except Refused as refused:
        raise Skipped(f"there is no accelerator: {refused}") from None


@_remembered
def _baked(name: str, saved_model: Path) -> str:
    if not (ROOT / "exporting" / "bake.py").exists():
        raise Skipped("there is no exporting/bake.py")
    digest = hashlib.sha256(recipe_of(name).encode())
    for file in sorted((ROOT / "exporting").glob("*.py")):
        digest.update(file.read_bytes())
    folder, recipe = CACHE / name / "baked", CACHE / name / "baked.recipe"
    if not recipe.exists() or recipe.read_text() != digest.hexdigest():
        bake = [sys.executable, "-m", "exporting", "bake", str(saved_model), str(folder), "--force"]
        _output(bake, "the model cannot be baked")
        recipe.write_text(digest.hexdigest())
    return str(folder)


@_remembered
def _mosec() -> None:
    python = os.environ.get("MOSEC_PYTHON")
    if not python:
        raise Skipped("MOSEC_PYTHON names no Python that has mosec and tensorflow: `make bench-mosec` makes one")
    check = (
        "import compileall, importlib.util, sysconfig, mosec\n"
        "assert importlib.util.find_spec('tensorflow'), 'it has no tensorflow'\n"
        "compileall.compile_dir(sysconfig.get_path('purelib'), quiet=2)"
    )
    _output([python, "-c", check], "MOSEC_PYTHON")
