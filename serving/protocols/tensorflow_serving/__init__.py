"""TensorFlow Serving's REST bodies <https://www.tensorflow.org/tfx/serving/api_rest>.

Row form, one object per example:      {"instances": [{"x": 1.0}, {"x": 2.0}]}
or one value, for a single input:      {"instances": [1.0, 2.0]}
                           answered:   {"predictions": [0.5, 1.0]}
Column form, one array per input:      {"inputs": {"x": [1.0, 2.0]}}
or the array, for a single input:      {"inputs": [1.0, 2.0]}
                           answered:   {"outputs": [0.5, 1.0]}

Bytes are {"b64": "..."} both ways. `"signature_name"` chooses a signature other than `serving_default`.

Beyond TensorFlow Serving: an instance may carry a key, {"key": 7, "x": 1.0}, and gets it back, {"key": 7, "y": 0.5}.
Options stand in the address (`?top_k=3`) or, as Vertex AI sends them, in the body's "parameters": signature_name,
on_error=row (a bad row is answered by {"error": "..."} in its place), top_k, instances=1 and arrays=base64, see
`answers`.
"""

from collections.abc import Mapping
from typing import Any

import orjson

from serving.core.errors import did_you_mean
from serving.core.http import BadRequest, Response, to_json
from serving.protocols import answers
from serving.protocols.call import MISSING, NOTHING, Arrays, Call, Context, choose, signature_named
from serving.protocols.json_tensors.document import Document, unchanged
from serving.protocols.json_tensors.writer import sole_rows
from serving.protocols.options import refuse_slips
from serving.protocols.tensorflow_serving.inputs import COLUMN, ROW, decode_columns, decode_rows
from serving.protocols.tensorflow_serving.signature_def import signature_def
from serving.protocols.unclear import explained
from serving.savedmodel.signature import DEFAULT, Contents, Signature, TensorSpec

MEMBERS = frozenset({ROW, COLUMN, "signature_name", "parameters"})  # of a body


def decode(body: bytes, signatures: Mapping[str, Signature], context: Context = NOTHING) -> Call:
    """Return the call that a predict body describes; raise BadRequest naming what is wrong with it."""
    try:
        document = Document(body, context.limits)
    except BadRequest as error:
        raise explained(error, body, context.headers) from None
    return decode_root(document, document.root, signatures, context)


def decode_root(
    document: Document, root: Mapping[str, Any], signatures: Mapping[str, Signature], context: Context
) -> Call:
    """Return the call of a predict body's members; raise BadRequest naming what is wrong with it."""
    if not MEMBERS.issuperset(root) and (ROW in root or COLUMN in root):
        refuse_slips(root.keys(), MEMBERS, "body")
    if "parameters" in root:
        context = context.with_parameters(root["parameters"])
    signature = choose(signatures, signature_named(root, context, "signature_name"), "signature_name")
    try:
        check_outputs(signature)
        if context.query:
            answers.check(signature, context)
        form = _form(root)
        decode_form = decode_rows if form == ROW else decode_columns
        call = decode_form(document, root[form], signature, context)
        if context.query and answers.repeats(context):
            call = call._replace(sent=unchanged(root[form]))
        return answers.check_fields(call) if context.query or call.keys is not None else call
    except BadRequest as error:
        error.signature = signature.name
        raise


def encode(call: Call, outputs: Arrays) -> Response:
    """Return the answer, in the form that the request had."""
    if call.form == ROW:
        if len(outputs) == 1 and call.keys is None and not call.failed and not call.context.query:
            (array,) = outputs.values()
            answers.check_rows(call, outputs, _row_count(call))
            if (body := sole_rows(array, "predictions", null=call.context.null)) is not None:
                return Response(200, body)
        return Response(200, to_json({**_sent(call), "predictions": predictions(call, outputs, apart=False)}))
    if call.failed:  # a column has no place for the error of one row
        raise BadRequest(next(iter(call.failed.values())), call.signature.name)
    values: Any = answers.columns(call, outputs)
    if call.keys is not None:
        values = {call.context.key: call.keys, **values}
    elif len(values) == 1:
        (values,) = values.values()  # "we omit the name" - api_rest, Predict
    return Response(200, to_json({**_sent(call), "outputs": values}))


def _sent(call: Call) -> dict[str, Any]:
    return {} if call.sent is None else {call.form: call.sent}


def place(call: Call, row: int | None) -> str:
    """Name what a call's inputs are in its body: all of them, or one row."""
    only = f".{next(iter(call.inputs))}" if len(call.inputs) == 1 else ""
    if row is None:
        return f"{call.form}{only}"
    return f"{call.form}[{row}]{only}" if call.form == ROW else f"{call.form}{only}[{row}]"


def status(version: str) -> Any:
    """Return the model's status in the form of TensorFlow Serving's model status API."""
    fine = {"error_code": "OK", "error_message": ""}
    return [{"version": version, "state": "AVAILABLE", "status": fine}]


def metadata(name: str, version: str, contents: Contents, card: Mapping[str, str]) -> bytes:
    """Return every signature as a SignatureDef, and the model's card if it has one."""
    signatures = {signature.name: signature_def(signature) for signature in contents.signatures.values()}
    description = {"signature_def": {"signature_def": signatures}, **({"card": card} if card else {})}
    return to_json({"model_spec": {"name": name, "signature_name": "", "version": version}, "metadata": description})


def _form(root: Mapping[str, Any]) -> str:
    if ROW in root and COLUMN in root:
        raise BadRequest("body: expected either 'instances' or 'inputs', got both")
    for form in (ROW, COLUMN):
        if form in root:
            return form
    others = [name for name in root if name not in ("signature_name", "parameters")]
    came = f"got {others[0][:200]!r}{did_you_mean(others[0], (ROW, COLUMN))}" if others else "got neither"
    raise BadRequest(f"body: expected 'instances' (a list of rows) or 'inputs' (columns), {came}")


def check_outputs(signature: Signature) -> None:
    """Raise BadRequest where an output has no JSON form."""
    if spec := signature.complex_output:
        raise BadRequest(f"the output {spec.name!r} is {spec.dtype.label}, which has no JSON form")


def predictions(call: Call, outputs: Arrays, *, apart: bool = True) -> Any:
    """Return a prediction for each row of the request: its outputs or its error, with its key if it has one.

    Without `apart` it may be one value for the JSON writer that holds all of them.
    """
    if outputs:
        answers.check_rows(call, outputs, _row_count(call))
    if call.keys is None and not call.failed:
        return answers.rows(call, outputs, apart=apart)
    good = iter(answers.rows(call, outputs, named=call.keys is not None) if outputs else ())
    count = len(call.failed) + (_row_count(call) if outputs else 0)
    answered: list[Any] = []
    for row in range(count):
        prediction = {"error": call.failed[row]} if row in call.failed else next(good)
        if call.keys is not None and call.keys[row] is not MISSING:
            prediction = {call.context.key: call.keys[row], **prediction}
        answered.append(prediction)
    return answered


def _row_count(call: Call) -> int:
    """Return the number of rows that the model was given."""
    for array in call.inputs.values():
        if array.ndim:
            return len(array)
    raise AssertionError("a request in rows has an input with a first dimension")


def example(signature: Signature, saved: Any = None) -> bytes:
    """Return a body to try: the exporter's, else zeros of the declared shapes; empty for complex numbers."""
    if isinstance(saved, dict):
        return orjson.dumps(saved)
    if any(spec.dtype.kind == "c" for side in (signature.inputs, signature.outputs) for spec in side.values()):
        return b""  # JSON has no complex numbers
    body: dict[str, Any] = {} if signature.name == DEFAULT else {"signature_name": signature.name}
    specs = signature.required.values()
    if specs and answers.has_rows(signature) and all(spec.shape and spec.shape[0] in (None, 1) for spec in specs):
        row = {spec.name: _filler(spec, spec.shape[1:]) for spec in specs if spec.shape}
        body[ROW] = [row if len(row) > 1 else next(iter(row.values()))]
    else:
        columns = {spec.name: _filler(spec, spec.shape or ()) for spec in specs}
        body[COLUMN] = next(iter(columns.values())) if len(columns) == 1 else columns
    return orjson.dumps(body)


_FILLERS: dict[str, Any] = {"f": 0.0, "i": 0, "u": 0, "b": False, "S": "text", "c": 0.0}


def _filler(spec: TensorSpec, shape: tuple[int | None, ...]) -> Any:
    value = _FILLERS[spec.dtype.kind]
    for size in reversed(shape):
        value = [value] * (1 if size is None else size)
    return value
