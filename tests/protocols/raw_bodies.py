"""Signatures, and bodies of several content types for them."""

from typing import Any

from serving.core.dtypes import DTYPES
from serving.protocols.call import Call, Context
from serving.protocols.raw import decode
from serving.savedmodel.signature import Shape, Signature, TensorSpec

BY_NAME = {dtype.numpy_name: dtype for dtype in DTYPES}


def spec(name: str, dtype: str, shape: Shape | None) -> TensorSpec:
    return TensorSpec(name, BY_NAME[dtype], shape, f"{name}:0")


def signature(name: str, *inputs: TensorSpec, output: str = "float32") -> Signature:
    outputs = {"y": spec("y", output, (None,))}
    return Signature(name, {tensor.name: tensor for tensor in inputs}, outputs, "tensorflow/serving/predict")


# fmt: off
SIGNATURES = {described.name: described for described in (
    signature("serving_default", spec("image", "object", (None,))),
    signature("rank0",   spec("image", "object", ())),
    signature("free",    spec("image", "object", None)),
    signature("column",  spec("text", "object", (None, 1))),
    signature("one",     spec("text", "object", (1,))),
    signature("three",   spec("text", "object", (3,))),
    signature("words",   spec("words", "object", (None, 2))),
    signature("age",     spec("age", "int32", (None,))),
    signature("tiny",    spec("n", "uint8", (None,))),
    signature("huge",    spec("n", "uint64", (None,))),
    signature("real",    spec("x", "float32", (None,))),
    signature("double",  spec("x", "float64", (None,))),
    signature("half",    spec("x", "float16", (None,))),
    signature("brain",   spec("x", "bfloat16", (None,))),
    signature("flag",    spec("flag", "bool", (None,))),
    signature("vector",  spec("x", "float32", (None, 2))),
    signature("wide",    spec("x", "float32", (None, None))),
    signature("keras",   spec("x", "float32", (None, 1))),
    signature("cube",    spec("x", "float32", (None, 2, 2))),
    signature("any",     spec("x", "float32", None)),
    signature("scalar",  spec("x", "float32", ())),
    signature("pair",    spec("age", "int32", (None,)), spec("name", "object", (None,))),
    signature("boxed",   spec("image", "object", (None,)), spec("box", "int32", (None, 4))),
    signature("tuned",   spec("image", "object", (None,)), spec("heat", "float32", ())),
    signature("dotted",  spec("a.b", "int32", (None,)), spec("c", "int32", (None, 2))),
    signature("keyed",   spec("key", "object", (None,))),
    signature("nothing"),
    signature("complex", spec("z", "complex64", (None,))),
    signature("complex_out", spec("x", "float32", (None,)), output="complex64"),
)}
# fmt: on

PNG = b"\x89PNG\r\n\x1a\n\x00\xff"
LINES, CSV, FORM = "application/x-ndjson", "text/csv", "multipart/form-data; boundary=xyz"


def read(content_type: str, body: bytes, name: str = "", **query: str) -> Call:
    query = {"signature_name": name, **query} if name else query
    return decode(body, SIGNATURES, Context({"content-type": content_type}, query=query))


def rows(call: Call) -> dict[str, Any]:
    return {name: array.tolist() for name, array in call.inputs.items()}


def form(*parts: tuple[str, bytes]) -> bytes:
    """Write a form, with the boundary xyz."""
    head = b'--xyz\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n'
    return b"".join(head % (name.encode(), data) for name, data in parts) + b"--xyz--\r\n"
