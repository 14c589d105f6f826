"""Models whose twins are asked numbers of every size: one signature for each operation; made where tensorflow is."""

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from exporting import compare
from exporting.runner import Job, ask
from tests.exporting.odd import edit, floats, function, save

v1 = tf.compat.v1
VALUES = np.array(
    [-3e38, -1e38, -1e30, -1.7e9, -5e4, -700.0, -215.0, -100.0, -88.5, -20.0, -3.0, -1e-2, -1e-5, -1e-8, 0.0,
     1e-8, 1e-5, 1e-2, 0.7, 3.0, 20.0, 88.5, 88.7, 100.0, 215.0, 700.0, 5e4, 1.7e9, 1e30, 1e38, 3e38],
    np.float32,
)  # fmt: skip

OPERATIONS = {
    "serving_default": tf.nn.softplus,
    "log_sigmoid": tf.math.log_sigmoid,
    "exp": tf.exp,
    "expm1": tf.math.expm1,
    "log": tf.math.log,
    "log1p": tf.math.log1p,
    "sqrt": tf.sqrt,
    "rsqrt": tf.math.rsqrt,
    "sigmoid": tf.sigmoid,
    "swish": tf.nn.silu,
    "to_int32": lambda x: tf.cast(x, tf.int32),
    "to_int64": lambda x: tf.cast(x, tf.int64),
    "in_branches": lambda x: tf.cond(tf.reduce_sum(x[:1]) > 0, lambda: tf.nn.softplus(x), lambda: tf.exp(x)),
    "to_int16": lambda x: tf.cast(x, tf.int16),
    "cos": tf.cos,
    "sin": tf.sin,
}


def numbers(path: Path) -> None:
    def served(work: Any) -> Any:
        return function(floats())(lambda x: {"y": work(x)})

    save(path, **{name: served(work) for name, work in OPERATIONS.items()})


def cosine(path: Path) -> None:
    save(path, serving_default=function(floats())(lambda x: {"y": tf.cos(x)}))


def python_words(path: Path) -> None:
    """TensorFlow 1, with inputs that no Python function can have."""
    with tf.Graph().as_default(), v1.Session() as session:
        inputs = {name: v1.placeholder(tf.float32, (None,)) for name in ("in", "self", "plain")}
        result = inputs["in"] - 2 * inputs["self"] + 3 * inputs["plain"]
        v1.saved_model.simple_save(session, str(path), inputs, {"out": result})


def optimizer_slots(path: Path) -> None:
    """As Keras 2 wrote it: the optimizer in the object graph, with its slots."""
    owner = tf.Module()
    owner.weight, owner.momentum, owner.optimizer = tf.Variable([2.0]), tf.Variable([0.0]), tf.Module()
    save(path, owner, serving_default=function(floats())(lambda x: {"y": x * owner.weight}))

    def change(graph: Any) -> None:
        nodes = graph.object_graph_def.nodes
        places = {child.local_name: child.node_id for child in nodes[0].children}
        nodes[places["optimizer"]].slot_variables.add(
            original_variable_node_id=places["weight"], slot_name="m", slot_variable_node_id=places["momentum"]
        )

    edit(path, change)


MODELS = (numbers, cosine, python_words, optimizer_slots)


def differences(model: Path, twin: Path) -> dict[str, str | None]:
    """Ask both every operation; return by signature what the twin answers differently from TensorFlow's Python API."""
    problems: dict[str, str | None] = {}
    with tf.Graph().as_default(), v1.Session() as session:
        loaded = v1.saved_model.load(session, ["serve"], str(model))
        names = [name for name in loaded.signature_def if not name.startswith("__")]
        calls = [(name, dict.fromkeys(loaded.signature_def[name].inputs, VALUES)) for name in names]
        for name, answer in zip(names, ask(Job(twin, calls)).answers, strict=True):
            signature = loaded.signature_def[name]
            fed = {info.name: VALUES for info in signature.inputs.values()}
            expected = session.run({key: info.name for key, info in signature.outputs.items()}, fed)
            problems[name] = _difference(expected, answer.outputs) if answer.outputs else answer.error
    return problems


def _difference(expected: Any, outputs: Any) -> str | None:
    """Compare number by number, so that a large one hides no small one."""
    for key, array in expected.items():
        for value, wanted, got in zip(VALUES, array, outputs[key]):
            if not np.isfinite(wanted) or abs(wanted) < np.finfo(np.float32).tiny * 1e3:
                continue
            _, problem = compare.difference({key: np.array([wanted])}, {key: np.array([got])}, 1e-4)
            if problem:
                return f"of {value}: {got}, not {wanted}"
    return None
