"""The Open Inference Protocol, version 2 <https://github.com/kserve/open-inference-protocol>; KServe's V2, Triton's.

All inputs, each with its data row by row, flat or nested:
    {"id": "7", "inputs": [{"name": "x", "shape": [2, 2], "datatype": "FP32", "data": [1.0, 2.0, 3.0, 4.0]}]}
answered, always flat:
    {"model_name": "model", "model_version": "1", "id": "7",
     "outputs": [{"name": "y", "shape": [2], "datatype": "FP32", "data": [0.5, 1.0]}]}
Some of the outputs alone:                  "outputs": [{"name": "y"}]
A signature other than serving_default:     "parameters": {"signature_name": "pixels"}   (not in the specification)

Binary tensor data, Triton's extension: the tensors' bytes follow the JSON in its order, little-endian, without padding,
an element of BYTES behind its length in 4 bytes. The header Inference-Header-Content-Length says how long the JSON is.
    input:      "parameters": {"binary_data_size": 16} in place of "data"
    outputs:    "parameters": {"binary_data": true} for one, {"binary_data_output": true} in the request for all
The highest values alone, Triton's other extension:    "outputs": [{"name": "y", "parameters": {"classification": 3}}]
answered as BYTES "value:index", or "value:index:name" where the model has names for its classes.

The length 0 says that there is no JSON: the body is the one input's data (of BYTES a single element, without a length),
and all outputs come back binary.

In JSON, BYTES are strings; one that is not UTF-8 is sent as {"b64": "..."} (not in the specification), and an output
that is not UTF-8 is refused, for it would be read as something else: it has to be asked for in binary. BF16 is binary
only. An integer may be written 5.0. NaN and the infinities are bare tokens, as Triton writes them.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import orjson

from serving import __version__
from serving.core.http import BadRequest, Response, TooLarge, to_json
from serving.protocols import tensorflow_serving
from serving.protocols.call import NOTHING, Call, Context, choose, option, signature_named
from serving.protocols.json_tensors.document import Document, kind
from serving.protocols.json_tensors.writer import to_values
from serving.protocols.kinds import HEADER, json_size, with_binary
from serving.protocols.open_inference.binary import decode_raw
from serving.protocols.open_inference.fields import BINARY_ONLY, datatype_of, flag, parameters_of
from serving.protocols.open_inference.inputs import decode_inputs
from serving.protocols.open_inference.outputs import Output, decode_outputs, encode_output
from serving.protocols.options import OPTIONS, refuse_others, refuse_slips
from serving.protocols.sizes import MAX_ID_LENGTH
from serving.protocols.unclear import explained
from serving.savedmodel.signature import DEFAULT, Contents, Signature, TensorSpec

__all__ = ["BINARY_ONLY", "decode", "encode", "example", "metadata", "place", "ready", "server"]

Array = np.ndarray[Any, Any]

LONGEST_HEAD = 1 << 16  # bytes of the JSON before binary tensors that are looked at
MEMBERS = frozenset({"id", "parameters", "inputs", "outputs"})  # of a body
PARAMETERS = frozenset({"signature_name", "binary_data_output"})


class Form(NamedTuple):
    """What the answer repeats of the request and of the model's context."""

    id: str | None
    outputs: tuple[Output, ...]
    context: Context


def decode(body: bytes, signatures: Mapping[str, Signature], context: Context = NOTHING) -> Call:
    """Return the call that an infer body describes; raise BadRequest naming what is wrong with it."""
    size = json_size(context.headers, len(body))
    if size is None:
        size = len(body)
    elif size == 0:
        refuse_others(context.query, PARAMETERS, "infer")
        signature = choose(signatures, option(context, "signature_name"), "signature_name")
        inputs = decode_raw(body, signature)
        return Call(signature, inputs, Form(None, decode_outputs(None, signature, True), context))
    root, document = _parse(body, size, context)
    identity = _identity(root, context)
    parameters = parameters_of(root.get("parameters"), "parameters")
    refuse_slips(parameters.keys(), PARAMETERS | OPTIONS, "parameters")
    refuse_others((*parameters, *context.query), PARAMETERS, "infer")
    name = signature_named(parameters, context, "parameters.signature_name")
    signature = choose(signatures, name, "parameters.signature_name")
    try:
        binary = flag(parameters, "binary_data_output", "parameters", False)
        outputs = decode_outputs(root.get("outputs"), signature, binary)
        inputs = decode_inputs(document, root.get("inputs"), signature, body, size, context.limits)
    except BadRequest as error:
        error.signature = signature.name
        raise
    return Call(signature, inputs, Form(identity, outputs, context))


def _parse(body: bytes, size: int, context: Context) -> tuple[Mapping[str, Any], Document]:
    """Return the members of the JSON, which is the first `size` bytes of the body, and the document that holds them."""
    try:
        document = Document(body if size == len(body) else body[:size], context.limits)
    except BadRequest as error:
        if size == len(body) and b'"binary_data_size"' in body[:LONGEST_HEAD]:
            raise BadRequest(f"{error}; with binary tensors, the header {HEADER} says how long the JSON is") from None
        raise explained(error, body, context.headers) from None
    refuse_slips(document.root.keys(), MEMBERS, "body")
    return document.root, document


def _identity(root: Mapping[str, Any], context: Context) -> str | None:
    identity, most = root.get("id"), MAX_ID_LENGTH
    if identity is not None and not isinstance(identity, str):
        raise BadRequest(f"id: expected a string, got {kind(identity)}")
    if identity is not None and len(identity) > most:
        raise TooLarge(f"id: expected at most {most} characters, got {len(identity)}")
    return identity


def encode(call: Call, outputs: Mapping[str, Array]) -> Response:
    """Return the answer, each output in JSON or in binary as the request has it."""
    form: Form = call.form
    answer: dict[str, Any] = {"model_name": form.context.name, "model_version": form.context.version}
    if form.id is not None:
        answer["id"] = form.id
    blobs: list[Any] = []
    answer["outputs"] = [encode_output(output, outputs, form.context, blobs) for output in form.outputs]
    head = to_json(answer)
    if not any(output.binary for output in form.outputs):
        return Response(200, head)
    return with_binary(b"".join([head, *blobs]), len(head))


def place(call: Call, row: int | None) -> str:
    """Name what a call's inputs are in its body: all of them, or one row."""
    inputs = f"inputs[0] {next(iter(call.inputs))!r}" if len(call.inputs) == 1 else "inputs"
    return inputs if row is None else f"{inputs}, row {row}"


def server() -> bytes:
    """Return the server's metadata."""
    return to_json({"name": "stateless-serving", "version": __version__, "extensions": ["binary_tensor_data"]})


def ready(name: str | None = None) -> bytes:
    """Return the answer of a server, or of the model `name`, that is ready."""
    # The specification calls the server's field `live`, its client library `ready`.
    return to_json({"live": True, "ready": True} if name is None else {"name": name, "ready": True})


def metadata(name: str, version: str, contents: Contents, card: Mapping[str, str]) -> bytes:
    """Return the tensors of serving_default, or of the first signature where that is absent; then those of each.

    The protocol has no place for a model's card.
    """
    by_name = {signature.name: signature for signature in contents.signatures.values() if signature.refusal is None}
    shown = by_name.get(DEFAULT) or next(iter(by_name.values()))
    answer = {"name": name, "versions": [version], "platform": "tensorflow_savedmodel", **_tensors(shown)}
    if list(by_name) != [DEFAULT]:
        answer["signatures"] = {key: _tensors(signature) for key, signature in by_name.items()}
    return to_json(answer)


def example(signature: Signature, saved: Any = None) -> bytes:
    """Return a body that works: the exporter's, put in this protocol's form, else zeros of the declared shapes.

    It is empty where no JSON alone can be one.
    """
    outputs = [spec.name for spec in signature.outputs.values() if spec.dtype.v2_name]
    if not outputs or any(spec.dtype.v2_name in (None, *BINARY_ONLY) for spec in signature.inputs.values()):
        return b""
    body: dict[str, Any] = {} if signature.name == DEFAULT else {"parameters": {"signature_name": signature.name}}
    if any(spec.dtype.v2_name in BINARY_ONLY for spec in signature.outputs.values()):
        body.setdefault("parameters", {})["binary_data_output"] = True
    if len(outputs) < len(signature.outputs):
        body["outputs"] = [{"name": name} for name in outputs]
    inputs = _saved(signature, saved) if isinstance(saved, dict) else None
    if inputs is None:
        inputs = {spec.name: _filler(spec) for spec in signature.required.values()}
    body["inputs"] = [
        {
            "name": name,
            "shape": array.shape,
            "datatype": datatype_of(signature.inputs[name].dtype),
            "data": to_values(array.ravel(), ""),
        }
        for name, array in inputs.items()
    ]
    return to_json(body)


def _tensors(signature: Signature) -> dict[str, Any]:
    return {
        side: [
            {
                "name": spec.name,
                # A type that the protocol lacks is shown by its own name, for it is there
                "datatype": spec.dtype.v2_name or spec.dtype.label.upper(),
                "shape": [-1] if spec.shape is None else [-1 if size is None else size for size in spec.shape],
                **({"optional": True} if side == "inputs" and spec.name in signature.defaults else {}),
            }
            for spec in specs.values()
        ]
        for side, specs in (("inputs", signature.inputs), ("outputs", signature.outputs))
    }


def _saved(signature: Signature, saved: Mapping[str, Any]) -> Mapping[str, Array] | None:
    """Return the inputs of an example that the exporter wrote in TensorFlow Serving's form."""
    try:
        return tensorflow_serving.decode(orjson.dumps(saved), {signature.name: signature}).inputs
    except BadRequest:
        return None


def _filler(spec: TensorSpec) -> Array:
    array = np.zeros([1 if size is None else size for size in spec.shape or ()], spec.dtype.numpy)
    if spec.dtype.kind == "S":
        array.fill(b"text")
    return array
