"""Feed the kernels of every operation that a served graph may hold with tensors of odd ranks, sizes and values.

    python -m tests.fuzz.kernels [--trials 300] [--seed 0] [--trusted] [OPERATION...]

One operation is one model, whose inputs leave rank and shape open, loaded as a model is served: with the checks of
serving.savedmodel.safety.guards, or with `--trusted` without them. A line is printed for each request that ends the
process or that does not end:

    AvgPoolGrad                      SIGABRT  {"T": "float32", ...} orig_input_shape=int32[3] grad=float32[0,2]

Not fed: operations that take a handle (resource, variant, reference), call a function, or give nothing.
"""

import argparse
import json
import math
import mmap
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from serving.savedmodel.safety.purity import CALLING, PURE
from tests.fuzz.operation import HANDLES, Argument, make_model, type_name

ENDLESS = 5  # seconds that a request may take
STUCK = 60  # seconds for a model to be made and loaded: a fork can come while TensorFlow holds a lock
MEMORY = 8 << 30  # bytes of a process
VARIANTS = 5  # graphs of one operation: other dtypes, other attributes
FLOATS = [0.0, 1.0, -1.0, 0.5, 3.0, 1e-40, 1e38, -1e38, math.inf, math.nan]
WHOLE = [0, 0, 1, 1, 2, 3, -1, -2, 7, 100, -(1 << 31), (1 << 31) - 1]
TEXTS = [b"", b"a", b"0", b"1,2", b"\xff\x00", b"AAAA", b"\x0a\x02\x08\x01"]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.kernels")
    parser.add_argument("operations", nargs="*")
    parser.add_argument("--trials", type=int, default=300, help="requests for each operation")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trusted", action="store_true", help="without the checks of serving.savedmodel.safety.guards")
    options = parser.parse_args()
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    from tensorflow.python.framework import op_def_registry

    options.folder = tempfile.mkdtemp(prefix="kernels-")
    fed = killed = answering = 0
    not_fed: dict[str, list[str]] = {}
    for name in options.operations or sorted(PURE):
        definition = op_def_registry.get(name)
        reason = "calls functions" if name in CALLING else _unfed(definition)
        if reason:
            not_fed.setdefault(reason, []).append(name)
            continue
        fed += 1
        answers, findings = _try(definition, options)
        answering += answers > 0
        killed += bool(findings)
        if not answers:
            not_fed.setdefault("fed, but answered no request", []).append(name)
        for line in findings:
            print(f"{name:32} {line}", flush=True)
    shutil.rmtree(options.folder)
    print(f"{fed} operations fed, {answering} of them answered, {killed} ended the process or did not end")
    for reason, names in not_fed.items():
        print(f"{len(names)} {reason}: {' '.join(names)}")
    return 1 if killed else 0


def _unfed(definition: Any) -> str:
    """Say why an operation cannot be fed, or nothing."""
    if definition is None:
        return "not registered"
    if any(attr.type in ("func", "list(func)") for attr in definition.attr):
        return "calls functions"
    for argument in definition.input_arg:
        if argument.is_ref or type_name(argument.type) in HANDLES:
            return "takes handles"
    if not definition.input_arg:
        return "has no input"
    return "" if definition.output_arg else "gives nothing"


def _try(definition: Any, options: argparse.Namespace) -> tuple[int, list[str]]:
    """Feed one operation in child processes; return how many requests were answered, and what ended a process."""
    findings: dict[str, str] = {}
    shared = mmap.mmap(-1, 1 << 16)  # what a child is about to run
    first = answers = 0
    while first < options.trials and len(findings) < 4:
        shared[:4] = b"\0" * 4
        child = os.fork()
        if not child:
            _child(definition, options, first, shared)
        _, status = os.waitpid(child, 0)
        size = int.from_bytes(shared[:4], "little")
        state = json.loads(shared[4 : 4 + size]) if size else {"trial": options.trials, "answers": 0, "about": "?"}
        answers += state["answers"]
        first = state["trial"] + 1
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGALRM and not state["about"]:
            continue  # stuck before its first request
        if os.WIFSIGNALED(status):
            name = signal.Signals(os.WTERMSIG(status)).name.replace("SIGALRM", "ENDLESS")
            findings.setdefault(f"{name} {state['about'].partition('} ')[0]}", f"{name:8} {state['about']}")
        elif os.WEXITSTATUS(status):
            findings.setdefault("exit", f"exit {os.WEXITSTATUS(status)} {state['about']}")
            break
        else:
            break
    return answers, list(findings.values())


def _child(definition: Any, options: argparse.Namespace, first: int, shared: mmap.mmap) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    if not os.environ.get("KERNELS_SAY"):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    code = 0
    try:
        _run(definition, options, first, shared, folder)
    except BaseException:
        import traceback

        sys.stdout.write(traceback.format_exc()[-1500:])
        sys.stdout.flush()
        code = 3
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(code)


def _run(definition: Any, options: argparse.Namespace, first: int, shared: mmap.mmap, folder: Path) -> None:
    from serving.core import settings
    from serving.core.errors import InputError, LoadError, RunError
    from serving.runtime.model import Model
    from serving.runtime.sessions import open_session
    from serving.savedmodel.source import Source

    choices = settings.read({"CALLERS": "trusted"} if options.trusted else {})
    answers, size = 0, math.ceil(options.trials / VARIANTS)

    def note(trial: int, about: str) -> None:
        state = json.dumps({"trial": trial, "answers": answers, "about": about[:30000]}).encode()
        shared[4 : 4 + len(state)] = state
        shared[:4] = len(state).to_bytes(4, "little")

    for variant in range(first // size, VARIANTS):
        note((variant + 1) * size - 1, "")
        signal.alarm(STUCK)
        made = make_model(
            definition, random.Random(f"{options.seed} {definition.name} {variant}"), folder / str(variant)
        )
        if made is None:
            continue
        about, arguments = made
        try:
            source = Source(folder / str(variant), "model")
            model = Model(source, open_session(source, choices))
        except LoadError:
            continue
        signature = model.signatures["serving_default"]
        good: list[dict[str, Any]] = []
        for trial in range(max(first, variant * size), (variant + 1) * size):
            rng = random.Random(f"{options.seed} {definition.name} {trial}")
            inputs = _request(rng, arguments, good)
            said = " ".join(f"{name}={_text(array)}" for name, array in inputs.items())
            note(trial, f"{about} {said}")
            signal.alarm(ENDLESS)
            try:
                model.run(signature, inputs)
            except (RunError, InputError, ValueError):
                continue
            finally:
                signal.alarm(0)
            answers += 1
            good.append(inputs)
        model.close()
    note(options.trials, "")


def _text(array: Any) -> str:
    values = f" {array.ravel().tolist()!r}".replace(" ", "") if array.size <= 8 else ""
    return f"{array.dtype}{[*array.shape]}".replace(" ", "") + values


# The requests
def _request(rng: random.Random, arguments: list[Argument], good: list[dict[str, Any]]) -> dict[str, Any]:
    """Return an array for each input: mostly such as nearly fit, or a request that was answered with a change."""
    if good and rng.random() < 0.5:
        inputs = dict(rng.choice(good))
        changed = rng.sample(arguments, min(len(arguments), rng.choice([1, 1, 2])))
        return inputs | {
            argument.name: _array(rng, argument.dtype, _shape(rng, range(6), None)) for argument in changed
        }
    sizes = rng.choice([[1], [1], [1, 2], [2], [2, 3], [0, 1, 2], [0, 1, 2, 3], [1, 2, 5]])
    common = [rng.choice(sizes) for _ in range(6)]
    style = rng.random()
    inputs = {}
    for argument in arguments:
        ranks = argument.ranks if style < 0.7 else range(6)
        shape = common[: rng.choice(ranks)] if style < 0.5 else _shape(rng, ranks, sizes)
        inputs[argument.name] = _array(rng, argument.dtype, shape)
    if style < 0.4 and rng.random() < 0.5:
        argument = rng.choice(arguments)
        inputs[argument.name] = _array(rng, argument.dtype, _shape(rng, range(6), None))
    return inputs


def _shape(rng: random.Random, ranks: Any, sizes: list[int] | None) -> list[int]:
    return [rng.choice(sizes or [0, 1, 1, 2, 3]) for _ in range(rng.choice([*ranks]))]


def _array(rng: random.Random, dtype: str, shape: list[int]) -> Any:
    count = math.prod(shape)
    tame = rng.random() < 0.6
    if dtype == "string":
        values: list[Any] = [rng.choice(TEXTS) for _ in range(count)]
        array = np.empty(count, object)
        array[:] = values
        return array.reshape(shape)
    if dtype == "bool":
        values = [rng.random() < 0.5 for _ in range(count)]
    elif dtype in ("float32", "float64", "complex64", "complex128", "float16", "bfloat16"):
        pool = [0.0, 1.0, 0.5] if tame else FLOATS
        values = [rng.choice(pool) for _ in range(count)]
    else:
        pool = [0, 1, 1, 2] if tame else WHOLE
        info = np.iinfo(dtype)
        values = [min(max(rng.choice(pool), info.min), info.max) for _ in range(count)]
    return np.array(values, dtype).reshape(shape)


if __name__ == "__main__":
    sys.exit(main())
