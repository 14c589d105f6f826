"""The graph is read once for all that look at it, and its constants are left where they are."""

import tracemalloc
from pathlib import Path

import pytest

from serving.core import settings
from serving.runtime.loading import Cache
from serving.savedmodel import graph
from serving.savedmodel.graph import Graph
from serving.savedmodel.safety.guarding import needs
from serving.savedmodel.safety.purity import impurities
from serving.savedmodel.safety.rewrite import Piece, constant, edited, field, node, of_type, rewritten, string
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
