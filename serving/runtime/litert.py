"""Runs a model's LiteRT twin, without TensorFlow. `savedmodel.folder.twin` reads its files.

The native codec runs it through LiteRT's C library (serving.runtime.litert_c). What that cannot run, and all that
Python answers, goes through LiteRT's interpreter for Python; it imports NumPy, so it is imported when it is needed.
"""

import re
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from threading import BoundedSemaphore
from typing import TYPE_CHECKING, Any

from serving.core import machine
from serving.core.errors import LoadError, RunError
from serving.core.telemetry import phases
from serving.core.telemetry.log import log
from serving.runtime import litert_c, opening
from serving.runtime.model import Addresses
from serving.savedmodel.folder import twin
from serving.savedmodel.folder.twin import MODEL, SIGNATURES
from serving.savedmodel.signature import Signature, shape_text

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]


def open_library(native: bool = False) -> Any:
    """Import LiteRT's interpreter, or for `native` open the C library where that can be; neither starts a thread.

    Raise LoadError where LiteRT is not installed.
    """
    if native and (path := opening.find_litert()):
        return litert_c.api(path)
    try:
        with phases.measured("library"):
            from ai_edge_litert import interpreter
    except ImportError as error:
        text = f"the model is for LiteRT, which is not installed ({error}): pip install -r requirements/light.txt"
        raise LoadError(text) from None
    return interpreter


class Session:
    """A loaded twin. Calls may run in parallel; each has an interpreter to itself while it runs."""

    def __init__(self, directory: Path, threads: int = 1, most: int = 1, *, native: bool = False) -> None:
        """Load the model; raise LoadError where LiteRT cannot.

        An operation runs on `threads` threads (0: one for each core). At most `most` interpreters are made, each
        when all others are busy: an interpreter has its own buffers and its own copy of the weights. With `native` the
        model is opened for native code, and the first interpreter is made when Python runs it.
        """
        self._directory = directory
        self._threads = threads or machine.cores()
        signatures = twin.description(directory)["signatures"]
        self._runs = {name: details["runs"] for name, details in signatures.items() if "runs" in details}
        self._names = {name: details["names"] for name, details in signatures.items() if "names" in details}
        self._idle: deque[_Interpreter] = deque()
        self._free = BoundedSemaphore(max(1, most))
        self._compiled = self._compile(max(1, most)) if native else None
        if self._compiled is None:
            self._idle.append(self._open())

    def _compile(self, most: int) -> "litert_c.Compiled | None":
        path = opening.find_litert()
        if path is None:
            return None
        try:
            return litert_c.Compiled(litert_c.api(path), self._directory, self._threads, most)
        except litert_c.Unusable as reason:
            log("INFO", f"LiteRT's interpreter for Python runs the model: {reason}")
            return None

    def _open(self) -> "_Interpreter":
        try:
            return _Interpreter(open_library().Interpreter(str(self._directory / MODEL), num_threads=self._threads))
        except (ValueError, RuntimeError) as error:
            raise LoadError(f"LiteRT cannot load {MODEL}: {_plain(error)}") from None

    def declared(self, signature: Signature) -> Signature:
        """Return the signature: LiteRT knows no more than it declares."""
        return signature

    def function(self, signature: Signature) -> "Function":
        """Return the signature as a function of named arrays; raise LoadError where the model lacks it."""
        key = self._runs.get(signature.name, signature.name)
        renamed = self._names.get(signature.name, {})
        addresses = self._compiled.addresses(key, signature, renamed) if self._compiled else None
        if addresses is None:
            if not self._idle:
                self._idle.append(self._open())
            if lacking := self._idle[0].lacks(key, signature, renamed):
                raise LoadError(lacking)
        return Function(self, signature, key, renamed, addresses)

    def run(self, key: str, inputs: "Mapping[str, Array]") -> "Mapping[str, Array]":
        """Run a signature of the model, by its names there; raise RunError where LiteRT fails."""
        with self._free:
            try:
                interpreter = self._idle.pop()
            except IndexError:
                interpreter = self._open()
            try:
                outputs: Mapping[str, Array] = interpreter.runner(key)(**inputs)
            except (RuntimeError, ValueError) as error:  # the interpreter is not used again
                raise RunError("INVALID_ARGUMENT", _plain(error)) from None
            except MemoryError:
                raise RunError("RESOURCE_EXHAUSTED", "there is not enough memory for this request") from None
            self._idle.append(interpreter)
        return outputs

    def close(self) -> None:
        """Free the interpreters, and the model once no native code uses it."""
        self._idle.clear()
        self._compiled = None


class Function:
    """A signature as a function of named arrays. Threads may call it at once."""

    def __init__(
        self,
        session: Session,
        signature: Signature,
        key: str,
        renamed: Mapping[str, str],
        addresses: Addresses | None,
    ) -> None:
        """Take the signature's name in the model, and its inputs that have other names there."""
        self._session, self._key, self._renamed, self._addresses = session, key, renamed, addresses
        self._compiled = session._compiled  # lives as long as the addresses
        self._outputs = tuple(signature.outputs)

    def __call__(self, inputs: "Mapping[str, Array]") -> "dict[str, Array]":
        """Run the signature once; raise RunError where LiteRT fails."""
        for name, array in inputs.items():
            if not array.size:
                shape = shape_text(array.shape)
                raise RunError("INVALID_ARGUMENT", f"{name}: expected an element at least, got shape {shape}")
        if self._renamed:
            inputs = {self._renamed.get(name, name): array for name, array in inputs.items()}
        outputs = self._session.run(self._key, inputs)
        return {name: outputs[name] for name in self._outputs}

    def addresses(self) -> Addresses | None:
        """Return where native code finds the signature; None where Python alone can run it."""
        return self._addresses


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
