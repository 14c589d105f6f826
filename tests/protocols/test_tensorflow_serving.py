"""TensorFlow Serving's predict: bodies and signatures alone, no TensorFlow."""

import json
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from serving.core.dtypes import DTYPES
from serving.core.http import BadRequest, ModelFault, TooLarge
from serving.protocols.call import MOST_ROWS_APART, Call, Context
from serving.protocols.tensorflow_serving import decode, encode, example, metadata
from serving.savedmodel.signature import Contents, Shape, Signature, TensorSpec
from tests.conftest import Serve
from tests.fuzz import rounds

BY_NAME = {dtype.numpy_name: dtype for dtype in DTYPES}


def spec(name: str, dtype: str, shape: Shape | None) -> TensorSpec:
    return TensorSpec(name, BY_NAME[dtype], shape, f"{name}:0")


def signature(name: str, inputs: list[TensorSpec], outputs: list[TensorSpec]) -> Signature:
    return Signature(
        name,
        {tensor.name: tensor for tensor in inputs},
        {tensor.name: tensor for tensor in outputs},
        "tensorflow/serving/predict",
    )


Y = spec("y", "float32", (None,))
# fmt: off
SIGNATURES = {described.name: described for described in (
    signature("serving_default", [spec("x", "float32", (None, 2))], [Y]),
    signature("scalars",  [spec("x", "float32", (None,))], [Y]),
    signature("two",      [spec("age", "int32", (None,)), spec("name", "object", (None,))], [Y]),
    signature("text",     [spec("text", "object", (None,))], [Y]),
    signature("rank0",    [spec("x", "float32", ())], [Y]),
    signature("free",     [spec("x", "float32", None)], [Y]),
    signature("fixed",    [spec("x", "float32", (2, 2))], [Y]),
    signature("none",     [], [Y]),
    signature("constant", [spec("x", "float32", (None, 2))], [spec("y", "float32", (3,))]),
    signature("complex",  [spec("z", "complex64", (None,))], [Y]),
    signature("complex_out", [spec("x", "float32", (None,))], [spec("y", "complex64", (None,))]),
    signature("resource", [TensorSpec("r", DTYPES[20], (), "r:0")], [Y]),
)}

RIGHT = [
    # signature          the rest of the body                                                   inputs
    ("",                 {"instances": [[1, 2], [3, 4]]},                                       {"x": [[1, 2], [3, 4]]}),
    ("serving_default",  {"instances": [{"x": [1, 2]}]},                                        {"x": [[1, 2]]}),
    ("serving_default",  {"inputs": [[1, 2]]},                                                  {"x": [[1, 2]]}),
    ("serving_default",  {"inputs": {"x": [[1, 2]]}},                                           {"x": [[1, 2]]}),
    ("serving_default",  {"inputs": {"x": [[1, 2]]}, "surplus": {"of": "keys"}},                {"x": [[1, 2]]}),
    ("scalars",          {"instances": [1, 2.5]},                                               {"x": [1, 2.5]}),
    ("scalars",          {"inputs": []},                                                        {"x": []}),
    ("two",              {"instances": [{"name": "a", "age": 1}, {"age": 2, "name": "b"}]},     {"age": [1, 2], "name": [b"a", b"b"]}),
    ("two",              {"inputs": {"age": [1, 2, 3], "name": []}},                            {"age": [1, 2, 3], "name": []}),
    ("text",             {"instances": ["a", {"b64": "/w=="}]},                                 {"text": [b"a", b"\xff"]}),
    ("text",             {"instances": [{"b64": "/w=="}, "a"]},                                 {"text": [b"\xff", b"a"]}),
    ("text",             {"instances": [{"text": {"b64": "/w=="}}]},                            {"text": [b"\xff"]}),
    ("text",             {"inputs": ["a", "b"]},                                                {"text": [b"a", b"b"]}),
    ("rank0",            {"inputs": 1.5},                                                       {"x": 1.5}),
    ("free",             {"instances": [[[1]], [[2]]]},                                         {"x": [[[1]], [[2]]]}),
    ("free",             {"inputs": 3},                                                         {"x": 3}),
    ("fixed",            {"instances": [[1, 2], [3, 4]]},                                       {"x": [[1, 2], [3, 4]]}),
    ("none",             {"inputs": {}},                                                        {}),
]

WRONG = [
    # signature   the rest of the body                                   words
    ("",          {},                                                    "expected 'instances' (a list of rows) or 'inputs' (columns), got neither"),
    ("",          {"instance": [[1, 2]]},                                "got 'instance'; did you mean 'instances'?"),
    ("",          {"data": [[1, 2]]},                                    "got 'data'"),
    ("",          {"instances": [[1, 2]], "inputs": [[1, 2]]},           "either 'instances' or 'inputs', got both"),
    ("",          {"instances": []},                                     "instances: expected at least one row, got an empty list"),
    ("",          {"instances": {"x": [1, 2]}},                          "instances: expected a list of rows, got an object"),
    ("",          {"instances": 5},                                      "instances: expected a list of rows, got 5"),
    ("",          {"instances": None},                                   "instances: expected a list of rows, got null"),
    ("",          {"instances": [1, 2]},                                 "instances[0]: expected shape [2], got [] (a scalar); a single row needs its own brackets"),
    ("",          {"instances": [[1, 2, 3]]},                            "instances[0]: expected shape [2], got [3]"),
    ("",          {"instances": [[1, 2], [3]]},                          "instances[1]: expected shape [2], got [1]"),
    ("",          {"instances": [[1, 2], [3, None]]},                    "instances[1][1]: expected float32, got null"),
    ("",          {"instances": [[1, 2], [3, "4"]]},                     'instances[1][1]: expected float32, got the string "4"'),
    ("",          {"instances": [[1, 2], {"x": [3, 4]}]},                "instances[1]: expected float32, got an object"),
    ("",          {"instances": [{"x": [1, 2]}, [3, 4]]},                "instances[1]: expected an object as the other instances are, got a list"),
    ("",          {"instances": [{"x": [1, 2]}, {"x": [1]}]},            "instances[1].x: expected shape [2], got [1]"),
    ("",          {"instances": [{"x": [1, 2]}, {"x": [1, "b"]}]},       'instances[1].x[1]: expected float32, got the string "b"'),
    ("",          {"instances": [{"X": [1, 2]}]},                        "instances[0]: the signature has no input 'X'; did you mean 'x'?"),
    ("",          {"instances": [{"x": [1, 2]}, {"y": [1, 2]}]},         "instances[1]: the signature has no input 'y'"),
    ("",          {"instances": [{}]},                                   "instances[0]: the input 'x' is missing"),
    ("",          {"instances": [{"x": [1, 2], "z": 1}]},                "instances[0]: the signature has no input 'z'"),
    ("",          {"inputs": {"x": [1, 2]}},                             "inputs.x: expected shape [?, 2], got [2]"),
    ("",          {"inputs": [1, 2]},                                    "inputs: expected shape [?, 2], got [2]"),
    ("",          {"inputs": {"xx": [[1, 2]]}},                          "inputs: the signature has no input 'xx'; did you mean 'x'?"),
    ("",          {"inputs": None},                                      "inputs: expected float32, got null"),
    ("",          {"instances": [[1e39, 0]]},                            "instances[0][0]: expected float32, got 1e+39, which is out of its range"),
    ("",          {"instances": [[{"b64": "AA=="}, 0]]},                 "only a string input takes them"),
    ("two",       {"instances": [1]},                                    "instances: expected objects with the inputs 'age', 'name', got values without names"),
    ("two",       {"inputs": [1]},                                       "inputs: expected objects with the inputs 'age', 'name'"),
    ("two",       {"instances": [{"age": 1}]},                           "instances[0]: the input 'name' is missing; expected 'age', 'name'"),
    ("two",       {"instances": [{"age": 1, "nmae": "a"}]},              "instances[0]: the signature has no input 'nmae'; did you mean 'name'?"),
    ("two",       {"instances": [{"age": 1.5, "name": "a"}]},            "instances[0].age: expected int32, got 1.5"),
    ("two",       {"instances": [{"age": 2**31, "name": "a"}]},          "instances[0].age: expected int32, from -2147483648 to 2147483647, got 2147483648"),
    ("two",       {"instances": [{"age": True, "name": "a"}]},           "instances[0].age: expected int32, got true"),
    ("two",       {"instances": [{"age": float("nan"), "name": "a"}]},   "instances[0].age: expected int32, got NaN"),
    ("two",       {"instances": [{"age": 1, "name": 5}]},                'instances[0].name: expected a string or {"b64": "..."}, got 5'),
    ("two",       {"instances": [{"age": [1], "name": "a"}]},            "instances[0].age: expected shape [] (a scalar), got [1]"),
    ("two",       {"instances": [{"age": 1, "name": ["a"]}]},            "instances[0].name: expected shape [] (a scalar), got [1]"),
    ("two",       {"inputs": {"age": [1]}},                              "inputs: the input 'name' is missing"),
    ("two",       {"inputs": {"age": [1], "name": ["a"], "z": 1}},       "inputs: the signature has no input 'z'"),
    ("text",      {"instances": [{"b64": "_w=="}]},                      "web-safe alphabet"),
    ("text",      {"instances": [{"b64": "/w==", "x": 1}]},              "instances[0]: the signature has no input 'b64'"),
    ("text",      {"instances": [{"b64": 7}]},                           "instances[0]: the signature has no input 'b64'"),
    ("text",      {"instances": [None]},                                 "instances[0]: expected a string"),
    ("text",      {"instances": ["a", ["b"]]},                           "instances[1]: expected shape [] (a scalar), got [1]"),
    ("free",      {"instances": [[1], [1, 2]]},                          "instances[1]: expected shape [1] as in instances[0], got [2]"),
    ("rank0",     {"instances": [1]},                                    "'x' has no batch dimension, so it cannot be sent as rows; send it as a column"),
    ("fixed",     {"instances": [[1, 2]]},                               "instances: expected shape [2, 2], got [1, 2]"),
    ("none",      {"inputs": [1]},                                       "inputs: expected objects with the inputs none"),
    ("none",      {"inputs": {"x": 1}},                                  "inputs: the signature has no input 'x'"),
    ("complex",   {"instances": [1]},                                    "instances[0]: complex64 has no JSON form"),
    ("complex_out", {"instances": [1]},                                  "the output 'y' is complex64, which has no JSON form"),
    ("resource",  {"inputs": 1},                                         "signature_name: 'resource' cannot be called"),
    ("tow",       {"inputs": 1},                                         "signature_name: the model has no signature 'tow'; did you mean 'two'?"),
    ("zzzzz",     {"inputs": 1},                                         "signature_name: the model has no signature 'zzzzz'; there is 'serving_default'"),
]
# fmt: on


def body(name: Any, rest: dict[str, Any]) -> bytes:
    return json.dumps({"signature_name": name, **rest}).encode()


@pytest.mark.parametrize(("name", "rest", "inputs"), RIGHT)
def test_a_body_becomes_named_arrays(name: str, rest: dict[str, Any], inputs: dict[str, Any]) -> None:
    call = decode(body(name, rest), SIGNATURES)
    assert call.signature.name == (name or "serving_default")
    assert {key: array.tolist() for key, array in call.inputs.items()} == inputs
    for key, array in call.inputs.items():
        assert array.dtype == call.signature.inputs[key].dtype.numpy


@pytest.mark.parametrize(("name", "rest", "words"), WRONG)
def test_a_wrong_body_is_refused_with_the_place(name: str, rest: dict[str, Any], words: str) -> None:
    with pytest.raises(BadRequest) as raised:
        decode(body(name, rest), SIGNATURES)
    assert words in str(raised.value)


NAMES = [5, 1.5, None, True, ["two"], {"a": 1}]


@pytest.mark.parametrize("name", NAMES)
def test_a_signature_name_is_a_string(name: Any) -> None:
    with pytest.raises(BadRequest, match="signature_name: expected a string, got"):
        decode(body(name, {"instances": [[1, 2]]}), SIGNATURES)


def test_a_duplicate_key_is_refused_at_any_depth() -> None:
    for text in (b'{"instances": [[1, 2]], "instances": [[3, 4]]}', b'{"instances": [{"x": [1, 2], "x": [3, 4]}]}',
                 b'{"inputs": {"x": [[1, 2]], "x": [[3, 4]]}}'):  # fmt: skip
        with pytest.raises(BadRequest, match="appears twice"):
            decode(text, SIGNATURES)


ANSWERS = [
    # form         outputs                                                           JSON
    ("instances",  {"y": np.array([2.1, 9e6, 3], np.float32)},                       b'{"predictions":[2.1,9000000.0,3.0]}'),
    ("instances",  {"y": np.zeros((0, 3), np.float32)},                              b'{"predictions":[]}'),
    ("instances",  {"a": np.array([1, 2]), "b": np.array([b"x", b"y"], object)},     b'{"predictions":[{"a":1,"b":"x"},{"a":2,"b":"y"}]}'),
    ("instances",  {"a": np.array([[1.5], [np.nan]], np.float32), "b": np.array([True, False])},
                                                                                     b'{"predictions":[{"a":[1.5],"b":true},{"a":[NaN],"b":false}]}'),
    ("instances",  {"y_bytes": np.array([b"a"], object)},                            b'{"predictions":[{"b64":"YQ=="}]}'),
    ("inputs",     {"y": np.float32(2.5)[...]},                                      b'{"outputs":2.5}'),
    ("inputs",     {"y": np.array([[1, 2]], np.int8)},                               b'{"outputs":[[1,2]]}'),
    ("inputs",     {"a": np.array([1]), "b": np.array([[0.5]])},                     b'{"outputs":{"a":[1],"b":[[0.5]]}}'),
    ("inputs",     {"y": np.array(b"text", object)},                                 b'{"outputs":"text"}'),
]  # fmt: skip


@pytest.mark.parametrize(("form", "outputs", "wanted"), ANSWERS)
def test_outputs_take_the_form_of_the_request(form: str, outputs: dict[str, Any], wanted: bytes) -> None:
    rows = len(next(iter(outputs.values()))) if form == "instances" else 1
    call = Call(SIGNATURES["serving_default"], {"x": np.zeros((rows, 2), np.float32)}, form)
    answer = encode(call, {name: np.asarray(array) for name, array in outputs.items()})
    assert (answer.status, answer.body) == (200, wanted)


NO_ROWS = [
    # signature          outputs                                       error       words
    ("serving_default",  {"y": np.array(1.0)},                         ModelFault, "the output 'y' has no batch dimension; if that is intended"),
    ("serving_default",  {"y": np.array([1.0])},                       ModelFault, "the output 'y' has 1 rows for the 2 rows of the request"),
    ("serving_default",  {"a": np.array([1, 2]), "b": np.array([1])},  ModelFault, "the output 'b' has 1 rows for the 2 rows of the request"),
    ("constant",         {"y": np.array([1, 2, 3])},                   BadRequest, "the output 'y' has 3 rows for the 2 rows of the request: ask in column form"),
    ("constant",         {"y": np.array(1.0)},                         BadRequest, "the output 'y' has no batch dimension: ask in column form"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "outputs", "error", "words"), NO_ROWS)
@pytest.mark.parametrize("keys", [None, [1, 2]])
def test_an_output_of_another_number_of_rows_is_refused(
    name: str, outputs: dict[str, Any], error: type[Exception], words: str, keys: Any
) -> None:
    call = Call(SIGNATURES[name], {"x": np.zeros((2, 2), np.float32)}, "instances", keys=keys)
    with pytest.raises(error, match=re.escape(words)):
        encode(call, outputs)


@hypothesis(max_examples=rounds(200), deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_decoded_or_refused(content: bytes) -> None:
    with pytest.raises(BadRequest):
        decode(content, SIGNATURES)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**66), 2**66) | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["x", "age", "name", "text", "b64", "q"]), inner, max_size=3)
    ),
    max_leaves=12,
)


@hypothesis(max_examples=rounds(500), deadline=None)
@given(
    st.sampled_from([*SIGNATURES, "", "no"]),
    st.dictionaries(st.sampled_from(["instances", "inputs", "other"]), VALUES, max_size=2),
)
def test_any_json_is_decoded_or_refused(name: str, rest: dict[str, Any]) -> None:
    try:
        call = decode(body(name, rest), SIGNATURES)
    except BadRequest as error:
        assert str(error)
    else:
        for key, array in call.inputs.items():
            assert array.dtype == call.signature.inputs[key].dtype.numpy


@pytest.mark.parametrize("name", [name for name in SIGNATURES if "complex" not in name and name != "resource"])
def test_the_example_of_a_signature_works(name: str) -> None:
    call = decode(example(SIGNATURES[name]), SIGNATURES)
    assert call.signature.name == name


def test_metadata_is_protobufs_json() -> None:
    document = json.loads(
        metadata("model", "3", Contents(("serve",), {"free": SIGNATURES["free"]}, "2", restores=False), {})
    )
    assert document["model_spec"] == {"name": "model", "signature_name": "", "version": "3"}
    described = document["metadata"]["signature_def"]["signature_def"]["free"]
    assert described["method_name"] == "tensorflow/serving/predict"
    assert described["inputs"]["x"] == {
        "dtype": "DT_FLOAT", "tensor_shape": {"dim": [], "unknown_rank": True}, "name": "x:0",
    }  # fmt: skip
    assert described["outputs"]["y"]["tensor_shape"] == {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False}


def test_the_rows_of_a_request_with_on_error_row_are_limited(serve: Serve) -> None:
    serve(MAX_ROWS=str(1 << 30))
    query, most = {"signature_name": "scalars", "on_error": "row"}, MOST_ROWS_APART
    body = json.dumps({"instances": [1.0] * (most + 1)}).encode()
    assert len(decode(json.dumps({"instances": [1.0] * most}).encode(), SIGNATURES, Context(query=query)).inputs["x"])
    assert len(decode(body, SIGNATURES, Context(query={"signature_name": "scalars"})).inputs["x"]) == most + 1
    with pytest.raises(TooLarge, match="instances: expected at most 10000 rows with on_error=row, got 10001"):
        decode(body, SIGNATURES, Context(query=query))
