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
on_error=row (a bad row is answered by {"error": "..."} in its place), top_k and arrays=base64 (see `answers`).
"""

import base64
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import orjson
import simdjson

from serving.core.dtypes import by_code
from serving.core.errors import did_you_mean
from serving.core.http import BadRequest, Response, to_json
from serving.protocols import answers
from serving.protocols.call import (
    MISSING,
    NOTHING,
    Arrays,
    Call,
    Context,
    check_rows_apart,
    choose,
    option,
    row_errors,
)
from serving.protocols.json_tensors import (
    Document,
    b64,
    kind,
    members,
    native,
    rows_to_array,
    sole_numbers,
    sole_rows,
    to_array,
)
from serving.protocols.options import refuse_slips
from serving.protocols.sizes import check_rows
from serving.protocols.unclear import explained
from serving.savedmodel import prediction_log
from serving.savedmodel.protobuf import number_field
from serving.savedmodel.signature import DEFAULT, Contents, Signature, TensorSpec, shape_text

ROW, COLUMN = "instances", "inputs"
MEMBERS = frozenset({ROW, COLUMN, "signature_name", "parameters"})  # of a body
LISTS = (simdjson.Array, list)
OBJECTS = (simdjson.Object, dict)


def decode(body: bytes, signatures: Mapping[str, Signature], context: Context = NOTHING) -> Call:
    """Return the call that a predict body describes; raise BadRequest naming what is wrong with it."""
    if body.startswith(USUAL) and not context.query and (call := _usual(body, signatures, context)):
        return call
    try:
        document = Document(body, context.limits)
    except BadRequest as error:
        raise explained(error, body, context.headers) from None
    return decode_root(document, document.root, signatures, context)


def decode_root(
    document: Document, root: Mapping[str, Any], signatures: Mapping[str, Signature], context: Context
) -> Call:
    """Return the call of a predict body's members."""
    if ROW in root or COLUMN in root:
        refuse_slips(root.keys(), MEMBERS, "body")
    if "parameters" in root:
        context = context.with_parameters(root["parameters"])
    signature = choose(signatures, root.get("signature_name", option(context, "signature_name")), "signature_name")
    try:
        check_outputs(signature)
        answers.check(signature, context)
        form = _form(root)
        if form == ROW:
            if isinstance(root[ROW], LISTS):
                check_rows(len(root[ROW]), ROW, context.limits)
                check_rows_apart(context, len(root[ROW]), ROW)
            return answers.check_fields(decode_rows(document, root[ROW], signature, context))
        return answers.check_fields(_columns(document, root[COLUMN], signature, context))
    except BadRequest as error:
        error.signature = signature.name
        raise


# As json.dumps and JSON.stringify begin a body of rows of numbers.
USUAL = (b'{"instances": [[', b'{"instances":[[')


def _usual(body: bytes, signatures: Mapping[str, Signature], context: Context) -> Call | None:
    """Return the call of a body that is rows of numbers for the one input; None where `decode` must look closer.

    For one small row it takes a third of the time.
    """
    signature = signatures.get(DEFAULT)
    if signature is None or signature.refusal or len(signature.inputs) != 1:
        return None
    (spec,) = signature.inputs.values()
    array = sole_numbers(body, ROW, spec, context.limits)
    if array is None or signature.complex_output:
        return None
    return Call(signature, {spec.name: array}, ROW, context)


def encode(call: Call, outputs: Arrays) -> Response:
    """Return the answer, in the form that the request had."""
    if call.form == ROW:
        if len(outputs) == 1 and call.keys is None and not call.failed and not call.context.query:
            (array,) = outputs.values()
            answers.check_rows(call, outputs, _row_count(call))
            if (body := sole_rows(array, "predictions", null=call.context.null)) is not None:
                return Response(200, body)
        return Response(200, to_json({"predictions": predictions(call, outputs)}))
    if call.failed:  # a column has no place for the error of one row
        raise BadRequest(next(iter(call.failed.values())), call.signature.name)
    values: Any = answers.columns(call, outputs)
    if call.keys is not None:
        values = {call.context.key: call.keys, **values}
    elif len(values) == 1:
        (values,) = values.values()  # "we omit the name" - api_rest, Predict
    return Response(200, to_json({"outputs": values}))


def place(call: Call, row: int | None) -> str:
    """Name what a call's inputs are in its body: all of them, or one row."""
    only = f".{next(iter(call.inputs))}" if len(call.inputs) == 1 else ""
    if row is None:
        return f"{call.form}{only}"
    return f"{call.form}[{row}]{only}" if call.form == ROW else f"{call.form}{only}[{row}]"


def status(version: str) -> Any:
    """Return the model's status, as TensorFlow Serving tells it."""
    fine = {"error_code": "OK", "error_message": ""}
    return [{"version": version, "state": "AVAILABLE", "status": fine}]


def metadata(name: str, version: str, contents: Contents, card: Mapping[str, str]) -> bytes:
    """Return every signature, as protobuf's JSON form writes a SignatureDef; and the model's card if it has one."""
    signatures = {signature.name: _signature_def(signature) for signature in contents.signatures.values()}
    spec = {"name": name, "signature_name": "", "version": version}
    told = {"signature_def": {"signature_def": signatures}, **({"card": card} if card else {})}
    return to_json({"model_spec": spec, "metadata": told})


def _form(root: Mapping[str, Any]) -> str:
    if ROW in root and COLUMN in root:
        raise BadRequest("body: expected either 'instances' or 'inputs', got both")
    for form in (ROW, COLUMN):
        if form in root:
            return form
    others = [name for name in root if name not in ("signature_name", "parameters")]
    came = f"got {others[0]!r}{did_you_mean(others[0], (ROW, COLUMN))}" if others else "got neither"
    raise BadRequest(f"body: expected 'instances' (a list of rows) or 'inputs' (columns), {came}")


def decode_rows(document: Document, instances: Any, signature: Signature, context: Context) -> Call:
    """Return the call of a list of instances."""
    if not isinstance(instances, LISTS):
        raise BadRequest(f"instances: expected a list of rows, got {kind(instances)}")
    if not len(instances):
        raise BadRequest("instances: expected at least one row, got an empty list")
    if not signature.inputs:
        raise BadRequest('instances: the signature has no inputs, so it has no rows; send {"inputs": {}}')
    tell = row_errors(context)
    if (isinstance(instances[0], OBJECTS) or tell) and any(_is_named(instance) for instance in instances):
        rows, keys, failed = _named_rows(instances, signature, context)

        given = {name for index, row in enumerate(rows) if index not in failed for name in row}

        def decode_some(some: Any) -> Arrays:
            return {
                name: rows_to_array(document, [row[name] for row in some], spec, "instances", f".{name}")
                for name, spec in signature.inputs.items()
                if name in given
            }
    else:
        rows, keys, failed = instances, None, {}  # type: ignore[assignment]
        spec = _only_input(signature, "instances")

        def decode_some(some: Any) -> Arrays:
            return {spec.name: rows_to_array(document, some, spec, "instances")}

    if not failed:
        try:
            return Call(signature, decode_some(rows), ROW, context, keys)
        except BadRequest:
            if not tell:
                raise
    inputs, failed = _good_rows(list(rows), decode_some, failed)
    return Call(signature, inputs, ROW, context, keys, failed)


def _is_named(instance: Any) -> bool:
    return isinstance(instance, OBJECTS) and b64(instance) is None


def _named_rows(
    instances: Any, signature: Signature, context: Context
) -> tuple[list[dict[str, Any]], list[Any] | None, dict[int, str]]:
    """Return each instance's inputs, the keys if there are any, and what is wrong with the names of some."""
    tell = row_errors(context)
    key = None if context.key in signature.inputs else context.key
    rows: list[dict[str, Any]] = []
    keys: list[Any] = []
    failed: dict[int, str] = {}
    for index, instance in enumerate(instances):
        own_key: Any = MISSING
        row: dict[str, Any] = {}
        try:
            place = f"instances[{index}]"
            if isinstance(instance, OBJECTS):
                row = members(instance, place)
                own_key = MISSING if key is None else native(row.pop(key, MISSING))
            row = _inputs_of(row, instance, signature, place, brief=len(failed) >= MOST_HINTS)
        except BadRequest as error:
            if not tell:
                raise
            failed[index] = str(error)
        rows.append(row)
        keys.append(own_key)
    if signature.defaults:
        _check_alike(rows, failed, tell)
    return rows, keys if any(own_key is not MISSING for own_key in keys) else None, failed


def _check_alike(rows: Sequence[Mapping[str, Any]], failed: dict[int, str], tell: bool) -> None:
    """Refuse rows that leave out an input which others give: the model takes it for all of them or for none."""
    given = dict.fromkeys(name for index, row in enumerate(rows) if index not in failed for name in row)
    for index, row in enumerate(rows):
        missing = [name for name in given if name not in row]
        if index in failed or (given and not missing):
            continue
        problem = f"the input {missing[0]!r} is missing, which other rows give" if given else "expected an input"
        failed[index] = f"instances[{index}]: {problem}"
        if not tell:
            raise BadRequest(failed[index])


MOST_HINTS = 20  # rows of a request whose errors list names: each takes more time than the row itself


def _inputs_of(row: dict[str, Any], instance: Any, signature: Signature, place: str, *, brief: bool) -> dict[str, Any]:
    if _complete(row, signature):
        return row
    if signature.only and b64(row) is not None:  # {"b64": "..."}, a key beside it or not
        return {signature.only.name: row}
    if not isinstance(instance, OBJECTS):
        raise BadRequest(f"{place}: expected an object as the other instances are, got {kind(instance)}")
    raise BadRequest(_difference(place, row, signature, brief=brief))


def _complete(given: Mapping[str, Any], signature: Signature) -> bool:
    wanted = signature.inputs.keys()
    return given.keys() == wanted or (bool(signature.defaults) and signature.required.keys() <= given.keys() <= wanted)


def _good_rows(
    rows: Sequence[Any], decode_some: Callable[[Any], Arrays], failed: Mapping[int, str]
) -> tuple[Arrays, dict[int, str]]:
    """Return the good rows together, and why the others are not among them.

    Rows are decoded in halves, and halves of those that fail: a few bad ones among many cost little.
    """
    failed = dict(failed)
    good: list[tuple[list[int], Arrays]] = []

    def decode_part(indexes: list[int]) -> None:
        try:
            good.append((indexes, decode_some([rows[index] for index in indexes])))
        except BadRequest as error:
            if len(indexes) == 1:
                failed[indexes[0]] = str(error).replace("instances[0]", f"instances[{indexes[0]}]", 1)
            else:
                decode_part(indexes[: len(indexes) // 2])
                decode_part(indexes[len(indexes) // 2 :])

    if named := [index for index in range(len(rows)) if index not in failed]:
        decode_part(named)
    alike: list[Arrays] = []
    for indexes, arrays in good:
        if problem := _other_shape(arrays, good[0][1]):
            failed.update({index: f"instances[{index}]{problem}" for index in indexes})
        else:
            alike.append(arrays)
    return {name: np.concatenate([arrays[name] for arrays in alike]) for name in good[0][1]} if good else {}, failed


def _other_shape(arrays: Arrays, first: Arrays) -> str | None:
    for name, array in arrays.items():
        if array.shape[1:] != first[name].shape[1:]:
            wanted, came = shape_text(first[name].shape[1:]), shape_text(array.shape[1:])
            return f".{name}: expected shape {wanted} as in the rows before, got {came}"
    return None


def _columns(document: Document, columns: Any, signature: Signature, context: Context) -> Call:
    if not isinstance(columns, OBJECTS) or b64(columns) is not None:
        spec = _only_input(signature, "inputs")
        return Call(signature, {spec.name: to_array(document, columns, spec, "inputs")}, COLUMN, context)
    named = members(columns, "inputs")
    keys = None if context.key in signature.inputs else named.pop(context.key, None)
    if not _complete(named, signature):
        raise BadRequest(_difference("inputs", named, signature))
    inputs = {
        name: to_array(document, named[name], spec, f"inputs.{name}")
        for name, spec in signature.inputs.items()
        if name in named
    }
    if keys is not None:
        sizes = {len(array) if array.ndim else None for array in inputs.values()}
        if not isinstance(keys, LISTS) or sizes != {len(keys)}:
            raise BadRequest(f"inputs.{context.key}: expected a list of one key for each row, got {kind(keys)}")
        keys = native(keys)
    return Call(signature, inputs, COLUMN, context, keys)


def _only_input(signature: Signature, place: str) -> TensorSpec:
    if signature.only is None:
        wanted = ", ".join(map(repr, signature.inputs)) or "none"
        raise BadRequest(f"{place}: expected objects with the inputs {wanted}, got values without names")
    return signature.only


def _difference(place: str, came: Mapping[str, Any], signature: Signature, *, brief: bool = False) -> str:
    wanted = signature.inputs
    missing = [name for name in signature.required if name not in came]
    surplus = next((name for name in came if name not in wanted), None)
    if surplus is not None:
        hint = "" if brief else did_you_mean(surplus, missing or wanted)
        return f"{place}: the signature has no input {surplus[:200]!r}{hint}"
    hint = "" if brief else f"; expected {', '.join(map(repr, wanted))}"
    return f"{place}: the input {missing[0]!r} is missing{hint}"


def check_outputs(signature: Signature) -> None:
    if spec := signature.complex_output:
        raise BadRequest(f"the output {spec.name!r} is {spec.dtype.label}, which has no JSON form")


def predictions(call: Call, outputs: Arrays) -> Any:
    """Return one prediction a row of the request: the outputs, or the error of a row that failed; with its key."""
    if outputs:
        answers.check_rows(call, outputs, _row_count(call))
    if call.keys is None and not call.failed:
        return answers.rows(call, outputs)
    good = iter(answers.rows(call, outputs, named=call.keys is not None) if outputs else ())
    count = len(call.failed) + (_row_count(call) if outputs else 0)
    found: list[Any] = []
    for row in range(count):
        prediction = {"error": call.failed[row]} if row in call.failed else next(good)
        if call.keys is not None and call.keys[row] is not MISSING:
            prediction = {call.context.key: call.keys[row], **prediction}
        found.append(prediction)
    return found


def _row_count(call: Call) -> int:
    """Return the number of rows that the model was given."""
    return next(len(array) for array in call.inputs.values() if array.ndim)


def _signature_def(signature: Signature) -> dict[str, Any]:
    return {
        "inputs": {spec.name: _tensor_info(spec) for spec in signature.inputs.values()},
        "outputs": {spec.name: _tensor_info(spec) for spec in signature.outputs.values()},
        "method_name": signature.method_name,
        "defaults": {name: _tensor_proto(tensor) for name, tensor in signature.defaults.items()},
    }


def _tensor_proto(tensor: bytes) -> dict[str, Any]:
    """Return a value as protobuf's JSON form writes a TensorProto."""
    array = prediction_log.array(memoryview(tensor))
    dtype = by_code(number_field(memoryview(tensor), 1))
    values: Any = array.ravel().tolist()
    if dtype.kind == "S":
        field, values = "string_val", [base64.b64encode(value).decode() for value in values]
    elif dtype.code in FIELDS:
        field = FIELDS[dtype.code]
        values = [str(value) for value in values] if "64" in field else values
    else:
        field, values = "tensor_content", base64.b64encode(array.tobytes()).decode()
    shape = {"dim": [{"size": str(size), "name": ""} for size in array.shape], "unknown_rank": False}
    return {"dtype": dtype.name, "tensor_shape": shape, "version_number": 0, field: values}


# TF_DataType: the field of a TensorProto that holds its values
FIELDS = {
    1: "float_val", 2: "double_val", 3: "int_val", 4: "int_val", 5: "int_val", 6: "int_val", 9: "int64_val",
    10: "bool_val", 17: "int_val", 22: "uint32_val", 23: "uint64_val",
}  # fmt: skip


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
