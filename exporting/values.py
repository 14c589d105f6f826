"""The values of a SavedModel's variables, and the operations that libraries add to TensorFlow's."""

import math
from functools import cache
from pathlib import Path
from typing import Any

from exporting.graph import MetaGraph, output_tensors, reached
from exporting.refusal import Refusal
from serving.core import settings
from serving.savedmodel.initialization import needed

VARIABLES = frozenset({"VarHandleOp", "VariableV2", "Variable"})


def read_variables(graph: MetaGraph) -> list[Any]:
    """Return the nodes of the variables that signatures reach."""
    outputs = output_tensors(graph)
    nodes = reached({node.name: node for node in graph.graph_def.node}, outputs)
    return [node for node in nodes if node.op in VARIABLES]


def bytes_of(graph: MetaGraph) -> int:
    """Return the size in bytes of the variables that signatures reach, as far as their shapes are known."""
    import tensorflow as tf

    total = 0
    for node in read_variables(graph):
        shape = [dimension.size for dimension in node.attr["shape"].shape.dim]
        dtype = tf.dtypes.as_dtype(node.attr["dtype"].type)
        total += math.prod(size for size in shape if size > 0) * (dtype.size if dtype != tf.string else 16)
    return total


def values_of(directory: Path, graph: MetaGraph) -> dict[str, Any]:
    """Load the model as TensorFlow 1 does and return its variables' values by node."""
    import tensorflow as tf

    v1 = tf.compat.v1
    tf.get_logger().setLevel("ERROR")
    variables = read_variables(graph)
    if not variables:
        return {}
    try:
        with tf.Graph().as_default() as main, v1.Session(config=v1.ConfigProto(allow_soft_placement=True)) as session:
            v1.saved_model.load(session, list(graph.meta_info_def.tags), str(directory))
            sources = {copy.variable: copy.source for copy in needed(directory).copies}
            tensors = {}
            for node in variables:
                tensor = main.get_tensor_by_name(f"{sources.get(node.name, node.name)}:0")
                if node.op == "VarHandleOp":
                    tensor = tf.raw_ops.ReadVariableOp(resource=tensor, dtype=node.attr["dtype"].type)
                tensors[node.name] = tensor
            values: dict[str, Any] = session.run(tensors)
            return values
    except tf.errors.OpError as error:
        text = " ".join(error.message.split())[:300]
        raise Refusal(f"{directory}: its variables cannot be read: {text}") from None
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise Refusal(f"{directory}: TensorFlow cannot load it: {' '.join(str(error).split())[:300]}") from None


@cache
def custom_operations() -> frozenset[str]:
    """Load the libraries of CUSTOM_OP_LIBRARIES, once, and return the operations that they define."""
    import tensorflow as tf

    operations: set[str] = set()
    for library in settings.current().custom_op_libraries:
        before = _registered()
        try:
            tf.load_op_library(str(library))
        except tf.errors.OpError as error:
            raise Refusal(f"{library}: it cannot be loaded as a library of operations: {error.message}") from None
        operations |= _registered() - before
    return frozenset(operations)


def _registered() -> set[str]:
    from tensorflow.core.framework import op_def_pb2
    from tensorflow.python.client import pywrap_tf_session

    data = pywrap_tf_session.TF_GetBuffer(pywrap_tf_session.TF_GetAllOpList())
    return {op.name for op in op_def_pb2.OpList.FromString(data).op}
