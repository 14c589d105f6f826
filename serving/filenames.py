"""Where the names of the files come from that a model reads while it is loaded.

TensorFlow feeds two kinds of names to a graph that it loads: the path of the variables, into the saver's file name, and
the path of each asset, into the tensor that the asset names. An operation that reads a file has to get its name from
those, whatever functions it passes; a name from anywhere else may be that of any file.

    foreign(main, library, instead, {b"saver_filename:0", b"Const:0"}, reached)
        {(b"RestoreV2", b"RestoreV2", b"__inference__traced_restore_42")}    each reads a file that was not fed
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple

from serving.signature import _each, _map, _one, _whole

READING = {  # operations that read files when a model is loaded: the place of the name among their arguments
    b"InitializeTableFromTextFile": 1,
    b"InitializeTableFromTextFileV2": 1,
    b"Restore": 0,
    b"RestoreSlice": 0,
    b"RestoreV2": 0,
}
HANDING_ON = frozenset({b"EnsureShape", b"ExpandDims", b"Identity", b"Reshape", b"Squeeze", b"StopGradient"})
# Operations that call functions with their arguments in order, and how many of their own stand before.
CALLING = {
    b"Case": 1, b"If": 1, b"PartitionedCall": 0, b"StatefulPartitionedCall": 0, b"StatelessCase": 1, b"StatelessIf": 1,
}  # fmt: skip

Place = tuple[bytes, bytes, bytes]  # operation, node, function


class Node(NamedTuple):
    """A node of a graph or of a function."""

    name: bytes
    op: bytes
    inputs: list[bytes]  # "node:0", "node:output:0", "^node"
    calls: tuple[bytes, ...]  # functions of the library


class Body(NamedTuple):
    """A function: its nodes by name, and its arguments by their place; None for those that take several tensors."""

    nodes: Mapping[bytes, Node]
    arguments: Mapping[bytes, int]


def foreign(
    main: Mapping[bytes, Node],
    library: Mapping[bytes, Body],
    instead: Callable[[bytes], Iterable[bytes]],
    fed: Collection[bytes],
    reached: Iterable[Node],
) -> set[Place]:
    """Return the operations that read a file whose name is not fed.

    `reached` are the nodes of the main graph that run, `instead` says what may run where a function is called.
    """
    found: set[Place] = set()
    done: set[tuple[bytes, tuple[bool, ...]]] = set()
    pending: list[tuple[bytes, Body, tuple[bool, ...], list[Node]]] = [(b"", Body(main, {}), (), list(reached))]
    while pending:
        function, body, given, nodes = pending.pop()
        own = fed if not function else frozenset()
        for node in nodes:
            inputs = [one for one in node.inputs if not one.startswith(b"^")]
            place = READING.get(node.op)
            if place is not None and not (place < len(inputs) and _is_fed(inputs[place], body, given, own)):
                found.add((node.op, node.name, function))
            for called in (*node.calls, *([node.op] if node.op in library else [])):
                if called not in library:
                    continue
                before = CALLING.get(node.op)
                passed = () if before is None else tuple(_is_fed(one, body, given, own) for one in inputs[before:])
                for other in instead(called):
                    call = (other, passed if other == called else ())
                    if call not in done:
                        done.add(call)
                        inside = library[other]
                        pending.append((other, inside, call[1], list(inside.nodes.values())))
    return found


def body(function: memoryview, nodes: Iterable[Node]) -> Body:
    """Return a FunctionDef's body."""
    arguments = list(_each(_whole(function, 1), 2))
    if any(_one(argument, 5) or _one(argument, 6) for argument in arguments):  # it takes lists of tensors
        arguments = []
    places = {bytes(_one(argument, 1)): place for place, argument in enumerate(arguments)}
    return Body({node.name: node for node in nodes}, places)


def kept(graph: memoryview, assets: Collection[bytes]) -> set[bytes]:
    """Return the nodes that read a variable which holds the path of an asset and never anything else."""
    definition = _whole(graph, 2)
    handles: dict[bytes, bytes] = {}  # by node: what the variable is called
    called: list[bytes] = []
    uses: dict[bytes, list[tuple[bytes, bytes, bytes]]] = {}  # by handle: operation, node, value
    bodies = [(True, definition, 1), *((False, of, 3) for of in _each(_whole(definition, 2), 1))]
    for main, message, field in bodies:
        for node in _each(message, field):
            op, name = bytes(_one(node, 2)), bytes(_one(node, 1))
            inputs = [bytes(one) for one in _each(node, 3)]
            if op == b"VarHandleOp":
                called.append(bytes(_one(_map(node, 5).get("shared_name", memoryview(b"")), 2)))
                if main:
                    handles[name] = called[-1]
            elif main:
                for one in inputs:
                    uses.setdefault(one.partition(b":")[0], []).append((op, name, inputs[-1] if inputs else b""))
    found = set()
    for handle, name in handles.items():
        of = uses.get(handle, [])
        given = [tensor(value) for op, _, value in of if op == b"AssignVariableOp"]
        plain = all(op in (b"AssignVariableOp", b"ReadVariableOp", b"VarIsInitializedOp") for op, _, _ in of)
        if plain and given and all(value in assets for value in given) and name and called.count(name) == 1:
            found |= {tensor(node) for op, node, _ in of if op == b"ReadVariableOp"}
    return found


def tensor(name: bytes) -> bytes:
    """Return a tensor of the main graph by its full name: "node" is "node:0"."""
    return name if b":" in name else name + b":0"


def _is_fed(name: bytes, body: Body, given: tuple[bool, ...], fed: Collection[bytes]) -> bool:
    """Say whether a tensor is a fed one, or an argument that is, handed on unchanged."""
    visited: set[bytes] = set()
    while name not in visited:
        visited.add(name)
        if tensor(name) in fed:
            return True
        before = name.partition(b":")[0]
        if before in body.arguments:
            place = body.arguments[before]
            return place < len(given) and given[place]
        node = body.nodes.get(before)
        if node is None or node.op not in HANDING_ON or not node.inputs or node.inputs[0].startswith(b"^"):
            return False
        name = node.inputs[0]
    return False
