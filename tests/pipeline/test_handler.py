"""Requests to the handler in this process: addresses, statuses, and errors that name what is wrong."""

import gzip
import json
import threading
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from serving.core.comparison import difference
from serving.core.errors import LoadError, RunError
from serving.core.http import Request, Response
from serving.pipeline import handler
from serving.runtime import loading, model, sessions
from tests.conftest import EMBEDDED, Serve
from tests.models.zoo import ZOO, build, cases, kinds

PREDICT = "/v1/models/model:predict"


@pytest.mark.parametrize("path", [PREDICT, "/", "/v1/models/model/versions/1:predict"])
def test_the_examples_are_answered_as_tensorflow_answers_them(
    serve: Serve, examples: dict[str, Any], answers: dict[str, Any], path: str
) -> None:
    ask = serve()
    for name, body in examples.items():
        answer = ask("POST", path, body)
        assert (answer.status, answer.content_type) == (200, "application/json")
        assert difference(answers[name]["predictions"], json.loads(answer.body)["predictions"]) is None


def test_the_same_request_gives_the_same_bytes(serve: Serve, examples: dict[str, Any]) -> None:
    ask = serve()
    first = [ask("POST", "/", body) for body in examples.values()]
    ask("POST", "/", b"{")
    assert [ask("POST", "/", body) for body in examples.values()] == first


# fmt: off
ADDRESSES = [
    # method    path                                        status  words
    ("GET",     "/",                                        200,    '"status":"alive"'),
    ("GET",     "/healthz",                                 200,    '{"live":true}'),
    ("GET",     "/readyz",                                  200,    '{"ready":true}'),
    ("HEAD",    "/readyz",                                  200,    ""),
    ("GET",     "/v1/models/model",                         200,    '{"version":"1","state":"AVAILABLE","status":{"error_code":"OK","error_message":""}}'),
    ("GET",     "/v1/models/model/versions/1",              200,    '"AVAILABLE"'),
    ("GET",     "/v1/models/model/metadata",                200,    '"dtype":"DT_STRING"'),
    ("GET",     "/v1/models/model/versions/1/metadata",     200,    '"method_name":"tensorflow/serving/predict"'),
    ("GET",     "/v1/models/modle",                         404,    "there is no model 'modle'; did you mean 'model'?"),
    ("POST",    "/v1/models/other:predict",                 404,    "there is no model 'other'; there is 'model'"),
    ("GET",     "/v1/models/model/versions/2",              404,    "there is no version 2 of 'model'; there is version 1"),
    ("GET",     "/v1/models/model/versions/" + "9" * 99,    404,    "there is no version 9999"),
    ("GET",     "/v1/models/model/versions/" + "0" * 39 + "12", 404, "there is no version 0000"),
    ("GET",     "/v1/models/model/versions/" + "0" * 60 + "1", 200, '"AVAILABLE"'),
    ("GET",     "/v1/models/model/labels/stable",           400,    "there is no version labelled 'stable'"),
    ("GET",     "/v1/models/model/versions/one",            404,    "there is nothing at '/v1/models/model/versions/one'"),
    ("GET",     "/v1/models/model/version/1",               404,    "there is nothing at"),
    ("POST",    "/v1/models/model",                         405,    "expected GET, got POST"),
    ("GET",     PREDICT,                                    405,    "expected POST, got GET"),
    ("DELETE",  PREDICT,                                    405,    "expected POST, got DELETE"),
    ("BREW",    "/",                                        405,    "expected GET, POST, got BREW"),
    ("GET",     "/v1/models/model/",                        404,    "there is nothing at"),
    ("GET",     "/nothing",                                 404,    "POST /v1/models/model:predict"),
    ("GET",     "/v1/models/../../etc/passwd",              404,    "there is nothing at"),
    ("GET",     "/v1/models/a\r\nX: y",                     404,    "there is nothing at '/v1/models/a"),
    ("GET",     "/v1/models/" + "x" * 8000,                 404,    "there is no model 'xxx"),
    ("POST",    "/v1/models/\x00:predict",                  404,    "there is no model '\\\\x00'"),
]
# fmt: on


@pytest.mark.parametrize(("method", "path", "status", "words"), ADDRESSES)
def test_an_address_is_answered(serve: Serve, method: str, path: str, status: int, words: str) -> None:
    answer = serve()(method, path)
    assert (answer.status, answer.content_type) == (status, "application/json")
    text = answer.body.decode()
    assert words in text or json.loads(f'"{words}"') in text
    assert len(answer.body) < 4096
    if status == 405:
        expected = words.partition("expected ")[2].partition(", got")[0]
        assert dict(answer.headers)["Allow"] == f"{expected.replace('GET', 'GET, HEAD')}, OPTIONS"


MODELS = {
    "many": build() / "many_named",
    "rows": build() / "constants",
    "fail": build() / "failures",
    "image": EMBEDDED,
}
PNG = {"b64": "iVBORw0KGgo="}

# fmt: off
REFUSED = [
    # model    body                                                              status  words
    ("image",  b"",                                                              400,    "body: expected a JSON object, got nothing"),
    ("image",  b"[",                                                             400,    "body: not JSON"),
    ("image",  b"{}",                                                            400,    "a body that works: {\\\"instances\\\":[{\\\"b64\\\":"),
    ("image",  b'{"instances": ["no picture"]}',                                 400,    "instances[0].image: the model refuses it: Unknown image file format"),
    ("image",  b'{"instances": [{"b64": "iVBORw0KGgo="}]}',                      400,    "instances[0].image: the model refuses it"),
    ("image",  b'{"instances": [{"b64": "?"}]}',                                 400,    "instances[0]: expected base64, got the character '?'"),
    ("image",  b'{"signature_name": "pixels", "instances": [[1, 2]]}',           400,    "instances[0]: expected shape [8, 8], got [2]"),
    ("image",  b'{"signature_name": "pixel", "instances": [[1, 2]]}',            400,    "did you mean 'pixels'?"),
    ("image",  b'{"signature_name": "__saved_model_init_op", "inputs": {}}',     400,    "cannot be called"),
    ("many",   b'{"inputs": {"zebra": [1]}}',                                    400,    "inputs: the input 'Flag_' is missing"),
    ("many",   b'{"inputs": {"zebra": [1], "aple": [[1, 2]], "Mango": ["a"], "Flag_": true}}', 400, "no input 'aple'; did you mean 'apple'?"),
    ("rows",   b'{"instances": [[1, 2]]}',                                       400,    "rows of the request: ask in column form"),
]
# fmt: on


@pytest.mark.parametrize(("name", "body", "status", "words"), REFUSED)
def test_bad_input_is_refused_and_the_next_request_answered(
    serve: Serve, examples: dict[str, Any], name: str, body: bytes, status: int, words: str
) -> None:
    ask = serve(MODELS[name])
    answer = ask("POST", PREDICT, body)
    assert answer.status == status, answer.body
    assert words in answer.body.decode() or words.replace('\\"', '"') in json.loads(answer.body)["error"]
    assert list(json.loads(answer.body)) == ["error"]
    assert len(answer.body) <= 2048
    for leak in ("/", "{{", "Traceback", "StatefulPartitionedCall", "DecodeImage"):
        assert leak not in json.loads(answer.body)["error"].partition("; a body that works")[0]
    assert ask("GET", "/readyz").status == 200
    if name == "image":
        assert ask("POST", "/", examples["pixels"]).status == 200


def test_the_bad_row_of_a_batch_is_named(serve: Serve, examples: dict[str, Any]) -> None:
    good = examples["serving_default"]["instances"][0]
    for instances, row_name in (
        ([good, good, "no picture", good], "instances[2].image"),
        ([{"image": good}, {"image": PNG}], "instances[1].image"),
    ):
        answer = serve()("POST", "/", {"instances": instances})
        assert answer.status == 400
        assert json.loads(answer.body)["error"].startswith(f"{row_name}: the model refuses it")
    answer = serve()("POST", "/", {"inputs": [good, "no picture"]})
    assert json.loads(answer.body)["error"].startswith("inputs.image[1]: the model refuses it")


ENCODED = [
    # body                                               header       status  words
    (gzip.compress(b'{"instances": [1]}'),               "gzip",      400,    "instances[0]: expected a string"),
    (zlib.compress(b'{"instances": [1]}'),               "deflate",   400,    "instances[0]: expected a string"),
    (b'{"instances": [1]}',                              "identity",  400,    "instances[0]: expected a string"),
    (b'{"instances": [1]}',                              "gzip",      400,    "body: not gzip, though Content-Encoding says so"),
    (gzip.compress(b'{"instances": [1]}')[:-6],          "gzip",      400,    "body: the gzip data ends too early"),
    (gzip.compress(b"{}") + b"x",                        "gzip",      400,    "there is something after the gzip data"),
    (gzip.compress(b"{}") + b"\0" * 512,                 "gzip",      400,    "there is something after the gzip data"),
    (gzip.compress(b"{}") + gzip.compress(b"")[:-1],     "gzip",      400,    "the gzip data ends too early"),
    (gzip.compress(b"{}") + b"\x1f\x8bxxx",              "gzip",      400,    "body: not gzip, though Content-Encoding says so"),
    (gzip.compress(b" " * 8_000_000) * 2,                "gzip",      413,    "expected at most 8388608 bytes unpacked"),
    (zlib.compress(b"{}") * 2,                           "deflate",   400,    "there is something after the deflate data"),
    (gzip.compress(b" " * 99_000_000),                   "gzip",      413,    "expected at most 8388608 bytes unpacked"),
    (b"{}",                                              "br",        415,    "expected gzip or deflate, got 'br'"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "header", "status", "words"), ENCODED)
def test_a_compressed_body_is_decompressed_up_to_the_limit(
    serve: Serve, body: bytes, header: str, status: int, words: str
) -> None:
    answer = serve()("POST", "/", body, **{"content-encoding": header})
    assert answer.status == status
    assert words in json.loads(answer.body)["error"]


MEMBERS = [
    # gzip members, of which the body is made
    [b'{"instances": ', b'["no picture"]}'],
    [b"", b'{"instances": ["no picture"]}', b""],
    [bytes([code]) for code in b'{"instances": ["no picture"]}'],
    [b" " * 600_000, b'{"instances": ["no picture"', b" " * 600_000 + b"]}"],  # larger than what is unpacked at a time
]


@pytest.mark.parametrize("members", MEMBERS)
def test_the_members_of_a_gzip_body_are_one_body(serve: Serve, members: list[bytes]) -> None:
    ask, packed = serve(), b"".join(map(gzip.compress, members))
    answer = ask("POST", "/", packed, **{"content-encoding": "gzip"})
    assert answer == ask("POST", "/", gzip.decompress(packed))
    assert b"the model refuses it" in answer.body


def test_a_body_above_the_limit_is_refused(serve: Serve) -> None:
    answer = serve(MAX_BODY_BYTES="100")("POST", "/", b" " * 101)
    assert answer.status == 413
    assert json.loads(answer.body)["error"] == "body: expected at most 100 bytes (MAX_BODY_BYTES), got 101"


def test_concurrent_requests_load_the_model_once(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = serve()
    loads = []
    opened = sessions.open_session
    monkeypatch.setattr(loading, "open_session", lambda *arguments: loads.append(1) or opened(*arguments))
    answers: list[Response] = []
    threads = [threading.Thread(target=lambda: answers.append(ask("GET", "/readyz"))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer.status for answer in answers] == [200] * 16
    assert len(loads) == 1


def test_requests_that_wait_for_a_load_share_its_failure(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = serve()
    tries, come = [], threading.Barrier(9)

    def fail(*_: Any) -> Any:
        tries.append(1)
        if len(tries) == 1:
            come.wait(10)
            threading.Event().wait(0.2)  # until the others stand at the lock
        raise LoadError("the disk is slow")

    monkeypatch.setattr(loading, "open_session", fail)
    answers: list[Response] = []

    def one() -> None:
        answers.append(ask("GET", "/readyz"))

    first = threading.Thread(target=one)
    first.start()
    while not tries:
        pass
    others = [threading.Thread(target=lambda: (come.wait(10), one())) for _ in range(8)]
    for thread in others:
        thread.start()
    for thread in (first, *others):
        thread.join()
    assert {answer.status for answer in answers} == {503}
    assert b"the disk is slow" in answers[0].body
    assert len(tries) == 1


def test_a_failed_load_is_tried_again_by_the_next_request(
    serve: Serve, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "FIRST_PAUSE", 0.0)
    ask = serve(tmp_path / "model")
    for path in ("/readyz", "/v1/models/model", "/v1/models/model/metadata"):
        answer = ask("GET", path)
        assert answer.status == 503
        assert json.loads(answer.body)["error"] == "the model cannot be loaded: there is no such folder"
        assert ("Retry-After", "1") in answer.headers
    assert ask("GET", "/healthz").status == 200
    logged = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert logged[0]["severity"] == "ERROR"
    assert str(tmp_path) in logged[0]["directory"]
    (tmp_path / "model").symlink_to(EMBEDDED)
    assert ask("GET", "/readyz").status == 200


FAULTS = [
    # what the runtime raises                              status  words
    (RunError("INTERNAL", "/usr/lib/secret"),              500,    "the model failed: INTERNAL"),
    (RunError("UNAVAILABLE", "no"),                        503,    "the model failed: UNAVAILABLE"),
    (RunError("RESOURCE_EXHAUSTED", "OOM"),                503,    "the model failed: RESOURCE_EXHAUSTED"),
    (RunError("UNIMPLEMENTED", "No OpKernel"),             501,    "the model failed: UNIMPLEMENTED"),
    (RunError("OUT_OF_RANGE", "{{node a}} index 7"),       400,    "the model refuses it: index 7"),
    (RunError("FAILED_PRECONDITION", "x"),                 500,    "the model failed: FAILED_PRECONDITION"),
    (ZeroDivisionError("/secret"),                         500,    "internal error; the log has the reason"),
    (MemoryError(),                                        503,    "out of memory"),
]  # fmt: skip


@pytest.mark.parametrize(("error", "status", "words"), FAULTS)
def test_an_error_has_its_status_and_reveals_no_internals(
    serve: Serve, examples: dict[str, Any], monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, words: str
) -> None:
    def fail(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(model.Model, "run", fail)
    answer = serve()("POST", "/", examples["pixels"])
    assert answer.status == status
    message = json.loads(answer.body)["error"]
    assert words in message
    assert "secret" not in message
    assert "{{" not in message


@pytest.mark.parametrize("case", [case for case in cases("failures") if case["error"] == "INVALID_ARGUMENT"])
def test_an_error_of_tensorflow_is_answered_without_the_graph(serve: Serve, case: Any) -> None:
    arrays = {name: array.tolist() for name, array in case["inputs"].items()}
    if any(isinstance(part, bytes) for value in arrays.values() for part in np.ravel(value).tolist()):
        arrays = {name: np.vectorize(lambda b: b.decode("latin-1"))(value).tolist() for name, value in arrays.items()}
    answer = serve(MODELS["fail"])("POST", "/", {"signature_name": case["signature"], "inputs": arrays})
    message = json.loads(answer.body)["error"]
    assert answer.status == 400
    assert "the model refuses it" in message
    for leak in ("{{", "[[", "node", "function_node", "PartitionedCall"):
        assert leak not in message.partition("; a body that works")[0]


@hypothesis(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["GET", "POST", "PUT", "HEAD", "OPTIONS", "X"]),
    st.sampled_from(["/", PREDICT, "/v1/models/model", "/readyz"]) | st.text(max_size=20).map(lambda text: "/" + text),
    st.binary(max_size=40),
)
def test_any_request_gets_an_answer_in_json(serve: Serve, method: str, path: str, body: bytes) -> None:
    answer = handler.handle(Request(method, path, body=body))
    assert answer.status < 500
    assert (answer.status == 204 and not answer.body) or json.loads(answer.body) is not None


def test_without_a_default_signature_the_error_lists_the_existing_ones(serve: Serve) -> None:
    answer = serve(build() / "shared_variables")("POST", "/", {"instances": [[1.0, 2.0]]})
    assert answer.status == 400
    assert "the model has no signature 'serving_default'; there is" in json.loads(answer.body)["error"]


JUDGED = [
    # model            setting     status  words in the log or the answer
    ("prints_to_a_file", {},                            503,  "PrintV2 (files)"),
    ("prints_to_a_file", {"DANGEROUS_OPS": "allow"},    200,  "not a pure function of its inputs: PrintV2 (files)"),
    ("py_function",    {},                              503,  "it calls Python (EagerPyFunc, in signature 'serving_default')"),
    ("py_function",    {"DANGEROUS_OPS": "allow"},      503,  "it calls Python (EagerPyFunc, in signature 'serving_default')"),
    ("counter",        {},                              200,  "not a pure function of its inputs: AssignAddVariableOp (state)"),
    ("random_stateful", {},                             200,  "(random)"),
    ("keras_sequential", {},                            200,  ""),
]  # fmt: skip


@pytest.mark.parametrize(("name", "environment", "status", "words"), JUDGED)
def test_an_impure_model_is_logged_and_a_dangerous_one_refused(
    serve: Serve, capsys: pytest.CaptureFixture[str], name: str, environment: dict[str, str], status: int, words: str
) -> None:
    folder = build() / name if name in ZOO else kinds.build() / name
    answer = serve(folder, **environment)("GET", "/readyz")
    logged = capsys.readouterr().out
    assert answer.status == status
    assert words in (answer.body.decode() if status == 503 else logged)
    assert ("not a pure function" in logged) == (status == 200 and bool(words))
