"""The Open Inference Protocol: the bodies that are refused, with the place of the error."""

import json
from typing import Any

import numpy as np
import pytest

from serving.core.http import BadRequest, TooLarge
from serving.protocols.kinds import HEADER
from serving.protocols.open_inference import decode, encode
from tests.protocols.inference_bodies import GOOD, SIGNATURES, X8, ask, binary, context, framed, raw, tensor


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
    (b'{"inputs":null}',                                         "inputs: expected a list of tensors, got null"),
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


@pytest.mark.parametrize(("name", "body", "words"), RAW_REFUSED, ids=[case[0] for case in RAW_REFUSED])
def test_a_wrong_body_without_json_is_refused(name: str, body: bytes, words: str) -> None:
    with pytest.raises(BadRequest) as refusal:
        raw(body, name)
    assert words in str(refusal.value)


@pytest.mark.parametrize("rows", [2**40 + 1, 2**62, 10**30])
def test_too_many_rows_are_refused_before_an_array_is_allocated(rows: int) -> None:
    for body in (
        ask(tensor("x", [rows, 2], "FP32", data=[0, 0])),
        ask(binary(0, name="x", shape=[rows, 0], datatype="INT8"), named="free"),
    ):
        with pytest.raises((BadRequest, TooLarge), match=f"(MAX_ROWS|beside a 0).*got {rows}$"):
            decode(json.dumps(body).encode(), SIGNATURES, context())


def test_an_error_carries_its_signature() -> None:
    with pytest.raises(BadRequest) as refusal:
        decode(json.dumps(ask(tensor(data=[1]))).encode(), SIGNATURES, context())
    assert refusal.value.signature == "one"


def test_an_output_that_json_cannot_hold_is_refused() -> None:
    body = json.dumps(ask(tensor("x", [2], "BYTES", data=["a", "b"]), named="BYTES")).encode()
    call = decode(body, SIGNATURES, context())
    with pytest.raises(BadRequest, match=r"element 1 of 'x' is not UTF-8.*ask for it in binary") as refusal:
        encode(call, {"x": np.array([b"a", b"\xff"], object)})
    assert not refusal.value.example
