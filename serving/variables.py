"""Which variables loading a SavedModel leaves without a value, and from which other each can be filled.

Keras 3 models written by `tf.saved_model.save` have two variables for each weight. The signatures read the first. The
saver knows only a copy of it, made while the graph was traced, so the restore fills the copy and nothing fills the
first. The graph says which belong together: it holds the assignment that made the copy.

    Variable_7/Initializer/ReadVariableOp   reads     s/d/kernel      the one that the signature reads
    Variable_7/Assign                       assigns   Variable_7      the one that is restored
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

from serving.purity import LOADING, _nodes, _reached, _roots, served_graph
from serving.signature import _each, _map, _number, _one, _whole

HANDLE = b"VarHandleOp"


class Copy(NamedTuple):
    """A variable that has to be filled after the load, by node."""

    variable: str
    source: str  # the node of the variable that holds its value
    dtype: int  # a TF_DataType


class Variables(NamedTuple):
    """What loading leaves empty of what the signatures read."""

    copies: tuple[Copy, ...]  # it can be filled
    lost: Mapping[str, str]  # by signature: a variable that cannot


LOST = (
    "it reads the variable {!r}, for which the SavedModel holds no value; "
    "export it with model.export(...), or keep the variable in the object that is saved"
)
NONE = Variables((), {})


def unrestored(directory: Path) -> Variables:
    """Return the variables that signatures read and loading does not fill; nothing for a model of TensorFlow 1.

    TensorFlow 1 lets a signature fill its own variables; and there a copy may have been trained apart.
    """
    graph = served_graph(directory)
    if not _one(graph, 7):  # the object graph: TensorFlow 2 wrote it
        return NONE
    definition = _whole(graph, 2)
    nodes = {node.name: node for node in _nodes(definition, 1)}
    handles = {name for name, node in nodes.items() if node.op == HANDLE}
    if not handles:
        return NONE
    roots = _roots(graph)
    filled = {node.name for node in _reached(nodes, roots.pop(LOADING))} & handles
    read = {name: {node.name for node in _reached(nodes, wanted)} & handles for name, wanted in roots.items()}
    empty = set().union(*read.values()) - filled
    if not empty:
        return NONE
    attributes = _attributes(definition, handles)
    shared = {_shared_name(attributes[name]) for name in filled}  # two handles may be of one variable
    empty = {name for name in empty if _shared_name(attributes[name]) not in shared}
    sources = {}
    for node in nodes.values():
        if node.op == b"AssignVariableOp" and len(node.inputs) == 2 and (copy := _name(node.inputs[0])) in filled:
            value = nodes.get(_name(node.inputs[1]))
            if value is not None and value.op == b"ReadVariableOp" and _name(value.inputs[0]) in empty:
                sources[_name(value.inputs[0])] = copy
    lost = {name: min(left) for name, reads in read.items() if (left := reads & empty - sources.keys())}
    return Variables(
        tuple(
            Copy(name.decode(), source.decode(), _number(attributes[name]["dtype"], 6))
            for name, source in sorted(sources.items())
        ),
        {signature: name.decode() for signature, name in lost.items()},
    )


def _attributes(definition: memoryview, names: Collection[bytes]) -> dict[bytes, dict[str, memoryview]]:
    """Return the attributes of some nodes of the main graph."""
    nodes = ((bytes(_one(node, 1)), node) for node in _each(definition, 1))
    return {name: _map(node, 5) for name, node in nodes if name in names}


def _shared_name(attributes: Mapping[str, memoryview]) -> bytes:
    return bytes(_one(attributes.get("shared_name", memoryview(b"")), 2))


def _name(tensor: bytes) -> bytes:
    return tensor.lstrip(b"^").partition(b":")[0]
