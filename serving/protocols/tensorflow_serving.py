"""TensorFlow Serving's REST bodies <https://www.tensorflow.org/tfx/serving/api_rest>.

Row form, one object per example:      {"instances": [{"x": 1.0}, {"x": 2.0}]}
or one value, for a single input:      {"instances": [1.0, 2.0]}
                           answered:   {"predictions": [0.5, 1.0]}
Column form, one array per input:      {"inputs": {"x": [1.0, 2.0]}}
or the array, for a single input:      {"inputs": [1.0, 2.0]}
                           answered:   {"outputs": [0.5, 1.0]}

Bytes are {"b64": "..."} both ways. `"signature_name"` chooses a signature other than `serving_default`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson
import simdjson

from serving.errors import did_you_mean
from serving.http import BadRequest, Response, to_json
from serving.protocols.call import NOTHING, Call, Context, choose
from serving.protocols.json_tensors import Document, b64, kind, members, rows_to_array, to_array, to_values
from serving.signature import DEFAULT, Contents, Signature, TensorSpec

ROW, COLUMN = "instances", "inputs"
LISTS = (simdjson.Array, list)
OBJECTS = (simdjson.Object, dict)


def decode(body: bytes, signatures: Mapping[str, Signature], _context: Context = NOTHING) -> Call:
    """Return the call that a predict body describes; raise BadRequest naming what is wrong with it."""
    document = Document(body)
    signature = choose(signatures, document.root.get("signature_name", DEFAULT), "signature_name")
    try:
        form = _form(document.root)
        inputs = (_rows if form == ROW else _columns)(document, document.root[form], signature)
        _check_outputs(signature)
    except BadRequest as error:
        error.signature = signature.name
        raise
    return Call(signature, inputs, form)


def encode(call: Call, outputs: Mapping[str, np.ndarray[Any, Any]]) -> Response:
    """Return the answer, in the form that the request had."""
    if call.form == ROW:
        return Response(200, to_json({"predictions": _to_rows(outputs)}))
    values = {name: to_values(array, name) for name, array in outputs.items()}
    if len(values) == 1:
        (value,) = values.values()  # "we omit the name" - api_rest, Predict
        return Response(200, to_json({"outputs": value}))
    return Response(200, to_json({"outputs": values}))


def place(call: Call, row: int | None) -> str:
    """Name what a call's inputs are in its body: all of them, or one row."""
    only = "" if len(call.inputs) > 1 else f".{next(iter(call.inputs))}"
    if row is None:
        return f"{call.form}{only}"
    return f"{call.form}[{row}]{only}" if call.form == ROW else f"{call.form}{only}[{row}]"


def status(version: str) -> Any:
    """Return the model's status, with KServe V1's two keys beside TensorFlow Serving's."""
    fine = {"error_code": "OK", "error_message": ""}
    return [{"version": version, "state": "AVAILABLE", "status": fine}]


def metadata(name: str, version: str, contents: Contents) -> bytes:
    """Return every signature, as protobuf's JSON form writes a SignatureDef."""
    signatures = {signature.name: _signature_def(signature) for signature in contents.signatures.values()}
    spec = {"name": name, "signature_name": "", "version": version}
    return to_json({"model_spec": spec, "metadata": {"signature_def": {"signature_def": signatures}}})


def _form(root: Mapping[str, Any]) -> str:
    if ROW in root and COLUMN in root:
        raise BadRequest("body: expected either 'instances' or 'inputs', got both")
    for form in (ROW, COLUMN):
        if form in root:
            return form
    others = [name for name in root if name != "signature_name"]
    came = f"got {others[0]!r}{did_you_mean(others[0], (ROW, COLUMN))}" if others else "got neither"
    raise BadRequest(f"body: expected 'instances' (a list of rows) or 'inputs' (columns), {came}")


def _rows(document: Document, instances: Any, signature: Signature) -> dict[str, np.ndarray[Any, Any]]:
    if not isinstance(instances, LISTS):
        raise BadRequest(f"instances: expected a list of rows, got {kind(instances)}")
    if not len(instances):
        raise BadRequest("instances: expected at least one row, got an empty list")
    first = instances[0]
    if not isinstance(first, OBJECTS) or b64(first) is not None:
        return {_only_input(signature, "instances").name: _plain_rows(document, instances, signature)}
    rows = []
    for index, instance in enumerate(instances):
        if not isinstance(instance, OBJECTS) or b64(instance) is not None:
            raise BadRequest(f"instances[{index}]: expected an object as in instances[0], got {kind(instance)}")
        row = members(instance, f"instances[{index}]")
        if row.keys() != signature.inputs.keys():
            raise BadRequest(_difference(f"instances[{index}]", row, signature.inputs))
        rows.append(row)
    return {
        name: rows_to_array(document, [row[name] for row in rows], spec, "instances", f".{name}")
        for name, spec in signature.inputs.items()
    }


def _plain_rows(document: Document, instances: Any, signature: Signature) -> np.ndarray[Any, Any]:
    (spec,) = signature.inputs.values()
    return rows_to_array(document, instances, spec, "instances")


def _columns(document: Document, columns: Any, signature: Signature) -> dict[str, np.ndarray[Any, Any]]:
    if not isinstance(columns, OBJECTS) or b64(columns) is not None:
        spec = _only_input(signature, "inputs")
        return {spec.name: to_array(document, columns, spec, "inputs")}
    named = members(columns, "inputs")
    if named.keys() != signature.inputs.keys():
        raise BadRequest(_difference("inputs", named, signature.inputs))
    return {name: to_array(document, named[name], spec, f"inputs.{name}") for name, spec in signature.inputs.items()}


def _only_input(signature: Signature, place: str) -> TensorSpec:
    if len(signature.inputs) != 1:
        wanted = ", ".join(map(repr, signature.inputs)) or "none"
        raise BadRequest(f"{place}: expected objects with the inputs {wanted}, got values without names")
    (spec,) = signature.inputs.values()
    return spec


def _difference(place: str, came: Mapping[str, Any], wanted: Mapping[str, TensorSpec]) -> str:
    missing = [name for name in wanted if name not in came]
    surplus = [name for name in came if name not in wanted]
    if surplus:
        return f"{place}: the signature has no input {surplus[0]!r}{did_you_mean(surplus[0], missing or wanted)}"
    return f"{place}: the input {missing[0]!r} is missing; expected {', '.join(map(repr, wanted))}"


def _check_outputs(signature: Signature) -> None:
    for spec in signature.outputs.values():
        if spec.dtype.kind == "c":
            raise BadRequest(f"the output {spec.name!r} is {spec.dtype.label}, which has no JSON form")


def _to_rows(outputs: Mapping[str, np.ndarray[Any, Any]]) -> Any:
    sizes = {}
    for name, array in outputs.items():
        if not array.ndim:
            raise BadRequest(f"the output {name!r} has no batch dimension: ask in column form, with 'inputs'")
        sizes[name] = len(array)
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{name!r} {size}" for name, size in sizes.items())
        raise BadRequest(f"the outputs differ in their number of rows ({told}): ask in column form, with 'inputs'")
    if len(outputs) == 1:
        ((name, array),) = outputs.items()
        return to_values(array, name)
    columns = [list(to_values(array, name, rows=True)) for name, array in outputs.items()]
    return [dict(zip(outputs, row)) for row in zip(*columns)]


def _signature_def(signature: Signature) -> dict[str, Any]:
    return {
        "inputs": {spec.name: _tensor_info(spec) for spec in signature.inputs.values()},
        "outputs": {spec.name: _tensor_info(spec) for spec in signature.outputs.values()},
        "method_name": signature.method_name,
        "defaults": {},
    }


def _tensor_info(spec: TensorSpec) -> dict[str, Any]:
    names = spec.dimensions or ("",) * len(spec.shape or ())
    dimensions = [
        {"size": str(-1 if size is None else size), "name": name} for size, name in zip(spec.shape or (), names)
    ]
    return {
        "dtype": spec.dtype.name,
        "tensor_shape": {"dim": dimensions, "unknown_rank": spec.shape is None},
        "name": spec.tensor,
    }


def example(signature: Signature, saved: Any = None) -> bytes:
    """Return a body that works: the exporter's, where it left one, else zeros of the declared shapes."""
    if isinstance(saved, dict):
        return orjson.dumps(saved)
    body: dict[str, Any] = {} if signature.name == DEFAULT else {"signature_name": signature.name}
    specs = signature.inputs.values()
    if specs and all(spec.shape and spec.shape[0] in (None, 1) for spec in specs):
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
