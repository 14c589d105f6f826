"""Measure all subjects in one run, interleaved: `python -m bench`. Linux.

It writes docs/benchmarks/results.md. The environments that it makes first, once, take 4 GB of the disk.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable

from bench import environments
from bench.environments import Unavailable
from bench.machine import about, interleaved
from bench.measure import CONNECTIONS, Effort, measure
from bench.models import CACHE, PLANS, SERVED, Model, load
from bench.page import publish
from bench.process import Failed
from bench.report import Results, parts
from bench.subjects import SUBJECTS, Subject


def main() -> int:
    options = arguments()
    environments.alone()
    effort = Effort(0.5 if options.quick else 1.0, tuple(options.connections))
    results = Results()
    models = [model for name in options.models if (model := made(name))]
    subjects = [subject for subject in SUBJECTS if subject.name in options.subjects]
    facts = about("", "python -m bench")  # before the run: it reads the load of the machine
    prepare(results, models, subjects)
    done = rounds(results, models, subjects, effort, options.repeat, options.minutes)
    facts |= {"repetitions": interleaved(done), "environments": environments.disk()}
    publish("results.md", "Results", facts, parts(results, options.connections))
    return (
        1
        if any(reason.startswith("failed") for reasons in results.failures.values() for reason in reasons.values())
        else 0
    )


def prepare(results: Results, models: list[Model], subjects: list[Subject]) -> None:
    """Make what the subjects need before anything is measured; note the subjects that cannot be measured, and why."""
    environments.upload()
    for subject in subjects:
        try:
            environments.make(subject.environment, say)
            missing = ""
        except Unavailable as unavailable:
            missing = str(unavailable)
        for model in models:
            try:
                if missing:
                    raise Unavailable(missing)
                subject.settings(model)
            except Unavailable as unavailable:
                results.fail(model.name, subject.name, f"not measured: {unavailable}")
                say(f"{model.name} {subject.name} is not measured: {unavailable}")


def rounds(
    results: Results, models: list[Model], subjects: list[Subject], effort: Effort, repeat: int, minutes: float
) -> int:
    """Measure each subject once a round; return the number of rounds that were done in this time."""
    started = time.monotonic()
    for done in range(repeat):
        if done and (time.monotonic() - started) * (done + 1) / done > 60 * minutes:
            return done  # the next one would end too late
        for model in models:
            for subject in subjects:
                if subject.name in results.failures.get(model.name, {}):
                    continue
                began = time.monotonic()
                try:
                    measured = measure(subject, model, effort)
                except Failed as failed:
                    results.fail(model.name, subject.name, f"failed: {failed}")
                    say("\n    ".join([f"{model.name} {subject.name} failed: {failed}", *failed.log]))
                    continue
                results.add(model.name, subject.name, measured)
                seconds, lasted = measured["start_seconds"], time.monotonic() - began
                say(
                    f"{done + 1}/{repeat} {model.name:9} {subject.name:11} first answer after {seconds:.2f} s  ({lasted:.0f} s)"
                )
    return repeat


def arguments() -> argparse.Namespace:
    names = [subject.name for subject in SUBJECTS]
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--repeat", type=int, help="repetitions (default 7, with --quick 3)")
    parser.add_argument(
        "--minutes", type=float, default=60, help="begin no repetition that would end later (default: 60)"
    )
    parser.add_argument("--models", type=listed(list(PLANS)), default=SERVED, help=f"some of: {', '.join(PLANS)}")
    parser.add_argument("--subjects", type=listed(names), default=names, help=f"some of: {', '.join(names)}")
    parser.add_argument(
        "--connections",
        type=numbers,
        default=list(CONNECTIONS),
        help="numbers of connections of the loads (default: 1,16)",
    )
    parser.add_argument("--quick", action="store_true", help="fewer requests, shorter load")
    options = parser.parse_args()
    options.repeat = options.repeat or (3 if options.quick else 7)
    return options


def numbers(text: str) -> list[int]:
    values = [int(value) for value in text.split(",")]
    if min(values) < 1:
        raise argparse.ArgumentTypeError(f"expected numbers of at least 1, got {text}")
    return values


def listed(known: list[str]) -> Callable[[str], list[str]]:
    def read(text: str) -> list[str]:
        names = text.split(",")
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"expected names of {', '.join(known)}, got {name!r}")
        return names

    return read


def made(name: str) -> Model | None:
    """Return a model, None where it cannot be made, with the reason printed."""
    try:
        return load(name, say)
    except (OSError, subprocess.CalledProcessError) as error:
        log = CACHE / f"{name}.log"
        say(f"{name} is left out: {error}")
        say("\n".join(f"    {line}" for line in log.read_text(errors="replace").splitlines()[-5:]))
        return None


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
