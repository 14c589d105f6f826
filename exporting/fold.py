"""Optimizations behind a convolution that TensorFlow's graph optimizer lacks: a scale, and a sum that is a bias.

Batch normalization multiplies each channel by a constant and adds another. The optimizer moves the factor into the
filter of a Conv2D, but not of a DepthwiseConv2dNative, of which MobileNetV2 has one in every block; and it fuses a
BiasAdd on every CPU, but a sum only for oneDNN's kernels, which not every machine has.
"""

from collections import Counter
from collections.abc import Collection
from typing import Any

from exporting.graph import GraphDef, Node, node_of

FLOAT = 1  # DT_FLOAT
CONVOLUTIONS = ("Conv2D", "DepthwiseConv2dNative")


def fold_scales(definition: GraphDef, fixed: Collection[str]) -> int:
    """Fold constant scales into the filters of the depthwise convolutions before them; return how many."""
    from tensorflow import make_ndarray, make_tensor_proto

    nodes: dict[str, Node] = {node.name: node for node in definition.node}
    uses = Counter(node_of(tensor) for node in definition.node for tensor in node.input)
    added: list[Any] = []
    for node in definition.node:
        pair = _scaled(node, nodes)
        if pair is None:
            continue
        convolution, constant = pair
        if uses[convolution.name] != 1 or convolution.name in fixed or node.name in fixed:
            continue
        weights = make_ndarray(nodes[node_of(convolution.input[1])].attr["value"].tensor)
        scale = make_ndarray(constant.attr["value"].tensor)
        if scale.size not in (1, weights.shape[2] * weights.shape[3]) or scale.size != (scale.shape or (1,))[-1]:
            continue
        scaled = weights * (scale.reshape(weights.shape[2:]) if scale.size > 1 else scale.reshape(()))
        new = type(node)(name=f"{convolution.name}/scaled", op="Const")
        new.attr["dtype"].type = node.attr["T"].type
        new.attr["value"].tensor.CopyFrom(make_tensor_proto(scaled.astype(weights.dtype)))
        added.append(new)
        convolution.input[1] = new.name
        node.op = "Identity"
        del node.input[:]
        node.input.append(convolution.name)
    definition.node.extend(added)
    return len(added)


def name_biases(definition: GraphDef) -> int:
    """Make a BiasAdd of every sum of a convolution and a constant for each channel; return how many."""
    from tensorflow import make_ndarray, make_tensor_proto

    nodes: dict[str, Node] = {node.name: node for node in definition.node}
    uses = Counter(node_of(tensor) for node in definition.node for tensor in node.input)
    added: list[Any] = []
    for node in definition.node:
        if node.op not in ("Add", "AddV2") or len(node.input) != 2 or node.attr["T"].type != FLOAT:
            continue
        for first, second in (tuple(node.input), tuple(node.input)[::-1]):
            convolution, constant = nodes[node_of(first)], nodes[node_of(second)]
            if convolution.op not in CONVOLUTIONS or constant.op != "Const" or uses[convolution.name] != 1:
                continue
            weights = nodes[node_of(convolution.input[1])]
            if weights.op != "Const" or convolution.attr["data_format"].s not in (b"", b"NHWC"):
                continue
            sizes = [dimension.size for dimension in weights.attr["value"].tensor.tensor_shape.dim]
            channels = sizes[3] if convolution.op == "Conv2D" else sizes[2] * sizes[3]
            bias = make_ndarray(constant.attr["value"].tensor)
            if bias.ndim > 4 or bias.size != channels or bias.shape[-1] != channels:
                continue
            new = type(node)(name=f"{node.name}/bias", op="Const")
            new.attr["dtype"].type = FLOAT
            new.attr["value"].tensor.CopyFrom(make_tensor_proto(bias.reshape(-1)))
            added.append(new)
            node.op = "BiasAdd"
            del node.input[:]
            node.input.extend([first, new.name])
            break
    definition.node.extend(added)
    return len(added)


def _scaled(node: Node, nodes: dict[str, Node]) -> tuple[Node, Node] | None:
    """Return the convolution and the constant that a node multiplies, if that is what it does."""
    if node.op != "Mul" or len(node.input) != 2 or node.attr["T"].type != FLOAT:
        return None
    for first, second in (node.input, reversed(node.input)):
        convolution, constant = nodes[node_of(first)], nodes[node_of(second)]
        if (
            convolution.op == "DepthwiseConv2dNative"
            and convolution.attr["data_format"].s in (b"", b"NHWC")
            and constant.op == "Const"
            and nodes[node_of(convolution.input[1])].op == "Const"
        ):
            return convolution, constant
    return None
