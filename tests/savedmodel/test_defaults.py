"""Inputs that may be left out: SignatureDef.defaults of TensorFlow 2.14, placeholders with a default of TensorFlow 1."""

import json
import struct
from typing import Any

import pytest

from serving.pipeline.openapi import schemas
from serving.savedmodel.source import Source, with_good_defaults
from serving.servers.commands.show import show
from tests.conftest import Serve
from tests.models import answer_models
from tests.pipeline.test_openapi import described, problems

PREDICT, INFER = "/v1/models/model:predict", "/v2/models/model/infer"
LINES, CSV = {"content-type": "application/x-ndjson"}, {"content-type": "text/csv"}
FORM = {"content-type": "multipart/form-data; boundary=b"}


def form(**parts: str) -> bytes:
    heads = [
        f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n' for name, value in parts.items()
    ]
    return "".join([*heads, "--b--"]).encode()


def tensor(name: str, *values: float, **more: Any) -> dict[str, Any]:
    return {"name": name, "shape": [len(values)], "datatype": "FP32", "data": values, **more}


SCALE = {"name": "scale", "shape": [], "datatype": "FP32", "data": [3]}
ANSWERS = [
    # query                     body                                                       headers  answer; of an error, its words
    ("",                        {"inputs": {"x": [1, 2], "scale": 3}},                     {},      {"outputs": [3.0, 6.0]}),
    ("",                        {"inputs": {"x": [1, 2]}},                                 {},      {"outputs": [2.0, 4.0]}),
    ("",                        {"inputs": [1, 2]},                                        {},      {"outputs": [2.0, 4.0]}),
    ("",                        {"instances": [{"x": 1}, {"x": 2}]},                       {},      {"predictions": [2.0, 4.0]}),
    ("",                        {"instances": [1, 2]},                                     {},      {"predictions": [2.0, 4.0]}),
    ("",                        {"instances": [{"x": 1, "key": 7}]},                       {},      {"predictions": [{"key": 7, "y": 2.0}]}),
    ("",                        {"instances": [{"x": 1, "scale": 3}]},                     {},      "'scale' has no batch dimension"),
    ("",                        {"inputs": {"scale": 3}},                                  {},      "the input 'x' is missing"),
    ("",                        {"inputs": {"x": [1], "scal": 3}},                         {},      "no input 'scal'"),
    ("?signature_name=by_rows", {"instances": [{"x": 1, "by": 5}, {"x": 2, "by": 6}]},     {},      {"predictions": [5.0, 12.0]}),
    ("?signature_name=by_rows", {"instances": [{"x": 1}, {"x": 2}]},                       {},      {"predictions": [3.0, 6.0]}),
    ("?signature_name=by_rows", {"instances": [{"x": 1, "by": 5}, {"x": 2}]},              {},      "instances[1]: the input 'by' is missing, which other rows give"),
    ("?signature_name=by_rows&on_error=row", {"instances": [{"x": 1, "by": 5}, {"x": 2}]}, {},
     {"predictions": [5.0, {"error": "instances[1]: the input 'by' is missing, which other rows give"}]}),
    ("",                        b'{"x": 1}\n{"x": 2}',                                     LINES,   [2.0, 4.0]),
    ("",                        b"1\n2",                                                   LINES,   [2.0, 4.0]),
    ("",                        b"x\n1\n2",                                                CSV,     [2.0, 4.0]),
    ("?signature_name=by_rows", b"x,by\n1,5\n2,6",                                         CSV,     [5.0, 12.0]),
    ("",                        form(x="4"),                                               FORM,    {"predictions": [8.0]}),
    ("",                        form(x="4", scale="3"),                                    FORM,    {"predictions": [12.0]}),
]  # fmt: skip


@pytest.mark.parametrize("runtime", ["c", "python"])
@pytest.mark.parametrize(("query", "body", "headers", "wanted"), ANSWERS)
def test_an_input_with_a_default_may_be_left_out(
    serve: Serve, runtime: str, query: str, body: Any, headers: dict[str, str], wanted: Any
) -> None:
    answer = serve(answer_models.build() / "defaults", RUNTIME=runtime)("POST", PREDICT + query, body, **headers)
    if isinstance(wanted, str):
        assert (answer.status, wanted in json.loads(answer.body)["error"]) == (400, True), answer.body
    elif headers in (LINES, CSV):
        assert [json.loads(line) for line in answer.body.splitlines()] == wanted
    else:
        assert json.loads(answer.body) == wanted


INFERS = [
    # inputs                                             status  the output, or words of the error
    ([tensor("x", 1, 2), SCALE],                         200,    [3.0, 6.0]),
    ([tensor("x", 1, 2)],                                200,    [2.0, 4.0]),
    ([SCALE],                                            400,    "inputs: 'x' is missing"),
]  # fmt: skip


@pytest.mark.parametrize(("inputs", "status", "wanted"), INFERS)
def test_an_input_with_a_default_may_be_left_out_of_infer(serve: Serve, inputs: Any, status: int, wanted: Any) -> None:
    answer = serve(answer_models.build() / "defaults")("POST", INFER, {"inputs": inputs})
    document = json.loads(answer.body)
    assert answer.status == status, document
    if status == 200:
        assert document["outputs"][0]["data"] == wanted
    else:
        assert wanted in document["error"]


def test_a_body_may_be_the_bytes_of_the_only_required_input(serve: Serve) -> None:
    ask = serve(answer_models.build() / "defaults")
    answer = ask("POST", INFER, struct.pack("<2f", 1, 2), **{"Inference-Header-Content-Length": "0"})
    assert answer.status == 200, answer.body
    assert answer.body.endswith(struct.pack("<2f", 2, 4))


def test_a_placeholder_with_a_default_may_be_left_out(serve: Serve) -> None:
    ask = serve(answer_models.build() / "defaults_tf1")
    answer = ask("POST", PREDICT, {"inputs": {"x": [1, 2]}})
    assert json.loads(answer.body) == {"outputs": {"n": [1], "y": [2.0, 4.0]}}
    answer = ask("POST", PREDICT, {"inputs": {"x": [1, 2], "words": ["abc", "d"], "scale": 5}})
    assert json.loads(answer.body) == {"outputs": {"n": [3, 1], "y": [5.0, 10.0]}}


def test_every_description_says_that_an_input_is_optional(serve: Serve) -> None:
    folder = answer_models.build() / "defaults"
    ask = serve(folder)
    signatures = json.loads(ask("GET", "/v1/models/model/metadata").body)["metadata"]["signature_def"]["signature_def"]
    assert signatures["serving_default"]["defaults"] == {
        "scale": {
            "dtype": "DT_FLOAT",
            "tensor_shape": {"dim": [], "unknown_rank": False},
            "version_number": 0,
            "float_val": [2.0],
        }
    }
    tensors = json.loads(ask("GET", "/v2/models/model").body)["signatures"]["serving_default"]["inputs"]
    assert [entry["name"] for entry in tensors if entry.get("optional")] == ["scale"]
    assert "may be left out" in next(
        line for line in show(folder).splitlines() if line.strip().startswith("in   scale")
    )
    document = described(ask)
    assert "scale (float32 [] (a scalar); may be left out)" in document["info"]["description"]
    bodies = [
        body for query, body, _, wanted in ANSWERS if not query and isinstance(body, dict) and isinstance(wanted, dict)
    ]
    for kind, body in [*(("Predict", body) for body in bodies), ("Infer", {"inputs": [tensor("x", 1)]})]:
        schema = {**schemas.schema_ref(kind), "components": document["components"]}
        assert problems(schema, body) == [], body
    assert problems({**schemas.schema_ref("Predict"), "components": document["components"]}, {"inputs": {"scale": 3}})


def test_batched_calls_keep_their_defaults(serve: Serve) -> None:
    ask = serve(answer_models.build() / "defaults", BATCH_ROWS="8")
    for rows in ([1, 2, 3], [4]):
        answer = ask("POST", PREDICT + "?signature_name=by_rows", {"instances": rows})
        assert json.loads(answer.body) == {"predictions": [3.0 * row for row in rows]}


BAD = [
    # a TensorProto that is no default of a float32 scalar
    b"\x08\x03\x12\x00\x38\x02",              # int32
    b"\x08\x01\x12\x04\x12\x02\x08\x02",      # float32 of the shape [2]
    b"\x08\x01\x12",                          # cut
]  # fmt: skip


@pytest.mark.parametrize("tensor_proto", BAD)
def test_a_default_that_does_not_fit_its_input_is_ignored(
    tensor_proto: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    signature = Source(answer_models.build() / "defaults", "model").signatures["serving_default"]
    assert (list(signature.required), signature.only) == (["x"], signature.inputs["x"])
    checked = with_good_defaults(signature._replace(defaults={"scale": tensor_proto}))
    assert (list(checked.required), checked.only) == (["x", "scale"], None) or list(checked.required) == ["scale", "x"]
    assert "the default of the input 'scale'" in "".join(capfd.readouterr())
