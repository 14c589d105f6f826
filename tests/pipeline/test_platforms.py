"""The addresses that platforms ask: SageMaker, KServe, Vertex AI; and the settings that Vertex AI gives."""

import json
from typing import Any

import pytest

from serving.core.settings import SettingError, read
from tests.conftest import EMBEDDED, Serve
from tests.models.zoo import build


@pytest.fixture
def picture(examples: dict[str, Any]) -> dict[str, str]:
    instance: dict[str, str] = examples["serving_default"]["instances"][0]
    return instance


PLATFORMS = [
    # method   path                   environment                                   status
    ("GET",    "/ping",               {},                                           200),  # SageMaker
    ("POST",   "/invocations",        {},                                           200),
    ("GET",    "/v1/models",          {},                                           200),  # KServe V1
    ("GET",    "/v1/models/model",    {},                                           200),
    ("POST",   "/v1/models/model:explain", {},                                      404),
    ("POST",   "/v1/endpoints/7/deployedModels/9:predict", {"AIP_PREDICT_ROUTE": "/v1/endpoints/7/deployedModels/9:predict"}, 200),
    ("GET",    "/v1/endpoints/7/deployedModels/9",         {"AIP_HEALTH_ROUTE": "/v1/endpoints/7/deployedModels/9"}, 200),
    ("POST",   "/health",             {"AIP_HEALTH_ROUTE": "/health"},              405),
    ("POST",   "/v1.models",          {"AIP_PREDICT_ROUTE": "/v1-models"},          404),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "environment", "status"), PLATFORMS)
def test_the_addresses_of_every_platform_are_served(
    serve: Serve, picture: Any, method: str, path: str, environment: dict[str, str], status: int
) -> None:
    answer = serve(**environment)(method, path, {"instances": [picture], "parameters": {"anything": [1]}})
    assert answer.status == status, answer.body
    if method == "POST" and status == 200:
        assert json.loads(answer.body)["predictions"][0]["label"] == "3"


TENSOR = {"name": "x", "shape": [1], "datatype": "FP32", "data": [1.5]}
VERTEX = [
    # body                                                         headers
    (json.dumps({"inputs": [TENSOR]}).encode(),                    {}),
    (b"\xef\xbb\xbf" + json.dumps({"inputs": [TENSOR]}).encode(), {}),
    (json.dumps({"inputs": [TENSOR | {"data": [float("nan")]}]}).encode(), {}),
    (json.dumps({"inputs": [TENSOR | {"data": [float("inf")]}]}).encode(), {}),
    (b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","parameters":{"binary_data_size":4}}]}\0\0\x80?',
     {"Inference-Header-Content-Length": "91"}),
]  # fmt: skip


@pytest.mark.parametrize(("body", "headers"), VERTEX)
def test_open_inference_bodies_are_recognised_at_vertex_ais_address(
    serve: Serve, body: bytes, headers: dict[str, str]
) -> None:
    answer = serve(build() / "versions" / "2", AIP_PREDICT_ROUTE="/predict")("POST", "/predict", body, **headers)
    assert answer.status == 200, answer.body
    assert b'"outputs":[{"name":"' in answer.body


def test_health_is_not_ready_without_a_model(serve: Serve, tmp_path: Any) -> None:
    ask = serve(tmp_path, AIP_HEALTH_ROUTE="/health")
    for path in ("/ping", "/health", "/readyz", "/v2/health/ready"):
        assert ask("GET", path).status == 503


def test_vertex_names_the_port_and_the_bucket() -> None:
    assert read({"AIP_HTTP_PORT": "7080"}).port == 7080
    assert read({"AIP_HTTP_PORT": "7080", "PORT": "9"}).port == 9
    assert read({"AIP_STORAGE_URI": "gs://b/m", "MODEL_DIR": str(EMBEDDED)}).model_dir == EMBEDDED
    assert read({"AIP_STORAGE_URI": "gs://bucket/m"}).model_dir == "gs://bucket/m"
    with pytest.raises(SettingError, match="MODEL_DIR: expected a folder, or gs://BUCKET/FOLDER"):
        read({"AIP_STORAGE_URI": "gs://B"})
    with pytest.raises(SettingError, match="AIP_HEALTH_ROUTE: expected the path of an address"):
        read({"AIP_HEALTH_ROUTE": "health"})
