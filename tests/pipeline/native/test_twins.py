"""The native codec runs twins through LiteRT's C library; the answers are those of LiteRT's interpreter for Python."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.pipeline import accelerator
from serving.runtime import loading, opening
from serving.savedmodel.folder import twin
from tests.conftest import ROOT, Serve, plain_environment
from tests.exporting import twins
from tests.pipeline.native.bodies import Writer, plain_body
from tests.pipeline.native.conftest import Ask
from tests.server import running

pytest.importorskip("ai_edge_litert")

IMAGES = {"convolutions", "pooling", "padded", "mirrored", "resized", "nearest", "sliced", "split", "deep"}
ROWS = {
    "dense", "flattened", "transposed", "reduced", "chosen", "looked_up", "compared", "counted", "tiled", "summed", "one_hot",
}  # fmt: skip
TAKEN = {
    # twin              signatures that the native codec takes, the default one aside
    "images":           IMAGES,
    "rows":             ROWS,
    "numbers":          {"exp", "expm1", "log", "log1p", "log_sigmoid", "rsqrt", "sigmoid", "sqrt", "swish"},
    "dense_512":        set(),
    "odd_names":        set(),
    "python_words":     set(),  # its inputs have other names in the graph
    "fixed_shape":      set(),
    "tf1_tags":         set(),
    "keras_functional": {"serve"},  # it flattens
}  # fmt: skip
LEFT = ("keras_attention", "dtype_float32", "sparse_input", twins.PIXELS)


def taken(folder: Path, extension: Path, serve: Serve) -> set[str]:
    serve(folder, ACCELERATOR=str(extension))
    return set(accelerator.of(loading.cache().get()).names) - {"serving_default"}


@pytest.mark.parametrize("name", TAKEN)
def test_a_signature_whose_shapes_follow_from_its_inputs_is_taken(serve: Serve, extension: Path, name: str) -> None:
    assert taken(twins.build() / name, extension, serve) == TAKEN[name]


@pytest.mark.parametrize("name", LEFT)
def test_a_graph_with_other_shapes_is_left_to_python(serve: Serve, extension: Path, name: str) -> None:
    serve(twins.build() / name, ACCELERATOR=str(extension))
    assert accelerator.of(loading.cache().get()).reason == accelerator.MODEL


@pytest.mark.parametrize("name", TAKEN)
def test_every_answer_is_that_of_the_interpreter_for_python(compare: Ask, name: str) -> None:
    folder = twins.build() / name
    signatures = [key for key, signature in twin.read(folder).signatures.items() if not signature.problem]
    rows = [plain_body(folder, key, count) for key in signatures for count in (1, 3, 40, 2, 1)]
    outcomes = compare(folder, [*rows, *Writer(folder, name).bodies(150)])
    answered = [body for body, was_taken in outcomes[: len(rows)] if was_taken]
    left = [key for key in signatures if key not in TAKEN[name] | {"serving_default"}]
    assert len(answered) == len(rows) - 5 * len(left)


def test_an_infer_request_with_binary_tensors_is_taken(compare: Ask) -> None:
    folder = twins.build() / "dense_512"
    ((name, _),) = twin.read(folder).signatures["serving_default"].inputs.items()
    tensor = np.random.default_rng(0).random((3, 512), np.float32)
    described = {"name": name, "shape": [3, 512], "datatype": "FP32", "parameters": {"binary_data_size": tensor.nbytes}}
    head = json.dumps({"inputs": [described], "parameters": {"binary_data_output": True}}).encode()
    headers = {"inference-header-content-length": str(len(head))}
    outcomes = compare(folder, [(head + tensor.tobytes(), "", headers)], path="/v2/models/model/infer")
    assert [was_taken for _, was_taken in outcomes] == [True]


def test_a_run_that_fails_is_answered_by_python_and_the_next_one_is_taken(compare: Ask) -> None:
    folder = twins.build() / "rows"
    bodies = [json.dumps({"signature_name": "looked_up", "inputs": [key, 0]}).encode() for key in (1, 7, 2, -1, 0)]
    outcomes = compare(folder, bodies)
    assert [was_taken for _, was_taken in outcomes] == [True, False, True, False, True]


def test_requests_at_the_same_time_share_runs(serve: Serve, extension: Path) -> None:
    folder = twins.build() / "dense_512"
    serve(folder, ACCELERATOR=str(extension), BATCH_ROWS="8")
    quick = accelerator.of(loading.cache().get())
    assert quick.shares_runs
    bodies = [plain_body(folder, "serving_default", rows) for rows in (1, 2, 1, 3, 1)]
    together: Any = quick.together([(body, -1) for body in bodies])
    assert len({result.ran for result in together if not isinstance(result, str)}) < len(bodies)
    for body, result in zip(bodies, together, strict=True):
        alone: Any = quick.predict(body)
        assert not isinstance(result, str)
        assert not isinstance(alone, str)
        difference = np.subtract(json.loads(result[0])["outputs"], json.loads(alone[0])["outputs"])
        assert np.abs(difference).max() < 1e-4


def test_another_version_of_litert_is_run_by_its_interpreter(
    serve: Serve, extension: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "LITERT_VERSIONS", ("0.0.0",))
    serve(twins.build() / "dense_512", ACCELERATOR=str(extension))
    assert accelerator.of(loading.cache().get()).reason == accelerator.MODEL


def test_the_installed_version_is_one_of_the_known() -> None:
    assert opening.find_litert() is not None


def test_the_first_answer_of_a_twin_imports_neither_numpy_nor_litert_for_python(extension: Path) -> None:
    script = (
        "import sys; from serving.core.http import Request; from serving.pipeline.handler import handle, prepare; "
        "prepare(); answer = handle(Request('POST', '/v1/models/model:predict', '', {}, sys.stdin.buffer.read())); "
        "print(answer.status, *sorted({'numpy', 'ai_edge_litert', 'serving.pipeline.inference'} & {*sys.modules}))"
    )
    folder = twins.build() / "dense_512"
    environment = plain_environment(MODEL_DIR=str(folder), MODEL_NAME="model", ACCELERATOR=str(extension))
    ran = subprocess.run(
        [sys.executable, "-c", script], input=plain_body(folder, "serving_default", 1), cwd=ROOT, env=environment,
        capture_output=True, check=True,
    )  # fmt: skip
    assert ran.stdout.split(b"\n")[-2] == b"200"


def test_a_server_answers_natively_and_by_the_interpreter(extension: Path) -> None:
    folder = twins.build() / "dense_512"
    body = json.loads(plain_body(folder, "serving_default", 2))
    with running("standalone", folder, ACCELERATOR=str(extension)) as server:
        assert server.ask("POST", "/", body).status == 200
        assert server.ask("POST", "/", {**body, "inputs": [1]}).status == 400
        assert server.ask("GET", "/readyz").status == 200  # Python runs it
