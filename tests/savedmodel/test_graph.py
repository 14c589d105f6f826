"""The graph is read once for all that look at it, and its constants are left where they are."""

import tracemalloc
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from serving.core import settings
from serving.runtime.loading import Cache
from serving.savedmodel import graph
from serving.savedmodel.graph import Graph
from serving.savedmodel.protobuf import write_field as string
from serving.savedmodel.safety.guarding import needs
from serving.savedmodel.safety.purity import impurities
from serving.savedmodel.safety.rewrite import Piece, constant, edited, field, node, of_type, rewritten
from serving.savedmodel.signature import served_graph
from serving.savedmodel.source import Source

MODEL = Path(__file__).parents[2] / "model"


def test_a_load_reads_the_graph_once_and_keeps_nothing_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    begin = Graph.__init__

    def counted(self: Graph, meta: memoryview) -> None:
        read.append(len(meta))
        begin(self, meta)

    monkeypatch.setattr(Graph, "__init__", counted)
    cache = Cache(settings.read({})._replace(model_dir=MODEL))
    cache.get().close()
    assert len(read) == 1
    assert graph._last is None


RECURSION = [
    # which function calls which, "": the graph      does one call itself
    ({"": ["a"], "a": ["b", "b"], "b": []},          False),
    ({"": ["a", "b"], "a": ["b"], "b": []},          False),
    ({"": ["a"], "a": ["a"]},                        True),
    ({"": ["a"], "a": ["b"], "b": ["c"], "c": ["a"]}, True),
    ({"": ["a"], "a": [], "b": ["b"]},               False),  # it is not called
    ({"": ["0"], **{str(n): [str(n + 1)] for n in range(5000)}, "5000": []}, False),
]  # fmt: skip


@pytest.mark.parametrize(("calls", "recursive"), RECURSION)
def test_a_function_that_calls_itself_is_found(calls: dict[str, list[str]], recursive: bool) -> None:
    def nodes(function: str) -> list[bytes]:
        attribute = [{b"f": string(10, string(1, called.encode()))} for called in calls[function]]
        return [node(b"n%d" % number, b"PartitionedCall", [], f) for number, f in enumerate(attribute)]

    functions = [
        string(1, string(1, string(1, name.encode())), *(string(3, message) for message in nodes(name)))
        for name in calls
        if name
    ]
    main = b"".join(string(1, message) for message in nodes(""))
    graph = Graph(memoryview(string(2, main, string(2, *functions))))
    assert graph.is_recursive([b"n0", b"n1"]) == recursive


def function(name: bytes, calls: Mapping[bytes, bytes], interface: bytes = b"", passes: Sequence[bytes] = ()) -> bytes:
    """Return a FunctionDef whose nodes have these operations, each with the function that it calls."""
    nodes = [node(b"n%d" % n, op, [], {b"f": string(10, string(1, f))}) for n, (op, f) in enumerate(calls.items())]
    texts = {**({b"api_implements": interface} if interface else {}), **dict.fromkeys(passes, b"pair")}
    attributes = [string(5, string(1, key), string(2, string(2, value))) for key, value in texts.items()]
    return string(1, string(1, string(1, name)), *(string(3, message) for message in nodes), *attributes)


CALL, GRADIENT = b"PartitionedCall", b"SymbolicGradient"
OTHERS = [
    # functions                                                                           the call   does one call itself
    ([function(b"f", {}), function(b"g", {CALL: b"f"})],                                  CALL,      False),
    ([function(b"f", {}), function(b"g", {CALL: b"f"})],                                  GRADIENT,  False),
    ([function(b"f", {}), function(b"g", {GRADIENT: b"f"})],                              GRADIENT,  True),
    ([function(b"f", {}, b"I"), function(b"h", {CALL: b"f"}, b"I")],                      CALL,      False),
    ([function(b"f", {}, b"I"), function(b"h", {CALL: b"h"}, b"I")],                      CALL,      True),
    ([function(b"f", {CALL: b"h"}, b"I"), function(b"h", {GRADIENT: b"f"}, b"I"), function(b"g", {})], CALL, True),
    ([function(b"e", {CALL: b"f"}, b"I"), function(b"f", {}, b"I"), function(b"g", {})],  GRADIENT,  False),
]  # fmt: skip


@pytest.mark.parametrize(("functions", "op", "recursive"), OTHERS)
def test_a_gradient_or_another_implementation_of_an_interface_may_call_what_it_stands_for(
    functions: list[bytes], op: bytes, recursive: bool
) -> None:
    main = string(1, node(b"n", op, [], {b"f": string(10, string(1, b"f"))}))
    gradient = string(2, string(1, b"f"), string(2, b"g"))
    graph = Graph(memoryview(string(2, main, string(2, *functions, gradient))))
    assert graph.is_recursive([b"n"]) == recursive


def test_the_gradient_of_a_function_runs_that_was_seen_as_another_implementation_before() -> None:
    functions = [function(b"e", {CALL: b"f"}, b"I"), function(b"f", {}, b"I"), function(b"g", {})]
    main = string(1, node(b"n", CALL, [], {b"f": string(10, string(1, b"e"))}))
    graph = Graph(memoryview(string(2, main, string(2, *functions, string(2, string(1, b"f"), string(2, b"g"))))))
    assert {name for name, _ in graph.running([b"n"])} == {b"", b"e", b"f", b"g"}


FORWARD, BACKWARD = (b"backward_function_name",), (b"forward_function_name",)
REPLACED = [
    # attributes of the function that is called, and of another implementation; TensorFlow 2.21 runs the other one
    ((),                   (),                   True),
    ((),                   FORWARD,              False),
    ((),                   BACKWARD,             False),
    (FORWARD,              (),                   False),
    (FORWARD,              FORWARD,              True),
    (FORWARD,              BACKWARD,             False),
    (BACKWARD,             (),                   False),
    (BACKWARD,             BACKWARD,             True),
    (FORWARD,              FORWARD + BACKWARD,   True),
    (FORWARD + BACKWARD,   BACKWARD,             True),
]  # fmt: skip


@pytest.mark.parametrize(("own", "others", "is_replaced"), REPLACED)
def test_a_function_is_replaced_by_one_of_the_same_role_only(
    own: tuple[bytes, ...], others: tuple[bytes, ...], is_replaced: bool
) -> None:
    body = string(1, node(b"n", CALL, [], {b"f": string(10, string(1, b"f"))}))
    library = string(2, function(b"f", {}, b"I", own), function(b"h", {}, b"I", others))
    graph = Graph(memoryview(string(2, body, library)))
    assert (b"h" in {name for name, _ in graph.running([b"n"])}) == is_replaced


LARGE = 8_000_000  # bytes of a constant


def with_a_constant(graph: memoryview) -> list[Piece]:
    dtype, tensor = constant(bytes(LARGE))
    added = field(1, node(b"large", b"Const", [], {b"dtype": of_type(dtype), b"value": tensor}))
    return edited(graph, 2, lambda definition: [definition, *added])


def test_a_model_is_judged_without_a_copy_of_its_constants() -> None:
    with rewritten(MODEL, with_a_constant) as folder:
        tracemalloc.start()
        try:
            source = Source(folder, "model")
            assert impurities(folder) == []
            assert needs(served_graph(folder), source.signatures.values()) == {}
            assert b"large" in Graph.of(served_graph(folder)).main
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
            graph.forget()
    assert peak < LARGE / 2
