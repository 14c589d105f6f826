"""TensorFlow Serving's regress <https://www.tensorflow.org/tfx/serving/api_rest#classify_and_regress_api>.

{"examples": [{"age": 3}, {"age": 4}]}    answered:  {"results": [0.5, 0.7]}
"""

from collections.abc import Mapping

from serving.core.http import ModelFault, Response, to_json
from serving.protocols import tf_example
from serving.protocols.call import NOTHING, Arrays, Call, Context
from serving.protocols.classify import example
from serving.protocols.json_tensors.writer import to_values
from serving.protocols.tensorflow_serving import metadata
from serving.protocols.tf_example import place
from serving.savedmodel.signature import Signature

__all__ = ["decode", "encode", "example", "metadata", "place"]

OUTPUT = "outputs"


def decode(body: bytes, signatures: Mapping[str, Signature], context: Context = NOTHING) -> Call:
    """Return the call that a regress body describes; raise BadRequest naming what is wrong with it."""
    return tf_example.decode(body, signatures, context, _problem)


def _problem(signature: Signature) -> str | None:
    if {name: spec.dtype.kind for name, spec in signature.outputs.items()} != {OUTPUT: "f"}:
        return "does not give 'outputs' (floats) alone, which regress needs"
    return None


def encode(call: Call, outputs: Arrays) -> Response:
    """Return one number for each example; raise ModelFault unless the output is [examples] or [examples, 1]."""
    (examples,), values = call.inputs.values(), outputs[OUTPUT]
    if values.shape not in ((len(examples),), (len(examples), 1)):
        wanted = f"[{len(examples)}] or [{len(examples)}, 1]"
        raise ModelFault(f"regress: expected an output of shape {wanted}, got {list(values.shape)}")
    return Response(200, to_json({"results": to_values(values.ravel(), OUTPUT, null=call.context.null)}))
