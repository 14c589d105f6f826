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

import math
import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import orjson
import simdjson

from serving import __version__
from serving.core.dtypes import DType
from serving.core.errors import did_you_mean
from serving.core.http import BadRequest, Headers, Response, TooLarge, to_json
from serving.protocols import tensorflow_serving
from serving.protocols.answers import class_names, order
from serving.protocols.call import NOTHING, Call, Context, choose, option
from serving.protocols.json_tensors.brackets import MAX_RANK
from serving.protocols.json_tensors.document import Document, kind, members
from serving.protocols.json_tensors.reader import nest_to_array
from serving.protocols.json_tensors.writer import to_values
from serving.protocols.options import OPTIONS, refuse_others, refuse_slips
from serving.protocols.sizes import Limits, check_rows
from serving.protocols.unclear import explained
from serving.savedmodel.signature import DEFAULT, Contents, Signature, TensorSpec, check, shape_text

Array = np.ndarray[Any, Any]

HEADER = "Inference-Header-Content-Length"
BINARY = "application/octet-stream"
LONGEST_HEAD = 1 << 16  # bytes of the JSON before binary tensors that are looked at
MEMBERS = frozenset({"id", "parameters", "inputs", "outputs"})  # of a body
PARAMETERS = frozenset({"signature_name", "binary_data_output"})
INPUT = frozenset({"name", "shape", "datatype", "data", "parameters"})
OUTPUT = frozenset({"name", "parameters", "shape", "datatype"})
LISTS = (simdjson.Array, list)
OBJECTS = (simdjson.Object, dict)
BINARY_ONLY = frozenset({"BF16"})


class Output(NamedTuple):
    """An output that the answer shall hold."""

    spec: TensorSpec
    binary: bool
    classes: int = 0  # how many of the highest values to tell, as text; 0: the tensor itself


class Form(NamedTuple):
    """What the answer repeats of the request and of the model."""

    id: str | None
    outputs: tuple[Output, ...]
    context: Context


def takes(body: bytes) -> bool:
    """Say whether a body that came without its address is one of this protocol: named tensors, each with a datatype."""
    if b'"datatype"' not in body:
        return False  # as most bodies are
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    inputs = found.get("inputs") if isinstance(found, dict) else None
    return (
        isinstance(inputs, list) and bool(inputs) and all(isinstance(one, dict) and "datatype" in one for one in inputs)
    )


def decode(body: bytes, signatures: Mapping[str, Signature], context: Context = NOTHING) -> Call:
    """Return the call that an infer body describes; raise BadRequest naming what is wrong with it."""
    size = json_size(context.headers, len(body))
    if size is None:
        size = len(body)
    elif size == 0:
        refuse_others(context.query, PARAMETERS, "infer")
        return _raw(body, choose(signatures, option(context, "signature_name"), "signature_name"), context)
    try:
        document = Document(body if size == len(body) else body[:size], context.limits)
    except BadRequest as error:
        if size == len(body) and b'"binary_data_size"' in body[:LONGEST_HEAD]:
            raise BadRequest(f"{error}; with binary tensors, the header {HEADER} says how long the JSON is") from None
        raise explained(error, body, context.headers) from None
    root = document.root
    refuse_slips(root.keys(), MEMBERS, "body")
    identity = root.get("id")
    if identity is not None and not isinstance(identity, str):
        raise BadRequest(f"id: expected a string, got {kind(identity)}")
    if identity is not None and len(identity) > (most := context.limits.max_id_length):
        raise TooLarge(f"id: expected at most {most} characters (MAX_ID_LENGTH), got {len(identity)}")
    parameters = _parameters(root.get("parameters"), "parameters")
    refuse_slips(parameters.keys(), PARAMETERS | OPTIONS, "parameters")
    refuse_others({*parameters, *context.query}, PARAMETERS, "infer")
    named = parameters.get("signature_name", option(context, "signature_name"))
    signature = choose(signatures, named, "parameters.signature_name")
    try:
        outputs = _outputs(root.get("outputs"), signature, _flag(parameters, "binary_data_output", "parameters", False))
        inputs = _inputs(document, root.get("inputs"), signature, body, size, context.limits)
    except BadRequest as error:
        error.signature = signature.name
        raise
    return Call(signature, inputs, Form(identity, outputs, context))


def encode(call: Call, outputs: Mapping[str, Array]) -> Response:
    """Return the answer, each output in JSON or in binary as the request has it."""
    form: Form = call.form
    answer: dict[str, Any] = {"model_name": form.context.name, "model_version": form.context.version}
    if form.id is not None:
        answer["id"] = form.id
    blobs: list[Any] = []
    answer["outputs"] = [_answer(output, outputs, form.context, blobs) for output in form.outputs]
    head = to_json(answer)
    if not any(output.binary for output in form.outputs):
        return Response(200, head)
    return with_binary(b"".join([head, *blobs]), len(head))


def with_binary(body: bytes, size: int) -> Response:
    """Return the answer whose JSON, of so many bytes, binary tensors follow."""
    return Response(200, body, BINARY, ((HEADER, str(size)),))


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
    callable_ = {one.name: one for one in contents.signatures.values() if one.refusal is None}
    shown = callable_.get(DEFAULT) or next(iter(callable_.values()))
    answer = {"name": name, "versions": [version], "platform": "tensorflow_savedmodel", **_tensors(shown)}
    if list(callable_) != [DEFAULT]:
        answer["signatures"] = {key: _tensors(signature) for key, signature in callable_.items()}
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
        {"name": name, "shape": array.shape, "datatype": _datatype(signature.inputs[name].dtype), "data": _json(array)}
        for name, array in inputs.items()
    ]
    return to_json(body)


# The request


def json_size(headers: Headers, length: int) -> int | None:
    """Return how many bytes of a body are JSON, None where all are; raise BadRequest for more than it has."""
    text = headers.get(HEADER)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise BadRequest(f"{HEADER}: expected a number of bytes, got {text[:40]!r}", example=False)
    if int(text) > length:
        raise BadRequest(f"{HEADER}: expected at most {length}, the length of the body, got {text}", example=False)
    return int(text)


def _raw(body: bytes, signature: Signature, context: Context) -> Call:
    """Decode a body without JSON: the data of the one input, whose free dimension follows from its size."""
    spec = signature.only
    if spec is None:
        raise BadRequest(
            f"{HEADER}: 0, a body without JSON, is for a model of one input; "
            f"{signature.name!r} has {', '.join(map(repr, signature.inputs)) or 'none'}",
            signature.name,
        )
    _datatype(spec.dtype)
    where = f"body, as input {spec.name!r} without JSON"
    free = spec.shape.count(None) if spec.shape is not None else -1
    known = math.prod(size for size in spec.shape or () if size is not None)
    text = spec.dtype.kind == "S"
    row = known if text else known * spec.dtype.numpy.itemsize
    if free not in (0, 1) and not (text and free > 0 and known == 1):
        raise BadRequest(f"{where}: its shape {shape_text(spec.shape)} does not follow from the size", signature.name)
    size = 1 if text else len(body)
    if (text and row != 1) or (row == 0 and size) or (free == 0 and size != row) or (row and size % row):
        wanted = "one element" if text else f"{'a multiple of ' if free else ''}{row} bytes"
        came = f"a shape of {shape_text(spec.shape)}" if text else f"{size}"
        raise BadRequest(f"{where}: expected {wanted}, got {came}", signature.name)
    rows = 1 if text else size // row if row else 0
    shape = tuple(rows if size is None else size for size in spec.shape or ())
    array = _objects([body], shape) if text else _from_bytes(body, 0, len(body), spec.dtype, shape, where)
    outputs = _outputs(None, signature, True)
    return Call(signature, {spec.name: array}, Form(None, outputs, context))


def _parameters(value: Any, where: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, OBJECTS):
        raise BadRequest(f"{where}: expected an object, got {kind(value)}")
    return members(value, where)


def _flag(parameters: Mapping[str, Any], name: str, where: str, default: bool) -> bool:
    value = parameters.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise BadRequest(f"{where}.{name}: expected true or false, got {kind(value)}")
    return value


def _outputs(value: Any, signature: Signature, binary: bool) -> tuple[Output, ...]:
    """Return what is asked for, or every output; `binary` holds for those that do not say."""
    if value is not None and not isinstance(value, LISTS):
        raise BadRequest(f"outputs: expected a list, got {kind(value)}")
    if not value:
        return tuple([_output(spec, binary, "outputs") for spec in signature.outputs.values()])
    found: dict[str, Output] = {}
    for index, entry in enumerate(value):
        where = f"outputs[{index}]"
        fields = _fields(entry, where)
        refuse_slips(fields.keys(), OUTPUT, where)
        spec = _spec(fields, signature.outputs, found, where, "output")
        parameters = _parameters(fields.get("parameters"), f"{where}.parameters")
        refuse_slips(parameters.keys(), {"binary_data", "classification"}, f"{where}.parameters")
        classes = _classes(parameters.get("classification", 0), spec, f"{where}.parameters.classification")
        asked = _flag(parameters, "binary_data", f"{where}.parameters", binary)
        found[spec.name] = Output(spec, asked, classes) if classes else _output(spec, asked, where)
    return tuple(found.values())


def _classes(value: Any, spec: TensorSpec, where: str) -> int:
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not int or value < 0:
        raise BadRequest(f"{where}: expected a whole number of 1 or more, got {kind(value)}")
    if value and (spec.dtype.kind not in "iuf" or spec.shape == ()):
        raise BadRequest(f"{where}: expected an output of numbers, one for each class; {spec.name!r} is none")
    return value


def _output(spec: TensorSpec, binary: bool, where: str) -> Output:
    if spec.dtype.v2_name is None:
        raise BadRequest(f"{where}: {spec.name!r} is {spec.dtype.label}, which this protocol lacks; ask for others")
    if spec.dtype.v2_name in BINARY_ONLY and not binary:
        raise BadRequest(
            f"{where}: {spec.name!r} is {spec.dtype.v2_name}, which has no JSON form; ask for it in binary, with "
            '"parameters": {"binary_data_output": true} in the request'
        )
    return Output(spec, binary)


def _inputs(
    document: Document, value: Any, signature: Signature, body: bytes, start: int, limits: Limits
) -> dict[str, Array]:
    """Return the tensors; the binary ones are in `body`, from `start` on."""
    if not isinstance(value, LISTS):
        if value is None:
            others = ", ".join(repr(name[:40]) for name in list(document.root)[:10]) or "nothing"
            raise BadRequest(f"body: expected 'inputs' (a list of tensors), got {others}")
        raise BadRequest(f"inputs: expected a list of tensors, got {kind(value)}")
    inputs: dict[str, Array] = {}
    position = start
    for index, entry in enumerate(value):
        where = f"inputs[{index}]"
        fields = _fields(entry, where)
        spec = _spec(fields, signature.inputs, inputs, where, "input")
        refuse_slips(fields.keys(), INPUT, where)
        shape = _declared(fields, spec, where, limits)
        size = _binary_size(fields, where, len(body) - position, start < len(body))
        if size is None:
            inputs[spec.name] = _from_json(document, fields["data"], spec.dtype, shape, f"{where}.data")
        else:
            inputs[spec.name] = _from_bytes(body, position, size, spec.dtype, shape, where)
            position += size
    if missing := [name for name in signature.required if name not in inputs]:
        raise BadRequest(f"inputs: {missing[0]!r} is missing; expected {', '.join(map(repr, signature.inputs))}")
    if position < len(body):
        raise BadRequest(
            f"body: expected {position - start} bytes after the JSON, as the inputs' binary_data_size add up to, "
            f"got {len(body) - start}"
        )
    return inputs


def _fields(entry: Any, where: str) -> dict[str, Any]:
    if not isinstance(entry, OBJECTS):
        raise BadRequest(f"{where}: expected an object with a name, got {kind(entry)}")
    return members(entry, where)


def _spec(
    fields: Mapping[str, Any], specs: Mapping[str, TensorSpec], found: Mapping[str, Any], where: str, side: str
) -> TensorSpec:
    name = fields.get("name")
    if not isinstance(name, str):
        raise BadRequest(f"{where}.name: expected a string, got {kind(name) if 'name' in fields else 'nothing'}")
    spec = specs.get(name)
    if spec is None:
        left = [known for known in specs if known not in found]
        name = name[:200]
        raise BadRequest(f"{where}.name: the signature has no {side} {name!r}{did_you_mean(name, left or specs)}")
    if name in found:
        raise BadRequest(f"{where}.name: {name!r} stands twice")
    return spec


def _declared(fields: Mapping[str, Any], spec: TensorSpec, where: str, limits: Limits) -> tuple[int, ...]:
    """Return the shape that a tensor says it has, once it and the datatype are what the signature declares."""
    wanted, datatype = _datatype(spec.dtype), fields.get("datatype")
    if datatype != wanted:
        came = kind(datatype) if "datatype" in fields else "nothing"
        raise BadRequest(f"{where}.datatype: expected {wanted} for {spec.name!r}, got {came}")
    sizes = fields.get("shape")
    if not isinstance(sizes, LISTS):
        came = kind(sizes) if "shape" in fields else "nothing"
        raise BadRequest(f"{where}.shape: expected a list of sizes for {spec.name!r}, got {came}")
    if len(sizes) > MAX_RANK:
        raise BadRequest(f"{where}.shape: expected at most {MAX_RANK} sizes, got {len(sizes)}")
    shape = tuple([
        size if type(size) is int and size >= 0 else _size(size, f"{where}.shape[{axis}]")
        for axis, size in enumerate(sizes)
    ])  # fmt: skip
    if problem := check(spec, shape):
        raise BadRequest(f"{where}.shape: {spec.name!r}: {problem}")
    if 0 not in shape[:1]:
        check_rows((*shape, 1)[0], f"{where}.shape", limits)
    return shape


def _size(value: Any, where: str) -> int:
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not int or value < 0:
        raise BadRequest(f"{where}: expected a whole number of 0 or more, got {kind(value)}")
    return value


def _binary_size(fields: Mapping[str, Any], where: str, left: int, binary: bool) -> int | None:
    """Return how many bytes of the body a tensor's data are, None if it is in JSON."""
    parameters = _parameters(fields.get("parameters"), f"{where}.parameters") if "parameters" in fields else {}
    refuse_slips(parameters.keys(), {"binary_data_size"}, f"{where}.parameters")
    value = parameters.get("binary_data_size")
    if (value is None) == (fields.get("data") is None):
        came = "neither" if value is None else "both"
        raise BadRequest(f"{where}: expected either data or parameters.binary_data_size, got {came}")
    if value is None:
        return None
    size = _size(value, f"{where}.parameters.binary_data_size")
    if size > left:
        hint = "" if binary else f"; the header {HEADER} says where the JSON ends"
        raise BadRequest(f"{where}.parameters.binary_data_size: expected at most {left}, got {size}{hint}")
    return size


def _datatype(dtype: DType) -> str:
    if dtype.v2_name is None:
        raise BadRequest(f"the model takes {dtype.label}, which this protocol lacks", example=False)
    return dtype.v2_name


def _from_json(document: Document, data: Any, dtype: DType, shape: tuple[int, ...], where: str) -> Array:
    if dtype.v2_name in BINARY_ONLY:
        raise BadRequest(f"{where}: {dtype.v2_name} has no JSON form; send it in binary", example=False)
    array = nest_to_array(document, data, dtype, where)
    count = math.prod(shape)
    if array.shape == shape or (array.size == count == 0 and array.shape == shape[: array.ndim]):
        return array.reshape(shape)  # of an empty tensor, nesting tells the sizes up to the first 0
    if array.ndim != 1:
        raise BadRequest(
            f"{where}: expected {count} elements, flat or nested as the shape {shape_text(shape)} says, "
            f"got the shape {shape_text(array.shape)}"
        )
    if array.size != count:
        raise BadRequest(f"{where}: expected {count} elements for the shape {shape_text(shape)}, got {array.size}")
    return array.reshape(shape)


def _from_bytes(body: bytes, start: int, size: int, dtype: DType, shape: tuple[int, ...], where: str) -> Array:
    """Return the tensor whose data are `size` bytes of the body: the bytes themselves, not a copy, and read-only.

    They may be unaligned; NumPy knows it of its array, and TensorFlow copies what it cannot use as it is.
    """
    count = math.prod(shape)
    if dtype.kind == "S":
        return _objects(_strings(body, start, size, count, where), shape)
    width = dtype.numpy.itemsize
    if size != count * width:
        raise BadRequest(
            f"{where}: expected {count * width} bytes for {dtype.v2_name} of the shape {shape_text(shape)}, got {size}"
        )
    if dtype.kind == "b":
        octets = np.frombuffer(body, np.uint8, count, start)
        if (wrong := octets > 1).any():
            first = int(np.argmax(wrong))
            raise BadRequest(f"{where}: expected bytes of 0 or 1 for BOOL, got {octets[first]} at element {first}")
    return np.frombuffer(body, dtype.numpy, count, start).reshape(shape)


_LENGTH = struct.Struct("<I")


def _strings(body: bytes, start: int, size: int, count: int, where: str) -> list[bytes]:
    end = start + size
    if count * _LENGTH.size > size:
        raise BadRequest(f"{where}: expected {count} elements of BYTES, each behind its length, got {size} bytes")
    elements = []
    for index in range(count):
        if end - start < _LENGTH.size:
            raise BadRequest(f"{where}: expected {count} elements of BYTES, got {index}")
        (length,) = _LENGTH.unpack_from(body, start)
        start += _LENGTH.size
        if length > end - start:
            raise BadRequest(f"{where}: element {index} says {length} bytes, got {end - start}")
        elements.append(body[start : start + length])
        start += length
    if start < end:
        raise BadRequest(f"{where}: expected {count} elements of BYTES, got {end - start} bytes more")
    return elements


def _objects(elements: list[bytes], shape: tuple[int, ...]) -> Array:
    array = np.empty(len(elements), object)
    array[:] = elements
    return array.reshape(shape)


# The answer


def _answer(output: Output, outputs: Mapping[str, Array], context: Context, blobs: list[Any]) -> dict[str, Any]:
    spec, array = output.spec, outputs[output.spec.name]
    if output.classes:
        array = _classified(array, output.classes, outputs, context)
    datatype = "BYTES" if output.classes else spec.dtype.v2_name
    answer: dict[str, Any] = {"name": spec.name, "shape": array.shape, "datatype": datatype}
    if output.binary:
        blob = to_bytes(array)
        blobs.append(blob)
        answer["parameters"] = {"binary_data_size": len(blob)}
    elif array.dtype == object:
        answer["data"] = _text(spec.name, array)
    else:
        answer["data"] = to_values(array.ravel(), spec.name, null=context.null)
    return answer


def _classified(array: Array, classes: int, outputs: Mapping[str, Array], context: Context) -> Array:
    """Return the highest values of each row, best first, as "value:index" or "value:index:name"."""
    if not array.ndim:
        raise BadRequest("classification: expected an output with one value for each class, got a scalar")
    rows = array.reshape(math.prod(array.shape[:-1]), array.shape[-1])
    names = class_names(outputs, rows.shape, context)
    best = order(rows, classes)
    texts = [
        f"{float(rows[row, index]):f}:{index}{f':{names[row][index]}' if names else ''}".encode()
        for row, indexes in enumerate(best)
        for index in indexes.tolist()
    ]
    return _objects(texts, (*array.shape[:-1], best.shape[-1]))


def _text(name: str, array: Array) -> list[str]:
    texts = []
    for index, element in enumerate(array.ravel().tolist()):
        try:
            texts.append(element.decode())
        except UnicodeDecodeError:
            raise BadRequest(
                f"outputs: element {index} of {name!r} is not UTF-8, which JSON cannot hold; ask for it in binary, "
                f'with "outputs": [{{"name": "{name}", "parameters": {{"binary_data": true}}}}]',
                example=False,
            ) from None
    return texts


def to_bytes(array: Array) -> bytes | memoryview:
    """Return a tensor's elements as the binary extension has them."""
    if array.dtype == object:
        elements = array.ravel().tolist()
        return b"".join([part for element in elements for part in (_LENGTH.pack(len(element)), element)])
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


# What is offered


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


def _json(array: Array) -> Any:
    return to_values(array.ravel(), "")
