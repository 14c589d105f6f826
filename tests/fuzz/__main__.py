"""Fuzz: `python -m tests.fuzz [--seconds 60] [--runs 0] [--seed 0] [TARGET...]`, every target where none is named.

Where atheris is installed (requirements/fuzz.txt) it guides each target by coverage, in a process of its own;
else inputs are kept that are new to the target by what they raise or return. What breaks a target is written to its
corpus as found-HASH, and reported.
"""

import argparse
import faulthandler
import hashlib
import importlib.util
import os
import random
import subprocess
import sys
import time
import traceback
from pathlib import Path

from serving.pipeline.native.build import Refused
from tests.fuzz.mutate import mutate
from tests.models.once import CACHE

NATIVE, RACES = "native", "races"
CORPUS = Path(__file__).parent / "corpus"
HANG = 20.0  # seconds


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("targets", nargs="*")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each target")
    parser.add_argument("--runs", type=int, default=0, help="for each target; 0: as many as there is time for")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--guided", action="store_true", help="by atheris, in this process: one target")
    options = parser.parse_args()
    os.environ.setdefault("FUZZ_ORACLE", "1")
    if options.guided:
        return _guided(options.targets[0], options.seconds, options.seed)
    from tests.fuzz.targets import TARGETS

    by_atheris = importlib.util.find_spec("atheris") is not None and not options.runs
    failed = 0
    for name in options.targets or [*TARGETS, RACES]:
        try:
            if name == RACES:
                failed += _races()
                continue
            if name == NATIVE and not options.runs:
                failed += _by_libfuzzer(options.seconds, options.seed)
            elif by_atheris:
                failed += _by_atheris(name, options.seconds, options.seed)
            failed += fuzz(name, options.seconds, options.runs, options.seed)
        except Refused as refused:
            print(f"{name}: NOT RUN: {refused}", flush=True)
    return 1 if failed else 0


def _by_atheris(name: str, seconds: float, seed: int) -> int:
    command = [sys.executable, "-m", "tests.fuzz", "--guided", "--seconds", str(seconds), name]
    ended = subprocess.run([*command, "--seed", str(seed)], stderr=subprocess.PIPE, text=True)
    progress = [line for line in ended.stderr.splitlines() if "cov:" in line or "Done" in line]
    print(f"{name}: {progress[-1] if progress else ended.stderr[-2000:]}", flush=True)
    if ended.returncode:
        print(ended.stderr[-6000:])
    return int(ended.returncode != 0)


def _by_libfuzzer(seconds: float, seed: int) -> int:
    from tests.fuzz import libfuzzer

    try:
        return libfuzzer.fuzz(seconds, seed)
    except Refused as refused:
        print(f"{NATIVE}: NOT RUN under libFuzzer and the sanitizers: {refused} "
              "(Debian's packages are clang and libclang-rt-14-dev)", flush=True)  # fmt: skip
        return 0


def _races() -> int:
    from tests.pipeline.native import races

    ended = races.run("clean", races.extension(CACHE / "races"))
    print(f"{RACES}: " + (f"found\n{ended.stderr[-6000:]}" if ended.returncode else "none"), flush=True)
    return int(ended.returncode != 0)


def seeds(name: str) -> list[bytes]:
    """Return the corpus of a target."""
    return [path.read_bytes() for path in sorted((CORPUS / name).iterdir()) if path.is_file()]


def fuzz(name: str, seconds: float, runs: int, seed: int) -> int:
    """Run one target on mutated inputs; return how many broke it."""
    from tests.fuzz.targets import TARGETS, prepare

    prepare(name)
    target, random_, pool = TARGETS[name], random.Random(seed), seeds(name)
    kept, begin, done, slowest = len(pool), time.monotonic(), 0, 0.0
    failures: dict[str, bytes] = {}
    longest = b""
    while (done < runs) if runs else (time.monotonic() - begin < seconds):
        data = mutate(random_.choice(pool), pool, random_)
        started = time.perf_counter()
        problem = attempt(target, data)
        took = time.perf_counter() - started
        done += 1
        if problem and (known := problem.partition(":")[0] + problem.partition("\n")[2]) not in failures:
            failures[known] = data
            path = keep(name, data)
            print(f"{name}: {path}\n{problem}", flush=True)
        elif not problem and took > slowest:  # what takes longer than all before is worth changing further
            slowest, longest = took, data
            pool.append(data)
        elif random_.random() < 0.02 and len(pool) < kept + 2000:
            pool.append(data)
    print(
        f"{name}: {done} inputs, {len(failures)} broke it, {done / max(time.monotonic() - begin, 1e-9):.0f}/s, "
        f"the slowest {_again(target, longest) * 1000:.0f} ms",
        flush=True,
    )
    return len(failures)


def _again(target, data: bytes) -> float:  # type: ignore[no-untyped-def]
    """Return how long an input takes, without what else the machine did meanwhile."""
    taken = []
    for _ in range(3):
        begin = time.perf_counter()
        attempt(target, data)
        taken.append(time.perf_counter() - begin)
    return min(taken)


def attempt(target, data: bytes) -> str | None:  # type: ignore[no-untyped-def]
    """Run a target on one input; return where and what it raised, or None. A hang ends the process with a trace."""
    faulthandler.dump_traceback_later(HANG, exit=True)
    try:
        target(data)
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)
        places = " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(where[-5:]))
        return f"{type(error).__name__}: {str(error)[:300]}\n    {places}"
    finally:
        faulthandler.cancel_dump_traceback_later()
    return None


def keep(name: str, data: bytes) -> Path:
    path = CORPUS / name / f"found-{hashlib.sha256(data).hexdigest()[:12]}"
    path.write_bytes(data)
    return path


def _guided(name: str, seconds: float, seed: int) -> int:
    import atheris

    with atheris.instrument_imports(include=["serving"]):
        from tests.fuzz.targets import TARGETS
    target, pool = TARGETS[name], seeds(name)

    def one(data: bytes) -> None:
        if problem := attempt(target, data):
            print(f"{name}: {keep(name, data)}\n{problem}", file=sys.stderr, flush=True)
            raise AssertionError(problem)

    def change(data: bytes, most: int, number: int) -> bytes:
        random_ = random.Random(number)
        if random_.random() < 0.3:
            return bytes(atheris.Mutate(data, most))
        return mutate(data, pool, random_, most)

    work = Path(__file__).parents[2] / ".cache" / "fuzz" / name
    work.mkdir(parents=True, exist_ok=True)
    arguments = [
        f"-max_total_time={int(seconds)}", f"-seed={seed or 1}", "-max_len=65536", "-rss_limit_mb=4096", "-timeout=20",
        f"-artifact_prefix={work}/", str(work), str(CORPUS / name),
    ]  # fmt: skip
    atheris.Setup([sys.argv[0], *arguments], one, custom_mutator=change)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
