"""The Open Inference Protocol, with signatures and bytes alone."""

import gzip
import json
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from serving.core.dtypes import BY_CODE, BY_V2_NAME
from serving.core.http import BadRequest, Request, Response, TooLarge, compress, read_body
from serving.protocols import open_inference
from serving.protocols.call import Call, Context
from serving.protocols.kinds import HEADER
from serving.protocols.open_inference import decode, encode
from serving.protocols.open_inference.binary import to_bytes
from serving.savedmodel.signature import Contents, Shape, Signature, TensorSpec

Array = np.ndarray[Any, Any]

COMPLEX = BY_CODE[8]


def spec(name: str, datatype: str, shape: Shape | None) -> TensorSpec:
    dtype = COMPLEX if datatype == "COMPLEX" else BY_V2_NAME[datatype]
    return TensorSpec(name, dtype, shape, f"{name}:0")


def signature(name: str, inputs: list[TensorSpec], outputs: list[TensorSpec]) -> Signature:
    return Signature(name, {one.name: one for one in inputs}, {one.name: one for one in outputs}, "")


BY_DATATYPE = {
    datatype: signature(datatype, [spec("x", datatype, None)], [spec("x", datatype, None)]) for datatype in BY_V2_NAME
}
SIGNATURES: Mapping[str, Signature] = {
    one.name: one
    for one in [
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


# What is taken


# fmt: off
TAKEN = [
    # datatype, shape, data, expected
    ("FP32",   [2, 2], [1, 2.5, -3, 4e2],             [[1, 2.5], [-3, 400]]),
    ("FP32",   [2, 2], [[1, 2.5], [-3, 4e2]],         [[1, 2.5], [-3, 400]]),
    ("FP32",   [],     [7],                           7),
    ("FP32",   [],     7,                             7),
    ("FP32",   [0, 3], [],                            np.empty((0, 3))),
    ("FP32",   [2, 0], [[], []],                      np.empty((2, 0))),
    ("FP32",   [2, 0], [],                            np.empty((2, 0))),
    ("FP32",   [1.0],  [0.1],                         [0.1]),
    ("FP16",   [2],    [0.5, 65504],                  [0.5, 65504]),
    ("FP64",   [1],    [0.1],                         [0.1]),
    ("INT32",  [3],    [5.0, -6, 7],                  [5, -6, 7]),
    ("INT32",  [2, 1], [[5.0], [-0.0]],               [[5], [0]]),
    ("INT64",  [3],    [9007199254740993, -2**63, 5.0], [9007199254740993, -2**63, 5]),
    ("UINT64", [1],    [2**64 - 1],                   [2**64 - 1]),
    ("UINT8",  [2],    [0, 255],                      [0, 255]),
    ("INT8",   [2],    [-128, 127],                   [-128, 127]),
    ("BOOL",   [2],    [True, False],                 [True, False]),
    ("BOOL",   [1, 2], [[True, False]],               [[True, False]]),
    ("BYTES",  [2],    ["é", ""],                     ["é".encode(), b""]),
    ("BYTES",  [1, 1], [["a\0b"]],                    [[b"a\0b"]]),
    ("BYTES",  [2],    [{"b64": "/wA="}, "b"],        [b"\xff\0", b"b"]),
]
# fmt: on


@pytest.mark.parametrize(("datatype", "shape", "data", "expected"), TAKEN)
def test_json_data_is_taken(datatype: str, shape: Any, data: Any, expected: Any) -> None:
    body = json.dumps(ask(tensor("x", shape, datatype, data=data), named=datatype)).encode()
    got = decode(body, SIGNATURES, context()).inputs["x"]
    assert same(got, np.array(expected, BY_V2_NAME[datatype].numpy))


def test_tokens_for_what_is_not_finite_are_taken() -> None:
    body = b'{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[NaN,-Infinity]}],"parameters":%s}'
    got = decode(body % b'{"signature_name":"one"}', SIGNATURES).inputs["x"]
    assert same(got, np.array([[np.nan, -np.inf]], np.float32))


def test_inputs_come_in_any_order_with_what_nobody_knows() -> None:
    body = {
        "model_name": "other",
        "inputs": [
            tensor("n", [1], "INT32", data=[3], parameters={"content_type": "np"}, other=1),
            tensor("x", [1, 2], "FP32", data=[1, 2], parameters=None),
        ],
        "parameters": {"priority": 3, "triton_x": "y", "binary_data_output": None},
        "outputs": None,
        "id": None,
    }
    call = decode(json.dumps(body).encode(), SIGNATURES, context())
    assert call.signature.name == "serving_default"
    assert list(call.inputs["n"]) == [3]
    answer = answered(call, y=np.ones(1, np.float32), text=np.array([b"a"], object))
    assert list(answer) == ["model_name", "model_version", "outputs"]


def test_the_answer_repeats_id_and_version_and_is_flat() -> None:
    call = decode(json.dumps(ask(tensor(data=[[1, 2]]), id="42")).encode(), SIGNATURES, context())
    assert answered(call, y=np.array([[0.1], [2]], np.float32)) == {
        "model_name": "model", "model_version": "1", "id": "42",
        "outputs": [{"name": "y", "shape": [2, 1], "datatype": "FP32", "data": [0.1, 2.0]}],
    }  # fmt: skip


def test_an_empty_id_comes_back() -> None:
    call = decode(json.dumps(ask(tensor(data=[[1, 2]]), id="")).encode(), SIGNATURES, context())
    assert answered(call, y=np.ones(1, np.float32))["id"] == ""


def test_outputs_are_those_that_were_asked_for_in_that_order() -> None:
    inputs = [tensor("x", data=[1, 2]), tensor("n", [1], "INT32", data=[1])]
    outputs = {"y": np.ones(1, np.float32), "text": np.array([b"a"], object)}
    for names in (["text"], ["text", "y"], []):
        body = json.dumps(ask(*inputs, named=None, outputs=[{"name": name} for name in names])).encode()
        answer = answered(decode(body, SIGNATURES, context()), **outputs)
        assert [one["name"] for one in answer["outputs"]] == (names or ["y", "text"])


# fmt: off
BINARY = [
    # request's binary_data_output, output's binary_data, is binary
    (None,  None,  False),
    (True,  None,  True),
    (False, None,  False),
    (None,  True,  True),
    (None,  False, False),
    (True,  False, False),
    (False, True,  True),
]
# fmt: on


@pytest.mark.parametrize(("of_all", "of_one", "expected"), BINARY)
def test_an_output_is_binary_when_asked(of_all: bool | None, of_one: bool | None, expected: bool) -> None:
    parameters = {} if of_all is None else {"binary_data_output": of_all}
    output = {"name": "y"} if of_one is None else {"name": "y", "parameters": {"binary_data": of_one}}
    body = json.dumps(ask(tensor(data=[1, 2]), parameters=parameters, outputs=[output])).encode()
    response = encode(decode(body, SIGNATURES, context()), {"y": np.array([1.5], np.float32)})
    assert (response.content_type == "application/octet-stream") == expected
    if expected:
        head, blob = parts(response)
        assert head["outputs"] == [
            {"name": "y", "shape": [1], "datatype": "FP32", "parameters": {"binary_data_size": 4}}
        ]
        assert blob == struct.pack("<f", 1.5)


def test_blobs_and_json_mix_both_ways() -> None:
    words = struct.pack("<I", 3) + b"a\xffb"
    body, its = framed(ask(
        tensor("n", [1], "INT32", data=[9]), binary(8, name="x"), named=None,
        outputs=[{"name": "text", "parameters": {"binary_data": True}}, {"name": "y"}],
    ), struct.pack("<2f", 1, 2))  # fmt: skip
    call = decode(body, SIGNATURES, its)
    assert call.inputs["x"].tolist() == [[1, 2]]
    head, blob = parts(encode(call, {"y": np.array([np.nan], np.float32), "text": np.array([b"a\xffb"], object)}))
    assert blob == words
    assert head["outputs"][0]["parameters"] == {"binary_data_size": 7}
    assert np.isnan(head["outputs"][1]["data"][0])


def test_binary_data_are_not_copied_and_may_be_unaligned() -> None:
    for padding in range(8):
        body, its = framed(json.dumps(ask(binary(16, shape=[2, 2]))).encode() + b" " * padding, bytes(range(16)))
        array = decode(body, SIGNATURES, its).inputs["x"]
        assert np.shares_memory(array, np.frombuffer(body, np.uint8))
        assert array.tobytes() == bytes(range(16))


def test_an_empty_blob_may_stand_beside_null() -> None:
    body = json.dumps(ask({**binary(0, shape=[0, 2]), "data": None})).encode()
    for its in (context(), context(len(body))):
        assert decode(body, SIGNATURES, its).inputs["x"].shape == (0, 2)


def test_a_header_as_long_as_the_body_is_plain_json() -> None:
    body = json.dumps(ask(tensor(data=[1, 2]))).encode()
    assert decode(body, SIGNATURES, context(len(body))).inputs["x"].tolist() == [[1, 2]]


def test_the_header_may_have_any_case() -> None:
    body, _ = framed(ask(binary(8)), bytes(8))
    its = Context(AnyCase({HEADER.lower(): str(len(body) - 8)}))
    assert decode(body, SIGNATURES, its).inputs["x"].shape == (1, 2)


def raw(body: bytes, name: str) -> Call:
    return decode(body, {"serving_default": SIGNATURES[name]}, context(0))


# fmt: off
RAW = [
    # signature, body, shape
    ("one",    bytes(16),     (2, 2)),
    ("one",    b"",           (0, 2)),
    ("fixed",  bytes(16),     (2, 2)),
    ("rowless", b"",          (0, 0)),
]
# fmt: on


@pytest.mark.parametrize(("name", "body", "shape"), RAW)
def test_a_body_without_json_is_the_one_input(name: str, body: bytes, shape: tuple[int, ...]) -> None:
    call = raw(body, name)
    assert call.inputs["x"].shape == shape
    head, blob = parts(encode(call, {"y": np.array([2], np.float32)}))
    assert head["outputs"][0]["parameters"] == {"binary_data_size": 4}
    assert blob == struct.pack("<f", 2)


def test_a_body_without_json_is_one_element_of_bytes() -> None:
    for shape in ((None,), (1,), (None, 1), (None, None), ()):
        one = signature("serving_default", [spec("x", "BYTES", shape)], [spec("y", "FP32", ())])
        call = decode(b"\x89PNG", {"serving_default": one}, context(0))
        assert same(call.inputs["x"], np.array([b"\x89PNG"], object).reshape((1,) * len(shape)))


def test_a_signature_may_take_nothing() -> None:
    assert decode(b'{"inputs":[],"parameters":{"signature_name":"nothing"}}', SIGNATURES).inputs == {}


# What is refused

GOOD = tensor(data=[1, 2])
X8 = binary(8)


def with_json(**more: Any) -> Any:
    return ask({**GOOD, **more})


# fmt: off
REFUSED: list[tuple[Any, str]] = [
    # The document
    (b"",                                                        "body: expected a JSON object, got nothing"),
    (b"[]",                                                      "body: expected a JSON object, got a list"),
    (b"{",                                                       "body: not JSON"),
    (b"\xff",                                                    "body: not JSON: not UTF-8 at byte 0"),
    (b"[" * 100_000,                                             "body: "),
    (b'{"inputs":[],"inputs":[]}',                               "the key 'inputs' appears twice"),
    (b"{}",                                                      "body: expected 'inputs' (a list of tensors), got nothing"),
    (b'{"instances":[1]}',                                       "expected 'inputs' (a list of tensors), got 'instances'"),
    (b'{"inputs":{}}',                                           "inputs: expected a list of tensors, got an object"),
    (b'{"inputs":7}',                                            "inputs: expected a list of tensors, got 7"),
    (ask(GOOD, id=7),                                            "id: expected a string, got 7"),
    (ask(GOOD, id=["a"]),                                        "id: expected a string, got a list"),
    (b'{"inputs":[],"parameters":[]}',                           "parameters: expected an object, got a list"),
    (b'{"inputs":[],"parameters":{"a":1,"a":2}}',                "parameters: the key 'a' appears twice"),
    (ask(GOOD, named=None, parameters={"signature_name": 5}),    "parameters.signature_name: expected a string, got 5"),
    (ask(GOOD, named="ones"),                                    "no signature 'ones'; did you mean 'one'?"),
    (ask(GOOD, named="refused"),                                 "'refused' cannot be called"),
    (ask(GOOD, parameters={"binary_data_output": 1}),            "parameters.binary_data_output: expected true or false, got 1"),
    # Names
    (ask(),                                                      "inputs: 'x' is missing; expected 'x'"),
    (ask(GOOD, named=None),                                      "inputs: 'n' is missing; expected 'x', 'n'"),
    (ask(7),                                                     "inputs[0]: expected an object with a name, got 7"),
    (ask(GOOD, None),                                            "inputs[1]: expected an object with a name, got null"),
    (ask(GOOD, GOOD),                                            "inputs[1].name: 'x' appears twice"),
    (ask({"shape": [1], "data": [1]}),                           "inputs[0].name: expected a string, got nothing"),
    (with_json(name=["x"]),                                      "inputs[0].name: expected a string, got a list"),
    (with_json(name=None),                                       "inputs[0].name: expected a string, got null"),
    (with_json(name="X"),                                        "no input 'X'; did you mean 'x'?"),
    (with_json(name="z" * 5000),                                 "the signature has no input 'zzz"),
    (b'{"inputs":[{"name":"x","name":"x"}]}',                    "inputs[0]: the key 'name' appears twice"),
    (b'{"inputs":[{"na\\u0000me":"x"}]}',                        "inputs[0].name: expected a string, got nothing"),
    # Datatypes
    ({"inputs": [{"name": "x"}]},                                "inputs[0].datatype: expected FP32 for 'x', got nothing"),
    (with_json(datatype="FP64"),                                 'inputs[0].datatype: expected FP32 for \'x\', got the string "FP64"'),
    (with_json(datatype="fp32"),                                 'got the string "fp32"'),
    (with_json(datatype="float32"),                              'got the string "float32"'),
    (with_json(datatype=1),                                      "inputs[0].datatype: expected FP32 for 'x', got 1"),
    (with_json(datatype=None),                                   "inputs[0].datatype: expected FP32 for 'x', got null"),
    (ask(tensor("c", [1], "COMPLEX64", data=[1]), named="complex"), "the model takes complex64, which this protocol lacks"),
    # Shapes
    (ask({"name": "x", "datatype": "FP32"}),                     "inputs[0].shape: expected a list of sizes for 'x', got nothing"),
    (with_json(shape=2),                                         "inputs[0].shape: expected a list of sizes for 'x', got 2"),
    (with_json(shape={"0": 1}),                                  "got an object"),
    (with_json(shape=[-1, 2]),                                   "inputs[0].shape[0]: expected a whole number of 0 or more, got -1"),
    (with_json(shape=["1", 2]),                                  'inputs[0].shape[0]: expected a whole number of 0 or more, got the string "1"'),
    (with_json(shape=[1.5, 2]),                                  "got 1.5"),
    (with_json(shape=[True, 2]),                                 "got true"),
    (with_json(shape=[[1], 2]),                                  "inputs[0].shape[0]: expected a whole number of 0 or more, got a list"),
    (with_json(shape=[None, 2]),                                 "got null"),
    (with_json(shape=[1] * 40),                                  "inputs[0].shape: expected at most 32 sizes, got 40"),
    (with_json(shape=[2]),                                       "inputs[0].shape: 'x': expected shape [?, 2], got [2]"),
    (with_json(shape=[1, 3]),                                    "inputs[0].shape: 'x': expected shape [?, 2], got [1, 3]"),
    (with_json(shape=[10_000, 2]),                               "expected 20000 elements for the shape"),
    (ask(tensor("x", [1, 10**30], "INT8", data=[1]), named="free"), "elements for the shape"),
    (ask(tensor("x", [0, 2**62], "INT8", data=[]), named="free"), "as the product of the sizes beside a 0"),
    (ask(binary(0, name="x", shape=[0, 2**40], datatype="INT8"), named="free"), "as the product of the sizes beside a 0"),
    # Data in JSON
    (ask(tensor()),                                              "inputs[0]: expected either data or parameters.binary_data_size, got neither"),
    (with_json(data=None),                                       "got neither"),
    (with_json(data=[]),                                         "inputs[0].data: expected 2 elements for the shape [1, 2], got 0"),
    (with_json(data=[1]),                                        "inputs[0].data: expected 2 elements for the shape [1, 2], got 1"),
    (with_json(data=[1, 2, 3]),                                  "got 3"),
    (with_json(data=[[1], [2]]),                                 "flat or nested as the shape [1, 2] says, got the shape [2, 1]"),
    (with_json(data=5),                                          "got the shape []"),
    (with_json(data={"x": 1}),                                   "inputs[0].data: expected float32, got an object"),
    (with_json(data="abc"),                                      'inputs[0].data: expected float32, got the string "abc"'),
    (with_json(data=[1, "2"]),                                   'inputs[0].data[1]: expected float32, got the string "2"'),
    (with_json(data=[1, None]),                                  "inputs[0].data[1]: expected float32, got null"),
    (with_json(data=[1, True]),                                  "inputs[0].data[1]: expected float32, got true"),
    (with_json(data=[[1, 2], [3]]),                              "inputs[0].data[1]: expected 2 elements"),
    (b'{"inputs":[{"name":"x","a\\u0000":1,"a\\u0000":2}]}',     "inputs[0]: the key 'a\\x00' appears twice"),
    (with_json(data=[1, [2]]),                                   "inputs[0].data[1]: expected float32, got a list"),
    (with_json(data=[1, 1e39]),                                  "inputs[0].data[1]: expected float32, got 1e+39, which is out of its range"),
    (ask(tensor("x", [1], "FP16", data=[70000]), named="FP16"),  "expected float16, got 70000, which is out of its range"),
    (ask(tensor("x", [1], "BF16", data=[1.0]), named="BF16", parameters={"binary_data_output": True}), "BF16 has no JSON form; send it in binary"),
    (ask(tensor("x", [1], "INT32", data=[5.5]), named="INT32"),  "inputs[0].data[0]: expected int32, got 5.5"),
    (ask(tensor("x", [1], "INT32", data=[2**31]), named="INT32"), "expected int32, from -2147483648 to 2147483647, got 2147483648"),
    (ask(tensor("x", [1], "UINT8", data=[256]), named="UINT8"),  "expected uint8, from 0 to 255, got 256"),
    (ask(tensor("x", [2], "UINT8", data=[1.0, -1]), named="UINT8"), "inputs[0].data[1]: expected uint8, from 0 to 255, got -1"),
    (ask(tensor("x", [1], "INT64", data=[2**63]), named="INT64"), "expected int64"),
    (ask(tensor("x", [1], "INT64", data=[1e300]), named="INT64"), "expected int64"),
    (ask(tensor("x", [1], "INT64", data=[True]), named="INT64"), "expected int64, got true"),
    (ask(tensor("x", [1], "BOOL", data=[1]), named="BOOL"),      "expected bool, got 1"),
    (ask(tensor("x", [1], "BYTES", data=[1]), named="BYTES"),    'expected a string or {"b64": "..."}, got 1'),
    (ask(tensor("x", [1], "BYTES", data=[{"b64": "?"}]), named="BYTES"), "expected base64"),
    (ask(tensor("x", [1], "BYTES", data="a"), named="BYTES"),    "got the shape []"),
    # Outputs
    (ask(GOOD, outputs={}),                                      "outputs: expected a list, got an object"),
    (ask(GOOD, outputs="y"),                                     "outputs: expected a list, got the string"),
    (ask(GOOD, outputs=["y"]),                                   "outputs[0]: expected an object with a name, got the string"),
    (ask(GOOD, outputs=[{}]),                                    "outputs[0].name: expected a string, got nothing"),
    (ask(GOOD, outputs=[{"name": "Y"}]),                         "outputs[0].name: the signature has no output 'Y'; did you mean 'y'?"),
    (ask(GOOD, outputs=[{"name": "y"}, {"name": "y"}]),          "outputs[1].name: 'y' appears twice"),
    (ask(GOOD, outputs=[{"name": "y", "parameters": 1}]),        "outputs[0].parameters: expected an object, got 1"),
    (ask(GOOD, outputs=[{"name": "y", "parameters": {"binary_data": "yes"}}]), "outputs[0].parameters.binary_data: expected true or false"),
    (ask(GOOD, outputs=[{"name": "y", "parameters": {"classification": -3}}]), "outputs[0].parameters.classification: expected a whole number of 1 or more, got -3"),
    (ask(GOOD, outputs=[{"name": "y", "parameters": {"classification": "3"}}]), "outputs[0].parameters.classification: expected a whole number"),
    (ask(tensor("x", [1], "FP32", data=[1]), named="to_complex"), "outputs: 'c' is complex64, which this protocol lacks"),
    (ask(binary(0, shape=[0], datatype="BF16"), named="BF16"),   "outputs: 'x' is BF16, which has no JSON form; ask for it in binary"),
    # Binary
    (ask(X8),                                                    f"expected at most 0, got 8; the header {HEADER} says where"),
    (framed(ask(X8)),                                            "inputs[0].parameters.binary_data_size: expected at most 0, got 8"),
    (framed(ask(X8), bytes(7)),                                  "expected at most 7, got 8"),
    (framed(ask(X8), bytes(9)),                                  "body: expected 8 bytes after the JSON, as the inputs' binary_data_size add up to, got 9"),
    (framed(ask(GOOD), bytes(1)),                                "body: expected 0 bytes after the JSON"),
    (framed(ask(binary(4)), bytes(4)),                           "inputs[0]: expected 8 bytes for FP32 of the shape [1, 2], got 4"),
    (framed(ask(binary(8, shape=[10_000, 2])), bytes(8)),        "inputs[0]: expected 80000 bytes"),
    (framed(ask(binary(-8)), bytes(8)),                          "binary_data_size: expected a whole number of 0 or more, got -8"),
    (framed(ask(binary("8")), bytes(8)),                         "binary_data_size: expected a whole number of 0 or more, got the string"),
    (framed(ask(binary(True)), bytes(8)),                        "got true"),
    (framed(ask(binary(8.5)), bytes(8)),                         "got 8.5"),
    (framed(ask(binary(10**30)), bytes(8)),                      "expected at most 8, got 1000000000000000000000000000000"),
    (framed(ask({**X8, "data": [1, 2]}), bytes(8)),              "expected either data or parameters.binary_data_size, got both"),
    (framed(ask({**X8, "parameters": []}), bytes(8)),            "inputs[0].parameters: expected an object, got a list"),
    (framed(ask(binary(2, shape=[2], datatype="BOOL"), named="BOOL"), b"\1\2"), "expected bytes of 0 or 1 for BOOL, got 2 at element 1"),
    (framed(ask(binary(3, shape=[1], datatype="BYTES"), named="BYTES"), b"\0\0\0"), "expected 1 elements of BYTES, each after its length, got 3 bytes"),
    (framed(ask(binary(4, shape=[1], datatype="BYTES"), named="BYTES"), b"\xff\xff\xff\xff"), "inputs[0]: element 0 says 4294967295 bytes, got 0"),
    (framed(ask(binary(8, shape=[2], datatype="BYTES"), named="BYTES"), b"\2\0\0\0ab\0\0"), "inputs[0]: expected 2 elements of BYTES, got 1"),
    (framed(ask(binary(6, shape=[1], datatype="BYTES"), named="BYTES"), b"\1\0\0\0ab"), "expected 1 elements of BYTES, got 1 bytes more"),
    (framed(ask(binary(4, shape=[10_000], datatype="BYTES"), named="BYTES"), bytes(4)), "elements of BYTES, each after its length"),
    # The header
    ((b"{}", context("")),                                       f"{HEADER}: expected a number of bytes, got ''"),
    ((b"{}", context("-1")),                                     "expected a number of bytes, got '-1'"),
    ((b"{}", context("+1")),                                     "expected a number of bytes, got '+1'"),
    ((b"{}", context("1.0")),                                    "expected a number of bytes, got '1.0'"),
    ((b"{}", context("0x2")),                                    "expected a number of bytes"),
    ((b"{}", context("²")),                                      "expected a number of bytes"),
    ((b"{}", context("2, 2")),                                   "expected a number of bytes"),
    ((b"{}", context("9" * 5000)),                               "expected a number of bytes"),
    ((b"{}", context(3)),                                        "expected at most 2, the length of the body, got 3"),
    ((b'{"inputs":[]}', context(5)),                             "body: not JSON"),
    ((bytes(8), context(0)),                                     "0, a body without JSON, is for a model of one input; 'serving_default' has 'x', 'n'"),
]
RAW_REFUSED = [
    ("one",     bytes(7),  "expected a multiple of 8 bytes, got 7"),
    ("fixed",   bytes(8),  "expected 16 bytes, got 8"),
    ("free",    bytes(8),  "its shape [?, ?] does not follow from the size"),
    ("FP32",    bytes(8),  "its shape any does not follow from the size"),
    ("rowless", bytes(8),  "expected a multiple of 0 bytes, got 8"),
    ("complex", bytes(8),  "complex64"),
    ("nothing", b"",       "is for a model of one input; 'nothing' has none"),
]
# fmt: on


@pytest.mark.parametrize(("body", "words"), REFUSED, ids=[words for _, words in REFUSED])
def test_a_wrong_body_is_refused(body: Any, words: str) -> None:
    text, its = body if isinstance(body, tuple) else (body, context())
    with pytest.raises(BadRequest) as refusal:
        decode(text if isinstance(text, bytes) else json.dumps(text).encode(), SIGNATURES, its)
    assert refusal.value.status == 400
    assert words in str(refusal.value)
    assert len(str(refusal.value)) < 500


@pytest.mark.parametrize(("name", "body", "words"), RAW_REFUSED, ids=[one[0] for one in RAW_REFUSED])
def test_a_wrong_body_without_json_is_refused(name: str, body: bytes, words: str) -> None:
    with pytest.raises(BadRequest) as refusal:
        raw(body, name)
    assert words in str(refusal.value)


@pytest.mark.parametrize("rows", [2**40 + 1, 2**62, 10**30])
def test_more_rows_than_may_be_are_refused_before_anything_is_made(rows: int) -> None:
    for body in (
        ask(tensor("x", [rows, 2], "FP32", data=[0, 0])),
        ask(binary(0, name="x", shape=[rows, 0], datatype="INT8"), named="free"),
    ):
        with pytest.raises((BadRequest, TooLarge), match=f"(MAX_ROWS|beside a 0).*got {rows}$"):
            decode(json.dumps(body).encode(), SIGNATURES, context())


def test_a_refusal_knows_its_signature() -> None:
    with pytest.raises(BadRequest) as refusal:
        decode(json.dumps(ask(tensor(data=[1]))).encode(), SIGNATURES, context())
    assert refusal.value.signature == "one"


def test_an_output_that_json_cannot_hold_is_refused() -> None:
    body = json.dumps(ask(tensor("x", [2], "BYTES", data=["a", "b"]), named="BYTES")).encode()
    call = decode(body, SIGNATURES, context())
    with pytest.raises(BadRequest, match=r"element 1 of 'x' is not UTF-8.*ask for it in binary") as refusal:
        encode(call, {"x": np.array([b"a", b"\xff"], object)})
    assert not refusal.value.example


# Round trips


FLOATS = {"FP16": 16, "FP32": 32, "FP64": 64}


def elements(datatype: str) -> st.SearchStrategy[Any]:
    if datatype == "BYTES":
        return st.binary(max_size=9)
    if datatype in FLOATS:
        return st.floats(width=FLOATS[datatype])  # type: ignore[arg-type]
    return arrays_of.from_dtype(np.dtype(np.uint16 if datatype == "BF16" else BY_V2_NAME[datatype].numpy_name))


@st.composite
def tensors(draw: st.DrawFn) -> tuple[str, Array]:
    datatype = draw(st.sampled_from(sorted(BY_V2_NAME)))
    shape = draw(arrays_of.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
    stored = np.dtype(np.uint16) if datatype == "BF16" else np.dtype(BY_V2_NAME[datatype].numpy_name)
    array = draw(arrays_of.arrays(stored, shape, elements=elements(datatype), fill=st.nothing()))
    return datatype, array.view(BY_V2_NAME[datatype].numpy) if datatype == "BF16" else array


@given(tensors(), st.integers(0, 7))
def test_binary_round_trips(given_: tuple[str, Array], padding: int) -> None:
    datatype, array = given_
    blob = bytes(to_bytes(array))
    request = ask(binary(len(blob), shape=array.shape, datatype=datatype), named=datatype)
    request["parameters"]["binary_data_output"] = True
    body, its = framed(json.dumps(request).encode() + b" " * padding, blob)
    call = decode(body, SIGNATURES, its)
    assert same(call.inputs["x"], array)
    head, back = parts(encode(call, {"x": call.inputs["x"]}))
    (output,) = head["outputs"]
    assert (output["shape"], output["datatype"]) == (list(array.shape), datatype)
    assert output["parameters"]["binary_data_size"] == len(blob)
    assert back == blob


@given(tensors(), st.booleans())
def test_json_round_trips(given_: tuple[str, Array], nested: bool) -> None:
    datatype, array = given_
    if datatype == "BF16":
        return
    if datatype == "BYTES":
        array = np.array([element.decode("latin-1").encode() for element in array.ravel()], object).reshape(array.shape)
    call = Call(SIGNATURES[datatype], {}, decode_form(datatype))
    (output,) = answered(call, x=array)["outputs"]
    data = output["data"]
    assert isinstance(data, list)
    if nested:
        data = np.array(data, object).reshape(array.shape).tolist()
    body = json.dumps(ask(tensor("x", output["shape"], datatype, data=data), named=datatype)).encode()
    came = decode(body, SIGNATURES, context()).inputs["x"]
    if datatype in FLOATS:  # one NaN is as good as another
        assert came.dtype == array.dtype
        np.testing.assert_array_equal(came, array)
        assert (np.signbit(came) == np.signbit(array))[~np.isnan(array)].all()
    else:
        assert same(came, array)


def decode_form(datatype: str) -> Any:
    one = SIGNATURES[datatype]
    return open_inference.Form(None, (open_inference.Output(one.outputs["x"], False),), context())


# Whatever comes

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["x", "FP32"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["name", "shape", "datatype", "data", "parameters", "binary_data_size", "a", "x\0"]), inner
        )
    ),
    max_leaves=12,
)
TENSOR = st.fixed_dictionaries(
    {"name": st.just("x"), "datatype": st.sampled_from(sorted(BY_V2_NAME)), "shape": JSON | st.lists(st.integers())},
    optional={
        "data": JSON | st.lists(st.integers() | st.floats()),
        "parameters": JSON | st.fixed_dictionaries({"binary_data_size": st.integers(-1, 40) | JSON}),
    },
)
DOCUMENT = st.fixed_dictionaries(
    {"inputs": st.lists(TENSOR | JSON, max_size=2) | JSON},
    optional={
        "outputs": JSON | st.lists(st.fixed_dictionaries({"name": st.just("x")}, optional={"parameters": JSON})),
        "parameters": st.fixed_dictionaries({"signature_name": st.sampled_from(sorted(SIGNATURES))}) | JSON,
        "id": JSON,
    },
)
SIZES = st.none() | st.integers(-2, 400).map(str) | st.text(max_size=6)


def either_way(body: bytes, size: str | None) -> None:
    try:
        call = decode(body, SIGNATURES, context(size))
    except BadRequest:
        return
    assert call.inputs.keys() == call.signature.inputs.keys()
    for name, array in call.inputs.items():
        assert array.dtype == call.signature.inputs[name].dtype.numpy


@given(st.binary(), SIZES)
def test_any_bytes_are_decoded_or_refused(body: bytes, size: str | None) -> None:
    either_way(body, size)


@given(DOCUMENT | JSON, st.binary(max_size=40), SIZES, st.booleans())
def test_any_json_is_decoded_or_refused(document: Any, blob: bytes, size: str | None, framed_: bool) -> None:
    head = json.dumps(document).encode()
    either_way(head + blob if framed_ else head, str(len(head)) if framed_ else size)


@given(st.integers(-1, 40), st.integers(-1, 5), st.binary(max_size=40))
def test_lengths_that_lie_are_refused(size: int, count: int, blob: bytes) -> None:
    body, its = framed(ask(binary(size, shape=[count], datatype="BYTES"), named="BYTES"), blob)
    either_way(body, its.headers.get(HEADER))


# What is offered


def contents(*names: str) -> Contents:
    return Contents(("serve",), {name: SIGNATURES[name] for name in names}, "2.21.0", restores=False)


def test_metadata_shows_the_default_signature() -> None:
    tensors_of_default = {
        "inputs": [
            {"name": "x", "datatype": "FP32", "shape": [-1, 2]},
            {"name": "n", "datatype": "INT32", "shape": [-1]},
        ],
        "outputs": [
            {"name": "y", "datatype": "FP32", "shape": [-1]},
            {"name": "text", "datatype": "BYTES", "shape": [-1]},
        ],
    }
    expected = {"name": "m", "versions": ["3"], "platform": "tensorflow_savedmodel", **tensors_of_default}
    assert orjson.loads(open_inference.metadata("m", "3", contents("serving_default"), {})) == expected
    more = orjson.loads(open_inference.metadata("m", "3", contents("one", "refused", "serving_default"), {}))
    assert more.pop("signatures").keys() == {"one", "serving_default"}
    assert more == expected


def test_metadata_shows_what_there_is_without_a_default() -> None:
    shown = orjson.loads(open_inference.metadata("m", "3", contents("complex", "nothing"), {}))
    assert shown["inputs"] == [{"name": "c", "datatype": "COMPLEX64", "shape": [-1]}]
    assert shown["signatures"]["nothing"] == {
        "inputs": [], "outputs": [{"name": "y", "datatype": "FP32", "shape": []}]
    }  # fmt: skip


def test_the_server_says_what_it_can() -> None:
    said = orjson.loads(open_inference.server())
    assert said.keys() == {"name", "version", "extensions"}
    assert said["extensions"] == ["binary_tensor_data"]
    assert orjson.loads(open_inference.ready()) == {"live": True, "ready": True}
    assert orjson.loads(open_inference.ready("m")) == {"name": "m", "ready": True}


@pytest.mark.parametrize("name", [name for name in SIGNATURES if name not in ("refused", "complex", "BF16")])
def test_an_example_works(name: str) -> None:
    call = decode(open_inference.example(SIGNATURES[name]), SIGNATURES, context())
    assert call.signature is SIGNATURES[name]
    assert all(array.size in (0, 1, 2, 4) for array in call.inputs.values())


def test_there_is_no_example_where_json_cannot_be_one() -> None:
    assert open_inference.example(SIGNATURES["complex"]) == open_inference.example(SIGNATURES["BF16"]) == b""


def test_an_example_asks_for_what_can_be_answered() -> None:
    mixed = signature("mixed", [], [spec("h", "BF16", ()), spec("c", "COMPLEX", ())])
    body = open_inference.example(mixed)
    assert [one.spec.name for one in decode(body, {"mixed": mixed}, context()).form.outputs] == ["h"]


def test_an_exporters_example_is_translated() -> None:
    saved = {"signature_name": "one", "instances": [[1, 2], [3, 4]]}
    body = open_inference.example(SIGNATURES["one"], saved)
    assert decode(body, SIGNATURES).inputs["x"].tolist() == [[1, 2], [3, 4]]
    assert b'"data":[0.0,0.0]' in open_inference.example(SIGNATURES["one"], {"instances": "junk"})
    picture = open_inference.example(SIGNATURES["BYTES"], {"signature_name": "BYTES", "inputs": [{"b64": "/w=="}]})
    assert decode(picture, SIGNATURES).inputs["x"].tolist() == [b"\xff"]


def test_a_place_has_a_name() -> None:
    call = decode(json.dumps(ask(tensor(data=[1, 2]))).encode(), SIGNATURES, context())
    assert open_inference.place(call, None) == "inputs[0] 'x'"
    assert open_inference.place(call, 3) == "inputs[0] 'x', row 3"


# Compression

# fmt: off
ACCEPTED = [
    # Accept-Encoding                       used
    (None,                                  None),
    ("",                                    None),
    ("identity",                            None),
    ("br",                                  None),
    ("*",                                   None),
    ("gzip",                                "gzip"),
    ("GZIP",                                "gzip"),
    ("deflate",                             "deflate"),
    ("gzip, deflate, br",                   "gzip"),
    ("deflate, gzip",                       "gzip"),
    ("gzip;q=0.5, deflate;q=0.8",           "deflate"),
    ("gzip;q=0, deflate; q=0",              None),
    ("gzip ; q=0.001",                      "gzip"),
    ("gzip;q=nan",                          None),
    ("gzip;q=-1, deflate;q=9",              None),
    ("," * 5000 + "gzip",                   None),
]
# fmt: on


@pytest.mark.parametrize(("accept", "used"), ACCEPTED, ids=[str(accept)[:40] for accept, _ in ACCEPTED])
def test_a_response_is_compressed_when_asked(accept: str | None, used: str | None) -> None:
    body = b"0.125," * 1000
    response = compress(Response(200, body, headers=((HEADER, "12"),)), accept)
    headers = dict(response.headers)
    assert headers[HEADER] == "12"
    assert headers.get("Content-Encoding") == used
    unpack = {None: bytes, "gzip": gzip.decompress, "deflate": zlib.decompress}[used]
    assert unpack(response.body) == body
    assert (len(response.body) < len(body)) == (used is not None)


LEFT_ALONE = {
    "short": Response(200, b"x" * 1023),
    "an error": Response(400, b"x" * 5000),
    "no smaller": Response(200, np.random.default_rng(1).bytes(5000)),
}


@pytest.mark.parametrize("response", LEFT_ALONE.values(), ids=LEFT_ALONE)
def test_a_response_is_left_alone_where_that_would_not_help(response: Response) -> None:
    assert compress(response, "gzip") is response


@given(st.text(max_size=40) | st.lists(st.sampled_from(["gzip", "deflate", ";", "q=", "0.5", ",", " "])).map("".join))
def test_any_accept_encoding_is_read(accept: str) -> None:
    compress(Response(200, b"a" * 2000), accept)


@given(st.sampled_from(["gzip", "deflate"]), st.binary(min_size=1024, max_size=4096))
def test_compression_round_trips(encoding: str, body: bytes) -> None:
    response = compress(Response(200, body * 2), encoding)
    headers = {"content-encoding": dict(response.headers).get("Content-Encoding", "identity")}
    assert read_body(Request("POST", "/", headers=headers, body=response.body), 1 << 20) == body * 2
