"""How two answers differ: in which output, and by how much."""

import json
import math
import sys
from collections.abc import Iterator
from typing import Any

from serving.savedmodel.signature import Signature

TOLERANCE = 1e-4  # of the largest number of an output: other kernels round otherwise
HALF_TOLERANCE = 1e-2  # of outputs of 16 bits and less
ANY = "the answer"


def tolerance(signature: Signature | None, output: str, wide: float) -> float:
    """Return how far an output may be off, `wide` for those of more than 16 bits."""
    spec = signature.outputs.get(output_name(signature, output)) if signature else None
    narrow = spec is not None and spec.dtype.kind == "f" and spec.dtype.numpy.itemsize <= 2
    return max(wide, HALF_TOLERANCE) if narrow else wide


def outputs(body: bytes) -> dict[str, Any]:
    """Return the outputs of an answer of TensorFlow Serving's or the Open Inference Protocol's form, by name."""
    try:
        found = json.loads(body)
    except ValueError:
        return {ANY: body}
    if not isinstance(found, dict):
        return {ANY: found}
    if "model_name" in found and isinstance(told := found.get("outputs"), list):
        return {one["name"]: one.get("data") for one in told}
    rows = found.get("predictions", found.get("outputs", found))
    if isinstance(rows, list) and rows and all(isinstance(row, dict) and row.keys() == rows[0].keys() for row in rows):
        return {name: [row[name] for row in rows] for name in rows[0]}
    return rows if isinstance(rows, dict) else {ANY: rows}


def by_output(row: Any) -> dict[str, Any]:
    """Return the outputs of one prediction, by name."""
    return row if isinstance(row, dict) and row.keys() != {"b64"} else {ANY: row}


def share(right: Any, came: Any, scale: float) -> float:
    """Return how far two values are apart as a share of `scale`; 0 for the same, infinity where no number is off."""
    if type(right) is not type(came) and not (_is_number(right) and _is_number(came)):
        return math.inf
    if isinstance(right, dict):
        if right.keys() != came.keys():
            return math.inf
        return max((share(value, came[name], scale) for name, value in right.items()), default=0.0)
    if isinstance(right, list):
        if len(right) != len(came):
            return math.inf
        return max((share(*pair, scale) for pair in zip(right, came)), default=0.0)
    if not _is_number(right):
        return 0.0 if right == came else math.inf
    if repr(right) == repr(came):  # -0.0 is not 0.0, NaN is NaN
        return 0.0
    if not (math.isfinite(right) and math.isfinite(came)):
        return math.inf
    return max(abs(right - came) / scale, sys.float_info.min) if scale else math.inf


def largest(value: Any) -> float:
    """Return the largest number in a value, without its sign."""
    return max((abs(number) for number in _numbers(value)), default=0.0)


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, (list, dict)):
        for one in value if isinstance(value, list) else value.values():
            yield from _numbers(one)
    elif _is_number(value) and math.isfinite(value):
        yield value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def output_name(signature: Signature | None, output: str) -> str:
    """Return what the signature calls an output: an answer does not name one that is alone."""
    return next(iter(signature.outputs)) if output == ANY and signature and len(signature.outputs) == 1 else output


def told(right: bytes, came: bytes, signature: Signature | None = None) -> str:
    """Say in which outputs two bodies differ, and by how much."""
    one, other = outputs(right), outputs(came)
    if one.keys() != other.keys():
        return f"expected {right[:80].decode(errors='replace')}, got {came[:80].decode(errors='replace')}"
    found = []
    for name, value in one.items():
        scale = max(largest(value), largest(other[name]))
        off = share(value, other[name], scale)
        if off:
            called = output_name(signature, name)
            found.append(f"{called} differs" if math.isinf(off) else f"{called} by {off:.1e} of its largest value")
    return "; ".join(found) or "the same values, written differently"
