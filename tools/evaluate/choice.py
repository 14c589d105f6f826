"""Chooses the output to compare with the labels, and the kind of the model.

labels     outputs                                        read as
classes    one string for each row, e.g. a label          the class; its score is the largest of the one list of scores
classes    a list of scores for each row                  the class with the highest score, by its name or its index
classes    one number from 0 to 1; labels of two classes  the probability of the positive class
numbers    one number for each row                        the number (regression)
"""

import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from serving.core.errors import did_you_mean
from tools.evaluate.reading import EvaluateError, Prediction

POSITIVE = ("1", "true", "True", "yes")  # the name of the positive class without the option
ROUNDING = 1e-5  # of a probability in float32
CLASSIFICATION, BINARY, REGRESSION = "classification", "binary", "regression"


class Wanted(NamedTuple):
    """The choices of the command line; empty or None: chosen by the data."""

    output: str = ""
    task: str = ""
    classes: Sequence[str] = ()
    positive: str = ""
    threshold: float = 0.5


class Read(NamedTuple):
    """Predictions and labels, a value for each pair."""

    task: str  # CLASSIFICATION, BINARY or REGRESSION
    output: str
    predicted: list[Any]  # classes, numbers
    labels: list[Any]
    scores: list[float] | None  # of the predicted class; of the positive class where the task is BINARY
    positive: str = ""


def read(pairs: Sequence[tuple[Prediction, Any]], wanted: Wanted) -> Read:
    """Return the compared values; raise EvaluateError if the outputs leave several choices, or none."""
    outputs = pairs[0][0].outputs
    strings, vectors, numbers = (_names(outputs, kind) for kind in (_is_string, _is_vector, _is_number))
    if wanted.output:
        if wanted.output not in outputs:
            raise EvaluateError(f"--output: no output is named {wanted.output!r}{did_you_mean(wanted.output, outputs)}")
        named = [wanted.output]
        strings, numbers = ([name for name in names if name in named] for names in (strings, numbers))
        vectors = [name for name in vectors if name in named or strings]
    texts = [_text(label) for _, label in pairs]
    if strings:
        return _named_classes(pairs, texts, _only(strings), vectors)
    if vectors:
        return _ranked(pairs, texts, _only(vectors), wanted.classes)
    if not numbers:
        raise EvaluateError(f"expected an output of a class, of scores or of a number for each row, got {[*outputs]}")
    return _numbers(pairs, texts, _only(numbers), wanted)


def _names(outputs: Any, kind: Any) -> list[str]:
    return [name for name, value in outputs.items() if kind(value)]


def _is_string(value: Any) -> bool:
    return isinstance(value, str)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_vector(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 1 and all(_is_number(part) or part is None for part in value)


def _only(names: Sequence[str]) -> str:
    if len(names) > 1:
        raise EvaluateError(f"expected one output to evaluate, got {', '.join(names)}; choose one with --output NAME")
    return names[0]


def _text(label: Any) -> str:
    """Return a class as text: 3, 3.0 and "3.0" are the same class "3"."""
    text = str(label).lower() if isinstance(label, bool) else str(label).strip()
    return re.sub(r"^(-?[0-9]+)\.0+$", r"\1", text)


def _value(prediction: Prediction, output: str, kind: Any, expected: str) -> Any:
    value = prediction.outputs.get(output)
    if not kind(value):
        raise EvaluateError(f"the key {prediction.key!r}: expected {expected} in {output!r}, got {str(value)[:40]}")
    return value


def _named_classes(pairs: Any, texts: list[str], output: str, vectors: Sequence[str]) -> Read:
    predicted = [_text(_value(prediction, output, _is_string, "a class")) for prediction, _ in pairs]
    scores = None
    if len(vectors) == 1:
        rows = [_value(prediction, vectors[0], _is_vector, "scores") for prediction, _ in pairs]
        scores = [max(_known(row)) for row in rows]
    return Read(CLASSIFICATION, output, predicted, texts, _probabilities(scores))


def _known(row: Sequence[float | None]) -> list[float]:
    return [-math.inf if score is None else score for score in row]


def _ranked(pairs: Any, texts: list[str], output: str, classes: Sequence[str]) -> Read:
    predicted, scores = [], []
    for prediction, _ in pairs:
        row = _known(_value(prediction, output, _is_vector, "a list of scores"))
        if classes and len(classes) != len(row):
            raise EvaluateError(f"--classes: expected {len(row)} names, one for each score, got {len(classes)}")
        best = max(range(len(row)), key=row.__getitem__)
        predicted.append(_text(classes[best]) if classes else str(best))
        scores.append(row[best])
    if not classes and not {*texts} & {str(index) for index in range(len(row))}:
        raise EvaluateError(f"expected labels that are indexes of scores, got {texts[0]!r}; name them: --classes")
    return Read(CLASSIFICATION, output, predicted, texts, _probabilities(scores))


def _probabilities(scores: list[float] | None) -> list[float] | None:
    """Return scores that are probabilities, None for others: no calibration is defined for them."""
    if scores is None or not all(0 <= score <= 1 + ROUNDING for score in scores):
        return None
    return [min(score, 1.0) for score in scores]


def _numbers(pairs: Any, texts: list[str], output: str, wanted: Wanted) -> Read:
    values = [float(_value(prediction, output, _is_number, "a number")) for prediction, _ in pairs]
    classes = sorted({*texts})
    binary = len(classes) <= 2 and all(0 <= value <= 1 for value in values)
    if wanted.task == BINARY or (not wanted.task and binary):
        positive = wanted.positive or next((name for name in POSITIVE if name in classes), "")
        others = [name for name in classes if name != positive]
        if not positive or len(others) > 1:
            raise EvaluateError(f"expected two classes, the positive one named by --positive, got {', '.join(classes)}")
        other = others[0] if others else f"not {positive}"
        predicted = [positive if value >= wanted.threshold else other for value in values]
        return Read(BINARY, output, predicted, texts, values, positive)
    try:
        numbers = [float(text) for text in texts]
    except ValueError as error:
        raise EvaluateError(f"{output!r} is a number, and a label is not: {error}") from None
    if not all(map(math.isfinite, numbers)):
        raise EvaluateError("expected finite labels, got nan or an infinity")
    return Read(REGRESSION, output, values, numbers, None)
