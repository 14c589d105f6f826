"""Run the zoo through a runtime and say where it differs from TensorFlow's own answers.

`python -m tests.models.zoo_check c|python` does so in a process of its own and prints the differences as JSON.
"""

import json
import os
import sys
from typing import Any

import numpy as np

from serving.core import settings
from serving.core.errors import InputError, LoadError, RunError
from serving.runtime.batching import AUTO_ROWS, Batching
from serving.runtime.model import Model
from serving.runtime.sessions import open_session
from serving.savedmodel.safety.purity import impurities
from serving.savedmodel.source import Source
from tests.models.zoo import ZOO, Case, absent, build, cases

# Python's session runs these by itself; the signatures are refused here, and say why.
REFUSED = {("tf1_passthrough", "twins"), ("tf1_names", "")}


def differences(runtime: str, names: list[str] | None = None) -> list[str]:
    """Return one line for each case that comes out otherwise than TensorFlow's Python API says."""
    problems = []
    for name in names or list(ZOO):
        if absent(name) is None and cases(name):
            try:
                problems += _model(runtime, name)
            except LoadError as error:
                problems.append(f"{name}: {error}")
    return problems


def _model(runtime: str, name: str) -> list[str]:
    library = build() / name / "zero_out.so"
    custom = sorted((build() / name).glob("**/*.so")) or ([library] if library.exists() else [])
    options = settings.read({"RUNTIME": runtime, "CUSTOM_OP_LIBRARIES": os.pathsep.join(map(str, custom))})
    source = Source(build() / name, name)
    served = Model(source, open_session(source, options))
    pure = not impurities(source.directory)
    problems = []
    for number, case in enumerate(cases(name)):
        signature = served.signatures[case["signature"]]
        case_name = f"{name}/{case['signature']}#{number}"
        if (name, signature.name) in REFUSED:
            continue
        try:
            outputs = served.run(signature, case["inputs"])
            if pure:
                problems += [f"{case_name}, in a queue: {text}" for text in _in_a_queue(served, case, outputs)]
        except RunError as error:
            wanted = "UNIMPLEMENTED" if name == "py_function" else case["error"]
            if wanted == "RESOURCE_EXHAUSTED":  # the size is checked before TensorFlow tries: safety.guarding
                wanted = "INVALID_ARGUMENT"
            if error.code != wanted:
                problems.append(f"{case_name}: expected {wanted or 'an answer'}, got {error.code}: {error}")
            continue
        except InputError as error:
            if not case["error"]:
                problems.append(f"{case_name}: expected an answer, got {error}")
            continue
        if case["error"]:
            problems.append(f"{case_name}: expected {case['error']}, got an answer")
        elif case["outputs"] is not None:
            problems += [f"{case_name}: {problem}" for problem in compare(case["outputs"], outputs)]
    served.close()
    return problems


def _in_a_queue(model: Model, case: Case, outputs: dict[str, Any]) -> list[str]:
    """Return how the answer of a server with BATCH_ROWS differs, where calls may share runs and this one does not."""
    model.batching = Batching(model.functions, AUTO_ROWS)
    try:
        return compare(outputs, model.run(model.signatures[case["signature"]], case["inputs"]))
    finally:
        model.batching = None


def compare(wanted: dict[str, Any], came: dict[str, Any]) -> list[str]:
    """Return how outputs differ: names, dtypes and shapes exactly, floats to a few units in the last place."""
    if wanted.keys() != came.keys():
        return [f"expected the outputs {sorted(wanted)}, got {sorted(came)}"]
    problems = []
    for name, want in wanted.items():
        array = came[name]
        want = np.asarray(want, object) if isinstance(want, bytes) else np.asarray(want)
        if want.dtype.kind in "SO":
            same = array.dtype == object and array.tolist() == want.tolist()
        elif (array.dtype, array.shape) != (want.dtype, want.shape):
            same = False
        elif want.dtype.kind in "biu":
            same = bool((array == want).all())
        else:
            wide = np.complex128 if want.dtype.kind == "c" else np.float64
            epsilon = 1e-2 if want.dtype.itemsize <= 2 else 1e-5
            same = np.allclose(array.astype(wide), want.astype(wide), rtol=epsilon, atol=1e-7, equal_nan=True)
        if not same or array.shape != want.shape:
            problems.append(f"{name}: expected {want!r:.200}, got {array!r:.200}")
    return problems


if __name__ == "__main__":
    print(json.dumps(differences(sys.argv[1], sys.argv[2:])))
