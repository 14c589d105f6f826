"""The graph of a MetaGraphDef: its nodes and its library of functions, read once for all its readers during a load.

    graph = Graph.of(served_graph(directory))
    graph.nodes(b"")["StatefulPartitionedCall"].calls      (b"__inference_signature_wrapper_42",)

Decoding is lazy: a node keeps its bytes, and its attributes are read from them on demand.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache

from serving.savedmodel.protobuf import each_field, first_field, last_field, map_field, message_field, read_varint

COPIED = 1 << 12  # bytes: a node up to this size is copied, since bytes are faster to index than a view
LARGE = 1 << 24  # bytes of a function
SHORT = 1 << 10  # bytes of attributes that are worth a comparison with those of other nodes
MAIN = b""  # in place of a function's name

_last: "Graph | None" = None


class Node:
    """A node of a graph or of a function."""

    __slots__ = ("_attributes", "_behind", "_calls", "inputs", "message", "name", "op")

    def __init__(self, name: bytes, op: bytes, inputs: list[bytes], message: memoryview, behind: bytes | None) -> None:
        """Keep what is read: `behind` are the bytes after the inputs, None where there are more than SHORT."""
        self.name, self.op, self.message, self._behind = name, op, message, behind
        self.inputs = inputs  # "node:0", "node:output:0", "^node"
        self._attributes: dict[str, memoryview] | None = None
        self._calls: tuple[bytes, ...] | None = None

    @property
    def calls(self) -> tuple[bytes, ...]:
        """Return the functions that the attributes name."""
        if self._calls is None:
            self._calls = _called(self.message) if self._behind is None else _calls(self._behind)
        return self._calls

    @property
    def attributes(self) -> dict[str, memoryview]:
        """Return the attributes, each an AttrValue."""
        if self._attributes is None:
            self._attributes = map_field(self.message, 5)
        return self._attributes


Role = tuple[bytes, bytes]  # an interface, and one of PASSES, or neither
# The attributes of a function that is one of the two passes of a training step: each names the other one.
PASSES = (b"backward_function_name", b"forward_function_name")


def _roles(function: memoryview) -> list[Role]:
    """Return the roles of a function; two in a malformed graph, in which TensorFlow takes either."""
    if len(function) < LARGE and b"api_implements" not in bytes(function):
        return []
    attributes = {bytes(last_field(entry, 1)): last_field(entry, 2) for entry in each_field(function, 5)}
    if b"api_implements" not in attributes:
        return []
    interface = bytes(last_field(attributes[b"api_implements"], 2))
    return [(interface, name) for name in PASSES if name in attributes] or [(interface, b"")]


class Graph:
    """The nodes of the main graph and of its functions, and which functions may run instead of another."""

    def __init__(self, meta: memoryview) -> None:
        """Read a MetaGraphDef; raise ValueError or IndexError where it is malformed."""
        self.meta = meta
        self.definition = message_field(meta, 2)
        library = message_field(self.definition, 2)
        self.functions = {
            bytes(first_field(first_field(function, 1), 1)): function for function in each_field(library, 1)
        }
        gradients = each_field(library, 2)
        self.gradients = {bytes(last_field(entry, 1)): bytes(last_field(entry, 2)) for entry in gradients}
        # TensorFlow's graph optimizer may replace a function by another that implements the same interface for a device
        # that it prefers, and has the same role.
        self._implementations: dict[Role, list[bytes]] = {}
        self._roles: dict[bytes, list[Role]] = {}
        for name, function in self.functions.items():
            self._roles[name] = _roles(function)
            for role in self._roles[name]:
                self._implementations.setdefault(role, []).append(name)
        self._nodes: dict[bytes, dict[bytes, Node]] = {}

    @staticmethod
    def of(meta: memoryview) -> "Graph":
        """Return the graph of a MetaGraphDef; the last one is cached until another is read or `forget` is called."""
        global _last
        last = _last
        if last is None or last.meta is not meta:
            _last = last = Graph(meta)
        return last

    @property
    def main(self) -> dict[bytes, Node]:
        """Return the nodes of the main graph."""
        return self.nodes(MAIN)

    def nodes(self, function: bytes) -> dict[bytes, Node]:
        """Return the nodes of a function, or of the main graph."""
        nodes = self._nodes.get(function)
        if nodes is None:
            message, field = (self.functions[function], 3) if function else (self.definition, 1)
            nodes = self._nodes[function] = {node.name: node for node in _read(message, field)}
        return nodes

    def arguments(self, function: bytes) -> list[bytes]:
        """Return the names of a function's arguments."""
        return [bytes(last_field(argument, 1)) for argument in each_field(first_field(self.functions[function], 1), 2)]

    def instead(self, name: bytes) -> list[bytes]:
        """Return the function, its gradient, and every other implementation of its interface."""
        if name not in self.functions:
            return []
        candidates = [name, self.gradients.get(name, b"")]
        for role in self._roles[name]:
            candidates += self._implementations[role]
        return [candidate for candidate in candidates if candidate in self.functions]

    def running(self, roots: Iterable[bytes]) -> Iterator[tuple[bytes, list[Node]]]:
        """Yield the nodes of the main graph that the roots need, then those of each function that may run for them."""
        pending = [(MAIN, reached(self.main, roots))]
        seen = {MAIN}
        while pending:
            function, nodes = pending.pop()
            yield function, nodes
            for node in nodes:
                for called in (*node.calls, node.op):  # an operation may be a function's name
                    if called in self.functions:
                        functions = [name for name in self.instead(called) if name not in seen]
                        seen.update(functions)
                        pending += [(name, list(self.nodes(name).values())) for name in functions]

    def is_recursive(self, roots: Iterable[bytes]) -> bool:
        """Return whether a function that may run for the roots calls itself, directly or through others."""
        if not self.functions:  # as in most baked models
            return False
        callees = {
            function: {name for node in nodes for name in self._callees(node)}
            for function, nodes in self.running(roots)
        }
        callers = Counter(callee for called in callees.values() for callee in called)
        pending = [function for function in callees if not callers[function]]  # nothing that is left calls them
        while pending:
            for callee in callees.pop(pending.pop()):
                callers[callee] -= 1
                if not callers[callee]:
                    pending.append(callee)
        return bool(callees)

    def _callees(self, node: Node) -> list[bytes]:
        """Return the functions that a node calls: a gradient only where it is asked for."""
        called = [name for name in (*node.calls, node.op) if name in self.functions]
        if node.op == b"SymbolicGradient":
            called += [gradient for name in called if (gradient := self.gradients.get(name)) in self.functions]
        return called


def forget() -> None:
    """Free the cached graph: it is not needed after a load."""
    global _last
    _last = None


def reached(nodes: Mapping[bytes, Node], roots: Iterable[bytes]) -> list[Node]:
    """Return the nodes that the roots need."""
    pending = list(roots)
    needed: dict[bytes, Node] = {}
    while pending:
        name = pending.pop().lstrip(b"^").partition(b":")[0]
        if name not in needed and name in nodes:
            needed[name] = nodes[name]
            pending += nodes[name].inputs
    return list(needed.values())


def _read(message: memoryview, field: int) -> Iterator[Node]:
    """Read the NodeDefs in a field; inlined, without `fields_of`, it takes a fifth of the time."""
    wanted_key, position, end = field << 3 | 2, 0, len(message)
    known: dict[bytes, bytes] = {}
    while position < end:
        key, size = message[position], message[position + 1]
        position += 2
        if size > 0x7F:
            size, position = read_varint(message, position - 1)
        if key == 0x18:  # the version number of GraphDefs before TensorFlow 1; `size` holds it
            continue
        if key & 0x87 != 2 or position + size > end:
            raise ValueError(f"the graph has a field with the key {key}, or runs past its end")
        start, position = position, position + size
        if key == wanted_key:
            yield _node(message[start:position], known)


def _node(message: memoryview, known: dict[bytes, bytes]) -> Node:
    """Read a NodeDef. `known` are the attributes of earlier nodes: most nodes share theirs with another."""
    name = op = b""
    inputs: list[bytes] = []
    position, end, behind, most = 0, len(message), None, SHORT
    data = bytes(message) if end < COPIED else message
    while position < end:
        key, size = data[position], data[position + 1]
        if key == 0x2A and behind is None and end - position <= most:  # field 5, the first attribute
            behind = bytes(data[position:end])
            if behind in known:
                return Node(name, op, inputs, message, known[behind])
        position += 2
        if size > 0x7F:
            if data[position] < 0x80:  # in two bytes, nearly always
                size, position = size & 0x7F | data[position] << 7, position + 1
            else:
                size, position = read_varint(message, position - 1)
        begin, position = position, position + size
        if key == 0x1A:  # 3
            inputs.append(bytes(data[begin:position]))
        elif key == 0x0A:  # 1
            name = bytes(data[begin:position])
        elif key == 0x12:  # 2
            op = bytes(data[begin:position])
        elif key & 0x87 != 2:  # attributes, the device, where it was written
            raise ValueError(f"a node of the graph has a field with the key {key}")
        else:
            continue
        if behind is not None:  # in another order than writers use
            behind, most = None, -1
    if position != end:
        raise ValueError("a node of the graph runs past its end")
    if behind is not None:
        known[behind] = behind
    return Node(name, op, inputs, message, behind)


@lru_cache(maxsize=4096)  # most nodes have the attributes of another
def _calls(attributes: bytes) -> tuple[bytes, ...]:
    # The keys of a function, and of a list of them: without these bytes there is none.
    return _called(memoryview(attributes)) if b"\x52" in attributes or b"\x4a" in attributes else ()


def _called(message: memoryview) -> tuple[bytes, ...]:
    """Return the functions that the attributes of a NodeDef, or of the end of one, name."""
    return tuple([called for entry in each_field(message, 5) for called in _functions(last_field(entry, 2))])


def _functions(value: memoryview) -> Iterator[bytes]:
    """Yield the functions of an AttrValue: one, a list of them, and those that their own attributes name."""
    for function in (*each_field(value, 10), *each_field(last_field(value, 1), 9)):
        yield bytes(last_field(function, 1))
        for entry in each_field(function, 2):
            yield from _functions(last_field(entry, 2))
