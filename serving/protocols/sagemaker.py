"""The bodies of /invocations: TensorFlow Serving's, and the bare ones of SageMaker's own container.

    [[1.0, 2.0], [3.0, 4.0]]    is    {"instances": [[1.0, 2.0], [3.0, 4.0]]}
    {"x": [1.0, 2.0]}           is    {"instances": [{"x": [1.0, 2.0]}]}

<https://github.com/aws/sagemaker-tensorflow-serving-container>, tensorflowServing.js. An object that has none of the
signature's inputs is read as TensorFlow Serving's.
"""

from collections.abc import Mapping

from serving.protocols import tensorflow_serving
from serving.protocols.call import NOTHING, Call, Context, option
from serving.protocols.json_tensors.document import Document, b64
from serving.protocols.raw.bodies import BOM, SPACE, joined
from serving.protocols.tensorflow_serving import encode, example, metadata, place
from serving.protocols.tensorflow_serving.inputs import COLUMN, ROW
from serving.savedmodel.signature import DEFAULT, Signature

__all__ = ["decode", "encode", "example", "metadata", "place"]


def decode(body: bytes, signatures: Mapping[str, Signature], context: Context = NOTHING) -> Call:
    """Return the call that a body describes; raise BadRequest naming what is wrong with it."""
    text = body.removeprefix(BOM).lstrip(SPACE)
    if text.startswith(b"["):
        listed, problems = joined([text], context.limits)
        if not problems:
            return tensorflow_serving.decode_root(listed, {ROW: listed.root[ROW][0]}, signatures, context)
    if not text.startswith(b"{"):
        return tensorflow_serving.decode(body, signatures, context)
    document = Document(body, context.limits)
    root = document.root
    signature = signatures.get(option(context, "signature_name") or DEFAULT)
    is_row = b64(root) is not None or (signature is not None and not signature.inputs.keys().isdisjoint(root))
    if is_row and ROW not in root and COLUMN not in root:
        root = {ROW: [root]}
    return tensorflow_serving.decode_root(document, root, signatures, context)
