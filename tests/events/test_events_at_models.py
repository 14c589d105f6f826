"""Events at a model's own address, and at the addresses of other protocols."""

import gzip
import json
from typing import Any

import pytest

from tests.conftest import Serve
from tests.events.asked import CE, FORMS, event_of, sent_as
from tests.models.zoo import build
from tests.pipeline.test_handler import PREDICT


# At a model's own address
def test_a_binary_event_at_a_models_address_is_answered_by_one(serve: Serve, examples: dict[str, Any]) -> None:
    ask = serve()
    wanted = ask("POST", PREDICT, examples["pixels"])
    answer = ask("POST", PREDICT, examples["pixels"], **CE)
    event = event_of(answer)
    assert (answer.body, answer.content_type) == (wanted.body, "application/json")
    assert (event["type"], event["source"]) == ("io.kserve.inference.response", "io.kserve.inference.model")
    assert event["id"] == event_of(ask("POST", PREDICT, examples["pixels"], **CE))["id"] != "1"
    many = {**examples["pixels"], "instances": examples["pixels"]["instances"] * 20}
    packed = ask("POST", PREDICT, many, **CE, accept_encoding="gzip")
    assert dict(packed.headers)["Content-Encoding"] == "gzip"
    assert gzip.decompress(packed.body) == ask("POST", PREDICT, many).body


def test_a_structured_event_at_a_models_address_is_answered_by_one(serve: Serve, examples: dict[str, Any]) -> None:
    ask = serve()
    wanted = json.loads(ask("POST", PREDICT, examples["pixels"]).body)
    body, headers = sent_as("structured", examples["pixels"])
    answer = ask("POST", PREDICT, body, **headers)
    event = event_of(answer)
    assert (answer.status, answer.content_type) == (200, "application/cloudevents+json")
    assert (event["type"], event["datacontenttype"], event.get_data()) == ("io.kserve.inference.response", "application/json", wanted)  # fmt: skip
    many = {**examples["pixels"], "instances": examples["pixels"]["instances"] * 20}
    body = gzip.compress(json.dumps({**body, "data": many}).encode())
    packed = ask("POST", PREDICT, body, **headers, content_encoding="gzip", accept_encoding="gzip")
    assert dict(packed.headers)["Content-Encoding"] == "gzip"
    assert json.loads(gzip.decompress(packed.body))["data"] == json.loads(ask("POST", PREDICT, many).body)
    assert (
        ask("POST", "/events", answer.body, content_type=answer.content_type).status == 204
    )  # an answer is no request


V2 = {"id": "7", "inputs": [{"name": "features", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}
INFER = "/v2/models/model/infer"


def test_an_event_at_the_other_protocols_address_is_answered_by_one(serve: Serve) -> None:
    ask = serve(build() / "keras_sequential")
    wanted = ask("POST", INFER, V2)
    answer = ask("POST", INFER, V2, **CE)
    assert (answer.body, event_of(answer)["type"]) == (wanted.body, "io.kserve.inference.response")
    body, headers = sent_as("structured", V2)
    assert event_of(ask("POST", INFER, body, **headers)).get_data() == json.loads(wanted.body)


AT_A_MODEL = [
    # body                                header fields                                             status  words
    (b"{",                                {"content_type": "application/cloudevents+json"},         400,    "body: expected an event as a JSON object"),
    (b'{"specversion": "1.0"}',           {"content_type": "application/cloudevents+json"},         400,    "id: expected text, got nothing"),
    ([],                                  {"content_type": "application/cloudevents-batch+json"},   400,    "body: expected one event, got a batch"),
    (b"{}",                               {"ce_specversion": "1.0", "ce_type": "t", "ce_source": "/s"}, 400, "ce-id: expected text, got nothing"),
    (b"{}",                               {**CE, "ce_specversion": "0.3"},                          400,    "ce-specversion: expected 1.0"),
    ({"instances": ["x"]},                CE,                                                       400,    "instances[0]"),
    (b" " * 9_000_000,                    CE,                                                       413,    "body: expected at most 8388608 bytes"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "headers", "status", "words"), AT_A_MODEL)
def test_a_bad_event_at_a_models_address_gets_the_error_of_the_same_request(
    serve: Serve, body: Any, headers: dict[str, str], status: int, words: str
) -> None:
    answer = serve()("POST", PREDICT, body, **headers)
    assert (answer.status, json.loads(answer.body)["error"].startswith(words)) == (status, True), answer.body


def test_incomplete_event_headers_change_nothing_at_a_models_address(serve: Serve, examples: dict[str, Any]) -> None:
    ask = serve()
    wanted = ask("POST", PREDICT, examples["pixels"])
    answer = ask("POST", PREDICT, examples["pixels"], ce_myext="x", ce_subject="Euro%20")
    assert (answer.body, answer.headers) == (wanted.body, ())


# The other protocol
@pytest.mark.parametrize("form", FORMS)
def test_an_open_inference_request_with_event_headers_is_answered_in_its_protocol(serve: Serve, form: str) -> None:
    ask = serve(build() / "keras_sequential")
    wanted = ask("POST", INFER, V2)
    assert wanted.status == 200
    for path in ("/", "/events"):
        body, headers = sent_as(form, V2)
        answer = ask("POST", path, body, **headers)
        assert (answer.status, answer.body) == (200, wanted.body)


def test_vertex_ais_address_accepts_both_protocols(serve: Serve) -> None:
    route = "/v1/endpoints/1/deployedModels/2:predict"
    ask = serve(build() / "keras_sequential", AIP_PREDICT_ROUTE=route)
    for body, path in ((V2, INFER), ({"instances": [[1, 2, 3, 4]]}, PREDICT)):
        assert ask("POST", route, body).body == ask("POST", path, body).body
    wrong = {"inputs": [{**V2["inputs"][0], "datatype": "FP99"}]}  # type: ignore[dict-item]
    answer = ask("POST", route, wrong)
    assert (answer.status, answer.body) == (400, ask("POST", INFER, wrong).body)
