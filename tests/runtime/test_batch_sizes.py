"""The batch sizes that a signature may use: rows that depend on each other or on the batch size are detected."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from serving.core.dtypes import by_code
from serving.core.errors import RunError
from serving.runtime import batch_sizes
from serving.runtime.batch_sizes import Outcome, of_signature
from serving.savedmodel.examples import recipes
from serving.savedmodel.signature import Signature, TensorSpec

Arrays = Mapping[str, Any]
Function = Callable[[Any], Any]

TO_16 = (1, 2, 3, 4, 5, 6, 7, 8, 12, 16)


class Clock:
    """Time that passes where the model says so: a row takes as long alone as a batch of any size."""

    now = 0.0

    def read(self) -> float:
        return self.now


def fake(function: Function, folder: Path, seconds: Any, smallest: int = 1) -> tuple[Any, Signature, Clock]:
    x, y = (TensorSpec(name, by_code(1), (None, 3), f"{name}:0") for name in "xy")
    signature, clock = Signature("fake", {"x": x}, {"y": y}, ""), Clock()

    def run(_: Signature, inputs: Arrays) -> dict[str, Any]:
        clock.now += seconds(len(inputs["x"]))
        return {"y": function(inputs["x"])}

    source = SimpleNamespace(
        directory=folder, parts={}, light=True, may_try=True, smallest_runs={"fake": smallest},
        recipes=lambda signature: recipes(signature, []),
    )  # fmt: skip
    return SimpleNamespace(run=run, source=source, signatures={"fake": signature}), signature, clock


def outcome_of(
    function: Function, folder: Path, *, exact: bool = False, seconds: Any = lambda rows: 1e-3, smallest: int = 1
) -> Outcome:
    model, signature, clock = fake(function, folder, seconds, smallest)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch_sizes.time, "thread_time", clock.read)
        return of_signature(model, signature, 16, exact=exact)


def rounded_by_size(size_of: Callable[[int], float]) -> Function:
    """Return a function whose last digit depends on the number of rows."""
    return lambda x: (x * np.float32(1 + size_of(len(x)) * 1e-6)).astype(np.float32)


def one_row(x: Any) -> Any:
    if len(x) != 1:
        raise RunError("INVALID_ARGUMENT", "one at a time")
    return x


DEPENDENT = [
    lambda x: x - x.mean(),
    lambda x: x / np.abs(x).sum(),
    lambda x: x + np.arange(len(x))[:, None],
    lambda x: x[::-1],
    lambda x: np.where(np.arange(len(x))[:, None] < 4, x, 0),
]


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("function", DEPENDENT)
def test_rows_that_depend_on_each_other_never_share_a_run(function: Function, exact: bool, tmp_path: Path) -> None:
    outcome = outcome_of(function, tmp_path, exact=exact)
    assert (outcome.sizes, outcome.reason) == ((), "the output of a row depends on the other rows of its batch")


REFUSED = [
    # function                                        reason
    (lambda x: np.unique(x, axis=0)[:1],              "an output does not have the rows of the inputs"),
    (one_row,                                         "one at a time"),
    (lambda x: np.zeros_like(x),                      "no two rows with different outputs are known"),
]  # fmt: skip


@pytest.mark.parametrize(("function", "reason"), REFUSED)
def test_a_signature_that_was_not_tried_successfully_is_not_batched(
    function: Function, reason: str, tmp_path: Path
) -> None:
    outcome = outcome_of(function, tmp_path)
    assert outcome.sizes == ()
    assert reason in outcome.reason


WITHOUT_ODD = (1, 2, 4, 6, 8, 12, 16)
ROUNDED = [
    # last digit by size                  sizes by a number     sizes by auto   and where a row runs as two: by a number, by auto
    (lambda size: 0,                      TO_16,                TO_16,          TO_16[1:],        TO_16[1:]),
    (lambda size: size == 1,              TO_16[1:],            (),             TO_16[1:],        TO_16[1:]),  # a matrix-vector product
    (lambda size: size == 16,             TO_16[:-1],           TO_16[:-1],     TO_16[1:-1],      TO_16[1:-1]),
    (lambda size: size in (3, 5, 7),      WITHOUT_ODD,          WITHOUT_ODD,    WITHOUT_ODD[1:],  WITHOUT_ODD[1:]),
    (lambda size: size < 4,               TO_16[3:],            (1, 2, 3),      TO_16[3:],        (2, 3)),
    (lambda size: size,                   TO_16,                (),             TO_16,            ()),  # a number still forces it
]  # fmt: skip


@pytest.mark.parametrize(("last_digit", "forced", "auto", "forced_as_two", "auto_as_two"), ROUNDED)
def test_a_batch_has_only_sizes_that_round_alike(
    last_digit: Any, forced: Any, auto: Any, forced_as_two: Any, auto_as_two: Any, tmp_path: Path
) -> None:
    function = rounded_by_size(last_digit)
    assert outcome_of(function, tmp_path).sizes == forced
    assert outcome_of(function, tmp_path, exact=True).sizes == auto
    assert outcome_of(function, tmp_path, smallest=2).sizes == forced_as_two
    assert outcome_of(function, tmp_path, exact=True, smallest=2).sizes == auto_as_two


@pytest.mark.parametrize("size", [2, 3, 4, 8, 16])
def test_a_size_is_not_used_where_it_rounds_few_rows_differently(size: int, tmp_path: Path) -> None:
    def function(x: Any) -> Any:
        few = (x[:, :1] * 1e3 % 1 < 0.1) * (len(x) == size)  # one row in ten
        return (x * (1 + few * 1e-6)).astype(np.float32)

    for exact in (False, True):
        assert size not in outcome_of(function, tmp_path, exact=exact).sizes
        assert outcome_of(lambda x: x, tmp_path, exact=exact).sizes == TO_16


def test_a_size_is_not_used_where_it_rounds_rows_at_one_position_differently(tmp_path: Path) -> None:
    def function(x: Any) -> Any:
        last = (np.arange(len(x)) == 6)[:, None] * (x[:, :1] * 1e3 % 1 < 0.5)  # a row in two, as the last of seven
        return (x * (1 + last * (len(x) == 7) * 1e-6)).astype(np.float32)

    assert outcome_of(function, tmp_path, exact=True).sizes == tuple(size for size in TO_16 if size != 7)


SMALLEST = [
    # last digit by size              milliseconds of rows     rows that a row had better run as
    (lambda size: size == 1,          lambda rows: 3 + rows,     {"fake": 2}),
    (lambda size: size == 1,          lambda rows: rows,         {}),  # it would take twice as long
    (lambda size: size == 1,          lambda rows: 30,           {"fake": 2}),
    (lambda size: size < 4,           lambda rows: 30,           {"fake": 4}),
    (lambda size: size < 5,           lambda rows: 30,           {}),
    (lambda size: 0,                  lambda rows: 30,           {}),  # one row is batched as it is
    (lambda size: size,               lambda rows: 30,           {}),
]  # fmt: skip


@pytest.mark.parametrize(("last_digit", "milliseconds", "expected"), SMALLEST)
def test_a_single_row_is_padded_where_that_allows_batching_at_little_cost(
    last_digit: Any, milliseconds: Any, expected: dict[str, int], tmp_path: Path
) -> None:
    model, _, clock = fake(rounded_by_size(last_digit), tmp_path, lambda rows: milliseconds(rows) / 1e3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch_sizes.time, "thread_time", clock.read)
        assert batch_sizes.smallest_runs(model) == expected


def test_auto_does_not_batch_rows_that_take_as_long_together(tmp_path: Path) -> None:
    for seconds, sizes in ((lambda rows: 1e-3 * rows, ()), (lambda rows: 1e-3 * (2 + rows), TO_16)):
        assert outcome_of(lambda x: x, tmp_path, exact=True, seconds=seconds).sizes == sizes
        assert outcome_of(lambda x: x, tmp_path, seconds=seconds).sizes == TO_16


def test_auto_batches_although_other_work_of_the_machine_disturbs_most_runs(tmp_path: Path) -> None:
    runs: list[int] = []

    def seconds(rows: int) -> float:
        runs.append(rows)
        return 1.0 if rows > 1 and runs.count(rows) < 4 else 1e-3

    assert outcome_of(lambda x: x, tmp_path, exact=True, seconds=lambda rows: seconds(rows) / 100).sizes == TO_16


def test_the_gain_is_how_many_times_as_many_rows_run(tmp_path: Path) -> None:
    assert outcome_of(lambda x: x, tmp_path, seconds=lambda rows: 1e-3 * (3 + rows)).gain == pytest.approx(
        4 / (19 / 16)
    )
