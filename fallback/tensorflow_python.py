"""A session on `tf.saved_model.load(...).signatures[...]`: slower to start, and the oracle of the tests."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from serving.errors import LoadError, RunError
from serving.settings import Settings
from serving.signature import Signature


class Session:
    """A loaded SavedModel; the twin of serving.tensorflow_c.Session."""

    def __init__(self, directory: Path, tags: Sequence[str], options: Settings) -> None:
        """Load the graph tagged exactly `tags`; raise RunError where TensorFlow cannot."""
        for library in options.custom_op_libraries:
            try:
                tf.load_op_library(str(library))
            except tf.errors.OpError as error:
                raise LoadError(f"the custom-op library {library.name} cannot be loaded: {error.message}") from None
        try:
            self._loaded = tf.saved_model.load(str(directory), tags=list(tags))
        except tf.errors.OpError as error:
            raise RunError(_code(error), error.message) from None
        except Exception as error:  # it raises whatever its Python code meets in a model that it does not expect
            raise RunError("UNIMPLEMENTED", f"{type(error).__name__}: {error}") from None

    def declared(self, signature: Signature) -> Signature:
        """Return the signature: nothing is known better than what it declares."""
        return signature

    def function(self, signature: Signature) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
        """Return the signature as a function of named arrays."""
        function = self._loaded.signatures[signature.name]

        def run(inputs: Mapping[str, Any]) -> dict[str, Any]:
            tensors = {
                name: tf.constant(inputs[name].tolist() if spec.dtype.kind == "S" else inputs[name],
                                  tf.dtypes.as_dtype(spec.dtype.code), inputs[name].shape)
                for name, spec in signature.inputs.items()
            }  # fmt: skip
            try:
                outputs = function(**tensors)
            except tf.errors.OpError as error:
                raise RunError(_code(error), error.message) from None
            except UnicodeDecodeError as error:  # an op's message quotes bytes of the input that are no text
                message = error.object.decode("utf-8", "backslashreplace")
                raise RunError("INVALID_ARGUMENT", message) from None
            except (TypeError, ValueError) as error:
                raise RunError("INVALID_ARGUMENT", str(error)) from None
            return {name: _array(outputs[name]) for name in signature.outputs}

        return run

    def close(self) -> None:
        """Free the variables."""
        del self._loaded


def _array(tensor: Any) -> np.ndarray[Any, Any]:
    value = tensor.numpy()
    if isinstance(value, bytes):  # a string of rank 0
        array = np.empty((), object)
        array[()] = value
        return array
    return np.asarray(value)


def _code(error: Any) -> str:
    return next(
        (name for name, code in vars(tf.errors).items() if code == error.error_code and name.isupper()), "UNKNOWN"
    )
