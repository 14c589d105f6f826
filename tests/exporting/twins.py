"""Light twins of models of the zoo and of the embedded one, made once: `python -m tests.exporting.twins FOLDER NAME...`.

folder = build()            folder / "dense_512" is the twin, folder / "results.json" what came of each
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.models import zoo
from tests.models.zoo import ROOT, ZOO

EMBEDDED = ROOT / "model"
PIXELS = "embedded"  # the embedded model, asked for its numeric signature

# What every run of the tests converts; LITERT_ZOO=all converts the rest too.
CHOSEN = (
    "dense_512", "keras_sequential", "keras_functional", "keras_attention", "odd_names", "shared_variables",
    "no_inputs", "fixed_shape", "dtype_float32", "dtype_int64", "dtype_float64", "tf1_tags", "keras_text", "keras_lstm",
    "counter", "sparse_input", "many_named",
)  # fmt: skip


def names() -> tuple[str, ...]:
    return tuple(ZOO) if os.environ.get("LITERT_ZOO") == "all" else CHOSEN


@cache
def build() -> Path:
    """Return the folder of the twins, made first if this code has never made them here."""
    zoo.build()
    digest = hashlib.sha256(" ".join([zoo.content(), version("ai-edge-litert"), *names()]).encode())
    for folder in (ROOT / "exporting", ROOT / "serving", EMBEDDED):
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.suffix != ".pyc":
                digest.update(path.read_bytes())
    for name in ("twins.py", "numbers.py", "odd.py"):
        digest.update(Path(__file__).with_name(name).read_bytes())
    folder = ROOT / ".cache" / f"twins-{digest.hexdigest()[:16]}"
    with zoo.locked(ROOT / ".cache" / "twins.lock"):
        if not folder.is_dir():
            for old in folder.parent.glob("twins-*"):
                if old.is_dir() and time.time() - old.stat().st_mtime > 24 * 3600:
                    shutil.rmtree(old, ignore_errors=True)
            making = Path(tempfile.mkdtemp(prefix="twins-making-", dir=folder.parent))
            try:
                command = [sys.executable, "-m", "tests.exporting.twins", str(making), *names()]
                made = subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
                if made.returncode:
                    raise RuntimeError(f"tests.exporting.twins failed:\n{made.stderr[-3000:]}")
                making.rename(folder)
            finally:
                shutil.rmtree(making, ignore_errors=True)
    return folder


@cache
def results() -> dict[str, Any]:
    """Return what came of each: the notes of a conversion, or the refusal's text."""
    found: dict[str, Any] = json.loads((build() / "results.json").read_bytes())
    return found


def main(folder: Path, wanted: list[str]) -> None:
    """Convert, and write what came of it."""
    from exporting.graph import import_tensorflow
    from exporting.litert import convert
    from exporting.refusal import Refusal

    import_tensorflow()
    found: dict[str, Any] = {}
    for name in wanted:
        try:
            found[name] = list(convert(zoo.build() / name, folder / name, rounds=0).notes)
        except Refusal as refusal:
            found[name] = str(refusal)
    found[PIXELS] = list(convert(EMBEDDED, folder / PIXELS, default="pixels", rounds=1).notes)
    from tests.exporting import numbers

    models = folder / "numbers-models"
    models.mkdir()
    found["differences"] = {}
    for make in numbers.MODELS:
        name = make.__name__
        make(models / name)
        try:
            found[name] = list(convert(models / name, folder / name, rounds=0).notes)
            found["differences"][name] = numbers.differences(models / name, folder / name)
        except Refusal as refusal:
            found[name] = str(refusal)
    found["cosine, smaller"] = list(convert(models / "cosine", folder / "cosine, smaller", largest=1e6, rounds=0).notes)
    shutil.rmtree(models)
    tries = {
        "too strict": lambda: convert(zoo.build() / "keras_attention", folder / "x", tolerance=1e-12, rounds=0),
        "too large": lambda: convert(zoo.build() / "dense_512", folder / "x", limit=1000, rounds=0),
        "default alone": lambda: convert(EMBEDDED, folder / "x", rounds=0),
        "no such default": lambda: convert(EMBEDDED, folder / "x", default="pixel", rounds=0),
        "it exists": lambda: convert(zoo.build() / "dense_512", folder / PIXELS, rounds=0),
    }
    for name, attempt in tries.items():
        try:
            attempt()
            found[name] = "converted"
        except Refusal as refusal:
            found[name] = str(refusal)
    found["left"] = sorted(path.name for path in folder.iterdir())
    (folder / "results.json").write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
