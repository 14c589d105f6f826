"""GET /openapi.json describes the served model, and requests that follow it work."""

import json
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from serving.core.http import Request, Response
from serving.pipeline import handler, routes
from serving.pipeline.openapi import paths, schemas
from serving.protocols import open_inference, tensorflow_serving
from serving.runtime import loading
from tests.conftest import EMBEDDED, Serve
from tests.models.zoo import ZOO, absent, build

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

Ask = Callable[..., Response]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
INSTALL = "{} is not installed: pip install -r requirements/dev.txt"

# Zeros and "text" are not for them; each says why, and the document what form they take.
REFUSE = {
    "sparse_input", "ragged_inside", "decode_image", "parse_example", "failures", "tf1_classify", "tf1_regress",
}  # fmt: skip
CANNOT_RUN = {"py_function", "custom_op"}
CANNOT_LOAD = {"ragged_output", "tf1_sparse_input"}


def described(ask: Ask) -> Any:
    answer = ask("GET", "/openapi.json")
    assert (answer.status, answer.content_type) == (200, "application/json"), answer.body
    return json.loads(answer.body)


def resolve(document: Any, value: Any) -> Any:
    while "$ref" in value:
        target = document
        for part in value["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        value = target
    return value


def operations(document: Any) -> Iterator[tuple[str, str, Any]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield method.upper(), path, operation


def schema_of(document: Any, holder: Any) -> Any:
    return {**resolve(document, holder)["content"]["application/json"]["schema"], "components": document["components"]}


def problems(schema: Any, value: Any) -> list[str]:
    """Return how a value differs from its schema."""
    validation = pytest.importorskip("jsonschema_rs", reason=INSTALL.format("jsonschema_rs, a part of schemathesis,"))
    if not validation.validator_for({"$schema": DIALECT, **schema}).is_valid(value):
        return [str(error) for error in validation.validator_for({"$schema": DIALECT, **schema}).iter_errors(value)]
    return []


def examples(document: Any) -> Iterator[tuple[str, Any, str, Any]]:
    """Yield every example with its path and operation, for the addresses without a version.

    Where the exporter left none, values of the declared types and shapes stand for them.
    """
    source = loading.cache().source()
    for _, path, operation in operations(document):
        reference = operation.get("requestBody", {})
        body = resolve(document, reference).get("content", {}).get("application/json", {})
        protocol = {"Predict": tensorflow_serving, "Infer": open_inference}.get(
            reference.get("$ref", "").rpartition("/")[2]
        )
        if "{version}" in path:
            continue
        for name, example in body.get("examples", {}).items():
            yield path, operation, name, example["value"]
        offered = source.signatures.items() if protocol and "examples" not in body else ()
        for name, signature in offered:
            usable = name and signature.refusal is None
            example_body = protocol.example(signature, source.examples.get(name)) if usable else b""  # type: ignore[union-attr]
            if 0 < len(example_body) < 8000:
                yield path, operation, name, json.loads(example_body)


@cache
def folder(name: str) -> Path:
    return EMBEDDED if name == "model" else build() / name


def test_it_is_an_openapi_document(serve: Serve) -> None:
    definitions = pytest.importorskip("schemathesis.specs.openapi.definitions", reason=INSTALL.format("schemathesis"))
    document = described(serve())
    assert [str(error) for error in definitions.OPENAPI_31_VALIDATOR.iter_errors(document)] == []


def test_it_follows_the_rules_that_the_schema_of_openapi_does_not_express(serve: Serve) -> None:
    validation = pytest.importorskip(
        "openapi_spec_validator", reason="openapi-spec-validator is not installed: pip install openapi-spec-validator"
    )
    for name in ("model", "odd_names", "tf1_names", "control_flow"):
        validation.validate(described(serve(folder(name))))


@pytest.mark.parametrize("name", ["model", *ZOO])
def test_references_resolve_and_names_are_unique(serve: Serve, name: str) -> None:
    if name in CANNOT_LOAD or absent(name):
        pytest.skip("there is nothing to serve")
    document = described(serve(folder(name)))
    for reference in set(re.findall(r'"\$ref":"([^"]*)"', json.dumps(document, separators=(",", ":")))):
        assert resolve(document, {"$ref": reference}) is not None
    names = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(names) == len(set(names))
    for kind in document["components"].values():
        assert all(re.fullmatch(r"[A-Za-z0-9._-]+", component) for component in kind)


def objects(value: Any) -> Iterator[Any]:
    """Yield every JSON object that a value holds, but for examples and conditions, which make no type."""
    if isinstance(value, dict):
        yield value
        for name, inner in value.items():
            yield from () if name in ("examples", "contains", "not") else objects(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from objects(inner)


@pytest.mark.parametrize("name", ["model", *ZOO])
def test_generators_of_clients_can_read_every_schema(serve: Serve, name: str) -> None:
    """What openapi-python-client or openapi-generator fail at: see tests/clients/test_generated_clients.py."""
    if name in CANNOT_LOAD or absent(name):
        pytest.skip("there is nothing to serve")
    for schema in objects(described(serve(folder(name)))["components"]):
        if schema.get("type") != "object" or not isinstance(schema.get("properties"), dict):
            continue
        for property_, inner in schema["properties"].items():
            assert isinstance(inner, dict), f"{property_}: true or false for a schema"
            assert inner.get("type") != "null", f"{property_}: nothing but null"
            assert "const" not in inner or property_ in schema.get("required", ()), f"{property_}: an optional const"


def test_every_route_is_described(serve: Serve) -> None:
    for name in ("tf1_classify", "tf1_regress"):
        document = described(serve(folder(name)))
        described_routes = {(method, path) for method, path, _ in operations(document)}
        for route in routes.routes():
            if str(route.protocol).endswith({"tf1_classify": "regress"}.get(name, "classify")):
                continue  # no signature is of that kind
            assert route.operation.answer != "Any", f"serving/pipeline/routes.py says nothing of {route.path}"
            addresses = [path.replace("{name}", "model") for path in paths.templates(route.path)]
            assert {(route.method, path) for path in addresses} <= described_routes


def test_every_documented_address_exists(serve: Serve) -> None:
    ask = serve()
    for method, path, operation in operations(described(ask)):
        answer = ask(method, path.replace("{version}", "1"))
        wanted = 400 if "requestBody" in operation and path != "/events" else 200  # no event is acknowledged too
        assert answer.status == wanted, (method, path, answer.body)


def test_get_requests_are_answered_as_described(serve: Serve) -> None:
    ask = serve()
    document = described(ask)
    for method, path, operation in operations(document):
        if method == "GET":
            answer = json.loads(ask(method, path.replace("{version}", "1")).body)
            assert problems(schema_of(document, operation["responses"]["200"]), answer) == [], path


# fmt: off
REFUSALS = [
    # method    path                            body                    headers                            status
    ("POST",    "/",                            b"{",                   {},                                400),
    ("POST",    "/v1/models/model/versions/7:predict", b"{}",           {},                                404),
    ("DELETE",  "/healthz",                     b"",                    {},                                405),
    ("POST",    "/",                            b" " * 2000,            {},                                413),
    ("POST",    "/v2/models/model/infer",       b"{}",                  {"content_encoding": "zstd"},      415),
]
# fmt: on


@pytest.mark.parametrize(("method", "path", "body", "headers", "status"), REFUSALS)
def test_errors_are_as_described(
    serve: Serve, method: str, path: str, body: bytes, headers: dict[str, str], status: int
) -> None:
    ask = serve(MAX_BODY_BYTES="1000")
    document = described(ask)
    answer = ask(method, path, body, **headers)
    assert answer.status == status
    name = paths.REFUSALS[status][0]
    response = document["components"]["responses"][name]
    assert problems(schema_of(document, response), json.loads(answer.body)) == []
    assert set(response.get("headers", {})) <= {header for header, _ in answer.headers}


def test_a_model_that_cannot_be_read_is_503(serve: Serve) -> None:
    answer = serve(build() / "broken" / "truncated_pb")("GET", "/openapi.json")
    assert answer.status == 503
    assert "cannot be loaded" in json.loads(answer.body)["error"]
    assert ("Retry-After", "1") in answer.headers


def test_it_needs_no_loaded_model(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.runtime.loading.open_session", lambda *_: pytest.fail("the model was loaded"))
    described(serve())


def test_it_is_built_once(serve: Serve) -> None:
    ask = serve()
    assert ask("GET", "/openapi.json").body is ask("GET", "/openapi.json").body


def test_title_version_and_addresses_follow_the_settings(serve: Serve) -> None:
    document = described(serve(folder("versions"), MODEL_NAME="a{c}%"))
    assert (document["info"]["title"], document["info"]["version"]) == ("a{c}%", "10")
    assert "/v1/models/a%7Bc%7D%25/versions/{version}:predict" in document["paths"]
    assert document["components"]["parameters"]["version"]["schema"] == {"const": 10}
    assert document["servers"] == [{"url": "/"}]


RAW = ["image/*", "application/octet-stream", "text/plain"]


@pytest.mark.parametrize(
    ("name", "takes"), [("model", True), ("keras_string_lookup", True), ("keras_functional", False)]
)
def test_bodies_of_bytes_are_described_where_a_signature_takes_one(serve: Serve, name: str, takes: bool) -> None:
    media_types = described(serve(folder(name)))["components"]["requestBodies"]["Predict"]["content"]
    assert [media in media_types for media in RAW] == [takes] * len(RAW)
    assert {"application/json", "multipart/form-data", "application/x-ndjson", "text/csv"} <= media_types.keys()


def test_a_large_input_does_not_enlarge_the_document(serve: Serve) -> None:
    document = described(serve(folder("dense_512")))
    assert len(json.dumps(document)) < 60_000
    row = document["components"]["schemas"]["serving_default.instances"]["properties"]["instances"]["items"]["anyOf"][1]
    assert (row["minItems"], row["maxItems"]) == (512, 512)


@pytest.mark.parametrize("name", ["model", *ZOO])
def test_every_example_is_answered_and_request_and_response_fit_their_schemas(serve: Serve, name: str) -> None:
    if absent(name):
        pytest.skip(absent(name) or "")
    ask = serve(folder(name))
    if name in CANNOT_LOAD:
        assert ask("GET", "/openapi.json").status == 503
        return
    document = described(ask)
    works = 0
    for path, operation, example, body in examples(document):
        where = f"{path}, {example}"
        assert problems(schema_of(document, operation["requestBody"]), body) == [], where
        answer = ask("POST", path, body)
        if name in REFUSE and answer.status == 400:
            assert b"the model refuses it" in answer.body, where
        elif name in CANNOT_RUN:
            assert answer.status in (501, 503)
        elif b"two of its inputs are the same tensor" not in answer.body:  # known once the model is loaded
            assert answer.status == 200, (where, answer.body)
            if answer.content_type == "application/json":
                response = operation["responses"]["200"]
                assert problems(schema_of(document, response), json.loads(answer.body)) == [], where
            works += 1
    nothing_in_json = ("dtype_complex64", "dtype_complex128")
    assert works or name in REFUSE or name in CANNOT_RUN or name in nothing_in_json


# fmt: off
BODIES = [
    # model              signature or form          valid   body
    ("keras_functional", "Predict",                 True,   {"instances": [{"deep": [1, 2, 3], "wide": [0.5, 1]}]}),
    ("keras_functional", "Predict",                 True,   {"instances": [{"deep": [1, 2, 3], "wide": [0.5, 1], "key": {"any": 1}}]}),
    ("keras_functional", "Predict",                 True,   {"inputs": {"deep": [[1, 2, 3]], "wide": [[0.5, 1]]}}),
    ("keras_functional", "Predict",                 True,   {"signature_name": "serve", "inputs": {"deep": [[1, 2, 3]], "wide": [[0.5, 1]]}}),
    ("keras_functional", "Predict",                 False,  {"signature_name": "other", "inputs": {"deep": [[1, 2, 3]], "wide": [[0.5, 1]]}}),
    ("keras_functional", "Predict",                 False,  {"instances": [{"deep": [1, 2, 3]}]}),
    ("keras_functional", "Predict",                 False,  {"instances": [{"deep": [1, 2, 3.5], "wide": [0.5, 1]}]}),
    ("keras_functional", "Predict",                 False,  {"instances": [{"deep": [1, 2, 2147483648], "wide": [0.5, 1]}]}),
    ("keras_functional", "Predict",                 False,  {"instances": [{"deep": [1, 2], "wide": [0.5, 1]}]}),
    ("keras_functional", "Predict",                 False,  {"instances": []}),
    ("keras_functional", "Predict",                 False,  {"instances": [[1, 2, 3]]}),
    ("keras_functional", "Predict",                 False,  {"instances": [{"deep": [1, 2, 3], "wide": [0.5, 1]}], "inputs": {}}),
    ("keras_sequential", "Predict",                 True,   {"instances": [{"features": [1, 2, 3, 4]}, {"features": [1, 2, 3, 4], "key": 1}]}),
    ("keras_sequential", "Predict",                 False,  {"instances": [{"features": [1, 2, 3, 4]}, [1, 2, 3, 4]]}),
    ("lookup_table",     "Predict",                 False,  {"instances": ["dog", {"word": "dog"}]}),
    ("lookup_table",     "Predict",                 False,  {"instances": ["dog", {"b64": "Y2F0", "key": 1}]}),
    ("lookup_table",     "Predict",                 True,   {"instances": ["dog", {"b64": "Y2F0"}]}),
    ("lookup_table",     "Predict",                 True,   {"instances": [{"word": "dog"}, {"b64": "Y2F0"}]}),
    ("keras_sequential", "Infer",                   True,   {"inputs": [{"name": "features", "shape": [1, 4], "datatype": "FP32", "data": [0, 1, 2, 3], "parameters": {"binary_data_size": None}}]}),
    ("keras_sequential", "Infer",                   True,   {"inputs": [{"name": "features", "shape": [1, 4], "datatype": "FP32", "data": [0, 1, 2, 3], "parameters": None}]}),
    ("keras_sequential", "Infer",                   False,  {"inputs": [{"name": "features", "shape": [1, 4], "datatype": "FP32", "data": [0, 1, 2, 3], "parameters": {"binary_data_size": 16}}]}),
    ("keras_sequential", "Infer",                   False,  {"inputs": [{"name": "features", "shape": [1, 3], "datatype": "FP32", "data": [0, 1, 2]}]}),
    ("keras_functional", "Infer",                   True,   {"inputs": [{"name": "wide", "shape": [1, 2], "datatype": "FP32", "data": [0, 1]}, {"name": "deep", "shape": [1, 3], "datatype": "INT32", "data": [[0, 1, 2]]}]}),
    ("keras_functional", "Infer",                   False,  {"inputs": [{"name": "wide", "shape": [1, 2], "datatype": "FP32", "data": [0, 1]}, {"name": "wide", "shape": [1, 2], "datatype": "FP32", "data": [0, 1]}]}),
    ("keras_functional", "Infer",                   False,  {"inputs": [{"name": "wide", "shape": [1, 2], "datatype": "FP32", "data": [0, 1]}]}),
    ("keras_functional", "Infer",                   False,  {"inputs": [{"name": "wide", "shape": [1, 2], "datatype": "FP64", "data": [0, 1]}, {"name": "deep", "shape": [1, 3], "datatype": "INT32", "data": [0, 1, 2]}]}),
    ("lookup_table",     "Predict",                 True,   {"instances": [{"b64": "Y2F0", "key": 1}, {"word": "dog"}]}),
    ("keras_string_lookup", "Predict",              True,   {"instances": [["cat"], [{"b64": "Y2F0"}], [{"b64": "Y2 F0\n"}]]}),
    ("keras_string_lookup", "Predict",              False,  {"instances": [[{"b64": "Y2F0Z"}]]}),
    ("keras_string_lookup", "Predict",              False,  {"instances": [[{"b64": "Y-_0"}]]}),
    ("keras_string_lookup", "Predict",              False,  {"instances": [["cat", "dog"]]}),
    ("fixed_shape",      "Predict",                 False,  {"instances": [[1, 2, 3], [4, 5, 6]]}),
    ("fixed_shape",      "Predict",                 False,  {"instances": [[1, 2, 3]]}),
    ("fixed_shape",      "Infer",                   False,  {"inputs": [{"name": "x", "shape": [2, 3], "datatype": "FP32", "data": [1, 2, 3]}]}),
    ("no_inputs",        "Predict",                 True,   {"inputs": {}}),
    ("no_inputs",        "Predict",                 False,  {"instances": [{}]}),
    ("constants",        "Predict",                 False,  {"instances": [[1, 2]]}),
    ("dtype_int8",       "Predict",                 True,   {"signature_name": "any", "inputs": [[[127, -128]]]}),
    ("dtype_int8",       "Predict",                 False,  {"signature_name": "any", "inputs": [[[128]]]}),
    ("dtype_int8",       "Predict",                 True,   {"signature_name": "scalar", "inputs": 5}),
    ("dtype_int8",       "Predict",                 True,   {"signature_name": "matrix", "inputs": [[]]}),
    ("dtype_int8",       "Predict",                 False,  {"signature_name": "matrix", "inputs": []}),
    ("dtype_int8",       "Predict",                 True,   {"signature_name": "vector", "inputs": []}),
    ("dtype_float16",    "Predict",                 False,  {"signature_name": "vector", "inputs": [1e6]}),
]
# fmt: on


@pytest.mark.parametrize(("name", "form", "valid", "body"), BODIES)
def test_the_server_accepts_what_the_schema_accepts(serve: Serve, name: str, form: str, valid: bool, body: Any) -> None:
    ask = serve(folder(name))
    document = described(ask)
    violations = problems({**schemas.schema_ref(form), "components": document["components"]}, body)
    assert (violations == []) is valid, violations
    path = "/v2/models/model/infer" if form == "Infer" else "/v1/models/model:predict"
    answer = ask("POST", path, body)
    assert answer.status == (200 if valid else 400), answer.body


# fmt: off
FOUND = [
    # address                             body                                                                                    status  words
    ("/?on_error=null",                   {"instances": [[0, 0, 0, 0]]},                                                          400,    "on_error: expected row or request"),
    ("/?scores=nothing",                  {"instances": [[0, 0, 0, 0]]},                                                          400,    "scores: there is no output 'nothing'"),
    ("/?top_k=",                          {"instances": [[0, 0, 0, 0]]},                                                          400,    "top_k: expected a whole number of 1 or more, got ''"),
    ("/?scores=",                         {"instances": [[0, 0, 0, 0]]},                                                          400,    "scores: there is no output ''"),
    ("/?arrays=",                         {"instances": [[0, 0, 0, 0]]},                                                          400,    "arrays: expected base64 or json, got ''"),
    ("/",                                 {"instances": [[0, 0, 0, 0]], "parameters": {"top_k": 1.5}},                            400,    "parameters.top_k: expected text or a whole number, got 1.5"),
    ("/",                                 {"instances": [[0, 0, 0, 0]], "parameters": {"top_k": 1.0}},                            200,    '"classes"'),
    ("/?top_k=1",                         {"instances": [[0, 0, 0, 0]], "parameters": {"top_k": 2}},                              400,    "top_k: expected one value, got '1' in the address and '2' in the parameters"),
    ("/",                                 {"instances": [{"key": 1 << 70, "features": [0, 0, 0, 0]}]},                            200,    '"key":1180591620717411303424'),
    ("/",                                 {"instances": [{"key": [1 << 70, {"a": None}], "features": [0, 0, 0, 0]}]},             200,    '"key":[1180591620717411303424,{"a":null}]'),
    ("/v2/models/model/infer",            {"inputs": [{"name": "features", "shape": [1, 4], "datatype": "FP32", "data": [0, 0, 0, 0]}], "outputs": [{"name": "output_0", "parameters": {"classification": 1.0}}]}, 200, '"BYTES"'),
]
# fmt: on


@pytest.mark.parametrize(("address", "body", "status", "words"), FOUND)
def test_bodies_that_schemathesis_found_are_answered_as_described(
    serve: Serve, address: str, body: Any, status: int, words: str
) -> None:
    serve(folder("keras_sequential"))
    path, _, query = address.partition("?")
    answer = handler.handle(Request("POST", path, query=query, body=json.dumps(body).encode()))
    assert (answer.status, words in answer.body.decode()) == (status, True), answer.body


def test_a_key_is_refused_where_the_outputs_have_other_rows(serve: Serve) -> None:
    answer = serve(folder("fixed_shape"))("POST", "/", {"instances": [{"x": [1, 2, 3], "key": 1}, {"x": [1, 2, 3]}]})
    assert (answer.status, b"has 3 rows for the 2 rows" in answer.body) == (400, True), answer.body


@pytest.mark.parametrize("rows", [[None, "a"], [[1, 2, 3], "a"], [[1, 2, 3], [4, 5, 6]]])
def test_on_error_row_is_refused_where_the_outputs_have_no_rows(serve: Serve, rows: Any) -> None:
    serve(folder("fixed_shape"))
    body = json.dumps({"instances": rows}).encode()
    answer = handler.handle(Request("POST", "/", query="on_error=row", body=body))
    assert (answer.status, b"'serving_default' does not go by rows" in answer.body) == (400, True), answer.body


def test_a_column_with_a_bad_row_is_refused_as_a_whole(serve: Serve) -> None:
    serve(folder("model"))
    body = b'{"inputs":[{"b64":""}]}'
    answer = handler.handle(Request("POST", "/", query="on_error=row&top_k=1&scores=probabilities", body=body))
    assert (answer.status, b"the model refuses it" in answer.body) == (400, True), answer.body
