"""A model's light twin, run by LiteRT: no TensorFlow is needed, or looked for.

`python -m exporting bake --litert MODEL TWIN` writes it, having compared it with the SavedModel:

    model.tflite       the signatures' graphs, their variables inside
    signatures.json    what saved_model.pb says of the signatures, and which of them were left out, and why
    assets.extra/      examples, labels, digests, as beside the SavedModel

    {"format": 1, "bytes": 39252, "tags": ["serve"], "tensorflow_version": "2.21.0",
     "signatures": {"serving_default": {"runs": "pixels", "method_name": "tensorflow/serving/predict",
         "inputs": {"pixels": {"dtype": "DT_FLOAT", "shape": [null, 8, 8], "tensor": "pixels:0"}}, "outputs": {...}},
       "image": {"problem": "its input 'image' holds strings, ...", ...}}}

`bytes` is the size of model.tflite; `runs` names the graph where it is another signature's, and `names` the inputs that
have other names there.
"""

import json
import os
import re
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import BoundedSemaphore
from types import MappingProxyType
from typing import Any

import numpy as np

from serving.core import files
from serving.core.dtypes import DTYPES
from serving.core.errors import LoadError, RunError
from serving.core.telemetry import phases
from serving.savedmodel.signature import Contents, Signature, TensorSpec, shape_text

MODEL, SIGNATURES = "model.tflite", "signatures.json"
FORMAT = 1
BY_NAME = {dtype.name: dtype for dtype in DTYPES}

Array = np.ndarray[Any, Any]


def holds(directory: Path) -> bool:
    """Say whether there is a twin in the folder, and no SavedModel beside it."""
    there = (directory / SIGNATURES).is_file() and (directory / MODEL).is_file()
    return there and not (directory / "saved_model.pb").exists()


def read(directory: Path) -> Contents:
    """Read the signatures of the twin in `directory`; raise LoadError where it cannot be used."""
    facts = _facts(directory)
    try:
        signatures = {name: _signature(name, facts["signatures"][name]) for name in sorted(facts["signatures"])}
        tags, version, size = tuple(facts["tags"]), str(facts["tensorflow_version"]), int(facts["bytes"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise LoadError(f"{SIGNATURES} is not what `bake --litert` writes ({type(error).__name__}: {error})") from None
    if (came := (directory / MODEL).stat().st_size) != size:
        raise LoadError(f"{MODEL}: expected {size} bytes ({SIGNATURES}), got {came}: a part of it, or another's")
    if not any(signature.refusal is None for signature in signatures.values()):
        reasons = [f"{name!r}: {signature.refusal}" for name, signature in signatures.items()]
        raise LoadError("; ".join(["the twin has no signature that can be served", *reasons]))
    return Contents(tags, signatures, version, restores=False)


def write(
    directory: Path,
    contents: Contents,
    runs: Mapping[str, str],
    names: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
) -> None:
    """Write the signatures beside the twin's model.

    `runs` names the graph of those that have another's, `names` what inputs are called there.
    """
    facts = {
        "format": FORMAT,
        "bytes": (directory / MODEL).stat().st_size,
        "tags": contents.tags,
        "tensorflow_version": contents.tensorflow_version,
        "signatures": {
            name: {
                **({"runs": runs[name]} if name in runs else {}),
                **({"names": names[name]} if name in names else {}),
                **({"problem": signature.refusal} if signature.refusal else {}),
                "method_name": signature.method_name,
                "inputs": {key: _facts_of(spec) for key, spec in signature.inputs.items()},
                "outputs": {key: _facts_of(spec) for key, spec in signature.outputs.items()},
            }
            for name, signature in contents.signatures.items()
        },
    }
    (directory / SIGNATURES).write_text(json.dumps(facts, indent=1) + "\n")


def _facts(directory: Path) -> Any:
    try:
        facts = json.loads(files.content(directory, SIGNATURES) or b"")
        found = facts["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise LoadError(f"{SIGNATURES} cannot be read ({type(error).__name__}: {error})") from None
    if found != FORMAT:
        raise LoadError(f"{SIGNATURES}: expected format {FORMAT}, got {found!r}")
    return facts


def _signature(name: str, facts: Any) -> Signature:
    inputs = {key: _spec(key, value) for key, value in facts["inputs"].items()}
    outputs = {key: _spec(key, value) for key, value in facts["outputs"].items()}
    return Signature(name, inputs, outputs, facts["method_name"], facts.get("problem"))


def _spec(name: str, facts: Any) -> TensorSpec:
    shape = None if facts["shape"] is None else tuple(None if size is None else int(size) for size in facts["shape"])
    dimensions = tuple(facts.get("dimensions", [""] * len(shape or ())))
    return TensorSpec(name, BY_NAME[facts["dtype"]], shape, facts["tensor"], dimensions)


def _facts_of(spec: TensorSpec) -> dict[str, Any]:
    labels = {"dimensions": spec.dimensions} if any(spec.dimensions) else {}
    return {"dtype": spec.dtype.name, "shape": spec.shape, "tensor": spec.tensor, **labels}


def open_library() -> Any:
    """Import LiteRT's interpreter, which starts no thread; raise LoadError where it is not installed."""
    try:
        with phases.measured("library"):
            from ai_edge_litert import interpreter
    except ImportError as error:
        text = f"the model is for LiteRT, which is not installed ({error}): pip install -r requirements/light.txt"
        raise LoadError(text) from None
    return interpreter


class Session:
    """A loaded twin. Calls may run in parallel; each has an interpreter to itself while it runs."""

    def __init__(self, directory: Path, threads: int = 1, most: int = 1) -> None:
        """Load the model; raise LoadError where LiteRT cannot.

        An operation runs on `threads` threads (0: one for each core). At most `most` interpreters are made, and each
        only when all others are busy: it has its own buffers, and the weights once more, as its kernels want them.
        """
        self._library = open_library()
        self._path = str(directory / MODEL)
        self._threads = threads or cores()
        signatures = _facts(directory)["signatures"]
        self._runs = {name: one["runs"] for name, one in signatures.items() if "runs" in one}
        self._names = {name: one["names"] for name, one in signatures.items() if "names" in one}
        self._idle: deque[_Interpreter] = deque()
        self._free = BoundedSemaphore(max(1, most))
        self._idle.append(self._open())

    def _open(self) -> "_Interpreter":
        try:
            return _Interpreter(self._library.Interpreter(self._path, num_threads=self._threads))
        except (ValueError, RuntimeError) as error:
            raise LoadError(f"LiteRT cannot load {MODEL}: {_plain(error)}") from None

    def declared(self, signature: Signature) -> Signature:
        """Return the signature: nothing is known better than what it declares."""
        return signature

    def function(self, signature: Signature) -> Callable[[Mapping[str, Array]], dict[str, Array]]:
        """Return the signature as a function of named arrays; raise LoadError where the model lacks it."""
        key = self._runs.get(signature.name, signature.name)
        idle, free, names = self._idle, self._free, tuple(signature.outputs)
        renamed = self._names.get(signature.name, {})
        if idle and (lacking := idle[0].lacks(key, signature, renamed)):
            raise LoadError(lacking)

        def run(inputs: Mapping[str, Array]) -> dict[str, Array]:
            for name, array in inputs.items():
                if not array.size:
                    shape = shape_text(array.shape)
                    raise RunError("INVALID_ARGUMENT", f"{name}: expected an element at least, got shape {shape}")
            with free:
                try:
                    interpreter = idle.pop()
                except IndexError:
                    interpreter = self._open()
                try:
                    own = {renamed.get(name, name): array for name, array in inputs.items()} if renamed else inputs
                    outputs = interpreter.runner(key)(**own)
                except (RuntimeError, ValueError) as error:  # what is left of the interpreter is not used again
                    raise RunError("INVALID_ARGUMENT", _plain(error)) from None
                except MemoryError:
                    raise RunError("RESOURCE_EXHAUSTED", "there is not enough memory for this request") from None
                idle.append(interpreter)
            return {name: outputs[name] for name in names}

        return run

    def close(self) -> None:
        """Free the interpreters."""
        self._idle.clear()


class _Interpreter:
    """An interpreter with a runner for each signature that was asked for."""

    __slots__ = ("_interpreter", "_runners")

    def __init__(self, interpreter: Any) -> None:
        self._interpreter = interpreter
        self._runners: dict[str, Any] = {}

    def runner(self, key: str) -> Any:
        """Return the signature as LiteRT's callable; a shape that stays is not allocated again."""
        runner = self._runners.get(key)
        if runner is None:
            runner = self._runners[key] = self._interpreter.get_signature_runner(key)
        return runner

    def lacks(self, key: str, signature: Signature, renamed: Mapping[str, str]) -> str | None:
        """Say what the model lacks of a signature, or None."""
        found = self._interpreter.get_signature_list().get(key)
        if found is None:
            return f"{MODEL} has no signature {key!r}"
        inputs = {renamed.get(name, name) for name in signature.inputs}
        if set(found["inputs"]) != inputs or set(found["outputs"]) != signature.outputs.keys():
            return f"{MODEL} has other inputs or outputs than {SIGNATURES} says"
        return None


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# As it comes: tflite/kernels/gather.cc:207 pos < n was not true.gather index out of boundsNode number 0 (GATHER) failed
# to invoke.
_PLACE = re.compile(r"\S+\.(?:cc|h):\d+ .*? (?:was not true\.|\([^()]*\))|XNNPack delegate failed to \w+ runtime")
_NODE = re.compile(r"Node number \d+ \((\w+)\) failed to (\w+)\.?")


def _plain(error: Exception) -> str:
    """Return what a message of LiteRT says to somebody who knows neither its sources nor the graph."""
    text = str(error)
    parts = (part.strip(" .") for part in _NODE.sub(";", _PLACE.sub("", text)).split(";"))
    if told := "; ".join(dict.fromkeys(part for part in parts if part)):
        return told
    failed = _NODE.search(text)
    if failed and failed[2] == "prepare":
        return "the shapes of the inputs do not go together"
    return f"{failed[1]} fails on it" if failed else "it fails on it"
