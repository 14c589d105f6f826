"""The Open Inference Protocol as its clients speak it: tritonclient, its asyncio twin, and KServe's SDK."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest

from tests.clients.conftest import Served
from tests.conftest import EMBEDDED
from tests.models.zoo import Case, cases
from tests.server import Server

Array = np.ndarray[Any, Any]

# Client libraries warn about their own dependencies.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::ResourceWarning")

INSTALL = "{} is not installed: pip install -r requirements/dev.txt"
PIXELS = {"signature_name": "pixels"}
# Of the zoo: a name, the datatype, how it may travel
TYPES = [("dtype_float16", "FP16"), ("dtype_bfloat16", "BF16"), ("dtype_string", "BYTES"), ("dtype_uint64", "UINT64")]
BINARY_ONLY = ("FP16", "BF16")  # to the clients; the server reads FP16 from JSON too


def triton() -> Any:
    return pytest.importorskip("tritonclient.http", reason=INSTALL.format("tritonclient[http]"))


def triton_aio() -> Any:
    return pytest.importorskip("tritonclient.http.aio", reason=INSTALL.format("tritonclient[http]"))


def kserve() -> Any:
    return pytest.importorskip("kserve", reason=INSTALL.format("kserve"))


def pixels() -> tuple[Array, list[bytes], Array]:
    """Return a digit that the embedded model knows, and TensorFlow's answer to it."""
    saved = json.loads((EMBEDDED / "assets.extra" / "examples.json").read_bytes())["pixels"]["instances"]
    answer = json.loads((EMBEDDED / "assets.extra" / "answers.json").read_bytes())["pixels"]
    rows = answer["predictions"]
    labels = [row["label"].encode() for row in rows]
    return np.array(saved, np.float32), labels, np.array([row["probabilities"] for row in rows], np.float32)


def vector_cases(name: str) -> list[Case]:
    return [case for case in cases(name) if case["signature"] == "vector" and case["outputs"]]


def many() -> Case:
    return cases("many_named")[0]


DATATYPES = {"float32": "FP32", "int64": "INT64", "object": "BYTES", "bool": "BOOL"}


def octets(array: Array) -> list[bytes]:
    """Return strings as bytes: some clients make text of them."""
    return [element if isinstance(element, bytes) else element.encode() for element in array.ravel().tolist()]


def equal(came: Array, expected: Array) -> None:
    assert came.shape == expected.shape
    if expected.dtype == object:
        assert octets(came) == octets(expected)
        return
    if expected.dtype.name == "bfloat16":
        came, expected = came.astype(np.float32), expected.astype(np.float32)
    np.testing.assert_array_equal(came, expected)


# tritonclient, both kinds: `call` runs one request, whether it has to be awaited or not


def ask_sync(server: Server, call: Callable[[Any], Any]) -> Any:
    with triton().InferenceServerClient(f"127.0.0.1:{server.port}") as client:
        return call(client)


def ask_aio(server: Server, call: Callable[[Any], Awaitable[Any]]) -> Any:
    client_of = triton_aio().InferenceServerClient

    async def run() -> Any:
        async with client_of(f"127.0.0.1:{server.port}") as client:
            return await call(client)

    return asyncio.run(run())


KINDS = pytest.mark.parametrize("ask", [ask_sync, ask_aio])
PACKINGS = pytest.mark.parametrize("packing", [None, "gzip", "deflate"])
FORMS = pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])


def triton_input(name: str, array: Array, datatype: str, binary: bool = True) -> Any:
    tensor = triton().InferInput(name, list(array.shape), datatype)
    if datatype == "BYTES" and not binary:
        array = np.array([text.decode() for text in array.ravel()], object).reshape(array.shape)
    return tensor.set_data_from_numpy(array, binary_data=binary)


def triton_outputs(names: list[str], binary: bool) -> Any:
    return [triton().InferRequestedOutput(name, binary_data=binary) for name in names]


@KINDS
@FORMS
@PACKINGS
def test_triton_infers(ask: Any, binary: bool, packing: str | None, served: Served) -> None:
    image, labels, probabilities = pixels()
    image = np.repeat(image, 40, 0)  # long enough to be compressed
    result = ask(served("model"), lambda client: client.infer(
        "model",
        [triton_input("pixels", image, "FP32", binary)],
        outputs=triton_outputs(["probabilities", "label"], binary),
        request_id="seven",
        parameters=PIXELS,
        request_compression_algorithm=packing,
        response_compression_algorithm=packing,
    ))  # fmt: skip
    np.testing.assert_allclose(result.as_numpy("probabilities"), np.repeat(probabilities, 40, 0), rtol=1e-4, atol=1e-6)
    assert octets(result.as_numpy("label")) == labels * 40
    response = result.get_response()
    assert (response["id"], response["model_name"], response["model_version"]) == ("seven", "model", "1")
    assert [output["name"] for output in response["outputs"]] == ["probabilities", "label"]


@KINDS
def test_triton_infers_without_naming_outputs(ask: Any, served: Served) -> None:
    image, _, probabilities = pixels()
    inputs = [triton_input("pixels", image, "FP32")]
    result = ask(served("model"), lambda client: client.infer("model", inputs, model_version="1", parameters=PIXELS))
    np.testing.assert_allclose(result.as_numpy("probabilities"), probabilities, rtol=1e-4, atol=1e-6)
    assert all("data" not in output for output in result.get_response()["outputs"])
    assert "id" not in result.get_response()


@KINDS
@FORMS
@pytest.mark.parametrize(("name", "datatype"), TYPES)
def test_triton_sends_every_kind_of_type(ask: Any, name: str, datatype: str, binary: bool, served: Served) -> None:
    if datatype in BINARY_ONLY and not binary:
        pytest.skip(f"tritonclient sends {datatype} in binary alone")
    asked = 0
    for case in vector_cases(name):
        (given,) = case["inputs"].values()
        if datatype == "BYTES" and not binary and not all(map(is_text, given.tolist())):
            continue
        inputs = [triton_input("x", given, datatype, binary)]
        named = {"signature_name": "vector"}
        result = ask(
            served(name),
            lambda client, inputs=inputs, named=named: client.infer(
                "model", inputs, outputs=triton_outputs(["y"], binary), parameters=named
            ),
        )
        expected = (case["outputs"] or {})["y"]
        equal(result.as_numpy("y"), expected)
        asked += 1
    assert asked


def is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


@KINDS
@FORMS
def test_triton_mixes_types_shapes_and_order(ask: Any, binary: bool, served: Served) -> None:
    case = many()
    inputs = [triton_input(name, array, DATATYPES[array.dtype.name], binary) for name, array in case["inputs"].items()]
    for order in (inputs, inputs[::-1]):
        result = ask(served("many_named"), lambda client, order=order: client.infer("model", order))
        for name, expected in (case["outputs"] or {}).items():
            equal(result.as_numpy(name), expected)


@KINDS
def test_triton_sends_large_unaligned_data(ask: Any, served: Served) -> None:
    numbers = np.arange(20_000, dtype=np.int64).reshape(-1, 2)
    flag = np.array(True)
    rows = len(numbers)
    result = ask(served("many_named"), lambda client: client.infer("model", [
        triton_input("Flag_", flag, "BOOL"),  # one byte: what follows is at odd places
        triton_input("apple", numbers, "INT64"),
        triton_input("Mango", np.array([b"abc"] * rows, object), "BYTES"),
        triton_input("zebra", np.arange(rows, dtype=np.float32), "FP32"),
    ]))  # fmt: skip
    equal(result.as_numpy("z_sum"), numbers.sum(1))
    equal(result.as_numpy("a_text"), np.array([b"abc!"] * rows, object))
    equal(result.as_numpy("M"), np.arange(rows, dtype=np.float32))


@KINDS
def test_triton_sends_empty_tensors_of_many_types(ask: Any, served: Served) -> None:
    result = ask(served("many_named"), lambda client: client.infer("model", [
        triton_input("Flag_", np.array(False), "BOOL"),
        triton_input("apple", np.empty((0, 2), np.int64), "INT64"),
        triton_input("Mango", np.empty(0, object), "BYTES"),
        triton_input("zebra", np.empty(0, np.float32), "FP32"),
    ]))  # fmt: skip
    assert [result.as_numpy(name).shape for name in ("z_sum", "a_text", "M", "not")] == [(0,), (0,), (0,), ()]


@KINDS
def test_triton_asks_for_health_and_metadata(ask: Any, served: Served) -> None:
    server = served("model")
    assert ask(server, lambda client: client.is_server_live())
    assert ask(server, lambda client: client.is_server_ready())
    assert ask(server, lambda client: client.is_model_ready("model"))
    assert ask(server, lambda client: client.is_model_ready("model", "1"))
    assert not ask(server, lambda client: client.is_model_ready("other"))
    assert "binary_tensor_data" in ask(server, lambda client: client.get_server_metadata())["extensions"]
    metadata = ask(server, lambda client: client.get_model_metadata("model", "1"))
    assert (metadata["name"], metadata["versions"]) == ("model", ["1"])
    assert metadata["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": [-1]}]


@KINDS
def test_triton_raises_the_servers_error(ask: Any, served: Served) -> None:
    server, utilities = served("model"), pytest.importorskip("tritonclient.utils")
    image, _, _ = pixels()
    # fmt: off
    wrong = [
        # model    version  input's name  array                        words
        ("other",  "",      "pixels",     image,                       "there is no model 'other'"),
        ("model",  "7",     "pixels",     image,                       "there is no version 7"),
        ("model",  "",      "pixel",      image,                       "did you mean 'pixels'?"),
        ("model",  "",      "pixels",     image[:, :7],                "expected shape [?, 8, 8], got [1, 7, 8]"),
        ("model",  "",      "pixels",     image.astype(np.float64),    "expected FP32 for 'pixels', got the string"),
    ]
    # fmt: on
    for name, version, key, array, words in wrong:
        inputs = [triton_input(key, array, "FP64" if array.dtype == np.float64 else "FP32")]
        with pytest.raises(utilities.InferenceServerException) as raised:
            ask(server, lambda client, name=name, version=version, inputs=inputs: client.infer(
                name, inputs, model_version=version, parameters=PIXELS, response_compression_algorithm="gzip"
            ))  # fmt: skip
        assert words in raised.value.message()
        assert raised.value.status() in ("400", "404")


# KServe


def ask_kserve(call: Callable[[Any], Awaitable[Any]]) -> Any:
    sdk = kserve()

    async def run() -> Any:
        client = sdk.InferenceRESTClient(sdk.RESTConfig(protocol="v2", retries=0))
        try:
            return await call(client)
        finally:
            await client.close()

    return asyncio.run(run())


def address(server: Server) -> str:
    return f"http://127.0.0.1:{server.port}"


def kserve_request(inputs: dict[str, tuple[Array, str]], binary: bool, **parameters: Any) -> Any:
    from kserve.protocol.infer_type import InferInput, InferRequest

    tensors = []
    for name, (array, datatype) in inputs.items():
        tensor = InferInput(name, list(array.shape), datatype)
        tensor.set_data_from_numpy(array, binary_data=binary)
        tensors.append(tensor)
    return InferRequest("model", tensors, "seven", parameters={**parameters, "binary_data_output": binary})


@FORMS
def test_kserve_infers(binary: bool, served: Served) -> None:
    kserve()
    image, labels, probabilities = pixels()
    image = np.repeat(image, 40, 0)
    request = kserve_request({"pixels": (image, "FP32")}, binary, **PIXELS)
    headers: dict[str, str] = {}
    result = ask_kserve(
        lambda client: client.infer(address(served("model")), request, model_name="model", response_headers=headers)
    )
    by_name = {output.name: output.as_numpy() for output in result.outputs}
    np.testing.assert_allclose(by_name["probabilities"], np.repeat(probabilities, 40, 0), rtol=1e-4, atol=1e-6)
    assert octets(by_name["label"]) == labels * 40
    assert result.id == "seven"
    assert headers["content-encoding"] == "gzip"


@pytest.mark.parametrize(("name", "datatype"), [names for names in TYPES if names[1] != "BF16"])
def test_kserve_sends_every_kind_of_type(name: str, datatype: str, served: Served) -> None:
    kserve()
    for case in vector_cases(name):
        answer = (case["outputs"] or {})["y"]
        if answer.dtype == object and not all(map(is_text, answer.tolist())):
            continue  # the SDK makes text of all BYTES that come back, binary or not
        request = kserve_request({"x": (case["inputs"]["x"], datatype)}, True, signature_name="vector")
        result = ask_kserve(
            lambda client, request=request: client.infer(address(served(name)), request, model_name="model")
        )
        by_name = {output.name: output.as_numpy() for output in result.outputs}
        equal(by_name["y"], answer)


def test_kserve_asks_for_health(served: Served) -> None:
    kserve()
    base = address(served("model"))
    assert ask_kserve(lambda client: client.is_server_live(base)) is True
    assert ask_kserve(lambda client: client.is_server_ready(base)) is True
    assert ask_kserve(lambda client: client.is_model_ready(base, "model")) is True


def test_kserve_raises_the_servers_error(served: Served) -> None:
    httpx = pytest.importorskip("httpx")
    kserve()
    request = kserve_request({"pixel": (pixels()[0], "FP32")}, True, **PIXELS)
    with pytest.raises(httpx.HTTPStatusError, match="did you mean 'pixels'"):
        ask_kserve(lambda client: client.infer(address(served("model")), request, model_name="model"))


# No client at all


def test_a_picture_may_be_the_whole_body(served: Served) -> None:
    picture = (EMBEDDED.parent / "tests" / "data" / "digit-3.png").read_bytes()
    answer = served("model").ask("POST", "/v2/models/model/infer", picture, Inference_Header_Content_Length="0")
    assert answer.status == 200
    size = int(answer.headers["inference-header-content-length"])
    head = json.loads(answer.body[:size])
    assert sum(output["parameters"]["binary_data_size"] for output in head["outputs"]) == len(answer.body) - size
    assert answer.body[size:][4:5] == b"3" or head["outputs"][0]["name"] != "label"


def test_health_is_answered_in_json(served: Served) -> None:
    server = served("model")
    for path, body in (
        ("/v2/health/live", {"live": True}),
        ("/v2/health/ready", {"live": True, "ready": True}),
        ("/v2/models/model/ready", {"name": "model", "ready": True}),
        ("/v2/models/model/versions/1/ready", {"name": "model", "ready": True}),
    ):
        assert server.ask("GET", path).json == body
    assert server.ask("GET", "/v2").json == server.ask("GET", "/v2/").json
    assert server.ask("GET", "/v2/models/model/versions/2/ready").status == 404
    refused = server.ask("GET", "/v2/models/other/ready")
    assert (refused.status, refused.headers["content-type"]) == (404, "application/json")
    assert refused.json.keys() == {"error"}
    assert server.ask("GET", "/v2/models/model/infer").status == 405


def test_an_error_shows_a_body_that_is_accepted(served: Served) -> None:
    server = served("model")
    refused = server.ask("POST", "/v2/models/model/infer", {"inputs": []})
    assert refused.status == 400
    body = refused.json["error"].partition("a body that works: ")[2].encode()
    assert server.ask("POST", "/v2/models/model/infer", body).status == 200
