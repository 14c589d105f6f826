"""Options of a request beyond the protocols: keys, errors at bad rows, ranked classes, arrays in base64."""

import base64
import json
from itertools import permutations
from typing import Any

import numpy as np
import pytest

from tests.conftest import EMBEDDED, Serve
from tests.models.zoo import build

PREDICT = "/v1/models/model:predict"
BAD = {"b64": "AAAA"}


@pytest.fixture
def picture(examples: dict[str, Any]) -> dict[str, str]:
    instance: dict[str, str] = examples["serving_default"]["instances"][0]
    return instance


@pytest.fixture
def pixels(examples: dict[str, Any]) -> list[list[int]]:
    instance: list[list[int]] = examples["pixels"]["instances"][0]
    return instance


def ask_json(ask: Any, path: str, body: Any, status: int = 200) -> Any:
    answer = ask("POST", path, body)
    assert answer.status == status, answer.body
    return json.loads(answer.body)


# Keys


def test_a_key_is_returned_beside_its_prediction(serve: Serve, picture: Any, pixels: Any) -> None:
    ask = serve()
    instances = [{"key": "b", "image": picture}, {"image": picture, "key": 7}, {"image": picture}]
    predictions = ask_json(ask, PREDICT, {"instances": instances})["predictions"]
    assert [row.get("key") for row in predictions] == ["b", 7, None]
    assert {row["label"] for row in predictions} == {"3"}
    assert next(iter(predictions[0])) == "key"
    body = {"signature_name": "pixels", "instances": [{"pixels": pixels, "key": {"any": ["thing", None]}}]}
    assert ask_json(ask, PREDICT, body)["predictions"][0]["key"] == {"any": ["thing", None]}


def test_a_single_output_is_named_beside_a_key(serve: Serve) -> None:
    ask = serve(build() / "versions" / "2")
    name = next(
        iter(
            json.loads(ask("GET", "/v1/models/model/metadata").body)["metadata"]["signature_def"]["signature_def"][
                "serving_default"
            ]["outputs"]
        )
    )
    predictions = ask_json(ask, "/", {"instances": [{"x": 1.0, "key": 1}, {"x": 2.0, "key": 2}]})["predictions"]
    assert predictions == [{"key": 1, name: 3.0}, {"key": 2, name: 4.0}]


def test_KEY_FIELD_renames_the_key_and_unknown_fields_stay_errors(serve: Serve, picture: Any) -> None:
    ask = serve(KEY_FIELD="id")
    predictions = ask_json(ask, PREDICT, {"instances": [{"id": 1, "image": picture}]})["predictions"]
    assert predictions[0]["id"] == 1
    wrong = ask_json(ask, PREDICT, {"instances": [{"key": 1, "image": picture}]}, 400)
    assert wrong["error"].startswith("instances[0]: the signature has no input 'key'")


def test_bytes_may_carry_a_key_beside_them(serve: Serve, picture: Any) -> None:
    predictions = ask_json(serve(), PREDICT, {"instances": [{**picture, "key": 5}]})["predictions"]
    assert (predictions[0]["key"], predictions[0]["label"]) == (5, "3")


def test_columns_may_carry_a_column_of_keys(serve: Serve, picture: Any) -> None:
    ask = serve()
    outputs = ask_json(ask, PREDICT, {"inputs": {"image": [picture, picture], "key": ["a", "b"]}})["outputs"]
    assert (outputs["key"], outputs["label"]) == (["a", "b"], ["3", "3"])
    for keys in (["a"], "ab", {"a": 1}):
        wrong = ask_json(ask, PREDICT, {"inputs": {"image": [picture, picture], "key": keys}}, 400)
        assert wrong["error"].startswith("inputs.key: expected a list of one key for each row")


def test_an_input_of_the_keys_name_is_an_input(serve: Serve) -> None:
    ask = serve(build() / "versions" / "2", KEY_FIELD="x")
    assert ask_json(ask, "/", {"instances": [{"x": 1.0}]})["predictions"] == [3.0]


# Bad rows in their place


@pytest.mark.parametrize("where", ["query", "parameters"])
def test_a_bad_row_gets_an_error_at_its_position(serve: Serve, picture: Any, where: str) -> None:
    ask = serve()
    instances = [picture, 5, BAD, picture, {"b64": "?"}]
    path, more = (f"{PREDICT}?on_error=row", {}) if where == "query" else (PREDICT, {"parameters": {"on_error": "row"}})
    predictions = ask_json(ask, path, {"instances": instances, **more})["predictions"]
    assert [row.get("label") for row in predictions] == ["3", None, None, "3", None]
    assert predictions[1]["error"].startswith("instances[1]: expected a string")
    assert predictions[2]["error"].startswith("instances[2].image: the model refuses it")
    assert predictions[4]["error"].startswith("instances[4]: expected base64")


def test_a_bad_row_keeps_its_key(serve: Serve, picture: Any) -> None:
    instances = [{"key": 1, "image": BAD}, {"key": 2, "image": picture}, {"key": 3}, {"key": 4, "imag": picture}, 7]
    predictions = ask_json(serve(), f"{PREDICT}?on_error=row", {"instances": instances})["predictions"]
    assert [row.get("key") for row in predictions] == [1, 2, 3, 4, None]
    assert [row.get("label") for row in predictions] == [None, "3", None, None, None]
    assert "the input 'image' is missing" in predictions[2]["error"]
    assert "did you mean 'image'?" in predictions[3]["error"]
    assert "expected an object" in predictions[4]["error"]


def test_rows_of_another_shape_fail_alone(serve: Serve, pixels: Any) -> None:
    body = {"signature_name": "pixels", "instances": [pixels, pixels[:7], pixels, [[1]] * 8]}
    predictions = ask_json(serve(), f"{PREDICT}?on_error=row", body)["predictions"]
    assert ["error" in row for row in predictions] == [False, True, False, True]
    assert predictions[1]["error"] == "instances[1]: expected shape [8, 8], got [7, 8]"


def test_all_rows_may_be_bad(serve: Serve) -> None:
    for instances in ([5, None], [BAD, BAD]):
        predictions = ask_json(serve(), f"{PREDICT}?on_error=row", {"instances": instances})["predictions"]
        assert [list(row) for row in predictions] == [["error"], ["error"]]


def test_good_rows_get_the_same_bytes_with_or_without_on_error(serve: Serve, picture: Any) -> None:
    ask = serve()
    body = {"instances": [picture, picture]}
    assert ask("POST", PREDICT, body) == ask("POST", f"{PREDICT}?on_error=row", body)


# Instances beside predictions

REPEATED = [
    # body                                                                  query                         what is repeated
    (b'{"instances":[1.0,2.50]}',                                           "instances=1",                b'"instances":[1.0,2.5]'),
    (b'{"instances": [ {"x": 1e0, "key": "\xc3\xa9\\u000a\\""} ]}',            "instances=1",                b'"instances":[{"x":1.0,"key":"\xc3\xa9\\n\\""}]'),
    (b'{"inputs":{"x":[1.0]}}',                                             "instances=1",                b'"inputs":{"x":[1.0]}'),
    (b'{"inputs":[1.0],"parameters":{"instances":1}}',                      "",                           b'"inputs":[1.0]'),
    (b'{"instances":[NaN]}',                                                "instances=1",                b'"instances":[NaN]'),
    (b'{"instances":["a",1.0]}',                                            "instances=1&on_error=row",   b'"instances":["a",1.0]'),
    (b'{"instances":[1.0]}',                                                "instances=0",                b""),
]  # fmt: skip


@pytest.mark.parametrize(("body", "query", "repeated"), REPEATED)
def test_the_instances_can_be_returned_beside_the_predictions(
    serve: Serve, body: bytes, query: str, repeated: bytes
) -> None:
    ask = serve(build() / "versions" / "1")
    answer = ask("POST", f"{PREDICT}?{query}", body)
    other = "on_error=row" if "on_error" in query else ""
    plain = ask("POST", f"{PREDICT}?{other}", body.replace(b',"parameters":{"instances":1}', b""))
    assert answer.status == plain.status == 200, answer.body
    assert answer.body == (b"{" + repeated + b"," + plain.body[1:] if repeated else plain.body)


def test_the_instances_of_a_body_that_is_not_json_cannot_be_returned(serve: Serve) -> None:
    answer = serve(build() / "versions" / "1")(
        "POST", f"{PREDICT}?instances=1", b"1.0\n", content_type="application/jsonl"
    )
    assert answer.status == 400
    assert "instances: expected a body in JSON, got application/jsonl" in json.loads(answer.body)["error"]


# Ranked classes


def test_the_best_classes_come_with_their_names(serve: Serve, picture: Any) -> None:
    ask = serve()
    plain = ask_json(ask, PREDICT, {"instances": [picture]})["predictions"][0]["probabilities"]
    (prediction,) = ask_json(ask, f"{PREDICT}?top_k=3", {"instances": [picture]})["predictions"]
    order = sorted(range(10), key=lambda index: -plain[index])[:3]
    assert prediction == {"classes": [{"name": str(i), "index": i, "score": plain[i]} for i in order]}
    columns = ask_json(ask, PREDICT, {"inputs": [picture], "parameters": {"top_k": 3}})["outputs"]
    assert columns == [prediction["classes"]]


def test_class_names_may_be_an_output(serve: Serve) -> None:
    predictions = ask_json(serve(build() / "tf1_classify"), "/?top_k=1", {"instances": [EXAMPLE]})["predictions"]
    assert predictions[0]["classes"][0]["name"] == "bee"


EXAMPLE = {"b64": base64.b64encode(b"\n\x13\n\x11\n\x01x\x12\x0c\x12\n\n\x08\x00\x00\x80?\x00\x00\x00@").decode()}

OPTIONS = [
    # query                       words
    ("top_k=0",                   "top_k: expected a whole number of 1 or more, got '0'"),
    ("top_k=-1",                  "top_k: expected a whole number of 1 or more, got '-1'"),
    ("top_k=three",               "top_k: expected a whole number"),
    ("top_k=3&scores=label",      "scores: there is no output 'label' of scores"),
    ("top_k=3&top_k=4",           "query: 'top_k' appears twice"),
    ("on_error=ignore",           "on_error: expected row or request, got 'ignore'"),
    ("instances=yes",             "instances: expected 0 or 1, got 'yes'"),
    ("arrays=hex",                "arrays: expected base64 or json, got 'hex'"),
    ("signature_name=pixel",      "did you mean 'pixels'?"),
    ("topk=3",                    "query: there is no 'topk'; did you mean 'top_k'?"),
    ("topK=3",                    "query: there is no 'topK'; did you mean 'top_k'?"),
    ("top-k=3",                   "query: there is no 'top-k'; did you mean 'top_k'?"),
    ("top=3",                     "query: there is no 'top'; did you mean 'top_k'?"),
    ("TOP_K=3",                   "query: there is no 'TOP_K'; did you mean 'top_k'?"),
    ("SignatureName=pixels",      "query: there is no 'SignatureName'; did you mean 'signature_name'?"),
    ("signature-nam=pixels",      "query: there is no 'signature-nam'; did you mean 'signature_name'?"),
    ("sgnature_nme=pixels",       "query: there is no 'sgnature_nme'; did you mean 'signature_name'?"),
    ("on_eror=row",               "query: there is no 'on_eror'; did you mean 'on_error'?"),
    ("on_erorr=row",              "query: there is no 'on_erorr'; did you mean 'on_error'?"),
    ("onError=row",               "query: there is no 'onError'; did you mean 'on_error'?"),
    ("signature=pixels",          "query: there is no 'signature'; did you mean 'signature_name'?"),
    ("signture_name=pixels",      "query: there is no 'signture_name'; did you mean 'signature_name'?"),
    ("array=base64",              "query: there is no 'array'; did you mean 'arrays'?"),
    ("score=x&top_k=1",           "query: there is no 'score'; did you mean 'scores'?"),
    ("a=%ff",                     "query: expected at most 64 parameters in UTF-8"),
    ("&".join(f"a{n}=1" for n in range(65)), "query: expected at most 64 parameters"),
]  # fmt: skip


@pytest.mark.parametrize(("query", "words"), OPTIONS)
def test_a_wrong_option_is_named(serve: Serve, query: str, words: str) -> None:
    body = {"instances": [5]} if query.startswith("on_error") else {"instances": [BAD]}
    assert words in ask_json(serve(), f"{PREDICT}?{query}", body, 400)["error"]


@pytest.mark.parametrize("names", [*permutations(["topk", "score", "on_eror"])])
def test_of_several_wrong_options_the_first_is_named(serve: Serve, names: tuple[str, ...]) -> None:
    ask = serve(build() / "versions" / "2")
    first = f"there is no {names[0]!r}"
    query = "&".join(f"{name}=1" for name in names)
    assert first in ask_json(ask, f"{PREDICT}?{query}", {"instances": [1]}, 400)["error"]
    assert first in ask_json(ask, PREDICT, {"instances": [1], "parameters": dict.fromkeys(names, 1)}, 400)["error"]


@pytest.mark.parametrize("names", [*permutations(["top_k", "scores", "on_error"])])
def test_of_several_options_that_infer_does_not_have_the_first_is_named(serve: Serve, names: tuple[str, ...]) -> None:
    body = {"inputs": [], "parameters": {names[0]: 1}}
    query = "&".join(f"{name}=1" for name in names[1:])
    error = ask_json(serve(build() / "versions" / "2"), f"/v2/models/model/infer?{query}", body, 400)["error"]
    assert error == f"{names[0]}: an option of predict, which infer does not have"


def test_a_model_without_scores_cannot_rank(serve: Serve) -> None:
    wrong = ask_json(serve(build() / "versions" / "2"), "/?top_k=1", {"instances": [1.0]}, 400)
    assert "expected one float output of shape [batch, classes]; there is none" in wrong["error"]


OTHERS = [
    "key=an-api-key&alt=json",
    "a=1&a=2",
    "token=x",
    "sources=x",
    "k=3",
    "id=7",
    "fields=a",
    "signed=1",
    "error=1",
    "Expires=1795979255&Signature=0p3x&Key-Pair-Id=K2",
    "sv=2025-01-05&sig=0p3x&sp=r",
    "X-Amz-Signature=0p3x",
    "top_p=0.9",
    "top_n=2",
    "scope=a&scopes=a,b",
    "store=eu",
    "tops=1",
]


@pytest.mark.parametrize("query", OTHERS)
def test_an_unknown_query_parameter_that_resembles_no_option_is_ignored(serve: Serve, picture: Any, query: str) -> None:
    assert ask_json(serve(), f"{PREDICT}?{query}", {"instances": [picture]})["predictions"]


X = [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1.0]}]
SLIPS = [
    # address                            body                                                        words
    (":predict",                         {"instances": [1], "signature": "nope"},                    "body: there is no 'signature'; did you mean 'signature_name'?"),
    (":predict",                         {"instances": [1], "parameters": {"topk": 2}},              "parameters: there is no 'topk'; did you mean 'top_k'?"),
    (":predict",                         {"instances": [1], "paramters": {"top_k": 2}},              "body: there is no 'paramters'; did you mean 'parameters'?"),
    (":predict",                         {"inputs": [1], "instance": [2]},                           "body: there is no 'instance'; did you mean 'instances'?"),
    (":predict",                         {"instances": [1], "options": {"a": 1}},                    None),
    (":predict",                         {"instances": [1], "parameters": {"temperature": 0.5, "maxTokens": 3}}, None),
    (":predict",                         {"instances": [1], "instance_id": "a", "Signature": "0p3x"}, None),
    (":predict",                         {"instances": [1], "parameters": {"top_p": 0.9, "content": "a"}}, None),
    ("/infer",                           {"inputs": [X[0] | {"date": "2026-11-29", "shade": 1, "binary": True}]}, None),
    (":classify",                        {"examples": [{}], "signature": "nope"},                    "did you mean 'signature_name'?"),
    (":classify",                        {"examples": [{}], "parameters": {"top_k": 2}},             "top_k: an option of predict, which classify or regress does not have"),
    (":regress?on_error=row",            {"examples": [{}]},                                         "on_error: an option of predict, which classify or regress does not have"),
    ("/infer",                           {"inputs": X, "parameters": {"signature": "nope"}},         "parameters: there is no 'signature'; did you mean 'signature_name'?"),
    ("/infer",                           {"inputs": X, "parameters": {"topk": 2}},                   "parameters: there is no 'topk'; did you mean 'top_k'?"),
    ("/infer",                           {"inputs": X, "parameters": {"top_k": 2}},                  "top_k: an option of predict, which infer does not have"),
    ("/infer?top_k=2",                   {"inputs": X},                                              "top_k: an option of predict, which infer does not have"),
    ("/infer?signature_name=nope",       {"inputs": X},                                              "parameters.signature_name: the model has no signature 'nope'"),
    ("/infer",                           {"inputs": X, "parameters": {"binary_output": True}},       None),
    ("/infer",                           {"inputs": X, "parameters": {"binary_data_ouput": True}},   "did you mean 'binary_data_output'?"),
    ("/infer",                           {"inputs": X, "output": [{"name": "y"}]},                   "body: there is no 'output'; did you mean 'outputs'?"),
    ("/infer",                           {"inputs": X, "outputs": [{"name": "y", "parameter": {"binary_data": True}}]}, "outputs[0]: there is no 'parameter'"),
    ("/infer",                           {"inputs": X, "parameters": {"priority": 1, "sequence_id": 2}}, None),
    ("/infer?a=1&a=2",                   {"inputs": X},                                              None),
]  # fmt: skip


@pytest.mark.parametrize(("address", "body", "words"), SLIPS)
def test_a_misspelt_name_is_refused_and_an_unrelated_one_ignored(
    serve: Serve, address: str, body: Any, words: str | None
) -> None:
    path = f"/v1/models/model{address}" if address.startswith(":") else f"/v2/models/model{address}"
    answer = serve(build() / "versions" / "1")("POST", path, body)
    assert (answer.status == 200) is (words is None), answer.body
    assert (words or "") in json.loads(answer.body).get("error", "")


def test_the_signature_may_be_named_in_the_address(serve: Serve, pixels: Any) -> None:
    assert ask_json(serve(), "/?signature_name=pixels", {"instances": [pixels]})["predictions"][0]["label"] == "3"


SIGNATURES = [
    # address                            body                                                       status
    (":predict?signature_name=vector",   {"signature_name": "any", "instances": [1]},                 400),
    (":predict?signature_name=vector",   {"signature_name": "", "instances": [1]},                    400),
    (":predict?signature_name=vector",   {"signature_name": "vector", "instances": [1]},              200),
    (":predict?signature_name=",         {"signature_name": "vector", "instances": [1]},              200),
    (":predict",                         {"signature_name": "vector", "instances": [1], "parameters": {"signature_name": "any"}}, 400),
    (":predict",                         {"signature_name": "vector", "instances": [1], "parameters": {"signature_name": "vector"}}, 200),
    (":classify?signature_name=vector",  {"signature_name": "any", "examples": [{}]},                 400),
    ("/infer?signature_name=vector",     {"inputs": X, "parameters": {"signature_name": "any"}},      400),
    ("/infer?signature_name=any",        {"inputs": X, "parameters": {"signature_name": "any"}},      200),
]  # fmt: skip


@pytest.mark.parametrize(("address", "body", "status"), SIGNATURES)
def test_two_different_names_of_the_signature_are_refused(serve: Serve, address: str, body: Any, status: int) -> None:
    path = f"/v1/models/model{address}" if address.startswith(":") else f"/v2/models/model{address}"
    answer = serve(build() / "dtype_float32")("POST", path, body)
    assert answer.status == status, answer.body
    if status == 400:
        assert "signature_name: expected one value, got " in json.loads(answer.body)["error"]


def test_arrays_may_come_as_base64(serve: Serve, picture: Any) -> None:
    ask = serve()
    plain = ask_json(ask, PREDICT, {"instances": [picture]})["predictions"][0]
    (row,) = ask_json(ask, f"{PREDICT}?arrays=base64", {"instances": [picture]})["predictions"]
    packed = row["probabilities"]
    assert (packed["dtype"], packed["shape"], row["label"]) == ("float32", [10], "3")
    array = np.frombuffer(base64.b64decode(packed["b64"]), packed["dtype"]).reshape(packed["shape"])
    np.testing.assert_array_equal(array, np.array(plain["probabilities"], np.float32))
    columns = ask_json(ask, f"{PREDICT}?arrays=base64", {"inputs": [picture]})["outputs"]
    assert (columns["probabilities"]["shape"], columns["label"]) == ([1, 10], ["3"])


def test_nan_and_the_infinities_are_tokens_or_null(serve: Serve) -> None:
    body = b'{"instances": [NaN, Infinity, 1.5]}'
    ask = serve(build() / "versions" / "1")
    assert ask("POST", "/", body).body == b'{"predictions":[NaN,Infinity,2.5]}'
    ask = serve(build() / "versions" / "1", NON_FINITE="null")
    assert ask("POST", "/", body).body == b'{"predictions":[null,null,2.5]}'


# Bodies that are not JSON


@pytest.mark.parametrize("path", ["/", PREDICT, "/invocations"])
def test_a_picture_may_be_the_body(serve: Serve, path: str) -> None:
    for name, label, kind in (("digit-3.png", "3", "image/png"), ("digit-7.jpg", "7", "image/jpeg")):
        picture = (EMBEDDED.parent / "tests" / "data" / name).read_bytes()
        answer = serve()("POST", path, picture, **{"content-type": kind})
        assert json.loads(answer.body)["predictions"][0]["label"] == label


def test_lines_are_answered_line_for_line(serve: Serve, picture: Any) -> None:
    lines = [json.dumps(line) for line in (picture, {"image": picture, "key": 4}, 5)]
    answer = serve()("POST", "/?on_error=row", "\n".join(lines).encode(), **{"content-type": "application/x-ndjson"})
    assert (answer.status, answer.content_type) == (200, "application/x-ndjson")
    rows = [json.loads(line) for line in answer.body.splitlines()]
    assert [row.get("label") for row in rows] == ["3", "3", None]
    assert (rows[1]["key"], rows[2]["error"][:7]) == (4, "line 3:")


def test_one_bad_row_among_10000_is_named(serve: Serve) -> None:
    instances: list[Any] = [float(number) for number in range(10_000)]
    instances[5_678] = "bad"
    predictions = ask_json(serve(build() / "versions" / "1"), "/?on_error=row", {"instances": instances})["predictions"]
    assert predictions[5_677:5_680] == [
        5_678.0,
        {"error": 'instances[5678]: expected float32, got the string "bad"'},
        5_680.0,
    ]
