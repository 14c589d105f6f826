"""Replace operations that LiteRT computes wrongly by ones that it computes correctly, before the conversion.

For float32, measured with ai-edge-litert 2.1 from 1e-38 to 3e38: softplus is infinite from 88.7 on, 0 below -17; expm1
and log1p lose the digits of small numbers; exp is infinite from 88.4 on, log from 2.7e38 on; sqrt and rsqrt are wrong
from 9.8e37 on; sigmoid is NaN from 2e27 on; and casts of values outside an integer's range give its other limit.
"""

from collections.abc import Callable
from keyword import iskeyword
from typing import Any

from exporting.graph import MetaGraph, Node, signatures

FLOAT = 1  # tensorflow/core/framework/types.proto
INT32, INT64 = 3, 9
PREFIX = "lowered_for_litert_"
LN4 = 1.3862943611198906
TERMS = (15, 13, 11, 9, 7, 5, 3)  # of the series of the inverse hyperbolic tangent


def forget_training(graph: MetaGraph) -> bool:
    """Remove the slots of optimizers, which the converter's loader cannot create; return whether there were any."""
    with_slots = [node for node in graph.object_graph_def.nodes if node.slot_variables]
    for node in with_slots:
        node.ClearField("slot_variables")
    return bool(with_slots)


def rename_inputs(graph: MetaGraph) -> dict[str, dict[str, str]]:
    """Rename the inputs of a TensorFlow 1 model that no Python function can have; return old → new, by signature."""
    if graph.HasField("object_graph_def"):
        return {}
    renamed: dict[str, dict[str, str]] = {}
    for name, signature in signatures(graph).items():
        odd = sorted(key for key in signature.inputs if not key.isidentifier() or iskeyword(key) or key == "self")
        for position, key in enumerate(odd):
            new = f"{PREFIX}{position}"
            signature.inputs[new].CopyFrom(signature.inputs[key])
            del signature.inputs[key]
            renamed.setdefault(name, {})[key] = new
    return renamed


def lower(graph: MetaGraph) -> bool:
    """Replace such operations by calls, in the graph and in its functions; return whether there are any."""
    definition = graph.graph_def
    replacements: dict[str, Any] = {}
    for function in definition.library.function:
        outputs = {node.name: old for node in function.node_def if (old := _replace(node, replacements))}
        if outputs:
            _rename(function, outputs)
    for node in definition.node:
        _replace(node, replacements)
    definition.library.function.extend(replacements.values())
    return bool(replacements)


def _replace(node: Node, replacements: dict[str, Any]) -> str | None:
    """Make a node a call; return the name of the operation's output, None where the node stays as it is."""
    if node.op not in OPERATIONS:
        return None
    types = (node.attr["SrcT"].type, node.attr["DstT"].type) if node.op == "Cast" else (node.attr["T"].type,) * 2
    work = WORK.get((node.op, *types))
    if work is None:
        return None
    from tensorflow.python.framework import op_def_registry

    name = f"{PREFIX}{node.op}_{types[1]}"
    if name not in replacements:
        replacements[name] = _function(name, work, types[0])
    output: str = op_def_registry.get(node.op).output_arg[0].name
    node.op = "PartitionedCall"
    for attribute in set(node.attr) - {"_class"}:
        del node.attr[attribute]
    node.attr["Tin"].list.type.append(types[0])
    node.attr["Tout"].list.type.append(types[1])
    node.attr["f"].func.name = name
    return output


def _rename(function: Any, outputs: dict[str, str]) -> None:
    """Rename the outputs of replaced nodes in a function's body: those of a call have other names."""

    def renamed(tensor: str) -> str:
        name, _, rest = tensor.partition(":")
        return f"{name}:output{rest.removeprefix(outputs[name])}" if name in outputs and rest else tensor

    for node in function.node_def:
        for position, input_name in enumerate(node.input):
            node.input[position] = renamed(input_name)
    for key, tensor in function.ret.items():
        function.ret[key] = renamed(tensor)


def _function(name: str, work: Callable[[Any], Any], dtype: int) -> Any:
    import tensorflow as tf

    spec = tf.TensorSpec(None, tf.dtypes.as_dtype(dtype), "x")
    function = tf.function(work, autograph=False).get_concrete_function(spec).function_def
    function.signature.name = name
    return function


def _exp(x: Any) -> Any:
    import tensorflow as tf

    half = tf.exp(x * 0.5)
    return half * half


def _log(x: Any) -> Any:
    import tensorflow as tf

    return tf.where(x > 1e38, tf.math.log(x * 0.25) + LN4, tf.math.log(x))


def _near_one(x: Any) -> Any:
    """Return log(1 + x) of x from -0.5 to 1: twice the inverse hyperbolic tangent of x / (2 + x)."""
    ratio = x / (x + 2.0)
    square = ratio * ratio
    total = square * (1.0 / TERMS[0])
    for term in TERMS[1:]:
        total = (total + 1.0 / term) * square
    return (total + 1.0) * (ratio + ratio)


def _log1p(x: Any) -> Any:
    import tensorflow as tf

    near = tf.logical_and(x > -0.5, x < 1.0)
    return tf.where(near, _near_one(tf.where(near, x, tf.zeros_like(x))), _log(x + 1.0))


def _expm1(x: Any) -> Any:
    import tensorflow as tf

    return tf.tanh(x * 0.5) * (_exp(x) + 1.0)


def _softplus(x: Any) -> Any:
    import tensorflow as tf

    return tf.nn.relu(x) + _near_one(_exp(-tf.abs(x)))


def _sqrt(x: Any) -> Any:
    import tensorflow as tf

    return tf.sqrt(x * 0.25) * 2.0


def _rsqrt(x: Any) -> Any:
    import tensorflow as tf

    return tf.math.rsqrt(x * 0.25) * 0.5


def _sigmoid(x: Any) -> Any:
    import tensorflow as tf

    return tf.sigmoid(tf.minimum(tf.maximum(x, -104.0), 104.0))


def _to_int32(x: Any) -> Any:
    return _whole(x, 2.0**31, INT32)


def _to_int64(x: Any) -> Any:
    return _whole(x, 2.0**63, INT64)


def _whole(x: Any, end: float, dtype: int) -> Any:
    """Cast as x86 does: what does not fit becomes the lowest number."""
    import tensorflow as tf

    fits = tf.logical_and(x >= -end, x < end)
    return tf.cast(tf.where(fits, x, tf.fill(tf.shape(x), -end)), tf.dtypes.as_dtype(dtype))


WORK: dict[tuple[str, int, int], Callable[[Any], Any]] = {
    ("Exp", FLOAT, FLOAT): _exp,
    ("Log", FLOAT, FLOAT): _log,
    ("Log1p", FLOAT, FLOAT): _log1p,
    ("Expm1", FLOAT, FLOAT): _expm1,
    ("Softplus", FLOAT, FLOAT): _softplus,
    ("Sqrt", FLOAT, FLOAT): _sqrt,
    ("Rsqrt", FLOAT, FLOAT): _rsqrt,
    ("Sigmoid", FLOAT, FLOAT): _sigmoid,
    ("Cast", FLOAT, INT32): _to_int32,
    ("Cast", FLOAT, INT64): _to_int64,
}
OPERATIONS = frozenset(op for op, *_ in WORK)
