"""The unchanged part of a baked graph: the signatures whose answers could not be compared."""

from collections.abc import Collection
from typing import Any

from exporting.graph import GraphDef, MetaGraph, Node, assets, called, names, node_of, pruned, signatures
from exporting.values import VARIABLES

PREFIX = "kept_"  # of its functions; the optimizer writes others under the old names


def subgraph(graph: MetaGraph, kept: Collection[str]) -> GraphDef:
    """Return what these signatures run, with functions of its own."""
    definition = pruned(graph.graph_def, names(info for name in kept for info in _infos(signatures(graph)[name])))
    own = {function.signature.name for function in definition.library.function}
    for function in definition.library.function:
        function.signature.name = PREFIX + function.signature.name
        for node in function.node_def:
            _rename(node, own)
    for node in definition.node:
        _rename(node, own)
    for gradient in definition.library.gradient:
        gradient.function_name = PREFIX + gradient.function_name
        if gradient.gradient_func in own:
            gradient.gradient_func = PREFIX + gradient.gradient_func
    return definition


def shared(graph: MetaGraph, kept: GraphDef) -> list[str]:
    """Return the nodes that both parts refer to by name: variables, tables, inputs and the paths of assets."""
    paths = {node_of(asset.tensor_info.name) for asset in assets(graph)}
    return [
        node.name
        for node in kept.node
        if node.op in VARIABLES or "Table" in node.op or node.op == "Placeholder" or node.name in paths
        if not node.input
    ]


def add(definition: GraphDef, kept: GraphDef) -> None:
    """Add the kept part to the graph."""
    there = {node.name for node in definition.node}
    definition.node.extend(node for node in kept.node if node.name not in there)
    definition.library.MergeFrom(kept.library)


def _infos(signature: Any) -> list[Any]:
    return [*signature.inputs.values(), *signature.outputs.values()]


def _rename(node: Node, own: set[str]) -> None:
    if own.isdisjoint(called(node)):
        return
    if node.op in own:
        node.op = PREFIX + node.op
    for value in node.attr.values():
        for function in [value.func] if value.HasField("func") else value.list.func:
            if function.name in own:
                function.name = PREFIX + function.name
