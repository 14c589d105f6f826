"""What baking gives, for eight models: `python -m bench.bake`.

Every figure is of fresh processes, the original's and the baked model's in turns. Cold start: from the start of a
process that imports what serves, opens the library, loads the model and gives one row's outputs, until they are there;
no server in between. First call and later calls: of that row. Private: anonymous pages after the calls. Both have to
give the same outputs within 1e-4 of the largest number. In brackets: the ratio to the original, 1/4.0 for a quarter.
Of models with large weights, both ways are shown: all variables folded into constants, and as `bake` decides.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from bench import environments
from bench.machine import about, interleaved
from bench.models import CACHE, PLANS, ROOT, load
from bench.page import Rows, fraction, publish
from bench.process import finish, inherited
from exporting.compare import TOLERANCE, difference

# fmt: off
MODELS = ("mlp", "digits", "mobilenet", "transformer", "loop")
LARGE = ("text", "dense16", "dense96")
MEASURES = (
    # key         heading        form        in
    ("size",      "size MB",      "{:.3g}",  1e6),
    ("start",     "cold start s", "{:.2f}",  1),
    ("load",      "load s",       "{:.3f}",  1),
    ("first",     "first call s", "{:.3f}",  1),
    ("steady",    "later calls ms", "{:.3g}", 1e-3),
    ("private_mb", "private MB",  "{:.0f}",  1),
)
# fmt: on
Medians = dict[str, dict[str, dict[str, float]]]  # model → form → measure


@dataclass(frozen=True)
class Subject:
    """A model as exported and as baked, and one row for it."""

    name: str
    inputs: Path
    folders: dict[str, Path]  # by a title, the original first


def prepared(name: str) -> Subject:
    """Make a model and bake it."""
    folder = CACHE / "bake" / name
    folder.mkdir(parents=True, exist_ok=True)
    model = load(name, print)
    np.savez(folder / "inputs.npz", **{model.input: np.load(CACHE / name / "input.npy")})
    folders = {"as exported": model.saved_model}
    for way in ((),) if name in MODELS else (("--fold-variables",), ()):
        baked = folder / "".join(["baked", *way])
        bake = [sys.executable, "-m", "exporting", "bake", model.saved_model, baked, "--force", *way]
        done = finish(bake)
        if done.returncode:
            raise SystemExit(f"bench.bake: {name}: {(done.stderr.strip() or 'it gave no reason').splitlines()[-1]}")
        card = json.loads((baked / "assets.extra" / "baked.json").read_bytes())
        folders[f"baked, variables {card['variables']}"] = baked
    return Subject(name, folder / "inputs.npz", folders)


def measured(subject: Subject, folder: Path, out: Path) -> tuple[dict[str, float], dict[str, Any]]:
    """Start a process with the model; return its figures and its outputs."""
    command = [sys.executable, "-m", "bench.bake_start", str(folder), str(subject.inputs), str(out)]
    began = time.perf_counter()
    with subprocess.Popen(
        command, cwd=ROOT, env=inherited(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout
        line = process.stdout.readline()
        start = time.perf_counter() - began
        rest = process.stdout.read()
    if line != b"answered\n" or process.returncode:
        raise SystemExit(f"{subject.name}: no answer from {folder}")
    size = sum(
        file.stat().st_size for file in folder.rglob("*") if file.is_file() and file.parent.name != "assets.extra"
    )
    return {"start": start, "size": float(size), **json.loads(rest)}, dict(np.load(out).items())


def repeated(subjects: list[Subject], repeat: int, minutes: float) -> Iterator[tuple[str, str, dict[str, float]]]:
    """Yield model, which form of it, and figures, interleaved."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for repetition in range(repeat + 1):
            if repetition > 2 and (time.monotonic() - started) * (repetition + 1) / repetition > 60 * minutes:
                return
            for subject in subjects:
                right: dict[str, Any] = {}
                for form, model_folder in subject.folders.items():
                    figures, outputs = measured(subject, model_folder, Path(folder) / "out.npz")
                    right = right or outputs
                    if problem := difference(right, outputs, TOLERANCE)[1]:
                        raise SystemExit(f"{subject.name}: {form}: {problem}")
                    if repetition:  # the first only brings the files into memory
                        yield subject.name, form, figures
            print(f"{repetition}/{repeat}", flush=True)


def table(names: Iterable[str], medians: Medians) -> Rows:
    rows = [["", "", *(heading for _, heading, _, _ in MEASURES)]]
    for name in names:
        first: dict[str, float] = {}
        for which, figures in medians.get(name, {}).items():
            cells = [
                form.format(figures[key] / unit) + (f" ({fraction(figures[key] / first[key])})" if first else "")
                for key, _, form, unit in MEASURES
            ]
            rows.append(["" if first else PLANS[name].title, which, *cells])
            first = first or figures
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.bake", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeat", type=int, default=15, help="repetitions (default 15)")
    parser.add_argument("--minutes", type=float, default=20, help="begin no repetition that would end later")
    options = parser.parse_args()
    environments.alone()
    subjects = []
    for name in (*MODELS, *LARGE):
        print(f"baking {name}", flush=True)
        subjects.append(prepared(name))
    samples: dict[str, dict[str, dict[str, list[float]]]] = {}
    for name, form, values in repeated(subjects, options.repeat, options.minutes):
        for key, value in values.items():
            samples.setdefault(name, {}).setdefault(form, {}).setdefault(key, []).append(value)
    medians = {
        name: {form: {key: median(values) for key, values in keys.items()} for form, keys in forms.items()}
        for name, forms in samples.items()
    }
    facts = about(interleaved(len(samples["mlp"]["as exported"]["start"])), "python -m bench.bake")
    explained = " ".join((__doc__ or "").split("\n\n", 1)[1].split())
    publish("bake.md", "Baking", facts, [explained, table(MODELS, medians), table(LARGE, medians)])


if __name__ == "__main__":
    main()
