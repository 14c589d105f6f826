"""Where the names of the files come from that a model reads while it is loaded.

TensorFlow feeds two kinds of names to a graph that it loads: the path of the variables, into the saver's file name, and
the path of each asset, into the tensor that the asset names. An operation that reads a file has to get its name from
those, whatever functions it passes; a name from anywhere else may be that of any file.

    foreign(graph, {b"saver_filename:0", b"Const:0"}, reached)
        {(b"RestoreV2", b"RestoreV2", b"__inference__traced_restore_42")}    each reads a file that was not fed
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from serving.savedmodel.graph import MAIN, Graph, Node
from serving.savedmodel.protobuf import each_field, first_field, last_field

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
MOST_CALLS = 20_000  # functions, each with the arguments that are file names: arguments in turn could be without end

Place = tuple[bytes, bytes, bytes]  # operation, node, function


class Body(NamedTuple):
    """A function: its nodes by name, and its arguments by their place; None for those that take several tensors."""

    nodes: Mapping[bytes, Node]
    arguments: Mapping[bytes, int]


def foreign(graph: Graph, fed: Collection[bytes], reached: Iterable[Node]) -> set[Place]:
    """Return the operations that read a file whose name is not fed; `reached` is what runs of the main graph."""
    found: set[Place] = set()
    done: set[tuple[bytes, tuple[bool, ...]]] = set()
    pending: list[tuple[bytes, Body, tuple[bool, ...], list[Node]]] = [(MAIN, Body(graph.main, {}), (), list(reached))]
    while pending:
        function, body, given, nodes = pending.pop()
        own = fed if not function else frozenset()
        for node in nodes:
            place = READING.get(node.op)
            calls = [called for called in (*node.calls, node.op) if called in graph.functions]
            if place is None and not calls:
                continue
            inputs = [one for one in node.inputs if not one.startswith(b"^")]
            if place is not None and not (place < len(inputs) and _is_fed(inputs[place], body, given, own)):
                found.add((node.op, node.name, function))
            for called in calls:  # an operation may be a function's name
                before = CALLING.get(node.op)
                passed = () if before is None else tuple(_is_fed(one, body, given, own) for one in inputs[before:])
                for other in graph.instead(called):
                    call = (other, passed if other == called else ())
                    if call not in done:
                        done.add(call)
                        if len(done) > MOST_CALLS:
                            raise ValueError(f"the load calls functions in more than {MOST_CALLS} ways")
                        inside = _body(graph, other)
                        pending.append((other, inside, call[1], list(inside.nodes.values())))
    return found


def _body(graph: Graph, name: bytes) -> Body:
    arguments = list(each_field(first_field(graph.functions[name], 1), 2))
    if any(last_field(argument, 5) or last_field(argument, 6) for argument in arguments):  # it takes lists of tensors
        arguments = []
    places = {bytes(last_field(argument, 1)): place for place, argument in enumerate(arguments)}
    return Body(graph.nodes(name), places)


def kept(graph: Graph, assets: Collection[bytes]) -> set[bytes]:
    """Return the tensors read from a variable that holds the path of an asset and never anything else."""
    uses: dict[bytes, list[Node]] = {}  # by node
    for node in graph.main.values():
        for one in node.inputs:
            uses.setdefault(one.partition(b":")[0], []).append(node)
    handles, called = _variables(graph)
    number = Counter(called)
    found = set()
    for handle, name in handles.items():
        of = uses.get(handle, [])
        given = [tensor(node.inputs[-1]) for node in of if node.op == b"AssignVariableOp"]
        plain = all(node.op in (b"AssignVariableOp", b"ReadVariableOp", b"VarIsInitializedOp") for node in of)
        if plain and given and all(value in assets for value in given) and name and number[name] == 1:
            found |= {tensor(node.name) for node in of if node.op == b"ReadVariableOp"}
    return found


def _variables(graph: Graph) -> tuple[dict[bytes, bytes], list[bytes]]:
    """Return what each variable of the main graph is called, by its node, and what all are, those of functions too."""
    handles: dict[bytes, bytes] = {}
    called: list[bytes] = []
    for function in (MAIN, *graph.functions):
        for node in graph.nodes(function).values():
            if node.op == b"VarHandleOp":
                called.append(bytes(last_field(node.attributes.get("shared_name", memoryview(b"")), 2)))
                if function == MAIN:
                    handles[node.name] = called[-1]
    return handles, called


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
