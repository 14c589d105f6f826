"""Find the origin of a tensor: through calls of functions, identities and variables.

TensorFlow 2 keeps the path of an asset in a variable, which the init operation assigns.
"""

from collections import defaultdict
from typing import Any

from exporting.graph import GraphDef, Node, called, node_of

PASSING = frozenset({"Identity", "Enter", "Switch", "RefSwitch", "RefIdentity", "Exit", "NextIteration", "Merge"})
WITH_CHOICE = frozenset({"If", "StatelessIf", "Case", "StatelessCase"})  # their first input chooses


class Origins:
    """The functions of a graph with their callers, to find where a tensor comes from."""

    def __init__(self, graph: GraphDef) -> None:
        self._main: dict[str, Node] = {node.name: node for node in graph.node}
        self._functions: dict[str, Any] = {f.signature.name: f for f in graph.library.function}
        self._bodies = {
            name: {node.name: node for node in function.node_def} for name, function in self._functions.items()
        }
        self._callers: dict[str, list[tuple[str, Node]]] = defaultdict(list)
        for caller, nodes in [("", self._main), *self._bodies.items()]:
            for node in nodes.values():
                for name in called(node):
                    if name in self._functions:
                        self._callers[name].append((caller, node))

    def of_input(self, function: str, node: str, position: int) -> list[Node]:
        """Return the nodes of the main graph that an input of a node may come from."""
        body = self._bodies[function] if function else self._main
        sources: dict[str, Node] = {}
        self._follow(function, body[node].input[position], sources, set())
        return [sources[name] for name in sorted(sources)]

    def _follow(self, function: str, tensor: str, sources: dict[str, Node], visited: set[tuple[str, str]]) -> None:
        name = node_of(tensor)
        if (function, name) in visited:
            return
        visited.add((function, name))
        body = self._bodies[function] if function else self._main
        node = body.get(name)
        if node is None and function:
            arguments = [argument.name for argument in self._functions[function].signature.input_arg]
            if name in arguments:
                position = arguments.index(name)
                for caller, call in self._callers[function]:
                    inputs = [input_name for input_name in call.input if not input_name.startswith("^")]
                    caller_position = position + (call.op in WITH_CHOICE)
                    if caller_position < len(inputs):
                        self._follow(caller, inputs[caller_position], sources, visited)
        elif node is not None and node.op == "ReadVariableOp":
            for where, assignment in self._assignments(self.of_input(function, name, 0)):
                self._follow(where, assignment.input[1], sources, visited)
        elif node is not None and node.op in PASSING:
            for input_name in node.input:
                if not input_name.startswith("^"):
                    self._follow(function, input_name, sources, visited)
        elif node is not None:
            sources[name if not function else f"{function}/{name}"] = node

    def _assignments(self, handles: list[Node]) -> list[tuple[str, Node]]:
        """Return the assignments to these variables, each with its function ("" for the main graph)."""
        variables = {_shared_name(handle) for handle in handles}
        return [
            (function, node)
            for function, body in [("", self._main), *self._bodies.items()]
            for node in body.values()
            if node.op == "AssignVariableOp"
            and any(_shared_name(handle) in variables for handle in self.of_input(function, node.name, 0))
        ]


def _shared_name(handle: Node) -> str:
    return handle.attr["shared_name"].s.decode(errors="replace") or str(handle.name)
