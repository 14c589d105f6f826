"""A session of TensorFlow's Python package, for a wheel without the C library: slower to start.

It loads a SavedModel as the C library does, by its graph and its signatures. `tf.saved_model.load` would restore
functions by the object graph instead, which may name other functions than the signatures, which were not examined.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from serving.core.errors import LoadError, RunError
from serving.core.settings import Settings
from serving.savedmodel.initialization import NOTHING, Initialization
from serving.savedmodel.signature import Signature


class Session:
    """A loaded SavedModel; the twin of serving.runtime.tensorflow_c.Session."""

    def __init__(
        self, directory: Path, tags: Sequence[str], options: Settings, initialization: Initialization = NOTHING
    ) -> None:
        """Load the graph tagged exactly `tags`; raise RunError where TensorFlow cannot."""
        for library in options.custom_op_libraries:
            try:
                tf.load_op_library(str(library))
            except tf.errors.OpError as error:
                raise LoadError(f"the custom-op library {library.name} cannot be loaded: {error.message}") from None
        config = tf.compat.v1.ConfigProto(
            intra_op_parallelism_threads=options.intra_op_threads,
            inter_op_parallelism_threads=options.inter_op_threads,
            allow_soft_placement=True,
        )
        self._graph = tf.Graph()
        self._session = tf.compat.v1.Session(graph=self._graph, config=config)
        try:
            with self._graph.as_default():
                tf.compat.v1.saved_model.loader.load(self._session, list(tags), str(directory))
                self._finish(directory, initialization)
        except tf.errors.OpError as error:
            raise RunError(_code(error), error.message) from None
        except Exception as error:  # it raises whatever its Python code meets in a model that it does not expect
            raise RunError("UNIMPLEMENTED", f"{type(error).__name__}: {error}") from None

    def _finish(self, directory: Path, initialization: Initialization) -> None:
        """Fill variables from their copies, and tables."""
        assignments = []
        for copy in initialization.copies:
            variable, source = (self._tensor(f"{name}:0") for name in (copy.variable, copy.source))
            value = tf.raw_ops.ReadVariableOp(resource=source, dtype=tf.dtypes.as_dtype(copy.dtype))
            assignments.append(tf.raw_ops.AssignVariableOp(resource=variable, value=value))
        self._session.run(assignments)
        paths = {
            self._tensor(tensor): os.fsencode(directory / "assets" / name) for tensor, name in initialization.assets
        }
        self._session.run([self._graph.get_operation_by_name(name) for name in initialization.operations], paths)

    def declared(self, signature: Signature) -> Signature:
        """Return the signature unchanged: the package knows no more than it declares."""
        return signature

    def function(self, signature: Signature) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
        """Return the signature as a function of named arrays; raise LoadError where the graph lacks a tensor."""
        feeds = {name: self._tensor(spec.tensor) for name, spec in signature.inputs.items()}
        fetches = {name: self._tensor(spec.tensor) for name, spec in signature.outputs.items()}
        if len(set(map(id, feeds.values()))) < len(feeds):
            raise LoadError("two of its inputs are the same tensor")

        def run(inputs: Mapping[str, Any]) -> dict[str, Any]:
            try:
                outputs = self._session.run(fetches, {feeds[name]: array for name, array in inputs.items()})
            except tf.errors.OpError as error:
                lacking = "Could not find callback with key" in error.message  # Python that the model does not hold
                raise RunError("UNIMPLEMENTED" if lacking else _code(error), error.message) from None
            except UnicodeDecodeError as error:  # an op's message quotes bytes of the input that are no text
                message = error.object.decode("utf-8", "backslashreplace")
                raise RunError("INVALID_ARGUMENT", message) from None
            except (TypeError, ValueError) as error:
                raise RunError("INVALID_ARGUMENT", str(error)) from None
            return {name: _array(value) for name, value in outputs.items()}

        return run

    def _tensor(self, name: str) -> Any:
        try:
            return self._graph.get_tensor_by_name(name)
        except (KeyError, ValueError):
            raise LoadError(f"it names the tensor {name!r}, which the graph does not have") from None

    def close(self) -> None:
        """Free the variables."""
        self._session.close()


def _array(value: Any) -> np.ndarray[Any, Any]:
    if isinstance(value, bytes):  # a string of rank 0
        array = np.empty((), object)
        array[()] = value
        return array
    return np.asarray(value)


def _code(error: Any) -> str:
    return next(
        (name for name, code in vars(tf.errors).items() if code == error.error_code and name.isupper()), "UNKNOWN"
    )
