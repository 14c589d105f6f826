"""Bodies whose headers do not say what they are, and the bare bodies of SageMaker."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from serving.servers.commands.show import show
from tests.conftest import EMBEDDED, Serve
from tests.models import answer_models
from tests.models.zoo import build, kinds

PREDICT, INFER = "/v1/models/model:predict", "/v2/models/model/infer"
PNG = (Path(__file__).parents[1] / "data" / "digit-3.png").read_bytes()
JPEG = (Path(__file__).parents[1] / "data" / "digit-7.jpg").read_bytes()
FORM = "application/x-www-form-urlencoded"
CUT = b"\x89PNG\x1a"  # what `curl -d @FILE` leaves of a PNG
TENSOR = b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","parameters":{"binary_data_size":4}}]}'

UNCLEAR = [
    # path           body                           content type                words that the error has
    (PREDICT,        PNG,                           FORM,                       ["a PNG picture", "Content-Type: image/png", "--data-binary"]),
    (PREDICT,        PNG,                           "",                         ["a PNG picture", "Content-Type: image/png"]),
    ("/",            JPEG,                          FORM,                       ["a JPEG picture", "Content-Type: image/jpeg"]),
    ("/invocations", PNG,                           FORM,                       ["a PNG picture", "Content-Type: image/png"]),
    (PREDICT,        CUT,                           FORM,                       ["--data-binary", "Content-Type: image/png"]),
    (PREDICT,        CUT,                           "image/png",                ["--data-binary"]),
    (PREDICT,        b"\xff\xd8\xff\xe0",           "image/jpeg",               ["--data-binary"]),
    (PREDICT,        b"\xff\x01\x02",               FORM,                       ["application/octet-stream", "--data-binary"]),
    (PREDICT,        gzip.compress(b"{}"),          "application/json",         ["Content-Encoding: gzip"]),
    (PREDICT,        '{"instances":[1]}'.encode("utf-16"),    "application/json", ["text in UTF-16", "in UTF-8"]),
    (PREDICT,        '{"instances":[1]}'.encode("utf-16-le"), "application/json", ["text in UTF-16", "in UTF-8"]),
    (INFER,          '{"inputs":[]}'.encode("utf-16-be"),     "",                 ["text in UTF-16", "in UTF-8"]),
    (PREDICT,        b"x=1",                        FORM,                       ["body: not JSON"]),
    (INFER,          TENSOR + b"\0\0\x80\xbf",      "application/octet-stream", ["Inference-Header-Content-Length"]),
    (INFER,          TENSOR + b"\0\0\0\0",          "application/octet-stream", ["Inference-Header-Content-Length"]),
    (INFER,          PNG,                           "application/octet-stream", ["a PNG picture"]),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body", "kind", "words"), UNCLEAR)
def test_a_body_of_an_unknown_type_gets_an_error_with_the_right_header(
    serve: Serve, path: str, body: bytes, kind: str, words: list[str]
) -> None:
    headers = {"content-type": kind} if kind else {}
    answer = serve(MODEL_NAME="model")("POST", path, body, **headers)
    error = json.loads(answer.body)["error"]
    assert answer.status == 400
    assert [word for word in words if word not in error] == [], error


def test_a_picture_as_sagemakers_clients_label_it_is_a_picture(serve: Serve) -> None:
    answer = serve(EMBEDDED)("POST", "/invocations", PNG, **{"content-type": "application/x-image"})
    assert json.loads(answer.body)["predictions"][0]["label"] == "3"


BARE = [
    # query                    body                                                 status  answer, or words of the error
    ("",                       b"[1, 2]",                                           200,    [2.0, 3.0]),
    ("",                       b" \n[1, NaN]",                                      200,    None),
    ("",                       b'[{"x": 1}, {"x": 2}]',                             200,    [2.0, 3.0]),
    ("",                       b'{"x": 1}',                                         200,    [2.0]),
    ("",                       b'{"x": 1, "key": "a"}',                             200,    [{"key": "a", "y": 2.0}]),
    ("",                       b'{"instances": [1]}',                               200,    [2.0]),
    ("?on_error=row",          b'[1, "a"]',                                         200,    [2.0, {"error": 'instances[1]: expected float32, got the string "a"'}]),
    ("",                       b"[]",                                               400,    "instances: expected at least one row"),
    ("",                       b'{"instance": [1]}',                                400,    "got 'instance'; did you mean 'instances'?"),
    ("",                       b'{"x": 1, "z": 1}',                                 400,    "instances[0]: the signature has no input 'z'"),
    ("",                       b'[1], "parameters": {}',                            400,    "body: not JSON"),
    ("",                       b"[1",                                               400,    "body: not JSON"),
    ("",                       b"1",                                                400,    "body: expected a JSON object"),
    ("?signature_name=nope",   b"[1]",                                              400,    "the model has no signature 'nope'"),
]  # fmt: skip


@pytest.mark.parametrize(("query", "body", "status", "wanted"), BARE)
def test_invocations_take_a_bare_list_or_row(serve: Serve, query: str, body: bytes, status: int, wanted: Any) -> None:
    answer = serve(build() / "versions" / "1")("POST", "/invocations" + query, body)
    document = json.loads(answer.body)
    assert answer.status == status, document
    if status == 200 and wanted is not None:
        assert document == {"predictions": wanted}
    elif status != 200:
        assert wanted in document["error"]


def test_other_addresses_refuse_a_bare_list(serve: Serve) -> None:
    answer = serve(build() / "versions" / "1")("POST", PREDICT, b"[1, 2]")
    assert (answer.status, b"expected a JSON object, got a list" in answer.body) == (400, True)


def test_a_bare_picture_in_base64_is_a_row(serve: Serve, examples: dict[str, Any]) -> None:
    (row,) = examples["serving_default"]["instances"]
    answer = serve(EMBEDDED)("POST", "/invocations", row)
    assert json.loads(answer.body)["predictions"][0]["label"] == "3"


SHOWN = [
    # model          query                       what the error shows
    ("fields",       "",                         '; a body that works: {"instances":'),
    ("refuses",      "?signature_name=picture",  '''; the form of a body: {"signature_name": "picture", "instances": [{"b64": "..."}]}, where "..." is a picture's file in base64'''),
    ("refuses",      "?signature_name=example",  '; the form of a body: {"signature_name": "example", "instances": [{"b64": "..."}]}, where "..." is a serialized tf.train.Example in base64'),
    ("refuses",      "",                         '; the form of a body: {"instances": ["..."]}, where "..." is a number as text'),
    ("complex",      "",                         "complex64 has no JSON form"),
    ("complex",      "?signature_name=plain",    '; a body that works: {"signature_name":"plain","instances":[0.0]}'),
]  # fmt: skip


def test_the_error_for_a_misspelt_signature_in_the_address_ends_with_the_right_name(serve: Serve) -> None:
    ask = serve(answer_models.build() / "refuses", DANGEROUS_OPS="allow")
    error = json.loads(ask("POST", f"{PREDICT}?signature_name=pictures", {"instances": [[None]]}).body)["error"]
    assert error == "signature_name: the model has no signature 'pictures'; did you mean 'picture'?"


@pytest.mark.parametrize(("name", "query", "end"), SHOWN)
def test_an_error_shows_a_body_that_works_or_the_form_of_one(serve: Serve, name: str, query: str, end: str) -> None:
    ask = serve(answer_models.build() / name, DANGEROUS_OPS="allow")
    error = json.loads(ask("POST", PREDICT + query, {"instances": [[None]]}).body)["error"]
    assert end in error, error
    body = error.partition("; a body that works: ")[2].encode()
    assert bool(body) == (not end.endswith("has no JSON form"))
    assert not body or ask("POST", PREDICT + query, body).status == 200


@pytest.mark.parametrize("signature", ["picture", "base64", "plain"])
def test_infer_errors_show_a_body_or_its_form(serve: Serve, signature: str) -> None:
    ask = serve(answer_models.build() / ("complex" if signature == "plain" else "refuses"), DANGEROUS_OPS="allow")
    error = json.loads(ask("POST", INFER, {"inputs": [], "parameters": {"signature_name": signature}}).body)["error"]
    body = error.partition("; a body that works: ")[2].encode()
    assert ask("POST", INFER, body).status == 200
    assert ("; the form of a body: " in error) == (signature != "plain")


@pytest.mark.parametrize("path", [PREDICT, INFER])
@pytest.mark.parametrize(
    "name", ["example_required", "picture_png", "json_example", "csv_lines", "float_indices", "vocabulary_strict"]
)
def test_an_error_shows_a_body_that_this_model_has_answered(serve: Serve, name: str, path: str) -> None:
    ask = serve(kinds.build() / name)
    error = json.loads(ask("POST", path, {"inputs": {"wrong": None}}).body)["error"]
    body = error.partition("; a body that works: ")[2].encode()
    assert ask("POST", path, body).status == 200, error


def test_the_trial_run_for_an_error_does_not_change_the_next_answer(serve: Serve) -> None:
    ask = serve(build() / "counter", DANGEROUS_OPS="allow")
    first = ask("POST", PREDICT, {"inputs": 1.0}).body
    ask = serve(build() / "counter", DANGEROUS_OPS="allow")
    error = ask("POST", PREDICT, {"inputs": "no number"})
    assert error.status == 400
    assert b"a body that works" not in error.body
    assert ask("POST", PREDICT, {"inputs": 1.0}).body == first


def test_a_body_in_json_is_not_shown_as_working_for_a_picture(serve: Serve) -> None:
    answer = serve(EMBEDDED)("POST", "/", b"no picture", **{"content-type": "image/png"})
    assert b"; a body that works, as application/json: " in answer.body


def test_show_and_openapi_offer_only_the_exporters_examples(serve: Serve) -> None:
    text = show(answer_models.build() / "refuses")
    assert "  try " not in text
    assert "a picture's file in base64" in text
    assert "none: JSON has no complex numbers" in show(answer_models.build() / "complex")
    document = json.loads(serve(answer_models.build() / "rows")("GET", "/openapi.json").body)
    assert "examples" not in document["components"]["requestBodies"]["Predict"]["content"]["application/json"]
