"""Are two answers the same? Integers, booleans and strings exactly, floating point within a tolerance."""

import numpy as np

from exporting.inputs import Array, Inputs
from exporting.runner import Answer

TOLERANCE = (
    1e-4  # of the largest number of an output; what reordering float32 arithmetic costs a deep network, and more
)


def difference(first: Inputs, second: Inputs, tolerance: float) -> tuple[float, str | None]:
    """Return the largest difference, relative to the output's largest number, and what exceeds the tolerance."""
    largest = 0.0
    for name in sorted(first.keys() | second.keys()):
        if name not in first or name not in second:
            return np.inf, f"only one has the output {name!r}"
        distance, problem = _arrays(first[name], second[name])
        if problem or distance > allowed(first[name], tolerance):
            return distance, f"output {name!r}: {problem or f'differs by {distance:.2g} of its largest number'}"
        largest = max(largest, distance)
    return largest, None


def answers(first: Answer, second: Answer, tolerance: float) -> tuple[float, str | None]:
    """Compare two answers; both may be the same failure."""
    if first.outputs is None or second.outputs is None:
        if first.error == second.error:
            return 0.0, None
        return np.inf, f"one gives {first.error or 'an answer'}, the other {second.error or 'an answer'}"
    return difference(first.outputs, second.outputs, tolerance)


def allowed(array: Array, tolerance: float) -> float:
    """Return what an output of this type may differ by, relative to its largest number."""
    return max(tolerance, _coarseness(array)) if tolerance else 0.0


def _coarseness(array: Array) -> float:
    """Return the least difference that half-precision and coarser types can be held to."""
    if array.dtype.kind not in "fV" or array.dtype.itemsize > 2:
        return 0.0
    import ml_dtypes

    return 4 * float(ml_dtypes.finfo(array.dtype).eps)


def _arrays(first: Array, second: Array) -> tuple[float, str | None]:
    if first.dtype != second.dtype:
        return np.inf, f"is {first.dtype} in one and {second.dtype} in the other"
    if first.shape != second.shape:
        return np.inf, f"has shape {list(first.shape)} in one and {list(second.shape)} in the other"
    if first.dtype.kind in "OSbiu" or not first.size:
        if first.dtype.kind == "O":
            return (0.0, None) if first.tolist() == second.tolist() else (np.inf, "has other strings")
        return (0.0, None) if np.array_equal(first, second) else (np.inf, "has other values")
    wide = np.complex128 if first.dtype.kind == "c" else np.float64
    a, b = first.astype(wide), second.astype(wide)
    special = ~np.isfinite(a) | ~np.isfinite(b)
    if not np.array_equal(a[special], b[special], equal_nan=True):
        return np.inf, "has infinities or NaNs in other places"
    a, b = a[~special], b[~special]
    if not a.size or np.array_equal(a, b):
        return 0.0, None
    scale = float(np.max(np.abs(a)))
    return float(np.max(np.abs(a - b))) / (scale or 1.0), None
