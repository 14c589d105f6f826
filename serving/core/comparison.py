"""Compare JSON values: strings, booleans and structure exactly, numbers relative to the largest of their output."""

import json
import math
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

TOLERANCE = 1e-4  # of the largest number of an output; other CPUs and kernels round differently
SHOWN = 200  # characters of a value


class Pair(NamedTuple):
    """Two values at the same place: two scalars, or two values of different structure."""

    path: str
    expected: Any
    actual: Any
    scale: float  # the largest number of the list that holds them


def difference(expected: Any, actual: Any, tolerance: float = TOLERANCE) -> str | None:
    """Return where two JSON values differ, or None; numbers may differ by `tolerance` × the largest of their list."""
    for pair in _pairs(expected, actual, "", 0.0):
        if _distance(pair, max(pair.scale, largest(pair.expected))) > tolerance:
            return _text(pair)
    return None


def share(expected: Any, actual: Any, scale: float) -> float:
    """Return the largest difference of two JSON values as a share of `scale`.

    It is 0 if they are equal, digit by digit, and infinity if they cannot be compared as numbers.
    """
    return max((_distance(pair, scale) for pair in _pairs(expected, actual, "", 0.0)), default=0.0)


def largest(value: Any) -> float:
    """Return the largest finite number in a JSON value, without its sign."""
    if isinstance(value, (list, dict)):
        elements = value if isinstance(value, list) else value.values()
        return max(map(largest, elements), default=0.0)
    return abs(value) if _is_number(value) and math.isfinite(value) else 0.0


def _pairs(expected: Any, actual: Any, path: str, scale: float) -> Iterator[Pair]:
    if isinstance(expected, dict) and isinstance(actual, dict) and expected.keys() == actual.keys():
        for key, value in expected.items():
            yield from _pairs(value, actual[key], f"{path}.{key}".lstrip("."), 0.0)
    elif isinstance(expected, list) and isinstance(actual, list) and len(expected) == len(actual):
        scale = scale or largest(expected)
        for index, (value, other) in enumerate(zip(expected, actual)):
            yield from _pairs(value, other, f"{path}[{index}]", scale)
    else:
        yield Pair(path, expected, actual, scale)


def _distance(pair: Pair, scale: float) -> float:
    expected, actual = pair.expected, pair.actual
    if not (_is_number(expected) and _is_number(actual)):
        return 0.0 if type(expected) is type(actual) and expected == actual else math.inf
    if repr(expected) == repr(actual):  # -0.0 is not 0.0, NaN is NaN
        return 0.0
    if expected == actual:
        return sys.float_info.min
    if not (scale and math.isfinite(expected) and math.isfinite(actual)):
        return math.inf
    return float(abs(expected - actual) / scale)


def _text(pair: Pair) -> str:
    path, expected, actual, _ = pair
    if isinstance(expected, dict) and isinstance(actual, dict):
        return f"{path or 'the answer'}: expected {', '.join(expected)}, got {', '.join(actual) or 'nothing'}"
    if isinstance(expected, list) and isinstance(actual, list):
        return f"{path}: expected {len(expected)} values, got {len(actual)}"
    return f"{path}: expected {json.dumps(expected)[:SHOWN]}, got {json.dumps(actual)[:SHOWN]}"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
