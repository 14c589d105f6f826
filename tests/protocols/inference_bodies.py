"""Signatures, and bodies of the Open Inference Protocol for them."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from serving.core.dtypes import BY_CODE, DTYPES
from serving.core.http import Response
from serving.protocols.call import Call, Context
from serving.protocols.kinds import HEADER
from serving.protocols.open_inference import decode, encode
from serving.protocols.open_inference.binary import to_bytes
from serving.savedmodel.signature import Shape, Signature, TensorSpec

Array = np.ndarray[Any, Any]

COMPLEX = BY_CODE[8]
BY_V2_NAME = {dtype.v2_name: dtype for dtype in DTYPES if dtype.v2_name}


def spec(name: str, datatype: str, shape: Shape | None) -> TensorSpec:
    dtype = COMPLEX if datatype == "COMPLEX" else BY_V2_NAME[datatype]
    return TensorSpec(name, dtype, shape, f"{name}:0")


def signature(name: str, inputs: list[TensorSpec], outputs: list[TensorSpec]) -> Signature:
    return Signature(
        name,
        {tensor_spec.name: tensor_spec for tensor_spec in inputs},
        {tensor_spec.name: tensor_spec for tensor_spec in outputs},
        "",
    )


BY_DATATYPE = {
    datatype: signature(datatype, [spec("x", datatype, None)], [spec("x", datatype, None)]) for datatype in BY_V2_NAME
}
SIGNATURES: Mapping[str, Signature] = {
    described.name: described
    for described in [
        signature(
            "serving_default",
            [spec("x", "FP32", (None, 2)), spec("n", "INT32", (None,))],
            [spec("y", "FP32", (None,)), spec("text", "BYTES", (None,))],
        ),
        signature("one", [spec("x", "FP32", (None, 2))], [spec("y", "FP32", (None,))]),
        signature("fixed", [spec("x", "FP32", (2, 2))], [spec("y", "FP32", (None,))]),
        signature("free", [spec("x", "INT8", (None, None))], [spec("y", "FP32", (None,))]),
        signature("complex", [spec("c", "COMPLEX", (None,))], [spec("y", "FP32", None)]),
        signature("to_complex", [spec("x", "FP32", (None,))], [spec("c", "COMPLEX", None), spec("y", "FP32", None)]),
        signature("nothing", [], [spec("y", "FP32", ())]),
        signature("rowless", [spec("x", "FP32", (None, 0))], [spec("y", "FP32", ())]),
        signature("refused", [TensorSpec("x", BY_CODE[20], None, "x:0")], [spec("y", "FP32", ())]),
        *BY_DATATYPE.values(),
    ]
}


def context(size: int | str | None = None) -> Context:
    return Context({} if size is None else {HEADER: str(size)}, "model", "1")


class AnyCase(dict[str, str]):
    def get(self, name: str, default: Any = None) -> Any:
        return super().get(name.lower(), default)


def framed(document: Any, *blobs: bytes) -> tuple[bytes, Context]:
    """Put JSON and blobs together."""
    head = document if isinstance(document, bytes) else json.dumps(document).encode()
    return head + b"".join(blobs), context(len(head))


def tensor(name: str = "x", shape: Any = (1, 2), datatype: Any = "FP32", **more: Any) -> dict[str, Any]:
    return {"name": name, "shape": shape, "datatype": datatype, **more}


def binary(size: Any, **more: Any) -> dict[str, Any]:
    return tensor(**{**more, "parameters": {"binary_data_size": size}})


def ask(*inputs: Any, named: str | None = "one", **more: Any) -> dict[str, Any]:
    parameters = {"signature_name": named} if named else {}
    return {"inputs": list(inputs), **more, "parameters": {**parameters, **more.get("parameters", {})}}


def same(left: Array, right: Array) -> bool:
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    return left.tolist() == right.tolist() if left.dtype == object else to_bytes(left) == to_bytes(right)


def answered(call: Call, **outputs: Any) -> Any:
    """Return the JSON answer, read by Python's own parser, which knows NaN."""
    response = encode(call, outputs)
    assert (response.status, response.content_type, response.headers) == (200, "application/json", ())
    return json.loads(response.body)


def parts(response: Response) -> tuple[Any, bytes]:
    assert response.content_type == "application/octet-stream"
    size = int(dict(response.headers)[HEADER])
    return json.loads(response.body[:size]), response.body[size:]


def raw(body: bytes, name: str) -> Call:
    return decode(body, {"serving_default": SIGNATURES[name]}, context(0))


# What is refused
GOOD = tensor(data=[1, 2])
X8 = binary(8)
