"""Measure everything in one run, interleaved: `python -m bench`. Linux."""

import argparse
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from bench.compiled import compile_all
from bench.machine import about, repeated
from bench.measure import Effort, measure
from bench.models import CACHE, PLANS, ROOT, SERVED, Model, load
from bench.picture import draw
from bench.prepared import Skipped
from bench.process import Failed
from bench.report import Results, markdown, terminal
from bench.subjects import SUBJECTS, Subject

QUICK = Effort(share=0.5)


def main() -> None:
    options = arguments()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit("bench: interrupted"))  # children are ended on the way out
    for file in compile_all():
        say(f"not compiled, so slower than it would be: {file}")

    results = Results(about(options.repeat), samples={}, failures={})
    models = [model for name in options.models if (model := made(name))]
    subjects = [subject for subject in SUBJECTS if subject.name in options.subjects]
    prepare(results, models, subjects)
    started = time.monotonic()
    for repetition in range(1, options.repeat + 1):
        each = (time.monotonic() - started) / max(repetition - 1, 1)
        if repetition > 1 and each * repetition > 60 * options.minutes:
            break  # this one would not end in time
        results.about["repetitions"] = repeated(repetition)
        for model in models:
            for subject in subjects:
                if subject.name in results.failures.get(model.name, {}):
                    continue
                began = time.monotonic()
                try:
                    measured = measure(subject, model, QUICK if options.quick else Effort())
                except Failed as failed:
                    results.failures.setdefault(model.name, {})[subject.name] = f"failed: {failed}"
                    say("\n    ".join([f"{model.name} {subject.name} failed: {failed}", *failed.log]))
                    continue
                values = results.samples.setdefault(model.name, {}).setdefault(subject.name, {})
                for key, value in measured.items():
                    values.setdefault(key, []).append(value)
                say(
                    f"{repetition}/{options.repeat} {model.name:9} {subject.name:9} first answer after "
                    f"{measured['start_seconds']:.2f} s  ({time.monotonic() - began:.0f} s)"
                )
    write(results, options.output)


def prepare(results: Results, models: list[Model], subjects: list[Subject]) -> None:
    """Make what the subjects need, before anything is measured; say which cannot be."""
    for model in models:
        for subject in subjects:
            try:
                subject.settings(model)
            except Skipped as skipped:
                results.failures.setdefault(model.name, {})[subject.name] = f"skipped: {skipped}"
                say(f"{model.name} {subject.name} skipped: {skipped}")


def arguments() -> argparse.Namespace:
    names = [subject.name for subject in SUBJECTS]
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--repeat", type=int, help="repetitions (default 7, with --quick 3)")
    parser.add_argument("--minutes", type=float, default=60, help="begin no repetition that would end later")
    parser.add_argument("--models", type=listed(list(PLANS)), default=SERVED, help=f"of {','.join(PLANS)}")
    parser.add_argument("--subjects", type=listed(names), default=names, help=f"of {','.join(names)}")
    parser.add_argument("--quick", action="store_true", help="fewer requests, shorter load")
    parser.add_argument("--output", type=Path, default=ROOT / "bench", help="folder of the results (default bench/)")
    options = parser.parse_args()
    options.repeat = options.repeat or (3 if options.quick else 7)
    return options


def listed(known: list[str]) -> Callable[[str], list[str]]:
    def read(text: str) -> list[str]:
        names = text.split(",")
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
        return names

    return read


def made(name: str) -> Model | None:
    try:
        return load(name, say)
    except (OSError, subprocess.CalledProcessError) as error:
        log = CACHE / f"{name}.log"
        say(f"{name} is left out: {error}")
        say("\n".join(f"    {line}" for line in log.read_text(errors="replace").splitlines()[-5:]))
        return None


def write(results: Results, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    draw(results, folder / "results.png")
    (folder / "results.json").write_text(json.dumps(asdict(results), indent=1) + "\n")
    (folder / "RESULTS.md").write_text(markdown(results, "results.png"))
    say("\n" + terminal(results) + "\n")
    say(f"written: {', '.join(str(folder / name) for name in ('RESULTS.md', 'results.png', 'results.json'))}")


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main()
