"""Which of a graph's inputs reach which arguments of its operations, through functions, branches and loops.

    flow = Flow(graph, {b"serving_default_r_1": "r_1"}, {b"RaggedTensorToTensor"})
    flow.run([b"StatefulPartitionedCall:0"])
    flow.sinks          [Sink(op=b"RaggedTensorToTensor", arguments=[Reach(as_is={"r_1"}, at_all={"r_1"}), ...], ...)]

An input arrives as it is through operations that hand their argument on, and at all through any operation.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from serving.signature import _each, _map, _one, _whole

# Their first argument comes out as it went in: its elements, in their order.
HANDING_ON = frozenset(
    op.encode()
    for op in """
    Cast CheckNumerics DeepCopy EnsureShape Enter Exit ExpandDims Identity IdentityN LoopCond Merge NextIteration
    PreventGradient RefEnter RefExit RefIdentity RefMerge RefNextIteration RefSwitch Reshape Snapshot Squeeze
    StopGradient Switch
    """.split()  # noqa: SIM905 - a list of words is read, and grows, as words
)
CALLS = frozenset({b"PartitionedCall", b"StatefulPartitionedCall"})
BRANCHES = frozenset({b"Case", b"If", b"StatelessCase", b"StatelessIf"})
LOOPS = frozenset({b"StatelessWhile", b"While"})
DEEPEST = 64  # functions inside functions; one that calls itself has no end


class Reach(NamedTuple):
    """The inputs that arrive at a place, by name."""

    as_is: frozenset[str] = frozenset()
    at_all: frozenset[str] = frozenset()


class Sink(NamedTuple):
    """One operation that was asked for: what reaches its arguments, and its attributes."""

    op: bytes
    name: bytes
    function: bytes
    arguments: tuple[Reach, ...]
    attributes: Mapping[str, memoryview]


class _Function(NamedTuple):
    arguments: list[bytes]
    nodes: dict[bytes, memoryview]
    results: list[bytes]


NOTHING = Reach()
_Reached = tuple[Reach, ...]  # one for each output; the last stands for those behind it


class Flow:
    """The flow through one MetaGraphDef. `feeds` are the graph's inputs, by node; `wanted` the operations to find."""

    def __init__(self, graph: memoryview, feeds: Mapping[bytes, str], wanted: Collection[bytes]) -> None:
        definition = _whole(graph, 2)
        self._feeds = {node: Reach(frozenset({name}), frozenset({name})) for node, name in feeds.items()}
        self._wanted = frozenset(wanted)
        self._main = _Function([], {bytes(_one(node, 1)): node for node in _each(definition, 1)}, [])
        self._library = {bytes(_one(_whole(function, 1), 1)): function for function in _each(_whole(definition, 2), 1)}
        self._functions: dict[bytes, _Function] = {}
        self._called: dict[tuple[bytes, _Reached], _Reached] = {}
        self.sinks: list[Sink] = []

    def run(self, roots: Iterable[bytes]) -> None:
        """Follow the flow into everything that the roots, tensors or nodes of the main graph, need."""
        self._follow(self._main, b"", self._feeds, roots, 0)

    def _function(self, name: bytes) -> _Function:
        if name not in self._functions:
            message = self._library[name]
            signature = _whole(message, 1)
            returned = {name.encode(): bytes(tensor) for name, tensor in _map(message, 4).items()}
            self._functions[name] = _Function(
                [bytes(_one(argument, 1)) for argument in _each(signature, 2)],
                {bytes(_one(node, 1)): node for node in _each(message, 3)},
                [returned.get(bytes(_one(result, 1)), b"") for result in _each(signature, 3)],
            )
        return self._functions[name]

    def _call(self, name: bytes, arguments: _Reached, depth: int) -> _Reached:
        if depth > DEEPEST:
            return (_any(arguments),)
        key = name, arguments
        if key not in self._called:
            self._called[key] = (_any(arguments),)  # what one that calls itself gives, at the most
            function = self._function(name)
            given = dict(zip(function.arguments, arguments))
            reached = self._follow(function, name, given, [*function.results, *function.nodes], depth)
            self._called[key] = tuple(_of(result, given, reached) for result in function.results) or (NOTHING,)
        return self._called[key]

    def _follow(
        self, function: _Function, name: bytes, given: Mapping[bytes, Reach], roots: Iterable[bytes], depth: int
    ) -> dict[bytes, _Reached]:
        """Return what reaches each node that the roots need, in the order of the flow."""
        reached: dict[bytes, _Reached] = {}
        begun: set[bytes] = set()
        pending = [_name(root) for root in roots]
        while pending:
            node = pending[-1]
            if node in reached or node in given or node not in function.nodes:
                pending.pop()
                continue
            message = function.nodes[node]
            inputs = [bytes(one) for one in _each(message, 3)]
            # In a loop of old, a node comes round to itself: the second time it is taken as it is.
            missing = [] if node in begun else [_name(one) for one in inputs if _name(one) not in reached]
            missing = [one for one in missing if one in function.nodes and one not in given and one not in begun]
            begun.add(node)
            if missing:
                pending += missing
                continue
            pending.pop()
            arguments = tuple(_of(one, given, reached) for one in inputs if not one.startswith(b"^"))
            reached[node] = self._through(message, name, arguments, depth)
        return reached

    def _through(self, message: memoryview, function: bytes, arguments: _Reached, depth: int) -> _Reached:
        """Return what reaches the outputs of one node."""
        op = bytes(_one(message, 2))
        if op in self._wanted:
            self.sinks.append(Sink(op, bytes(_one(message, 1)), function, arguments, _map(message, 5)))
        if op == b"IdentityN":
            return arguments or (NOTHING,)
        if op in HANDING_ON:
            merged = arguments if op in (b"Merge", b"RefMerge") else arguments[:1]
            as_is = frozenset().union(*(one.as_is for one in merged))
            return (Reach(as_is, _any(arguments).at_all),)
        called = [name for name in (op, *_called(message)) if name in self._library]
        if not called:
            return (_any(arguments),)
        if op in LOOPS:
            for _ in range(3):  # what a round changes is among what the next begins with
                for one in called:
                    after = self._call(one, arguments, depth + 1)
                    if len(after) == len(arguments):
                        arguments = tuple(map(_either, arguments, after))
            return arguments
        given = arguments[1:] if op in BRANCHES else arguments
        if op not in CALLS and op not in BRANCHES and op not in self._library:
            given = tuple(Reach(frozenset(), _any(arguments).at_all) for _ in range(256))  # in an order of its own
        results = [self._call(one, given, depth + 1) for one in called]
        outputs = range(max(map(len, results)))
        return tuple(_every([result[min(index, len(result) - 1)] for result in results]) for index in outputs)


def _called(message: memoryview) -> list[bytes]:
    """Return the functions that the attributes of a node name."""
    values = [_whole(entry, 2) for entry in _each(message, 5)]
    return [
        bytes(_one(function, 1)) for value in values for function in (*_each(value, 10), *_each(_whole(value, 1), 9))
    ]


def _name(tensor: bytes) -> bytes:
    return tensor.lstrip(b"^").partition(b":")[0]


def _of(tensor: bytes, given: Mapping[bytes, Reach], reached: Mapping[bytes, _Reached]) -> Reach:
    name = _name(tensor)
    if name in given:
        return given[name]
    outputs = reached.get(name, (NOTHING,))
    index = tensor.rpartition(b":")[2]
    return outputs[min(int(index) if index.isdigit() and b":" in tensor else 0, len(outputs) - 1)]


def _any(reached: Iterable[Reach]) -> Reach:
    return Reach(frozenset(), frozenset().union(*(one.at_all for one in reached)))


def _either(one: Reach, other: Reach) -> Reach:
    return Reach(one.as_is | other.as_is, one.at_all | other.at_all)


def _every(reached: list[Reach]) -> Reach:
    return Reach(
        frozenset().union(*(one.as_is for one in reached)), frozenset().union(*(one.at_all for one in reached))
    )
