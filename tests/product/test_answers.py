"""No answer is silently wrong: keys, errors at their rows, numbers of rows, errors of the model."""

import json
import time
from typing import Any

import pytest

from serving.core.errors import plain
from tests.conftest import Serve
from tests.models import answer_models
from tests.pipeline.native.conftest import Ask, extension  # noqa: F401 - a fixture
from tests.pipeline.native.conftest import compare as compare_fixture

compare = compare_fixture
PREDICT = "/v1/models/model:predict"
LINES, CSV = {"content_type": "application/x-ndjson"}, {"content_type": "text/csv"}
FORM = {"content_type": "multipart/form-data; boundary=b"}


def form(**parts: bytes) -> bytes:
    heads = [
        b'--b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n' % (n.encode(), v) for n, v in parts.items()
    ]
    return b"".join([*heads, b"--b--"])


KEYS = [
    # query                              body                                                       headers  status  words
    ("",                                 {"instances": [{"x": 1, "key": "order-7"}]},               {},      400,    "key: the answer has a field 'key' of its own"),
    ("",                                 {"inputs": {"x": [1], "key": ["order-7"]}},                {},      400,    "key: the answer has a field 'key' of its own"),
    ("?signature_name=key",              {"instances": [{"x": 1, "key": "order-7"}]},               {},      400,    "key: the answer has a field 'key' of its own"),
    ("",                                 b'{"x": 1, "key": "order-7"}',                             LINES,   400,    "key: the answer has a field 'key' of its own"),
    ("",                                 b"x,key\n1,order-7",                                       CSV,     400,    "key: the answer has a field 'key' of its own"),
    ("",                                 form(x=b"1", key=b"order-7"),                              FORM,    400,    "key: the answer has a field 'key' of its own"),
    ("",                                 {"instances": [{"x": 1}]},                                 {},      200,    '{"key":2.0,"y":1.0}'),
    ("?signature_name=error",            {"instances": [{"x": 1, "key": "order-7"}]},               {},      200,    '{"key":"order-7","error":2.0,"y":1.0}'),
    ("?signature_name=error&on_error=row", {"instances": [{"x": 1}]},                               {},      400,    "on_error: the model has an output 'error'"),
    ("?signature_name=error&on_error=row", b'{"x": 1}',                                             LINES,   400,    "on_error: the model has an output 'error'"),
    ("?signature_name=error&on_error=row", {"inputs": {"x": [1]}},                                  {},      200,    '"error":[2.0]'),
    ("?signature_name=classes&top_k=1",  {"instances": [{"x": [1, 2, 3], "key": 7}]},               {},      200,    '{"key":7,"classes"'),
]  # fmt: skip


@pytest.mark.parametrize(("query", "body", "headers", "status", "words"), KEYS)
def test_an_output_named_like_the_key_or_the_error_is_not_overwritten(
    serve: Serve, query: str, body: Any, headers: dict[str, str], status: int, words: str
) -> None:
    answer = serve(answer_models.build() / "fields")("POST", PREDICT + query, body, **headers)
    assert answer.status == status, answer.body
    assert words in answer.body.decode().replace('\\"', '"')


def test_the_field_of_the_key_is_a_setting(serve: Serve) -> None:
    for key_field, query, status in (("id", "", 200), ("classes", "?top_k=1", 400), ("error", "?on_error=row", 400)):
        ask = serve(answer_models.build() / "fields", KEY_FIELD=key_field)
        path = f"{PREDICT}{query or '?'}&signature_name=classes"
        answer = ask("POST", path, {"instances": [{"x": [1, 2, 3], key_field: "order-7"}]})
        assert answer.status == status, answer.body
        assert b'"id":"order-7"' in answer.body or b"of its own" in answer.body


ROWS = [
    # query                               body                                                       headers  status  words
    ("",                                  {"instances": [1, 2, 3]},                                  {},      500,    "'y' has 2 rows for the 3 rows"),
    ("",                                  {"instances": [{"x": 1}, {"x": 2}, {"x": 3}]},             {},      500,    "'y' has 2 rows for the 3 rows"),
    ("",                                  {"instances": [{"x": 1, "key": 1}, {"x": 2}, {"x": 3}]},   {},      500,    "'y' has 2 rows for the 3 rows"),
    ("?arrays=base64",                    {"instances": [1, 2, 3]},                                  {},      500,    "'y' has 2 rows for the 3 rows"),
    ("?on_error=row",                     {"instances": [1, "a", 2, 3]},                             {},      500,    "'y' has 2 rows for the 3 rows"),
    ("?signature_name=two",               {"instances": [1, 2, 3]},                                  {},      500,    "'b' has 2 rows for the 3 rows"),
    ("?signature_name=fixed",             {"instances": [1, 2, 3]},                                  {},      400,    "'y' has 2 rows for the 3 rows"),
    ("?signature_name=text",              {"instances": ["a b", "c"]},                               {},      500,    "'y' has 3 rows for the 2 rows"),
    ("?signature_name=positive",          {"instances": [1, -1]},                                    {},      500,    "'y' has 1 rows for the 2 rows"),
    ("?signature_name=positive",          {"instances": [1, 1]},                                     {},      200,    "[1.0,1.0]"),
    ("",                                  b"1\n2\n3",                                                LINES,   500,    "'y' has 2 rows for the 3 rows"),
    ("",                                  b"x\n1\n2\n3",                                             CSV,     500,    "'y' has 2 rows for the 3 rows"),
    ("",                                  form(x=b"1"),                                              FORM,    500,    "'y' has 0 rows for the 1 rows"),
    ("",                                  {"inputs": [1, 2, 3]},                                     {},      200,    '{"outputs":[2.0,3.0]}'),
    ("?signature_name=scores&top_k=1",    {"instances": [[1, 2, 4], [3, 2, 1]]},                     {},      200,    '{"classes":[{"name":"c","index":2,"score":4.0}]}'),
    ("?signature_name=scores",            {"instances": [[1, 2, 4], [3, 2, 1]]},                     {},      400,    "'names' has 3 rows for the 2 rows"),
    ("?signature_name=refuses&on_error=row", b'{"inputs": [1, NaN, 2]}',                             {},      400,    "the model refuses it"),
]  # fmt: skip


@pytest.mark.parametrize(("query", "body", "headers", "status", "words"), ROWS)
def test_rows_are_answered_by_as_many_rows_or_both_numbers_are_named(
    serve: Serve, query: str, body: Any, headers: dict[str, str], status: int, words: str
) -> None:
    answer = serve(answer_models.build() / "rows")("POST", PREDICT + query, body, **headers)
    assert answer.status == status, answer.body
    assert words in answer.body.decode()


def test_a_wrong_number_of_rows_is_logged_as_an_error_of_the_model(
    serve: Serve, capfd: pytest.CaptureFixture[str]
) -> None:
    assert serve(answer_models.build() / "rows")("POST", PREDICT, {"instances": [1, 2, 3]}).status == 500
    assert "a wrong answer of the model: the output 'y' has 2 rows" in "".join(capfd.readouterr())


def test_the_accelerator_counts_rows_too(compare: Ask) -> None:
    bodies = [b'{"instances": [1, 2, 3]}', b'{"instances": [{"x": 1}, {"x": 2}]}', b'{"inputs": [1, 2, 3]}']
    taken = compare(answer_models.build() / "rows", bodies)
    assert [quick for _, quick in taken] == [False, False, True]
    compare(answer_models.build() / "rows", [b'{"signature_name":"two","instances": [1, 2, 3]}'])
    compare(answer_models.build() / "fields", [b'{"instances": [{"x": 1, "key": "order-7"}]}', b'{"instances": [1]}'])


def test_an_uninitialised_table_is_an_error_of_the_model(serve: Serve, capfd: pytest.CaptureFixture[str]) -> None:
    answer = serve(answer_models.build() / "no_table")("POST", PREDICT, {"instances": ["b"]})
    assert (answer.status, json.loads(answer.body)["error"]) == (500, "the model failed: FAILED_PRECONDITION")
    assert "Table not initialized" in "".join(capfd.readouterr())


def test_a_placeholder_that_is_no_input_is_an_error_of_the_model(
    serve: Serve, capfd: pytest.CaptureFixture[str]
) -> None:
    ask = serve(answer_models.build() / "unfed")
    answer = ask("POST", PREDICT, {"instances": [1]})
    assert (answer.status, json.loads(answer.body)["error"]) == (500, "the model failed: FAILED_PRECONDITION")
    assert ask("GET", "/readyz").status == 503
    assert "You must feed a value for placeholder tensor" in "".join(capfd.readouterr())


def test_float8_is_answered_in_json(serve: Serve) -> None:
    ask = serve(answer_models.build() / "short")
    for body in ({"instances": [1.1, -2]}, {"inputs": [1.1, -2]}):
        answer = ask("POST", PREDICT, body)
        assert (answer.status, list(json.loads(answer.body).values())) == (200, [[1.0, -2.0]])


REASONS = [
    # model          signature          inputs                                reason
    ("refuses",      "serving_default", {"s": ["nope"]},                      "could not correctly convert string: nope"),
    ("refuses",      "picture",         {"s": ["nope"]},                      "Unknown image file format"),
    ("refuses",      "example",         {"s": ["nope"]},                      "Could not parse example"),
    ("refuses",      "ragged",          {"x": [1, 2], "l": [3]},              "Condition x == y did not hold element-wise:] [x = ] [3] [y = ] [2]"),
    ("refuses_tf1",  "serving_default", {"s": ["nope"]},                      "could not correctly convert string: nope"),
]  # fmt: skip


@pytest.mark.parametrize("runtime", ["c", "python"])
@pytest.mark.parametrize(("name", "signature", "inputs", "reason"), REASONS)
def test_both_runtimes_answer_the_reason_without_names_of_the_graph(
    serve: Serve, runtime: str, name: str, signature: str, inputs: Any, reason: str
) -> None:
    body = {"signature_name": signature, "inputs": inputs}
    answer = serve(answer_models.build() / name, RUNTIME=runtime, DANGEROUS_OPS="allow")("POST", PREDICT, body)
    error = json.loads(answer.body)["error"]
    assert (answer.status, reason in error) == (400, True), error
    for leak in (
        "Graph execution error",
        "Detected at",
        "stack traces",
        "File ",
        ".py",
        "strided_slice",
        "Ragged",
        "__inf",
        "/",
    ):
        assert leak not in error.partition("; a body that works")[0].replace("RaggedTensor", "")


MESSAGES = [
    # TensorFlow's words                                                                      answered
    ("x is bad\n\t [[{{node a/b}}]]",                                                         "x is bad"),
    ("bad [Op:__inference_signature_wrapper_<lambda>_14]",                                    "bad"),
    ("[x (RaggedFromRowLengths/strided_slice_1:0) = ] [3] [y (Const:0) = ] [2]",              "[x = ] [3] [y = ] [2]"),
    ("Resource localhost/sequential/dense/kernel/N10tensorflow3VarE does not exist.",         "Resource (a resource) does not exist."),
    ("Error while reading resource variable dense/kernel from Container: localhost.",         "Error while reading resource variable from Container: localhost."),
    ("Shape of tensor _arg_serving_default_x_0_0 [1] is not compatible",                      "Shape of (a tensor) [1] is not compatible"),
    ("Expected while/body/a:0 to be a scalar",                                                "Expected (a tensor) to be a scalar"),
    ("cannot open /srv/model/variables/variables.index",                                      "cannot open (a file)"),
    ("image/png and 1/2 are text",                                                            "image/png and 1/2 are text"),
    ('Graph execution error:\n\nDetected at node a/b defined at (most recent call last):\n  File "/x/y.py", line 3, in f\n\n'
     "bad: it\n\t [[{{node a}}]]",                                                            "bad: it"),
    ("2 root error(s) found.\n  (0) INVALID_ARGUMENT: bad\n\t [[{{node a}}]]\n  (1) INVALID_ARGUMENT: bad\n", "bad"),
]  # fmt: skip


@pytest.mark.parametrize(("message", "words"), MESSAGES)
def test_tensorflows_message_is_answered_without_the_graphs_names(message: str, words: str) -> None:
    assert plain(message) == words


@pytest.mark.parametrize(
    "unit", ["[[", "{{", "a-", "a/", "(a/", "node a/", "N1tensorflow", 'File "", line ', "\n \t", "(1) "]
)
def test_the_time_for_a_message_grows_with_its_length_alone(unit: str) -> None:
    def seconds(size: int) -> float:
        begin = time.process_time()
        plain((unit * size)[:size])
        return time.process_time() - begin

    small = min(seconds(1500) for _ in range(3))
    assert min(seconds(12000) for _ in range(3)) < 16 * small + 0.01
