"""The measures, by scikit-learn: of all pairs, over time and for each model."""

import warnings
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from sklearn.calibration import calibration_curve
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    mean_absolute_error,
    mean_squared_error,
    precision_recall_fscore_support,
    r2_score,
    roc_auc_score,
)

from tools.evaluate.choice import BINARY, REGRESSION, Read
from tools.evaluate.reading import EvaluateError, Prediction, utc

BINS = 10  # of the calibration
# The time that a period takes, and how its beginning is written.
PERIODS = {
    "minute": (timedelta(minutes=1), "%Y-%m-%d %H:%M"),
    "hour": (timedelta(hours=1), "%Y-%m-%d %H:00"),
    "day": (timedelta(days=1), "%Y-%m-%d"),
    "week": (timedelta(weeks=1), "%Y-%m-%d"),
}
MOST_PERIODS = 48  # without the option

Measured = dict[str, Any]


def measure(read: Read) -> Measured:
    """Return the measures of some pairs. Where a measure is not defined (0 / 0), it is None."""
    if read.task == REGRESSION:
        error = mean_squared_error(read.labels, read.predicted)
        several = len({*read.labels}) > 1
        return {
            "rows": len(read.labels), "mean_absolute_error": float(mean_absolute_error(read.labels, read.predicted)),
            "mean_squared_error": float(error),
            "r2": float(r2_score(read.labels, read.predicted)) if several else None,
        }  # fmt: skip
    classes = sorted({*read.labels, *read.predicted}, key=_natural)
    columns = precision_recall_fscore_support(read.labels, read.predicted, labels=classes, zero_division=np.nan)
    by_class = {
        name: {"precision": _defined(p), "recall": _defined(r), "f": _defined(f), "labels": int(count)}
        for name, p, r, f, count in zip(classes, *columns)
    }
    means = {
        measure: _mean([values[measure] for values in by_class.values()]) for measure in ("precision", "recall", "f")
    }
    measured = {
        "rows": len(read.labels), "accuracy": float(accuracy_score(read.labels, read.predicted)), **means,
        "classes": by_class,
    }  # fmt: skip
    if read.task == BINARY and read.scores is not None:
        truths = [label == read.positive for label in read.labels]
        measured["brier_score"] = float(mean_squared_error(truths, read.scores))  # what it is of two classes
        measured["roc_auc"] = float(roc_auc_score(truths, read.scores)) if len({*truths}) == 2 else None
    return measured


def _natural(name: str) -> tuple[int, float, str]:
    return (0, float(name), "") if name.isdecimal() else (1, 0.0, name)


def _defined(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _mean(values: Sequence[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None


def confusion(read: Read) -> Measured | None:
    """Return how many rows of each label (row) have each prediction (column); None for numbers."""
    if read.task == REGRESSION:
        return None
    classes = sorted({*read.labels, *read.predicted}, key=_natural)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a single class, for which this matrix is right
        matrix = confusion_matrix(read.labels, read.predicted, labels=classes)
    return {"classes": classes, "matrix": matrix.tolist()}


def calibration(read: Read) -> list[Measured] | None:
    """Return the share of right predictions for each range of scores; None without probabilities."""
    if read.scores is None or read.task == REGRESSION:
        return None
    if read.task == BINARY:
        truths = [label == read.positive for label in read.labels]
    else:
        truths = [label == name for label, name in zip(read.labels, read.predicted)]
    right, mean = calibration_curve(np.array(truths, int), read.scores, pos_label=1, n_bins=BINS)
    edges = np.linspace(0.0, 1.0, BINS + 1)
    counts = np.bincount(np.searchsorted(edges[1:-1], read.scores), minlength=BINS)
    return [
        {"from": round(float(edges[bin]), 3), "to": round(float(edges[bin + 1]), 3), "rows": int(counts[bin]),
         "mean_score": float(score), "right": float(share)}
        for bin, score, share in zip(np.flatnonzero(counts), mean, right, strict=True)
    ]  # fmt: skip


def over_time(predictions: Sequence[Prediction], read: Read, period: str) -> tuple[str, list[Measured]]:
    """Return the period's name and the measures of each, in order; "" chooses the shortest with few enough."""
    times = [utc(prediction.time) for prediction in predictions]
    if not period:
        period = next(
            (name for name, (length, _) in PERIODS.items() if (times[-1] - times[0]) / length <= MOST_PERIODS), "week"
        )
    begins = [_begin(time, period) for time in times]
    return period, [
        {"from": begin.strftime(PERIODS[period][1]), **measure(part)}
        for begin, part in _parts(begins, read)
    ]  # fmt: skip


def _begin(time: datetime, period: str) -> datetime:
    begin = time.replace(second=0, microsecond=0)
    if period == "minute":
        return begin
    begin = begin.replace(minute=0)
    if period == "hour":
        return begin
    begin = begin.replace(hour=0)
    return begin if period == "day" else begin - timedelta(days=begin.weekday())


def by_model(predictions: Sequence[Prediction], read: Read) -> list[Measured]:
    """Return the measures of each model, by its digest, in the order of their first predictions."""
    return [{"digest": digest, **measure(part)} for digest, part in _parts([p.digest for p in predictions], read)]


def _parts(keys: Sequence[Any], read: Read) -> list[tuple[Any, Read]]:
    rows: dict[Any, list[int]] = {}
    for row, key in enumerate(keys):
        rows.setdefault(key, []).append(row)
    return [(key, _rows(read, chosen)) for key, chosen in rows.items()]


def _rows(read: Read, rows: Sequence[int]) -> Read:
    scores = None if read.scores is None else [read.scores[row] for row in rows]
    return read._replace(
        predicted=[read.predicted[row] for row in rows], labels=[read.labels[row] for row in rows], scores=scores
    )


def report(pairs: Sequence[tuple[Prediction, Any]], read: Read, period: str) -> Measured:
    """Return all measures as a JSON value."""
    if not pairs:
        raise EvaluateError("expected predictions with labels, got none")
    predictions = [prediction for prediction, _ in pairs]
    chosen, periods = over_time(predictions, read, period)
    return {
        "task": read.task, "output": read.output, "signature": predictions[0].signature,
        "from": utc(predictions[0].time).isoformat(), "to": utc(predictions[-1].time).isoformat(),
        **({"positive": read.positive} if read.positive else {}),
        "all": measure(read), "confusion": confusion(read), "calibration": calibration(read),
        "period": chosen, "over_time": periods, "by_model": by_model(predictions, read),
    }  # fmt: skip
