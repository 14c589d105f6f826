"""What some subjects need besides an environment, made once and kept: native codec, bound library, baked models, twins."""

import functools
import hashlib
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from subprocess import CompletedProcess

from bench.environments import FOLDER, Unavailable, python
from bench.models import CACHE, ROOT, Model, recipe_of
from bench.process import finish
from serving.pipeline.native.build import Refused, cached

Settings = dict[str, str]


def python_alone(model: Model) -> Settings:
    """Serve without the native codec."""
    return {"ACCELERATOR": "off"}


@functools.cache
def native() -> Settings:
    """Serve with the native codec; raise Unavailable."""
    try:
        return {"ACCELERATOR": str(cached())}
    except Refused as refused:
        raise Unavailable(f"the native codec cannot be compiled: {refused}") from None


@functools.cache
def bound(saved_model: Path) -> Settings:
    """Serve with TensorFlow's library bound for the environment `source`, with this model's pages; raise Unavailable."""
    options = ("--cache", FOLDER / "source", "--model", saved_model)
    done = finish([python("source"), "-m", "tools.image.cached", *options])
    if done.returncode:
        raise Unavailable(f"the bound library: {_reason(done)}")
    return {"TENSORFLOW_LIBRARY_DIR": done.stdout.strip()}


@functools.cache
def _exported(name: str, saved_model: Path, kind: str, options: tuple[str, ...]) -> Settings:
    folder, code = CACHE / name / kind, (ROOT / "exporting").rglob("*.py")
    command: list[str | Path] = [sys.executable, "-m", "exporting", "bake", *options, saved_model, folder]
    _make(command, folder, _digest(recipe_of(name), code))
    return {"MODEL_DIR": str(folder)}


def as_serve_fast(model: Model) -> Settings:
    """What `make serve-fast` serves with."""
    return _serve_fast(model.saved_model)


def _serve_fast(saved_model: Path) -> Settings:
    return native() | bound(saved_model) | {"MODEL_DIR": str(saved_model), "BATCH_ROWS": "auto"}


def baked_alone(model: Model) -> Settings:
    return _exported(model.name, model.saved_model, "baked", ())


def baked(model: Model) -> Settings:
    return _serve_fast(Path(baked_alone(model)["MODEL_DIR"]))


def twin(model: Model) -> Settings:
    """Serve the model's twin for LiteRT; raise Unavailable where it has none."""
    return _exported(model.name, model.saved_model, "twin", ("--litert",))


def native_twin(model: Model) -> Settings:
    """Serve the twin with the native codec."""
    return native() | twin(model)


def python_twin(model: Model) -> Settings:
    """Serve the twin by LiteRT's interpreter for Python."""
    return python_alone(model) | twin(model)


def _digest(text: str, files: Iterable[Path]) -> str:
    digest = hashlib.sha256(text.encode())
    for file in sorted(files):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _make(command: list[str | Path], folder: Path, recipe: str) -> None:
    """Run a command that writes a folder, unless the folder is there and was made by this recipe; raise Unavailable."""
    mark = folder.with_name(f"{folder.name}.recipe")
    if folder.exists() and mark.exists() and mark.read_text() == recipe:
        return
    mark.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    done = finish(command)
    if done.returncode:
        raise Unavailable(f"{folder.name}: {_reason(done)}")
    mark.write_text(recipe)


def _reason(done: CompletedProcess[str]) -> str:
    return (done.stderr.strip() or done.stdout.strip() or "it gave no reason").splitlines()[-1][:300]
