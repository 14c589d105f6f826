"""Models in memory that are exported, or refused, and what the runtime answers of an export."""

from pathlib import Path
from typing import Any

import numpy as np

from exporting import (
    function,
)
from exporting.runner import Job, ask

NAMES = ["ant", "bee", "cat"]


def answers(folder: Path, name: str, **inputs: Any) -> dict[str, Any]:
    """Ask the server's runtime."""
    arrays = {key: np.asarray(value) for key, value in inputs.items()}
    (answer,) = ask(Job(folder, [(name, arrays)])).answers
    assert answer.outputs is not None, answer.message
    return answer.outputs


def strings(*values: str | bytes) -> Any:
    array = np.empty(len(values), object)
    array[:] = [value.encode() if isinstance(value, str) else value for value in values]
    return array


def spec(tf: Any, *shape: int | None) -> dict[str, Any]:
    return {"x": tf.TensorSpec(shape)}


def counting(tf: Any) -> Any:
    class Counting(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.calls = tf.Variable(0.0)

        @tf.function(input_signature=[tf.TensorSpec((None,), name="x")])
        def __call__(self, x: Any) -> Any:
            return {"y": x + self.calls.assign_add(1.0)}

    return Counting()


def otherwise(tf: Any) -> Any:
    """Return what is one thing in memory and another in the graph."""
    return function(lambda x: x * (2.0 if tf.executing_eagerly() else 2.001), spec(tf, None))


def table_from_nowhere(tf: Any) -> Any:
    pairs = tf.lookup.KeyValueTensorInitializer(["a"], [1])
    table = tf.lookup.StaticHashTable(pairs, 0)
    return function(lambda x: table.lookup(x), {"x": tf.TensorSpec((None,), tf.string)})
