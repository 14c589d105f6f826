"""The options of a request for a prediction, in its address."""

from serving.pipeline.openapi.schemas import Schema, Subject
from serving.savedmodel.signature import Signature

# The values of top_k
COUNT: Schema = {"type": "integer", "minimum": 1, "maximum": 10**9 - 1}


def query_options(subject: Subject) -> dict[str, Schema]:
    """Return what may stand in the address of a prediction."""
    scores = sorted({name for signature in subject.signatures for name in score_outputs(signature)})
    options: list[tuple[str, str, Schema]] = [
        ("on_error", "row: a wrong row gets an error at its position.", {"enum": ["row", "request"]}),
        ("arrays", "base64: numbers as the bytes of their array.", {"enum": ["base64", "json"]}),
        ("instances", "1: the answer has the request's rows or columns, too.", {"enum": ["0", "1"]}),
    ]
    if scores:
        options += [
            ("top_k", "How many of the best classes to return, in place of the outputs.", COUNT),
            ("scores", "The output that holds the scores, for top_k.", {"enum": scores}),
        ]
    return {name: {"name": name, "in": "query", "description": why, "schema": schema} for name, why, schema in options}


def score_outputs(signature: Signature) -> list[str]:
    """Return the outputs that may hold the scores of classes."""
    floats = [spec for spec in signature.outputs.values() if spec.dtype.kind == "f"]
    return [spec.name for spec in floats if spec.shape is None or len(spec.shape) == 2]
