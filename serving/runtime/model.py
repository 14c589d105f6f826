"""A loaded model: its signatures, and the session that runs them."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from serving.core import inflight
from serving.core.errors import InputError, LoadError
from serving.core.telemetry.log import log
from serving.savedmodel.signature import Signature, check, refusals
from serving.savedmodel.source import Source, default_arrays

if TYPE_CHECKING:
    import numpy as np

    from serving.runtime.batching import Batching

    Arrays = Mapping[str, np.ndarray[Any, Any]]
    Function = Callable[[Arrays], dict[str, np.ndarray[Any, Any]]]


class Session(Protocol):
    """The interface of a runtime: a SavedModel's signatures as functions of named arrays."""

    def declared(self, signature: Signature) -> Signature: ...

    def function(self, signature: Signature) -> "Function": ...

    def close(self) -> None: ...


class Addresses(NamedTuple):
    """A signature for native code: pointers as integers, valid while its function exists."""

    engine: tuple[Any, ...]  # serving/pipeline/native/engines/described.h
    feeds: list[tuple[int, int]]  # one for each input in order: Endpoint of serving/pipeline/native/model.h
    fetches: list[tuple[str, int, int, int]]  # one for each output in order: its name, TF_DataType, Endpoint


class Model:
    """A model that can answer. Calls may run in parallel from many threads."""

    batching: "Batching | None" = None  # by which calls share runs: see serving.runtime.batch_sizes

    def __init__(self, source: "Source", session: Session) -> None:
        """Find every signature in the graph; raise LoadError where none can be called."""
        self.name = source.name
        self.version = source.version
        self.signatures = dict(source.signatures)
        self._defaults = {name: default_arrays(entry) for name, entry in self.signatures.items() if entry.defaults}
        self.source = source
        self._session = session
        self.functions: dict[str, Function] = {}
        self.answered: dict[str, Arrays] = {}  # by signature, inputs of one row that `tried` found
        for name, signature in list(self.signatures.items()):
            if signature.refusal is None:
                self.signatures[name] = signature = session.declared(signature)
                try:
                    self.functions[name] = session.function(signature)
                except LoadError as error:
                    self.signatures[name] = signature._replace(problem=str(error))
                    log("WARNING", f"the signature {name!r} cannot be called: {error}")
        if not self.functions:
            session.close()
            raise LoadError("; ".join(refusals(self.signatures)))
        self._parts = source.parts

    def run(self, signature: Signature, inputs: "Arrays") -> "dict[str, np.ndarray[Any, Any]]":
        """Return the signature's outputs by name.

        Raise InputError where the inputs are not the declared ones in name, dtype and shape, which is checked here
        for every caller, since TensorFlow would end the process; RunError where TensorFlow refuses them.
        """
        if inputs.keys() != signature.inputs.keys():
            inputs = {**self._defaults.get(signature.name, {}), **inputs}
        if inputs.keys() != signature.inputs.keys():
            raise InputError(f"expected the inputs {', '.join(signature.inputs)}, got {', '.join(inputs) or 'none'}")
        for name, spec in signature.inputs.items():
            array = inputs[name]
            if array.dtype != spec.dtype.numpy:
                raise InputError(f"{name}: expected {spec.dtype.label}, got {array.dtype}")
            if problem := check(spec, array.shape):
                raise InputError(f"{name}: {problem}")
        if self._parts:
            for part in self._parts.get(signature.name, ()):
                if wrong := part.problem(inputs):
                    raise InputError(wrong)
        shapes = ", ".join([f"{name} {[*array.shape]}" for name, array in inputs.items()])
        slot = inflight.begin(f"{signature.name}: {shapes}")
        try:
            if self.batching is not None:
                return self.batching.run(signature.name, inputs)
            return self.functions[signature.name](inputs)
        finally:
            inflight.end(slot)

    def addresses(self, signature: Signature) -> Addresses | None:
        """Return the C pointers that native code runs the signature with, None if only Python can run it."""
        addresses = getattr(self.functions.get(signature.name), "addresses", None)
        return None if addresses is None else addresses()

    def close(self) -> None:
        """Free what the model holds."""
        self._session.close()
