"""Runs a model's LiteRT twin, without TensorFlow. `savedmodel.folder.twin` reads its files."""

import re
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import BoundedSemaphore
from typing import Any

import numpy as np

from serving.core import machine
from serving.core.errors import LoadError, RunError
from serving.core.telemetry import phases
from serving.savedmodel.folder import twin
from serving.savedmodel.folder.twin import MODEL, SIGNATURES
from serving.savedmodel.signature import Signature, shape_text

Array = np.ndarray[Any, Any]


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

        An operation runs on `threads` threads (0: one for each core). At most `most` interpreters are made, each
        when all others are busy: an interpreter has its own buffers and its own copy of the weights.
        """
        self._library = open_library()
        self._path = str(directory / MODEL)
        self._threads = threads or machine.cores()
        signatures = twin.description(directory)["signatures"]
        self._runs = {name: details["runs"] for name, details in signatures.items() if "runs" in details}
        self._names = {name: details["names"] for name, details in signatures.items() if "names" in details}
        self._idle: deque[_Interpreter] = deque()
        self._free = BoundedSemaphore(max(1, most))
        self._idle.append(self._open())

    def _open(self) -> "_Interpreter":
        try:
            return _Interpreter(self._library.Interpreter(self._path, num_threads=self._threads))
        except (ValueError, RuntimeError) as error:
            raise LoadError(f"LiteRT cannot load {MODEL}: {_plain(error)}") from None

    def declared(self, signature: Signature) -> Signature:
        """Return the signature: LiteRT knows no more than it declares."""
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
                except (RuntimeError, ValueError) as error:  # the interpreter is not used again
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
        """Return LiteRT's callable for the signature; it reallocates only when a shape changes."""
        runner = self._runners.get(key)
        if runner is None:
            runner = self._runners[key] = self._interpreter.get_signature_runner(key)
        return runner

    def lacks(self, key: str, signature: Signature, renamed: Mapping[str, str]) -> str | None:
        """Return what a signature needs and the model lacks, or None."""
        tensors = self._interpreter.get_signature_list().get(key)
        if tensors is None:
            return f"{MODEL} has no signature {key!r}"
        inputs = {renamed.get(name, name) for name in signature.inputs}
        if set(tensors["inputs"]) != inputs or set(tensors["outputs"]) != signature.outputs.keys():
            return f"{MODEL} has other inputs or outputs than {SIGNATURES} says"
        return None


# For example: tflite/kernels/gather.cc:207 pos < n was not true.gather index out of boundsNode number 0 (GATHER)
# failed to invoke.
_PLACE = re.compile(r"\S+\.(?:cc|h):\d+ .*? (?:was not true\.|\([^()]*\))|XNNPack delegate failed to \w+ runtime")
_NODE = re.compile(r"Node number \d+ \((\w+)\) failed to (\w+)\.?")


def _plain(error: Exception) -> str:
    """Return an error message of LiteRT without source files and node numbers."""
    text = str(error)
    parts = (part.strip(" .") for part in _NODE.sub(";", _PLACE.sub("", text)).split(";"))
    if message := "; ".join(dict.fromkeys(part for part in parts if part)):
        return message
    failed = _NODE.search(text)
    if failed and failed[2] == "prepare":
        return "the shapes of the inputs do not go together"
    return f"{failed[1]} fails on it" if failed else "it fails on it"
