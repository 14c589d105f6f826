"""Computed shapes of a converted model as constants: which of them, and nothing else of the model."""

from pathlib import Path

import pytest

from tests.exporting import twins

pytest.importorskip("ai_edge_litert")

# The signatures of tests/exporting/operations.py whose graphs reshape, and how many operations their twins have.
RESHAPING = {
    "flattened": 1,  # of four
    "transposed": 2,
    "doubled": 5,  # not the number of rows
    "joined": 5,  # of another tensor
}


def operations(folder: Path) -> dict[str, int]:
    """Return how many operations each signature has."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf((folder / "model.tflite").read_bytes())
    return {
        entry.signatureKey.decode(): len(model.subgraphs[entry.subgraphIndex].operators)
        for entry in model.signatureDefs
    }


def test_only_a_shape_that_keeps_the_rows_becomes_a_constant() -> None:
    counts = operations(twins.build() / "rows")
    assert {name: counts[name] for name in RESHAPING} == RESHAPING
