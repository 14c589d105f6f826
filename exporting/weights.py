"""Large weights of a folded graph become variables again, in a file of their own, where constants gain nothing.

A load copies each constant eight times and keeps five of the copies; a variable is read into memory once. The filters
of convolutions stay constants, since oneDNN packs them once if they are. Products of matrices and lookups take about
the same time with a variable (docs/benchmarks/bake.md) and give the same bits, except with oneDNN's kernels, which pack
the constants of products too and round differently.
"""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from exporting.graph import MetaGraph, Node, node_of

# The positions of the inputs that may be variables, by operation.
READERS = {
    "BatchMatMul": (0, 1),
    "BatchMatMulV2": (0, 1),
    "BatchMatMulV3": (0, 1),
    "Gather": (0,),
    "GatherNd": (0,),
    "GatherV2": (0,),
    "MatMul": (0, 1),
    "_FusedMatMul": (0, 1),
}
DTYPES = frozenset({"bfloat16", "float16", "float32", "float64", "int8", "int32", "int64", "uint8"})
LEAST = 1 << 20  # bytes of a weight
WORTH = 4 << 20  # bytes of all together: reading a file costs a start as much as copies of so few
PREFIX = "baked/"  # of the new nodes


def make_variables(graph: MetaGraph) -> dict[str, Any]:
    """Replace the large constants that only products of matrices and lookups read; return the arrays by name.

    They are to be written beside the graph. There are none where they are too small to be worth it.
    """
    import tensorflow as tf

    constants = _replaceable(graph)
    if sum(map(_bytes, constants)) < WORTH:
        return {}
    values = {node.name: tf.make_ndarray(node.attr["value"].tensor) for node in constants}
    for node in constants:
        _read_variable(graph, node)
    _restore(graph, values)
    return values


def write(values: Mapping[str, Any], folder: Path) -> None:
    """Write the arrays into the folder of a SavedModel, as its variables."""
    import tensorflow as tf

    (folder / "variables").mkdir()
    tensors = [tf.constant(value) for value in values.values()]
    prefix = str(folder / "variables" / "variables")
    tf.raw_ops.SaveV2(prefix=prefix, tensor_names=[*values], shape_and_slices=[""] * len(values), tensors=tensors)


def _replaceable(graph: MetaGraph) -> list[Node]:
    """Return the large constants of which every reader computes the same from a variable."""
    readers: dict[str, list[bool]] = defaultdict(list)
    for node in graph.graph_def.node:
        for position, tensor in enumerate(node.input):
            readers[node_of(tensor)].append(position in READERS.get(node.op, ()) and not tensor.startswith("^"))
    large = [node for node in graph.graph_def.node if node.op == "Const" and not node.input and _bytes(node) >= LEAST]
    return sorted((node for node in large if all(readers[node.name] or [False])), key=lambda node: node.name)


def _bytes(node: Node) -> int:
    """Return how much a constant takes in the graph, 0 where its type may not be one of a variable."""
    import tensorflow as tf

    name = tf.as_dtype(node.attr["dtype"].type).name
    return int(node.attr["value"].tensor.ByteSize()) if name in DTYPES else 0


def _read_variable(graph: MetaGraph, node: Node) -> None:
    """Make of a constant what reads a variable of the same name."""
    tensor = node.attr["value"].tensor
    handle = graph.graph_def.node.add(name=f"{PREFIX}{node.name}/variable", op="VarHandleOp")
    handle.attr["dtype"].type = tensor.dtype
    handle.attr["shape"].shape.CopyFrom(tensor.tensor_shape)
    handle.attr["shared_name"].s = node.name.encode()
    dtype = tensor.dtype
    node.attr.clear()
    node.attr["dtype"].type = dtype
    node.op = "ReadVariableOp"
    node.input.append(handle.name)


def _restore(graph: MetaGraph, values: Mapping[str, Any]) -> None:
    """Add what reads the file, and say so where a loader looks for it."""
    import tensorflow as tf

    add = graph.graph_def.node.add
    file = add(name=f"{PREFIX}file", op="Placeholder")
    file.attr["dtype"].type = tf.string.as_datatype_enum
    file.attr["shape"].shape.SetInParent()
    names, slices = _texts(graph, "names", [*values]), _texts(graph, "slices", [""] * len(values))
    restore = add(name=f"{PREFIX}restore", op="RestoreV2", input=[file.name, names, slices])
    everything = add(name=f"{PREFIX}restored", op="NoOp")
    for position, (name, value) in enumerate(values.items()):
        dtype = tf.as_dtype(value.dtype).as_datatype_enum
        restore.attr["dtypes"].list.type.append(dtype)
        source = f"{restore.name}:{position}" if position else restore.name
        assign = add(name=f"{PREFIX}{name}/assign", op="AssignVariableOp", input=[f"{PREFIX}{name}/variable", source])
        assign.attr["dtype"].type = dtype
        everything.input.append(f"^{assign.name}")
    saver = graph.saver_def
    saver.filename_tensor_name = saver.save_tensor_name = f"{file.name}:0"
    saver.restore_op_name = everything.name
    saver.version = type(saver).V2


def _texts(graph: MetaGraph, name: str, texts: list[str]) -> str:
    import tensorflow as tf

    node = graph.graph_def.node.add(name=PREFIX + name, op="Const")
    node.attr["dtype"].type = tf.string.as_datatype_enum
    node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(texts, dtype=tf.string))
    return str(node.name)
