"""One input as every kind of body that can carry it: a table of forms, each with the address that takes it."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

PREDICT, INFER = "/v1/models/model:predict", "/v2/models/model/infer"
HEADER = "Inference-Header-Content-Length"

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Body:
    path: str
    content: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Input:
    """A tensor for one input of a signature."""

    name: str
    array: Array  # float32
    signature: str = "serving_default"
    outputs: tuple[str, ...] = ()  # those that are asked for; none: all


def dumps(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def plain(array: Array) -> list[Any]:
    """As clients write floats: six decimals, not the seventeen digits of a widened float32."""
    return array.astype(np.float64).round(6).tolist()


def rows(tensor: Input) -> Body:
    return v1(tensor, instances=plain(tensor.array))


def columns(tensor: Input) -> Body:
    return v1(tensor, inputs=plain(tensor.array))


def named_rows(tensor: Input) -> Body:
    return v1(tensor, instances=[{tensor.name: row} for row in plain(tensor.array)])


def base64_answer(tensor: Input) -> Body:
    return v1(tensor, instances=plain(tensor.array), parameters={"arrays": "base64"})


def flat(tensor: Input) -> Body:
    return v2(tensor, {"data": plain(tensor.array.ravel())})


def nested(tensor: Input) -> Body:
    return v2(tensor, {"data": plain(tensor.array)})


def binary(tensor: Input) -> Body:
    data = tensor.array.tobytes()
    head = v2(tensor, {"parameters": {"binary_data_size": len(data)}}, binary_data_output=True)
    return Body(INFER, head.content + data, {HEADER: str(len(head.content))})


def v1(tensor: Input, **members: Any) -> Body:
    return Body(PREDICT, dumps({"signature_name": tensor.signature, **members}))


def v2(tensor: Input, data: Mapping[str, Any], **parameters: Any) -> Body:
    entry = {"name": tensor.name, "shape": tensor.array.shape, "datatype": "FP32", **data}
    parameters = {"signature_name": tensor.signature, **parameters}
    wanted = {"outputs": [{"name": name} for name in tensor.outputs]} if tensor.outputs else {}
    return Body(INFER, dumps({"parameters": parameters, "inputs": [entry], **wanted}))


# fmt: off
FORMS: dict[str, Callable[[Input], Body]] = {
    "JSON rows":                   rows,
    "JSON columns":                columns,
    "JSON named rows":             named_rows,
    "JSON rows, answer in base64": base64_answer,
    "v2 JSON, flat":               flat,
    "v2 JSON, nested":             nested,
    "v2 binary":                   binary,
}
# fmt: on
