"""The outputs: which of them a request asks for, and how each is written.

The classification extension, Triton's: the highest values alone, as BYTES "value:index" or "value:index:name".
<https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_classification.md>
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from serving.core.http import BadRequest
from serving.protocols.answers import class_names, order
from serving.protocols.call import Context
from serving.protocols.json_tensors.document import LISTS, kind
from serving.protocols.json_tensors.elements import objects
from serving.protocols.json_tensors.writer import to_values
from serving.protocols.open_inference.binary import to_bytes
from serving.protocols.open_inference.fields import BINARY_ONLY, fields_of, flag, parameters_of, spec_of
from serving.protocols.options import refuse_slips
from serving.savedmodel.signature import Signature, TensorSpec

Array = np.ndarray[Any, Any]

OUTPUT = frozenset({"name", "parameters", "shape", "datatype"})  # members of an output


class Output(NamedTuple):
    """An output that a request asks for."""

    spec: TensorSpec
    binary: bool
    classes: int = 0  # how many of the highest values to return, as text; 0: the tensor itself


def decode_outputs(value: Any, signature: Signature, binary: bool) -> tuple[Output, ...]:
    """Return the outputs that a request asks for, every output where it names none.

    `binary`: the form of those that do not say. Raise BadRequest naming what is wrong with one.
    """
    if value is not None and not isinstance(value, LISTS):
        raise BadRequest(f"outputs: expected a list, got {kind(value)}")
    if not value:
        return tuple([_output(spec, binary, "outputs") for spec in signature.outputs.values()])
    outputs: dict[str, Output] = {}
    for index, entry in enumerate(value):
        place = f"outputs[{index}]"
        fields = fields_of(entry, place)
        refuse_slips(fields.keys(), OUTPUT, place)
        spec = spec_of(fields, signature.outputs, outputs, place, "output")
        parameters = parameters_of(fields.get("parameters"), f"{place}.parameters")
        refuse_slips(parameters.keys(), {"binary_data", "classification"}, f"{place}.parameters")
        classes = _classes(parameters.get("classification", 0), spec, f"{place}.parameters.classification")
        asked = flag(parameters, "binary_data", f"{place}.parameters", binary)
        outputs[spec.name] = Output(spec, asked, classes) if classes else _output(spec, asked, place)
    return tuple(outputs.values())


def _classes(value: Any, spec: TensorSpec, place: str) -> int:
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not int or value < 0:
        raise BadRequest(f"{place}: expected a whole number of 1 or more, got {kind(value)}")
    if value and (spec.dtype.kind not in "iuf" or spec.shape == ()):
        raise BadRequest(f"{place}: expected an output of numbers, one for each class; {spec.name!r} is none")
    return value


def _output(spec: TensorSpec, binary: bool, place: str) -> Output:
    if spec.dtype.v2_name is None:
        raise BadRequest(f"{place}: {spec.name!r} is {spec.dtype.label}, which this protocol lacks; ask for others")
    if spec.dtype.v2_name in BINARY_ONLY and not binary:
        raise BadRequest(
            f"{place}: {spec.name!r} is {spec.dtype.v2_name}, which has no JSON form; ask for it in binary, with "
            '"parameters": {"binary_data_output": true} in the request'
        )
    return Output(spec, binary)


def encode_output(output: Output, outputs: Mapping[str, Array], context: Context, blobs: list[Any]) -> dict[str, Any]:
    """Return one output of the answer; add its data to `blobs` where it is binary."""
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
    return objects(texts).reshape(*array.shape[:-1], best.shape[-1])


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
