"""TensorFlow Serving's classify <https://www.tensorflow.org/tfx/serving/api_rest#classify_and_regress_api>.

{"examples": [{"age": 3}, {"age": 4}]}    answered:  {"results": [[["cat", 0.9], ["dog", 0.1]], ...]}

A label is "" where the signature gives no classes, a score 0.0 where it gives no scores.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from serving.core.http import ModelFault, Response, to_json
from serving.protocols import tf_example
from serving.protocols.call import NOTHING, Arrays, Call, Context
from serving.protocols.json_tensors.writer import to_values
from serving.protocols.tensorflow_serving import metadata
from serving.protocols.tf_example import place
from serving.savedmodel.signature import Signature

__all__ = ["decode", "encode", "example", "metadata", "place"]

CLASSES, SCORES = "classes", "scores"


def decode(body: bytes, signatures: Mapping[str, Signature], context: Context = NOTHING) -> Call:
    """Return the call that a classify body describes; raise BadRequest naming what is wrong with it."""
    return tf_example.decode(body, signatures, context, _problem)


def _problem(signature: Signature) -> str | None:
    kinds = {name: spec.dtype.kind for name, spec in signature.outputs.items()}
    if not kinds or not kinds.items() <= {CLASSES: "S", SCORES: "f"}.items():
        return "does not give 'classes' (strings) or 'scores' (floats) alone, which classify needs"
    return None


def encode(call: Call, outputs: Arrays) -> Response:
    """Return each example's classes with their scores, both of shape [examples, classes].

    Raise ModelFault for outputs of another shape.
    """
    (examples,) = call.inputs.values()
    shapes = {array.shape for array in outputs.values()}
    if len(shapes) != 1 or len(shape := shapes.pop()) != 2 or shape[0] != len(examples):
        shapes_given = ", ".join(f"{name!r} {list(array.shape)}" for name, array in outputs.items())
        raise ModelFault(f"classify: expected outputs of shape [{len(examples)}, classes], got {shapes_given}")
    labels = to_values(outputs[CLASSES], CLASSES) if CLASSES in outputs else [[""] * shape[1]] * shape[0]
    scores = outputs.get(SCORES, np.zeros(shape, np.float32))
    results = [list(zip(names, _numbers(row, call.context))) for names, row in zip(labels, scores)]
    return Response(200, to_json({"results": results}))


def _numbers(row: np.ndarray[Any, Any], context: Context) -> list[Any]:
    if np.isfinite(row).all():
        return list(row)
    return [to_values(value, SCORES, null=context.null) for value in row]


def example(signature: Signature, saved: Any = None) -> bytes:
    """Return nothing: a signature does not say which features its model parses."""
    return b""
