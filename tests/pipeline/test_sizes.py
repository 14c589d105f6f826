"""How large a request may be, and the answer to a larger one."""

import base64
import json
from typing import Any

import numpy as np
import pytest

from serving.core import machine
from serving.core.http import TooLarge
from serving.core.settings import read
from serving.pipeline.admission import Admission
from serving.protocols.sizes import check_arrays, check_memory, check_pictures
from serving.runtime import model
from tests.conftest import Serve
from tests.models.zoo import build
from tests.savedmodel.test_images import gif, png

PREDICT, INFER = "/v1/models/model:predict", "/v2/models/model/infer"
HALF = build() / "versions" / "1"
CSV, LINES = {"content-type": "text/csv"}, {"content-type": "application/x-ndjson"}


def v2(name: str, shape: list[int], data: Any, **more: Any) -> bytes:
    tensor = {"name": name, "shape": shape, "datatype": "FP32", "data": data}
    return json.dumps({"inputs": [tensor], **more}).encode()


def nested(levels: int) -> bytes:
    return b'{"instances": [1.0], "ignored": ' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}"


# fmt: off
SIZES = [
    # settings                       path      body                                             headers  status  words
    ({"MAX_ROWS": "3"},              PREDICT,  b'{"instances": [1.0, 2.0, 3.0]}',               {},      200,  ""),
    ({"MAX_ROWS": "3"},              PREDICT,  b'{"instances": [1.0, 2.0, 3.0, 4.0]}',          {},      413,  "instances: expected at most 3 rows (MAX_ROWS), got 4"),
    ({"MAX_ROWS": "3"},              PREDICT,  b'{"inputs": [1.0, 2.0, 3.0, 4.0]}',             {},      413,  "x: expected at most 3 rows (MAX_ROWS), got 4"),
    ({"MAX_ROWS": "3"},              PREDICT,  b"1.0\n2.0\n3.0\n4.0\n",                         LINES,   413,  "lines: expected at most 3 rows (MAX_ROWS), got 4"),
    ({"MAX_ROWS": "3"},              PREDICT,  b"x\n1.0\n2.0\n3.0\n4.0\n",                      CSV,     413,  "lines: expected at most 3 rows (MAX_ROWS), got 4"),
    ({"MAX_ROWS": "3"},              INFER,    v2("x", [4], [1, 2, 3, 4]),                      {},      413,  "inputs[0].shape: expected at most 3 rows (MAX_ROWS), got 4"),
    ({"MAX_ELEMENTS": "3"},          PREDICT,  b'{"instances": [1.0, 2.0, 3.0]}',               {},      200,  ""),
    ({"MAX_ELEMENTS": "3"},          PREDICT,  b'{"instances": [1.0, 2.0, 3.0, 4.0]}',          {},      413,  "expected at most 3 elements (MAX_ELEMENTS), got 4"),
    ({"MAX_BODY_BYTES": "20"},       PREDICT,  b'{"instances": [1.0, 2.0]}',                    {},      413,  "body: expected at most 20 bytes (MAX_BODY_BYTES), got 25"),
    ({},                             PREDICT,  nested(32),                                      {},      200,  ""),
    ({},                             PREDICT,  nested(33),                                      {},      400,  "nested too deep: expected at most 32 levels (MAX_NESTING), got more"),
    ({"MAX_NESTING": "40"},          PREDICT,  nested(33),                                      {},      200,  ""),
    ({},                             PREDICT,  nested(1000),                                    {},      400,  "(MAX_NESTING)"),
    ({},                             PREDICT,  nested(200_000),                                 {},      400,  "(MAX_NESTING)"),
    ({},                             PREDICT,  b'{"a":' * 200_000,                              {},      400,  "(MAX_NESTING)"),
    ({},                             INFER,    v2("x", [1], [1], parameters={"a": json.loads("[" * 60 + "]" * 60)}), {}, 400, "(MAX_NESTING)"),
    ({},                             PREDICT,  b'{"instances": [1.0], "s": "' + b"[{" * 99 + b'"}', {},  200,  ""),
    ({},                             PREDICT,  b'{"instances": [1.0], "s": "\\"' + b"[" * 99 + b'"}', {}, 200,  ""),
    ({},                             PREDICT,  b'{"instances": [' + b"[1.0]," * 40 + b"[1.0]]}", {},     400,  "instances[0]: expected shape"),
    ({},                             PREDICT,  b'{"instances": [' + b"1" * 41 + b"]}",          {},      400,  "a number of 41 digits, expected at most 40"),
    ({},                             INFER,    v2("x", [1], [1.0], id="i" * 256),               {},      200,  ""),
    ({},                             INFER,    v2("x", [1], [1.0], id="i" * 257),               {},      413,  "id: expected at most 256 characters, got 257"),
]
# fmt: on


@pytest.mark.parametrize(("environment", "path", "body", "headers", "status", "words"), SIZES)
def test_a_size_above_its_limit_is_refused(
    serve: Serve, environment: dict[str, str], path: str, body: bytes, headers: dict[str, str], status: int, words: str
) -> None:
    ask = serve(HALF, **environment)
    answer = ask("POST", path, body, **headers)
    assert answer.status == status, answer.body
    if status != 200:
        assert words in json.loads(answer.body)["error"]


def test_a_string_above_its_limit_is_refused(serve: Serve) -> None:
    for size, status in ((100, 400), (101, 413)):  # no picture; too long
        answer = serve(MAX_STRING_BYTES="100")("POST", "/", {"instances": ["x" * size]})
        assert answer.status == status
    assert (
        "expected strings of at most 100 bytes (MAX_STRING_BYTES), got one of 101" in json.loads(answer.body)["error"]
    )


def test_bodies_and_inputs_have_a_share_of_the_containers_memory(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.memory_share() > 1 << 40  # there is no limit here
    monkeypatch.setattr(machine, "memory_limit", lambda: 4 << 20)
    assert Admission(read({}))._most_bytes == 1 << 20
    ask = serve(HALF, MAX_BODY_BYTES="2000000")
    for count, status in ((1 << 18, 200), ((1 << 18) + 1, 413)):
        head = v2("x", [count], [], parameters={}).replace(
            b'"data": []', b'"parameters": {"binary_data_size": %d}' % (4 * count)
        )
        answer = ask("POST", INFER, head + bytes(4 * count), **{"Inference-Header-Content-Length": str(len(head))})
        assert answer.status == status, answer.body[:200]
    assert b"inputs of at most 1048576 bytes (1/4 of the container's memory), got 1048580" in answer.body
    with pytest.raises(TooLarge, match="1/4 of the container's memory"):
        check_memory(check_arrays({"x": np.array([b"x" * 1000] * 1000, object)}, read({})))


TOO_MANY = [
    # pictures                              words
    ([png(60_000, 60_000)],                 "got 60000 x 60000 (PNG)"),
    ([gif(5_000, 5_000, 40)],               "got 5000 x 5000 (GIF) in 40 frames"),
    ([png(5_000, 5_000)] * 3,               "got 5000 x 5000 (PNG), 75000000 with those before it"),
]  # fmt: skip


@pytest.mark.parametrize(("pictures", "words"), TOO_MANY)
def test_pictures_that_would_fill_the_memory_are_refused_by_their_headers(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, pictures: list[bytes], words: str
) -> None:
    ask = serve()
    runs: list[int] = []
    monkeypatch.setattr(model.Model, "run", lambda *_: runs.append(1))
    answer = ask("POST", "/", {"instances": [{"b64": base64.b64encode(content).decode()} for content in pictures]})
    assert (answer.status, runs) == (413, [])
    message = json.loads(answer.body)["error"]
    assert message.startswith("instances")
    assert "expected at most 50000000 pixels (MAX_PIXELS)" in message
    assert words in message


def test_the_pixels_of_all_inputs_count_together() -> None:
    inputs = {name: np.array([png(5000, 4000)], object) for name in ("a", "b", "c")}
    name, problem = check_pictures(inputs, frozenset({"image"}), read({}).max_pixels) or ("", "")
    assert name == "c"
    assert "got 5000 x 4000 (PNG), 60000000 with those before it" in problem
