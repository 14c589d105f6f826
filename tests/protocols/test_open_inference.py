"""The Open Inference Protocol: the bodies that are accepted, and the metadata."""

import json
import struct
from typing import Any

import numpy as np
import orjson
import pytest

from serving.protocols import open_inference
from serving.protocols.call import Context
from serving.protocols.kinds import HEADER
from serving.protocols.open_inference import decode, encode
from serving.savedmodel.signature import Contents
from tests.protocols.inference_bodies import (
    BY_V2_NAME,
    SIGNATURES,
    AnyCase,
    answered,
    ask,
    binary,
    context,
    framed,
    parts,
    raw,
    same,
    signature,
    spec,
    tensor,
)

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
def test_json_data_is_accepted(datatype: str, shape: Any, data: Any, expected: Any) -> None:
    body = json.dumps(ask(tensor("x", shape, datatype, data=data), named=datatype)).encode()
    got = decode(body, SIGNATURES, context()).inputs["x"]
    assert same(got, np.array(expected, BY_V2_NAME[datatype].numpy))


def test_tokens_for_nan_and_the_infinities_are_accepted() -> None:
    body = b'{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[NaN,-Infinity]}],"parameters":%s}'
    got = decode(body % b'{"signature_name":"one"}', SIGNATURES).inputs["x"]
    assert same(got, np.array([[np.nan, -np.inf]], np.float32))


def test_inputs_may_have_any_order_and_unknown_members() -> None:
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


def test_an_empty_id_is_returned() -> None:
    call = decode(json.dumps(ask(tensor(data=[[1, 2]]), id="")).encode(), SIGNATURES, context())
    assert answered(call, y=np.ones(1, np.float32))["id"] == ""


def test_outputs_are_those_that_were_asked_for_in_that_order() -> None:
    inputs = [tensor("x", data=[1, 2]), tensor("n", [1], "INT32", data=[1])]
    outputs = {"y": np.ones(1, np.float32), "text": np.array([b"a"], object)}
    for names in (["text"], ["text", "y"], []):
        body = json.dumps(ask(*inputs, named=None, outputs=[{"name": name} for name in names])).encode()
        answer = answered(decode(body, SIGNATURES, context()), **outputs)
        assert [output["name"] for output in answer["outputs"]] == (names or ["y", "text"])


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


def test_binary_and_json_tensors_mix_in_requests_and_responses() -> None:
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
        bytes_signature = signature("serving_default", [spec("x", "BYTES", shape)], [spec("y", "FP32", ())])
        call = decode(b"\x89PNG", {"serving_default": bytes_signature}, context(0))
        assert same(call.inputs["x"], np.array([b"\x89PNG"], object).reshape((1,) * len(shape)))


def test_a_signature_without_inputs_is_answered() -> None:
    assert decode(b'{"inputs":[],"parameters":{"signature_name":"nothing"}}', SIGNATURES).inputs == {}


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


def test_the_server_metadata_lists_the_extensions() -> None:
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


def test_an_example_requests_only_outputs_that_json_can_hold() -> None:
    mixed = signature("mixed", [], [spec("h", "BF16", ()), spec("c", "COMPLEX", ())])
    body = open_inference.example(mixed)
    assert [output.spec.name for output in decode(body, {"mixed": mixed}, context()).form.outputs] == ["h"]


def test_an_exporters_example_is_translated() -> None:
    saved = {"signature_name": "one", "instances": [[1, 2], [3, 4]]}
    body = open_inference.example(SIGNATURES["one"], saved)
    assert decode(body, SIGNATURES).inputs["x"].tolist() == [[1, 2], [3, 4]]
    assert b'"data":[0.0,0.0]' in open_inference.example(SIGNATURES["one"], {"instances": "junk"})
    picture = open_inference.example(SIGNATURES["BYTES"], {"signature_name": "BYTES", "inputs": [{"b64": "/w=="}]})
    assert decode(picture, SIGNATURES).inputs["x"].tolist() == [b"\xff"]


def test_an_error_names_the_input_and_the_row() -> None:
    call = decode(json.dumps(ask(tensor(data=[1, 2]))).encode(), SIGNATURES, context())
    assert open_inference.place(call, None) == "inputs[0] 'x'"
    assert open_inference.place(call, 3) == "inputs[0] 'x', row 3"
