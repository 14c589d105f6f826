"""Ragged and sparse inputs in parts: valid ones are answered as TensorFlow does, others are refused before a run."""

import json
from typing import Any

import numpy as np
import pytest

from serving.core import settings
from serving.core.errors import InputError
from serving.runtime.batching import decide
from serving.runtime.model import Model
from serving.runtime.sessions import judge, open_session
from serving.savedmodel.composite import Ragged, Sparse
from serving.savedmodel.source import Source
from tests.conftest import Serve
from tests.models.hostile import answers, build
from tests.models.zoo import ZOO
from tests.models.zoo import absent as zoo_absent
from tests.models.zoo import build as zoo
from tests.models.zoo_check import compare

# fmt: off
PARTS: Any = {
    # model             splits   what they part   rows   splits inside
    "ragged_embedded": [Ragged("r_1",  "r")],
    "ragged_nested":   [Ragged("r_1",  "r_2",    inner=True), Ragged("r_2", "r")],
    "ragged_cut":      [Ragged("r_1",  "r")],
    "ragged_two":      [Ragged("a_1",  "a"), Ragged("b_1", "b")],
    "own_rows":        [Ragged("rows", "values", rows=True)],
    "own_splits":      [Ragged("cuts", "data")],
    "sparse_product":  [Sparse("s", "s_1", "s_2")],
    "sparse_sum":      [Sparse("s", "s_1", "s_2")],
    "ragged_means":    [],  # no operation that believes its splits
    "checked_lengths": [],  # the graph checks them itself
    "no_parts":        [],
}
# fmt: on


def load(name: str) -> Model:
    source, options = Source(build() / name, "model"), settings.read({})
    judge(source, options)
    return Model(source, open_session(source, options))


@pytest.mark.parametrize("name", PARTS)
def test_the_parts_are_found_and_good_ones_are_answered_as_by_tensorflow(name: str) -> None:
    model = load(name)
    assert list(model.source.parts.get("serving_default", ())) == PARTS[name]
    for inputs, wanted in answers()[name]:
        assert compare({"y": wanted}, model.run(model.signatures["serving_default"], inputs)) == []
    model.close()


SPLITS: list[list[int]] = [
    [], [0], [0, 5000], [0, 2, 2, 5000], [0, 2, 2, 6], [0, 2, 2, 4], [0, 4, 2, 5], [1, 2, 5], [-900, 2, 5], [5, 0],
    [0, 1 << 40], [0, -1, 5], [-(1 << 62), 5],
]  # fmt: skip


@pytest.mark.parametrize("splits", SPLITS, ids=str)
@pytest.mark.parametrize("name", ["ragged_embedded", "ragged_nested", "ragged_cut", "ragged_two", "own_splits"])
def test_wrong_splits_are_refused_before_tensorflow_sees_them(serve: Serve, name: str, splits: list[int]) -> None:
    ask = serve(build() / name)
    inputs = {key: array.tolist() for key, array in answers()[name][0][0].items()}
    assert ask("POST", "/", {"inputs": inputs}).status == 200
    for part in PARTS[name]:
        answer = ask("POST", "/", {"inputs": {**inputs, part.splits: np.clip(splits, -(2**31), 2**31 - 1).tolist()}})
        assert answer.status == 400, answer.body
        assert ": expected row splits that begin with 0" in json.loads(answer.body)["error"]


ROWS = [[0] * 5000, [0, 0, 1], [2, 1, 0, 0, 0], [-5, 0, 1, 1, 2], []]


@pytest.mark.parametrize("rows", ROWS, ids=lambda rows: str(rows[:6]))
def test_wrong_rows_are_refused_before_tensorflow_sees_them(serve: Serve, rows: list[int]) -> None:
    answer = serve(build() / "own_rows")("POST", "/", {"inputs": {"values": [1, 2, 3, 4, 5], "rows": rows}})
    assert answer.status == 400
    assert "rows: expected 5 rows that never decrease" in json.loads(answer.body)["error"]


SPARSE: list[tuple[Any, Any, Any, str]] = [
    # indices                  values    shape               words
    ([[0, 0], [9, 2]],         [1, 2],   [2, 3],             "s[1]: expected an index inside the shape [2, 3], got [9, 2]"),
    ([[0, 0], [-1, 2]],        [1, 2],   [2, 3],             "s[1]: expected an index inside"),
    ([[0, 0]],                 [1, 2],   [2, 3],             "s: expected one row of 2 indices for each of 's_1'"),
    ([[0, 0], [1, 1]],         [1],      [2, 3],             "s: expected one row of 2 indices"),
    ([[0, 0], [1, 1]],         [1, 2],   [-1, 3],            "s_2: expected sizes of 0 and more"),
    ([[0, 0], [1, 1]],         [1, 2],   [1 << 62, 1 << 62], "fewer than 2**63 elements"),
]  # fmt: skip


@pytest.mark.parametrize(("indices", "values", "shape", "words"), SPARSE)
@pytest.mark.parametrize("name", ["sparse_product", "sparse_sum"])
def test_wrong_sparse_parts_are_refused_before_tensorflow_sees_them(
    serve: Serve, name: str, indices: Any, values: Any, shape: Any, words: str
) -> None:
    answer = serve(build() / name)("POST", "/", {"inputs": {"s": indices, "s_1": values, "s_2": shape}})
    assert answer.status == 400
    assert words in json.loads(answer.body)["error"]


def test_splits_without_a_known_owner_are_checked_in_the_graph(serve: Serve) -> None:
    ask, body = serve(build() / "unclear"), {"a": [1, 2], "b": [3], "cuts": [0, 1, 3]}
    assert json.loads(ask("POST", "/", {"inputs": body}).body) == {"outputs": [[1, 0], [2, 3]]}
    answer = ask("POST", "/", {"inputs": {**body, "cuts": [0, 1, 5000]}})
    assert answer.status == 400
    assert "row splits" in json.loads(answer.body)["error"]


def test_calls_with_composite_inputs_are_not_batched(serve: Serve) -> None:
    model = Model((source := Source(build() / "ragged_embedded", "model")), open_session(source, settings.read({})))
    decide(model, 64)
    assert model.batching
    assert "serving_default" not in model.batching.sizes
    with pytest.raises(InputError, match="row splits"):
        model.run(model.signatures["serving_default"], {"r": np.arange(3), "r_1": np.array([0, 1, 2])})
    model.close()


# What TensorFlow 2 exports of composite inputs in the zoo, and nothing else.
WITH_PARTS = {"ragged_input", "sparse_input"}


def test_only_the_expected_models_have_composite_inputs() -> None:
    models = set()
    for name in ZOO:
        if (
            zoo_absent(name) is None
            and name not in ("ragged_output", "tf1_sparse_input")
            and Source(zoo() / name, name).parts
        ):
            models.add(name)
    assert models == WITH_PARTS
