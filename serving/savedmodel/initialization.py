"""The steps that remain after TensorFlow has loaded a SavedModel, before its signatures can answer.

Keras 3 models written by `tf.saved_model.save` have two variables for each weight. The signatures read the first. The
saver restores only a copy of it, made while the graph was traced, and nothing fills the first. The graph shows which
variables belong together: it holds the assignment that made the copy.

    Variable_7/Initializer/ReadVariableOp   reads     s/d/kernel      the one that the signature reads
    Variable_7/Assign                       assigns   Variable_7      the one that is restored

TensorFlow 1 models saved without an init operation name the operations that fill their tables in the collection
table_initializer, which no loader runs.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from serving.savedmodel.graph import Graph, Node, reached
from serving.savedmodel.protobuf import last_field, number_field, text_of
from serving.savedmodel.roots import LOADING, asset_definitions, roots_of, table_initializers
from serving.savedmodel.signature import served_graph

HANDLE = b"VarHandleOp"
LOST = (
    "it reads the variable {!r}, for which the SavedModel holds no value; "
    "export it with model.export(...), or keep the variable in the object that is saved"
)


class Copy(NamedTuple):
    """A variable that must be filled after the load."""

    variable: str  # its node
    source: str  # the node of the variable that holds its value
    dtype: int  # a TF_DataType


class Initialization(NamedTuple):
    """The steps that remain after the load."""

    copies: tuple[Copy, ...] = ()
    lost: Mapping[str, str] = {}  # by signature: a variable that it reads and that nothing can fill
    operations: tuple[str, ...] = ()  # nodes to run, which fill tables
    assets: tuple[tuple[str, str], ...] = ()  # the feeds of those: a tensor, and the name of a file in assets/


NOTHING = Initialization()


def needed(directory: Path) -> Initialization:
    """Return the steps that remain after a load; raise LoadError where saved_model.pb is unreadable."""
    graph = served_graph(directory)
    if not last_field(graph, 7):  # the object graph, which only TensorFlow 2 writes
        return _tables(graph)
    return _variables(graph, Graph.of(graph).main)


def _tables(graph: memoryview) -> Initialization:
    operations = table_initializers(graph)
    if not operations:
        return NOTHING
    assets = [
        (text_of(last_field(last_field(asset, 1), 1)), text_of(last_field(asset, 2)))
        for asset in asset_definitions(graph)
    ]
    return Initialization(operations=tuple(name.decode() for name in operations), assets=tuple(assets))


def _variables(graph: memoryview, nodes: Mapping[bytes, Node]) -> Initialization:
    handles = {name for name, node in nodes.items() if node.op == HANDLE}
    if not handles:
        return NOTHING
    roots = roots_of(graph)
    filled = {node.name for node in reached(nodes, roots.pop(LOADING))} & handles
    read = {name: {node.name for node in reached(nodes, targets)} & handles for name, targets in roots.items()}
    empty = set().union(*read.values()) - filled
    if not empty:
        return NOTHING
    attributes = {name: nodes[name].attributes for name in handles}
    shared = {_shared_name(attributes[name]) for name in filled}  # two handles may be of one variable
    empty = {name for name in empty if _shared_name(attributes[name]) not in shared}
    sources = {variable: copy for copy, variable in _copied(nodes) if copy in filled and variable in empty}
    lost = {name: min(unfilled) for name, reads in read.items() if (unfilled := reads & empty - sources.keys())}
    return Initialization(
        tuple(
            Copy(name.decode(), source.decode(), number_field(attributes[name]["dtype"], 6))
            for name, source in sorted(sources.items())
        ),
        {signature: name.decode() for signature, name in lost.items()},
    )


def _copied(nodes: Mapping[bytes, Node]) -> Iterator[tuple[bytes, bytes]]:
    """Yield (target, source) for each variable that the graph assigns the value of another."""
    for node in nodes.values():
        if node.op == b"AssignVariableOp" and len(node.inputs) > 1:
            value = nodes.get(_name(node.inputs[1]))
            if value is not None and value.op == b"ReadVariableOp" and value.inputs:
                yield _name(node.inputs[0]), _name(value.inputs[0])


def _shared_name(attributes: Mapping[str, memoryview]) -> bytes:
    return bytes(last_field(attributes.get("shared_name", memoryview(b"")), 2))


def _name(tensor: bytes) -> bytes:
    return tensor.lstrip(b"^").partition(b":")[0]
