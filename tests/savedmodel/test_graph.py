"""The graph is read once for all that look at it."""

from pathlib import Path

import pytest

from serving.core import settings
from serving.runtime.loading import Cache
from serving.savedmodel import graph
from serving.savedmodel.graph import Graph

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
