"""JSON values are compared exactly, and numbers within a tolerance."""

import sys
from typing import Any

import pytest

from serving.core.comparison import difference, share

# fmt: off
DIFFERENCES: list[tuple[Any, Any, str | None]] = [
    # expected                      actual                          message
    ({"a": [1.0, 1e-7]},            {"a": [1.00005, 2e-7]},         None),
    ({"a": [1.0, 1e-7]},            {"a": [1.0, 2e-4]},             "a[1]: expected 1e-07, got 0.0002"),
    ({"a": [[1.0], [0.0]]},         {"a": [[1.0], [9e-5]]},         None),
    ({"a": 0.0, "b": 1.0},          {"a": 1e-5, "b": 1.0},          "a: expected 0.0, got 1e-05"),
    ({"a": "x"},                    {"a": "y"},                     'a: expected "x", got "y"'),
    ({"a": [1]},                    {"a": [1, 1]},                  "a: expected 1 values, got 2"),
    ({"a": 1},                      {"b": 1},                       "the answer: expected a, got b"),
    ({"a": [1]},                    {"a": {"b": 1}},                "a: expected [1], got"),
    ({"a": True},                   {"a": 1},                       "a: expected true, got 1"),
    ({"a": [float("nan")]},         {"a": [float("nan")]},          None),
    ({"a": [float("inf"), 1.0]},    {"a": [1.0, 1.0]},              "a[0]: expected Infinity, got 1.0"),
]
# fmt: on


@pytest.mark.parametrize(("expected", "actual", "message"), DIFFERENCES)
def test_answers_are_compared_number_by_number(expected: Any, actual: Any, message: str | None) -> None:
    problem = difference(expected, actual, 1e-4)
    assert (problem is None) == (message is None)
    assert message is None or (problem or "").startswith(message)


SHARES = [
    # expected         actual           scale  share
    ([1.0, 2.0],       [1.0, 2.0],      2.0,   0.0),
    ([1.0, 2.0],       [1.0, 1.0],      2.0,   0.5),
    (0.0,              -0.0,            1.0,   sys.float_info.min),
    (float("nan"),     float("nan"),    1.0,   0.0),
    (float("nan"),     1.0,             1.0,   float("inf")),
    ("a",              "b",             1.0,   float("inf")),
    (1,                True,            1.0,   float("inf")),
    ([1],              [1, 2],          1.0,   float("inf")),
    ({"a": 1},         {"b": 1},        1.0,   float("inf")),
    (1.0,              2.0,             0.0,   float("inf")),
    (0.0,              -0.0,            0.0,   sys.float_info.min),
]  # fmt: skip


@pytest.mark.parametrize(("expected", "actual", "scale", "distance"), SHARES)
def test_the_difference_of_two_values_relative_to_a_scale(
    expected: Any, actual: Any, scale: float, distance: float
) -> None:
    assert share(expected, actual, scale) == distance
