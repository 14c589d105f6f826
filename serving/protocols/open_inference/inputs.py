"""The inputs of a request: named tensors, each with its datatype, its shape, and its data in JSON or in binary."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from serving.core.dtypes import DType
from serving.core.http import BadRequest
from serving.protocols.json_tensors.brackets import MAX_RANK
from serving.protocols.json_tensors.document import LISTS, Document, kind
from serving.protocols.json_tensors.reader import nest_to_array
from serving.protocols.kinds import HEADER
from serving.protocols.open_inference.binary import from_bytes
from serving.protocols.open_inference.fields import (
    BINARY_ONLY,
    datatype_of,
    fields_of,
    parameters_of,
    size_of,
    spec_of,
)
from serving.protocols.options import refuse_slips
from serving.protocols.sizes import Limits, check_rows
from serving.savedmodel.signature import Signature, TensorSpec, check, shape_text

Array = np.ndarray[Any, Any]

INPUT = frozenset({"name", "shape", "datatype", "data", "parameters"})  # members of an input


def decode_inputs(
    document: Document, value: Any, signature: Signature, body: bytes, start: int, limits: Limits
) -> dict[str, Array]:
    """Return the input tensors by name; the binary ones are in `body`, from `start` on.

    Raise BadRequest naming what is wrong with one, TooLarge for more rows than the limits allow.
    """
    if not isinstance(value, LISTS):
        if "inputs" not in document.root:
            others = ", ".join(repr(name[:40]) for name in list(document.root)[:10]) or "nothing"
            raise BadRequest(f"body: expected 'inputs' (a list of tensors), got {others}")
        raise BadRequest(f"inputs: expected a list of tensors, got {kind(value)}")
    inputs: dict[str, Array] = {}
    position = start
    for index, entry in enumerate(value):
        place = f"inputs[{index}]"
        fields = fields_of(entry, place)
        spec = spec_of(fields, signature.inputs, inputs, place, "input")
        refuse_slips(fields.keys(), INPUT, place)
        shape = _declared(fields, spec, place, limits)
        size = _binary_size(fields, place, len(body) - position, start < len(body))
        if size is None:
            inputs[spec.name] = _from_json(document, fields["data"], spec.dtype, shape, f"{place}.data")
        else:
            inputs[spec.name] = from_bytes(body, position, size, spec.dtype, shape, place)
            position += size
    if missing := [name for name in signature.required if name not in inputs]:
        raise BadRequest(f"inputs: {missing[0]!r} is missing; expected {', '.join(map(repr, signature.inputs))}")
    if position < len(body):
        raise BadRequest(
            f"body: expected {position - start} bytes after the JSON, as the inputs' binary_data_size add up to, "
            f"got {len(body) - start}"
        )
    return inputs


def _declared(fields: Mapping[str, Any], spec: TensorSpec, place: str, limits: Limits) -> tuple[int, ...]:
    """Return the shape that a tensor says it has, once it and the datatype are what the signature declares."""
    expected, datatype = datatype_of(spec.dtype), fields.get("datatype")
    if datatype != expected:
        given = kind(datatype) if "datatype" in fields else "nothing"
        raise BadRequest(f"{place}.datatype: expected {expected} for {spec.name!r}, got {given}")
    sizes = fields.get("shape")
    if not isinstance(sizes, LISTS):
        given = kind(sizes) if "shape" in fields else "nothing"
        raise BadRequest(f"{place}.shape: expected a list of sizes for {spec.name!r}, got {given}")
    if len(sizes) > MAX_RANK:
        raise BadRequest(f"{place}.shape: expected at most {MAX_RANK} sizes, got {len(sizes)}")
    shape = tuple([
        size if type(size) is int and size >= 0 else size_of(size, f"{place}.shape[{axis}]")
        for axis, size in enumerate(sizes)
    ])  # fmt: skip
    if problem := check(spec, shape):
        raise BadRequest(f"{place}.shape: {spec.name!r}: {problem}")
    if 0 not in shape[:1]:
        check_rows((*shape, 1)[0], f"{place}.shape", limits)
    return shape


def _binary_size(fields: Mapping[str, Any], place: str, available: int, binary: bool) -> int | None:
    """Return how many bytes of the body a tensor's data are, None if it is in JSON."""
    parameters = parameters_of(fields.get("parameters"), f"{place}.parameters") if "parameters" in fields else {}
    refuse_slips(parameters.keys(), {"binary_data_size"}, f"{place}.parameters")
    value = parameters.get("binary_data_size")
    if (value is None) == (fields.get("data") is None):
        given = "neither" if value is None else "both"
        raise BadRequest(f"{place}: expected either data or parameters.binary_data_size, got {given}")
    if value is None:
        return None
    size = size_of(value, f"{place}.parameters.binary_data_size")
    if size > available:
        hint = "" if binary else f"; the header {HEADER} says where the JSON ends"
        raise BadRequest(f"{place}.parameters.binary_data_size: expected at most {available}, got {size}{hint}")
    return size


def _from_json(document: Document, data: Any, dtype: DType, shape: tuple[int, ...], place: str) -> Array:
    if dtype.v2_name in BINARY_ONLY:
        raise BadRequest(f"{place}: {dtype.v2_name} has no JSON form; send it in binary", example=False)
    array = nest_to_array(document, data, dtype, place)
    count = math.prod(shape)
    if array.shape == shape or (array.size == count == 0 and array.shape == shape[: array.ndim]):
        return array.reshape(shape)  # an empty tensor's nesting shows the sizes up to the first 0
    if array.ndim != 1:
        raise BadRequest(
            f"{place}: expected {count} elements, flat or nested as the shape {shape_text(shape)} says, "
            f"got the shape {shape_text(array.shape)}"
        )
    if array.size != count:
        raise BadRequest(f"{place}: expected {count} elements for the shape {shape_text(shape)}, got {array.size}")
    return array.reshape(shape)
