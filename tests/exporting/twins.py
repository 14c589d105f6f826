"""Light twins of models of the zoo and of the embedded one, made once: `python -m tests.exporting.twins NAME... FOLDER`.

folder = build()            folder / "dense_512" is the twin, folder / "results.json" what came of each
"""

import json
import os
import shutil
import sys
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.models import zoo
from tests.models.once import ROOT, digest, made_once
from tests.models.zoo import ZOO

HERE = Path(__file__).parent
EMBEDDED = ROOT / "model"
PIXELS = "embedded"  # the embedded model, asked for its numeric signature

# What every run of the tests converts; LITERT_ZOO=all converts the rest too.
CHOSEN = (
    "dense_512", "keras_functional", "keras_attention", "odd_names", "shared_variables", "no_inputs", "fixed_shape",
    "dtype_float32", "dtype_int64", "dtype_float64", "tf1_tags", "keras_text", "counter", "sparse_input",
    "many_named",
)  # fmt: skip


def names() -> tuple[str, ...]:
    return tuple(ZOO) if os.environ.get("LITERT_ZOO") == "all" else CHOSEN


@cache
def build() -> Path:
    """Return the folder of the twins, made first if this code has never made them here."""
    zoo.build()
    files = [HERE / name for name in ("twins.py", "numbers.py", "odd.py", "operations.py")]
    for folder in (ROOT / "exporting", ROOT / "serving", EMBEDDED):
        files += [path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".pyc"]
    content = digest(" ".join([zoo.content(), version("ai-edge-litert"), *names()]), *files)
    return made_once("twins", content, "tests.exporting.twins", *names(), drop_old=True)


@cache
def results() -> dict[str, Any]:
    """Return what came of each: the notes of a conversion, or the refusal's text."""
    content: dict[str, Any] = json.loads((build() / "results.json").read_bytes())
    return content


def main(folder: Path, wanted: list[str]) -> None:
    """Convert, and write what came of it."""
    from exporting.graph import import_tensorflow
    from exporting.litert import convert
    from exporting.refusal import Refusal

    import_tensorflow()
    report: dict[str, Any] = {}
    for name in wanted:
        try:
            report[name] = list(convert(zoo.build() / name, folder / name, rounds=0).notes)
        except Refusal as refusal:
            report[name] = str(refusal)
    report[PIXELS] = list(convert(EMBEDDED, folder / PIXELS, default="pixels", rounds=1).notes)
    from tests.exporting import numbers, operations

    models = folder / "numbers-models"
    models.mkdir()
    for name in operations.MODELS:
        operations.make(models / name)
        report[name] = list(convert(models / name, folder / name, rounds=0).notes)
    report["differences"] = {}
    for make in numbers.MODELS:
        name = make.__name__
        make(models / name)
        try:
            report[name] = list(convert(models / name, folder / name, rounds=0).notes)
            report["differences"][name] = numbers.differences(models / name, folder / name)
        except Refusal as refusal:
            report[name] = str(refusal)
    report["cosine, smaller"] = list(
        convert(models / "cosine", folder / "cosine, smaller", largest=1e6, rounds=0).notes
    )
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
            report[name] = "converted"
        except Refusal as refusal:
            report[name] = str(refusal)
    report["left"] = sorted(path.name for path in folder.iterdir())
    (folder / "results.json").write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[-1]), sys.argv[1:-1])
