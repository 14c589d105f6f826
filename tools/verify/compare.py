"""Compare two answers: in which outputs they differ, and by how much."""

import json
import math
from typing import Any

from serving.core.comparison import largest, share
from serving.savedmodel.signature import Signature

HALF_TOLERANCE = 1e-2  # of outputs of 16 bits and less
ANY = "the answer"


def tolerance(signature: Signature | None, output: str, wide: float) -> float:
    """Return the tolerance for an output: `wide` for more than 16 bits, else at least HALF_TOLERANCE."""
    spec = signature.outputs.get(output_name(signature, output)) if signature else None
    narrow = spec is not None and spec.dtype.kind == "f" and spec.dtype.numpy.itemsize <= 2
    return max(wide, HALF_TOLERANCE) if narrow else wide


def outputs(body: bytes) -> dict[str, Any]:
    """Return the outputs of an answer of TensorFlow Serving's or the Open Inference Protocol's form, by name."""
    try:
        answer = json.loads(body)
    except ValueError:
        return {ANY: body}
    if not isinstance(answer, dict):
        return {ANY: answer}
    if "model_name" in answer and isinstance(tensors := answer.get("outputs"), list):
        return {tensor["name"]: tensor.get("data") for tensor in tensors}
    rows = answer.get("predictions", answer.get("outputs", answer))
    if isinstance(rows, list) and rows and all(isinstance(row, dict) and row.keys() == rows[0].keys() for row in rows):
        return {name: [row[name] for row in rows] for name in rows[0]}
    return rows if isinstance(rows, dict) else {ANY: rows}


def by_output(row: Any) -> dict[str, Any]:
    """Return the outputs of one prediction, by name."""
    return row if isinstance(row, dict) and row.keys() != {"b64"} else {ANY: row}


def output_name(signature: Signature | None, output: str) -> str:
    """Return the signature's name of an output: an answer does not name a single one."""
    return next(iter(signature.outputs)) if output == ANY and signature and len(signature.outputs) == 1 else output


def described(right: bytes, actual: bytes, signature: Signature | None = None) -> str:
    """Describe in which outputs two bodies differ, and by how much."""
    expected, other = outputs(right), outputs(actual)
    if expected.keys() != other.keys():
        return f"expected {right[:80].decode(errors='replace')}, got {actual[:80].decode(errors='replace')}"
    texts = []
    for name, value in expected.items():
        scale = max(largest(value), largest(other[name]))
        off = share(value, other[name], scale)
        if off:
            called = output_name(signature, name)
            texts.append(f"{called} differs" if math.isinf(off) else f"{called} by {off:.1e} of its largest value")
    return "; ".join(texts) or "the same values, written differently"
