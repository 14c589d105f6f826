"""The light twin beside the SavedModel: its environment's size, its start, memory and speed. `python -m bench.litert`.

The environment is made from requirements/light.txt, and Granian, in .cache/bench/litert; TensorFlow is not in it. The
subjects are measured in turns, as `python -m bench` does, with the same requests and the same answers expected.
"""

import argparse
import compileall
import hashlib
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from statistics import median

from bench.compiled import compile_all
from bench.machine import about
from bench.measure import Effort, measure
from bench.models import CACHE, ROOT, Model, load, recipe_of
from bench.page import publish
from bench.report import Rows
from bench.subjects import BY_NAME, Environment, Subject

MODELS = ("mlp", "mobilenet")  # the digits model's request is a picture, which LiteRT does not decode
PLACE = CACHE / "litert"
FIGURES = {
    "start_seconds": "start → first answer, s",
    "start_cpu_seconds": "CPU of it, s",
    "private_mb": "private memory, MB",
    "p50_ms": "median latency, ms",
    "requests_per_second": "answers/s on one core",
}


@cache
def environment() -> Path:
    """Return the folder of an environment without TensorFlow, made first if its packages have changed."""
    requirements = [ROOT / "requirements" / name for name in ("light.txt", "fast.txt")]
    pins = [ROOT / "requirements" / "constraints.txt", ROOT / "requirements.txt"]
    inputs = [*requirements, *pins, Path(sys.executable)]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in inputs)).hexdigest()
    folder, mark = PLACE / "environment", PLACE / "environment.made"
    if not mark.exists() or mark.read_text() != digest:
        say("making an environment without TensorFlow")
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder)
        packages = [part for path in requirements for part in ("-r", str(path))]
        pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "--quiet"]
        subprocess.run([*pip, "--disable-pip-version-check", *packages], check=True)
        compileall.compile_dir(folder, quiet=2)
        mark.write_text(digest)
    return folder


@cache
def twin_of(name: str, saved_model: Path) -> Path:
    """Return the model's twin, made first if the model or the code has changed."""
    digest = hashlib.sha256(recipe_of(name).encode())
    for file in (*sorted((ROOT / "exporting").glob("*.py")), ROOT / "serving" / "litert.py"):
        digest.update(file.read_bytes())
    folder, mark = PLACE / name, PLACE / f"{name}.made"
    if not mark.exists() or mark.read_text() != digest.hexdigest():
        say(f"converting {name}")
        bake = [sys.executable, "-m", "exporting", "bake", "--litert", "--force", str(saved_model), str(folder)]
        subprocess.run(bake, cwd=ROOT, check=True)
        mark.write_text(digest.hexdigest())
    return folder


def twin(model: Model) -> Environment:
    return {"MODEL_DIR": str(twin_of(model.name, model.saved_model))}


def functions_framework(model: Model, port: int) -> list[str]:
    door = [str(environment() / "bin" / "functions-framework"), "--target", "predict"]
    return [*door, "--host", "127.0.0.1", "--port", str(port)]


def granian(model: Model, port: int) -> list[str]:
    return [str(environment() / "bin" / "python"), "-m", "serving.granian"]


SUBJECTS = (
    *(BY_NAME[name] for name in ("naive", "ours", "fast", "baked")),
    Subject("litert-ours", "the twin, functions-framework, no TensorFlow", functions_framework, settings=twin),
    Subject("litert-fast", "the twin, Granian, no TensorFlow", granian, settings=twin),
)


def megabytes(folder: Path) -> float:
    """Return what the files of a folder take, in 10**6 bytes."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink()) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.litert", description=__doc__)
    parser.add_argument("--repeat", type=int, default=7, help="rounds (default 7)")
    parser.add_argument("--share", type=float, default=1.0, help="of the requests and seconds of `bench` (default 1)")
    parser.add_argument("--models", default=",".join(MODELS), help=f"of {','.join(MODELS)}")
    parser.add_argument("--no-page", action="store_true", help="print, and leave bench/LITERT.md as it is")
    options = parser.parse_args()
    compile_all()
    PLACE.mkdir(parents=True, exist_ok=True)
    models = [load(name, say) for name in options.models.split(",")]
    for model in models:
        for subject in SUBJECTS:
            subject.settings(model)
    environment()
    samples: dict[tuple[str, str], list[dict[str, float]]] = {}
    for number in range(options.repeat):
        for model in models:
            for subject in SUBJECTS:
                found = measure(subject, model, Effort(options.share))
                samples.setdefault((model.name, subject.name), []).append(found)
                say(f"{number + 1}/{options.repeat} {model.name} {subject.name} {found['start_seconds']:.2f} s")
    parts = list(pages(models, samples))
    if options.no_page:
        for part in parts:
            print(part if isinstance(part, str) else "\n".join(" | ".join(map(str, row)) for row in part))
        return
    command = " ".join(["python -m bench.litert", *sys.argv[1:]])
    publish("LITERT.md", "The light twin", about(options.repeat, command), parts)


def pages(models: list[Model], samples: dict[tuple[str, str], list[dict[str, float]]]) -> Iterator[str | Rows]:
    """Give a table for each model, medians and in brackets the ratio to naive; then the sizes."""
    for model in models:
        yield f"{model.plan.title}: medians, and in brackets the ratio to the naive function"
        rows = [["", *FIGURES.values()]]
        medians = {
            subject.name: {key: median(one[key] for one in samples[model.name, subject.name]) for key in FIGURES}
            for subject in SUBJECTS
        }
        for subject in SUBJECTS:
            own, naive = medians[subject.name], medians["naive"]
            rows.append([subject.title, *(f"{own[key]:.3g} ({own[key] / naive[key]:.2g} ×)" for key in FIGURES)])
        yield rows
    light, full = megabytes(environment()), megabytes(Path(sys.prefix))
    yield (
        f"The environment of the twin takes {light:.0f} MB, Granian and compiled bytecode included; "
        f"this one, with TensorFlow and what tests and training need, {full:.0f} MB."
    )


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
