"""The bodies that clients send are answered by the native codec: those of their libraries, and of their documentation."""

import itertools
import json
from collections import defaultdict
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests.pipeline.native.conftest import Ask, Question
from tests.pipeline.native.models import build

INFER = "/v2/models/model/infer"
BINARY_ONLY = ("FP16", "BF16")  # to the clients
FLOATS = np.array([1, 2.5], np.float32)
TEXTS = np.array(["a", "é"], object)
FLAGS = np.array([True, False])
HALVES = np.array([1, 2.5], np.float16)
SHORTS = np.array([1, 2.5], ml_dtypes.bfloat16)

# Client libraries warn about their own dependencies.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


def infer_question(text: bytes, size: int | None) -> Question:
    return text, "", {} if size is None else {"inference-header-content-length": str(size)}


def check(compare: Ask, questions: dict[str, list[Question]], path: str) -> None:
    """Assert that the native codec answers each question to a model, with the bytes that Python answers."""
    for model, asked in questions.items():
        answered = compare(build() / model, asked, path=path)
        assert [question for question, was_taken in answered if not was_taken] == []


# fmt: off
TENSORS = [
    # array   datatype  model      signature
    (FLOATS,  "FP32",   "types",   None),
    (FLOATS,  "FP32",   "types",   "float32"),
    (TEXTS,   "BYTES",  "strings", None),
    (FLAGS,   "BOOL",   "types",   "bool"),
    (HALVES,  "FP16",   "types",   "float16"),
    (SHORTS,  "BF16",   "types",   "bfloat16"),
]
WISHES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    # of the output                of the request
    ({},                           {}),
    ({"binary_data": True},        {"request_id": "7"}),
    ({"binary_data": False},       {"request_id": "7f6b", "priority": 1, "timeout": 5}),
    ({"class_count": 2},           {"sequence_id": 3, "sequence_start": True}),
]
# fmt: on


@pytest.mark.parametrize("binary", [True, False])
def test_tritonclient_is_answered(compare: Ask, binary: bool) -> None:
    triton = pytest.importorskip("tritonclient.http")
    questions = defaultdict[str, list[Question]](list)
    for (array, datatype, model, signature), (output, more) in itertools.product(TENSORS, WISHES):
        without_classes = datatype in ("BYTES", "BOOL") and "class_count" in output
        without_json = datatype in BINARY_ONLY and not (binary and output.get("binary_data", True))
        if without_classes or without_json:
            continue
        tensor = triton.InferInput("x", list(array.shape), datatype).set_data_from_numpy(array, binary_data=binary)
        wanted = [triton.InferRequestedOutput("y", **{"binary_data": binary, **output})] if output else None
        # The client of asyncio makes its bodies by the same function.
        text, size = triton.InferenceServerClient.generate_request_body(
            [tensor], outputs=wanted, parameters={"signature_name": signature} if signature else None, **more
        )
        questions[model].append(infer_question(text, size))
    check(compare, questions, INFER)


@pytest.mark.parametrize("binary", [True, False])
def test_the_client_of_kserve_is_answered(compare: Ask, binary: bool) -> None:
    kserve = pytest.importorskip("kserve")
    questions = defaultdict[str, list[Question]](list)
    for array, datatype, model, signature in TENSORS:
        if datatype == "BF16" or (datatype in BINARY_ONLY and not binary):
            continue  # it sends no BF16
        tensor = kserve.InferInput("x", list(array.shape), datatype)
        tensor.set_data_from_numpy(array, binary_data=binary)
        parameters = {"signature_name": signature} if signature else None
        request = kserve.InferRequest(model_name="model", infer_inputs=[tensor], parameters=parameters)
        text, size = request.to_rest()
        questions[model].append(infer_question(text if isinstance(text, bytes) else json.dumps(text).encode(), size))
    check(compare, questions, INFER)


# fmt: off
PREDICT = [
    # model      body                                                                        query
    # TensorFlow Serving's documentation, and the order of other languages' JSON libraries
    ("types",    '{"instances": [1.0, 2.0, 5.0]}',                                           ""),
    ("types",    '{"signature_name": "serving_default", "instances": [1.0, 2.0, 5.0]}',      ""),
    ("types",    '{"instances":[1.0,2.0],"signature_name":"serving_default"}',               ""),
    ("types",    '{"instances":[1,2],"signature_name":"int8"}',                              ""),
    ("types",    '{"inputs":{"x":[1,2]},"signature_name":"int8"}',                           ""),
    ("several",  '{"instances":[{"a":1.0,"b":[1,2]},{"a":2.0,"b":[3,4]}]}',                  ""),
    ("several",  '{"inputs":{"a":[1.0,2.0],"b":[[1,2],[3,4]]}}',                             ""),
    ("strings",  '{"instances":["foo","bar"]}',                                              ""),
    ("strings",  '{"instances":[{"b64":"aGVsbG8="},{"b64":"d29ybGQ="}]}',                    ""),
    ("strings",  '{"instances":[{"a":{"b64":"aGVsbG8="},"b":[1,2]}],"signature_name":"mixed"}', ""),
    # Vertex AI
    ("types",    '{"instances":[1.0,2.0],"parameters":null}',                                ""),
    ("types",    '{"instances":[1.0,2.0],"parameters":{}}',                                  ""),
    ("types",    '{"instances":[1.0,2.0],"parameters":{"signature_name":"int8"}}',           ""),
    ("ranked",   '{"instances":[[1,2,3]],"parameters":{"top_k":2.0}}',                       ""),
    # keys
    ("types",    '{"instances":[{"key":7,"x":1.0},{"key":8,"x":2.0}]}',                      ""),
    ("strings",  '{"instances":[{"key":"0b1c-7","x":{"b64":"aGVsbG8="}}]}',                  ""),
    ("types",    '{"inputs":{"key":["a","b"],"x":[1.0,2.0]}}',                               ""),
    # the page, and an address with a key of an API gateway
    ("ranked",   '{"instances":[[1,2,3]]}',                                                  "top_k=2&scores=scores"),
    ("ranked",   '{"instances":[[1,2,3]]}',                                                  "top_k=3"),
    ("types",    '{"instances":[1,2]}',                                                      "signature_name=int8"),
    ("types",    '{"instances":[1,2]}',                                                      "api_token=AIza"),
    ("types",    '{"instances":[true,false],"signature_name":"bool"}',                       ""),
    ("types",    '{"instances":[1.5],"signature_name":"float16"}',                           ""),
    ("types",    '{"instances":[1.5],"signature_name":"bfloat16"}',                          ""),
]
INFERS = [
    # the protocol's specification, KServe's examples with curl, keys in alphabetical order
    ("types",    '{"inputs":[{"name":"x","shape":[2],"datatype":"FP32","data":[1,2.5]}]}',                        ""),
    ("types",    '{"id":"42","inputs":[{"name":"x","shape":[2],"datatype":"FP32","data":[1,2.5]}],"outputs":[{"name":"y"}]}', ""),
    ("types",    '{"model_name":"model","inputs":[{"name":"x","shape":[2],"datatype":"FP32","data":[1,2.5]}]}',   ""),
    ("types",    '{"inputs":[{"data":[1,2.5],"datatype":"FP32","name":"x","shape":[2]}]}',                        ""),
    ("types",    '{"inputs":[{"data":[true],"datatype":"BOOL","name":"x","shape":[1]}],"parameters":{"signature_name":"bool"}}', ""),
    ("shapes",   '{"inputs":[{"name":"x","shape":[2,2],"datatype":"FP32","data":[[1,2],[3,4]]}]}',                ""),
    ("strings",  '{"inputs":[{"name":"x","shape":[1],"datatype":"BYTES","data":["hello"]}]}',                     ""),
    ("types",    '{"inputs":[{"name":"x","shape":[1],"datatype":"INT8","data":[1]}]}',                            "signature_name=int8"),
]
# fmt: on


@pytest.mark.parametrize(("path", "cases"), [("/v1/models/model:predict", PREDICT), (INFER, INFERS)])
def test_bodies_of_documentations_are_answered(compare: Ask, path: str, cases: list[tuple[str, str, str]]) -> None:
    questions = defaultdict[str, list[Question]](list)
    for model, body, query in cases:
        questions[model].append((body.encode(), query, {}))
    check(compare, questions, path)
