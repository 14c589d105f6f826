"""The origin of the file names that a model reads while it is loaded.

TensorFlow feeds two kinds of names to a graph that it loads: the path of the variables, into the saver's file name, and
the path of each asset, into the tensor that the asset names. An operation that reads a file must get its name from one
of those, through any functions; a name from elsewhere may be that of any file.

    foreign(graph, {b"saver_filename:0", b"Const:0"}, reached)
        {(b"RestoreV2", b"RestoreV2", b"__inference__traced_restore_42")}    each reads a file that was not fed
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from serving.savedmodel.graph import MAIN, Graph, Node
from serving.savedmodel.protobuf import each_field, first_field, last_field

READING = {  # operations that read files when a model is loaded: the position of the name among their arguments
    b"InitializeTableFromTextFile": 1,
    b"InitializeTableFromTextFileV2": 1,
    b"Restore": 0,
    b"RestoreSlice": 0,
    b"RestoreV2": 0,
}
PASSING_ON = frozenset({b"EnsureShape", b"ExpandDims", b"Identity", b"Reshape", b"Squeeze", b"StopGradient"})
# Operations that call functions with their arguments in order, and how many other arguments come before those.
CALLING = {
    b"Case": 1, b"If": 1, b"PartitionedCall": 0, b"StatefulPartitionedCall": 0, b"StatelessCase": 1, b"StatelessIf": 1,
}  # fmt: skip
MOST_CALLS = 20_000  # (function, which arguments are file names): permuted arguments could go on endlessly

Location = tuple[bytes, bytes, bytes]  # operation, node, function


class Body(NamedTuple):
    """A function: its nodes by name, and the positions of its arguments; none if an argument is a list of tensors."""

    nodes: Mapping[bytes, Node]
    arguments: Mapping[bytes, int]


def foreign(graph: Graph, fed: Collection[bytes], reached: Iterable[Node]) -> set[Location]:
    """Return the operations that read a file whose name is not fed; `reached` are the nodes of the main graph that run.

    Raise ValueError where there are more than MOST_CALLS calls to follow.
    """
    uses: set[Location] = set()
    done: set[tuple[bytes, tuple[bool, ...]]] = set()
    pending: list[tuple[bytes, Body, tuple[bool, ...], list[Node]]] = [(MAIN, Body(graph.main, {}), (), list(reached))]
    while pending:
        function, body, fed_arguments, nodes = pending.pop()
        own = fed if not function else frozenset()
        for node in nodes:
            position = READING.get(node.op)
            calls = [called for called in (*node.calls, node.op) if called in graph.functions]
            if position is None and not calls:
                continue
            inputs = [name for name in node.inputs if not name.startswith(b"^")]
            if position is not None and not (
                position < len(inputs) and _is_fed(inputs[position], body, fed_arguments, own)
            ):
                uses.add((node.op, node.name, function))
            for called in calls:  # an operation may be a function's name
                before = CALLING.get(node.op)
                passed = (
                    () if before is None else tuple(_is_fed(name, body, fed_arguments, own) for name in inputs[before:])
                )
                for candidate in graph.instead(called):
                    call = (candidate, passed if candidate == called else ())
                    if call not in done:
                        done.add(call)
                        if len(done) > MOST_CALLS:
                            raise ValueError(f"the load calls functions in more than {MOST_CALLS} ways")
                        inside = _body(graph, candidate)
                        pending.append((candidate, inside, call[1], list(inside.nodes.values())))
    return uses


def _body(graph: Graph, name: bytes) -> Body:
    arguments = list(each_field(first_field(graph.functions[name], 1), 2))
    if any(last_field(argument, 5) or last_field(argument, 6) for argument in arguments):  # it takes lists of tensors
        arguments = []
    positions = {bytes(last_field(argument, 1)): position for position, argument in enumerate(arguments)}
    return Body(graph.nodes(name), positions)


def kept(graph: Graph, assets: Collection[bytes]) -> set[bytes]:
    """Return the tensors read from variables that only ever hold the path of an asset."""
    uses: dict[bytes, list[Node]] = {}  # by node
    for node in graph.main.values():
        for name_ in node.inputs:
            uses.setdefault(name_.partition(b":")[0], []).append(node)
    handles, called = _variables(graph)
    number = Counter(called)
    tensors = set()
    for handle, name in handles.items():
        users = uses.get(handle, [])
        assigned = [tensor(node.inputs[-1]) for node in users if node.op == b"AssignVariableOp"]
        only_assigned = all(
            node.op in (b"AssignVariableOp", b"ReadVariableOp", b"VarIsInitializedOp") for node in users
        )
        if only_assigned and assigned and all(value in assets for value in assigned) and name and number[name] == 1:
            tensors |= {tensor(node.name) for node in users if node.op == b"ReadVariableOp"}
    return tensors


def _variables(graph: Graph) -> tuple[dict[bytes, bytes], list[bytes]]:
    """Return the shared name of each variable of the main graph by its node, and those of all, in functions too."""
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


def _is_fed(name: bytes, body: Body, fed_arguments: tuple[bool, ...], fed: Collection[bytes]) -> bool:
    """Return whether a tensor is fed, or is a fed tensor or argument passed on unchanged."""
    visited: set[bytes] = set()
    while name not in visited:
        visited.add(name)
        if tensor(name) in fed:
            return True
        before = name.partition(b":")[0]
        if before in body.arguments:
            position = body.arguments[before]
            return position < len(fed_arguments) and fed_arguments[position]
        node = body.nodes.get(before)
        if node is None or node.op not in PASSING_ON or not node.inputs or node.inputs[0].startswith(b"^"):
            return False
        name = node.inputs[0]
    return False
