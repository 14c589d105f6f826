"""TensorFlow Serving's classify and regress: examples in JSON, checked against TensorFlow's own tf.Example."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from serving.core.dtypes import DTYPES
from serving.core.http import BadRequest, ModelFault, TooLarge
from serving.protocols import classify, regress
from serving.savedmodel.signature import Signature, TensorSpec
from tests.conftest import Serve, plain_environment
from tests.fuzz import rounds
from tests.harness.forks import python
from tests.models.zoo import build

BY_NAME = {dtype.numpy_name: dtype for dtype in DTYPES}


def signature(name: str, inputs: dict[str, str], outputs: dict[str, str]) -> Signature:
    def side(names: dict[str, str]) -> dict[str, TensorSpec]:
        return {key: TensorSpec(key, BY_NAME[dtype], (None,), f"{key}:0") for key, dtype in names.items()}

    return Signature(name, side(inputs), side(outputs), "tensorflow/serving/predict")


SIGNATURES = {
    described.name: described
    for described in (
        signature("serving_default", {"inputs": "object"}, {"classes": "object", "scores": "float32"}),
        signature("scores", {"inputs": "object"}, {"scores": "float32"}),
        signature("classes", {"inputs": "object"}, {"classes": "object"}),
        signature("number", {"inputs": "object"}, {"outputs": "float32"}),
        signature("other", {"x": "object"}, {"outputs": "float32"}),
        signature("floats", {"inputs": "float32"}, {"outputs": "float32"}),
        signature("more", {"inputs": "object"}, {"scores": "float32", "extra": "float32"}),
    )
}

GOOD: list[dict[str, Any]] = [
    {"examples": [{"x": 1.5}, {"x": [1.5, -2.0]}]},
    {"examples": [{"x": 1, "y": [True, False], "z": -5}, {"x": [2**63 - 1, -(2**63)]}]},
    {"examples": [{"t": "text", "b": {"b64": "AP8="}, "l": ["a", {"b64": "AA=="}, "é"]}]},
    {"examples": [{}, {"x": []}]},
    {"examples": [{"x": 1.0}, {"y": 2.0}], "context": {"c": "shared", "x": 9.0}},
    {"examples": [{"n": float("nan"), "i": float("inf")}]},
]

ORACLE = """
import json, sys, base64
from tensorflow.core.example.example_pb2 import Example
def feature(into, value):
    values = value if isinstance(value, list) else [value]
    if not values: return
    if isinstance(values[0], float): into.float_list.value.extend(values)
    elif isinstance(values[0], (bool, int)): into.int64_list.value.extend(int(v) for v in values)
    else: into.bytes_list.value.extend(base64.b64decode(v["b64"]) if isinstance(v, dict) else v.encode() for v in values)
def example(features):
    message = Example()
    message.features.SetInParent()
    for name, value in features.items():
        feature(message.features.feature[name], value)
    return message
wrong = []
for body, serialized in json.load(sys.stdin):
    for features, came in zip(body["examples"], serialized):
        want = example(body.get("context", {}))
        want.MergeFrom(example(features))
        got = Example.FromString(base64.b64decode(came))
        if str(got) != str(want): wrong.append([features, str(want), str(got)])
print(json.dumps(wrong))
"""


def test_json_examples_encode_to_what_tf_train_Example_reads() -> None:
    import base64

    pairs = []
    for body in GOOD:
        (array,) = classify.decode(json.dumps(body).encode(), SIGNATURES).inputs.values()
        pairs.append((body, [base64.b64encode(example).decode() for example in array]))
    run = python("-c", ORACLE, input=json.dumps(pairs), env=plain_environment())
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout.splitlines()[-1]) == []


# fmt: off
WRONG = [
    # body                                                        words
    ({},                                                          "body: expected 'examples' (a list of objects), got nothing"),
    ({"instances": [1]},                                          "got 'instances'"),
    ({"example": [{}]},                                           "got 'example'; did you mean 'examples'?"),
    ({"examples": {}},                                            "examples: expected a list of at least one object, got an object"),
    ({"examples": []},                                            "examples: expected a list of at least one object, got an empty list"),
    ({"examples": [[1]]},                                         "examples[0]: expected an object of features, got a list"),
    ({"examples": [{}, 1]},                                       "examples[1]: expected an object of features, got 1"),
    ({"examples": [{}], "context": [1]},                          "context: expected an object of features, got a list"),
    ({"examples": [{"x": None}]},                                 "examples[0].x: expected a number, a boolean, text, or a flat list of them, got null"),
    ({"examples": [{"x": [[1]]}]},                                "examples[0].x[0]: expected a number"),
    ({"examples": [{"x": {"a": 1}}]},                             "examples[0].x: expected a number"),
    ({"examples": [{"x": [1, 1.5]}]},                             "examples[0].x[1]: expected an integer or a boolean as the first value is, got a decimal"),
    ({"examples": [{"x": ["a", 1]}]},                             "examples[0].x[1]: expected text or bytes as the first value is"),
    ({"examples": [{"x": 2**63}]},                                "examples[0].x[0]: expected int64, got 9223372036854775808"),
    ({"examples": [{"x": 1e39}]},                                 "examples[0].x: expected float32, got 1e+39"),
    ({"examples": [{"x": {"b64": "?"}}]},                         "examples[0].x: expected base64, got the character '?'"),
    ({"examples": [{}], "signature_name": 5},                     "signature_name: expected a string, got 5"),
    ({"examples": [{}], "signature_name": "scoers"},              "did you mean 'scores'?"),
    ({"examples": [{}], "signature_name": "number"},              "does not give 'classes' (strings) or 'scores' (floats) alone"),
    ({"examples": [{}], "signature_name": "more"},                "which classify needs; there is 'serving_default', 'scores', 'classes'"),
    ({"examples": [{}], "signature_name": "other"},               "does not take one string input named 'inputs'"),
    ({"examples": [{}], "signature_name": "floats"},              "does not take one string input named 'inputs'"),
]
# fmt: on


@pytest.mark.parametrize(("body", "words"), WRONG)
def test_a_wrong_body_is_refused_with_the_place(body: dict[str, Any], words: str) -> None:
    with pytest.raises(BadRequest) as raised:
        classify.decode(json.dumps(body).encode(), SIGNATURES)
    assert words in str(raised.value)


def test_regress_needs_a_regression_signature() -> None:
    with pytest.raises(
        BadRequest, match=r"does not give 'outputs' \(floats\) alone, which regress needs; there is 'number'"
    ):
        regress.decode(b'{"examples": [{}]}', SIGNATURES)
    assert regress.decode(b'{"examples": [{}], "signature_name": "number"}', SIGNATURES).signature.name == "number"


ANSWERS = [
    # signature          outputs                                                                       JSON
    ("serving_default",  {"classes": [[b"a", b"b"]], "scores": [[0.25, 0.75]]},                        b'{"results":[[["a",0.25],["b",0.75]]]}'),
    ("scores",           {"scores": [[0.25, float("nan")]]},                                           b'{"results":[[["",0.25],["",NaN]]]}'),
    ("classes",          {"classes": [[b"a", b"\xff"]]},                                               b'{"results":[[["a",0.0],[{"b64":"/w=="},0.0]]]}'),
]  # fmt: skip


@pytest.mark.parametrize(("name", "outputs", "wanted"), ANSWERS)
def test_classes_come_with_their_scores(name: str, outputs: dict[str, Any], wanted: bytes) -> None:
    call = classify.decode(json.dumps({"signature_name": name, "examples": [{}]}).encode(), SIGNATURES)
    arrays = {key: np.array(value, object if key == "classes" else np.float32) for key, value in outputs.items()}
    assert classify.encode(call, arrays).body == wanted


@pytest.mark.parametrize("shape", [(1,), (1, 1)])
def test_regress_gives_one_number_an_example(shape: tuple[int, ...]) -> None:
    call = regress.decode(b'{"examples": [{}], "signature_name": "number"}', SIGNATURES)
    assert regress.encode(call, {"outputs": np.full(shape, 0.1, np.float32)}).body == b'{"results":[0.1]}'
    with pytest.raises(ModelFault, match=r"expected an output of shape \[1\] or \[1, 1\], got \[1, 2\]"):
        regress.encode(call, {"outputs": np.zeros((1, 2), np.float32)})


def test_real_models_classify_and_regress(serve: Serve) -> None:
    ask = serve(build() / "tf1_classify")
    body = {"examples": [{"x": [1.0, 2.0]}, {"x": [0.0, -1.0]}]}
    results = json.loads(ask("POST", "/v1/models/model:classify", body).body)["results"]
    assert [[label for label, _ in row] for row in results] == [["ant", "bee", "cat"]] * 2
    np.testing.assert_allclose([score for _, score in results[0]], [0.2264683, 0.5619318, 0.2115999], rtol=1e-5)
    assert ask("POST", "/v1/models/model:regress", body).status == 400
    ask = serve(build() / "tf1_regress")
    answer = ask("POST", "/v1/models/model/versions/1:regress", body)
    assert answer.status == 200, answer.body
    assert len(json.loads(answer.body)["results"]) == 2
    wrong = ask("POST", "/v1/models/model:regress", {"examples": [{"x": [1.0, 2.0]}, {"x": 2}]})
    assert wrong.status == 400
    assert json.loads(wrong.body)["error"].startswith("examples[1]: the model refuses it:")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**66), 2**66) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["x", "b64"]), inner, max_size=2),
    max_leaves=10,
)


@hypothesis(max_examples=rounds(250), deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["examples", "context", "signature_name"]), VALUES | st.lists(VALUES, max_size=2), max_size=3
    )
)
def test_any_json_is_decoded_or_refused(body: dict[str, Any]) -> None:
    try:
        call = classify.decode(json.dumps(body).encode(), SIGNATURES)
    except BadRequest as error:
        assert str(error)
    else:
        assert all(isinstance(example, bytes) for example in call.inputs["inputs"])


@given(st.binary(max_size=50))
def test_any_bytes_are_refused(content: bytes) -> None:
    with pytest.raises(BadRequest):
        regress.decode(content, SIGNATURES)


def test_the_size_of_a_context_is_limited_after_it_is_copied_to_all_examples() -> None:
    def body(examples: int) -> bytes:
        return json.dumps({"context": {"user": "a" * 10_000}, "examples": [{}] * examples}).encode()

    assert len(classify.decode(body(800), SIGNATURES).inputs["inputs"]) == 800
    with pytest.raises(TooLarge, match=r"context: expected at most 8388608 bytes in all examples together \(MAX_BODY"):
        classify.decode(body(900), SIGNATURES)
