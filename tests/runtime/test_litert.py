"""Serving a LiteRT twin: TensorFlow's answers, the bytes of the original, and no crash."""

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.core import settings
from serving.core.comparison import difference
from serving.core.errors import InputError, LoadError, RunError
from serving.runtime import litert
from serving.runtime.batching import decide
from serving.runtime.model import Model
from serving.runtime.sessions import open_session
from serving.savedmodel.folder import twin as twin_files
from serving.savedmodel.signature import DEFAULT
from serving.savedmodel.source import Source
from tests.conftest import EMBEDDED, Serve
from tests.exporting import twins
from tests.models.zoo import cases
from tests.models.zoo_check import compare
from tests.server import running

pytest.importorskip("ai_edge_litert")


@pytest.fixture(scope="module")
def folder() -> Path:
    return twins.build()


@pytest.fixture(scope="module")
def embedded(folder: Path) -> Path:
    return folder / twins.PIXELS


def load(directory: Path, **environment: str) -> Model:
    source = Source(directory, "model")
    return Model(source, open_session(source, settings.read(environment)))


@pytest.mark.parametrize("name", twins.names())
def test_a_twin_answers_as_tensorflows_python_api(name: str, folder: Path) -> None:
    if isinstance(twins.results()[name], str):
        pytest.skip("it has no twin")
    served = load(folder / name)
    asked = 0
    for case in cases(name):
        signature = served.signatures[case["signature"]]
        if signature.refusal or case["outputs"] is None:
            continue
        if any(not array.size for array in case["inputs"].values()):
            with pytest.raises(RunError, match="expected an element at least"):
                served.run(signature, case["inputs"])
            continue
        outputs = served.run(signature, case["inputs"])
        for key, wanted in case["outputs"].items():
            if wanted.dtype.kind == "f":  # XNNPACK adds in another order
                assert outputs[key].dtype == wanted.dtype
                np.testing.assert_allclose(outputs[key], wanted, rtol=1e-4, atol=1e-6)
            else:
                assert compare({key: wanted}, {key: outputs[key]}) == []
        asked += 1
    assert asked
    served.close()


def test_the_signatures_are_those_of_the_original_model(folder: Path) -> None:
    from serving.savedmodel.signature import read
    from tests.models.zoo import build

    for name in ("odd_names", "shared_variables", "dtype_float32", "tf1_tags"):
        twin, original = twin_files.read(folder / name), read(build() / name)
        assert twin.tags == original.tags
        assert twin.tensorflow_version == original.tensorflow_version
        for key, signature in twin.signatures.items():
            assert signature.method_name == original.signatures[key].method_name
            assert dict(signature.inputs) == dict(original.signatures[key].inputs)
            assert dict(signature.outputs) == dict(original.signatures[key].outputs)


REQUESTS = [
    # method  path                          body
    ("POST", "/v1/models/model:predict",    {"signature_name": "pixels", "instances": [[[0] * 8] * 8, [[9] * 8] * 8]}),
    ("POST", "/v1/models/model:predict",    {"signature_name": "pixels", "inputs": [[[3.5] * 8] * 8] * 5}),
    ("POST", "/v1/models/model:predict",    {"signature_name": "pixels", "instances": [[1, 2]]}),
    ("POST", "/v1/models/model:predict",    {"signature_name": "pixels", "instances": [[["a"] * 8] * 8]}),
    ("POST", "/v1/models/model:predict",    {"signature_name": "pixel", "instances": [1]}),
    ("POST", "/v2/models/model/infer",      {"parameters": {"signature_name": "pixels"}, "inputs": [
        {"name": "pixels", "datatype": "FP32", "shape": [1, 8, 8], "data": [2.0] * 64}]}),
]  # fmt: skip


def test_the_twin_answers_over_http_as_the_original(serve: Serve, embedded: Path) -> None:
    answers: list[list[Any]] = []
    for directory in (EMBEDDED, embedded):
        ask = serve(directory)
        answers.append([ask(*request) for request in REQUESTS])
    for original, twin in zip(*answers):
        assert (twin.status, twin.content_type) == (original.status, original.content_type)
        assert same(json.loads(twin.body), json.loads(original.body))


def same(first: Any, second: Any) -> bool:
    """Say whether two answers are the same but for rounding, and but for what an error says behind a semicolon."""
    if isinstance(first, dict) and "error" in first:
        first, second = ({**body, "error": body["error"].partition(";")[0]} for body in (first, second))
    return difference(first, second) is None


def test_metadata_and_openapi_come_from_the_twin(serve: Serve, embedded: Path) -> None:
    ask = serve(embedded)
    described = json.loads(ask("GET", "/v1/models/model/metadata").body)
    assert described["metadata"]["signature_def"]["signature_def"].keys() == {"pixels", DEFAULT}
    assert [tensor["name"] for tensor in json.loads(ask("GET", "/v2/models/model").body)["inputs"]] == ["pixels"]
    assert ask("GET", "/openapi.json").status == 200
    assert ask("GET", "/readyz").status == 200


def test_the_example_of_the_new_default_works(serve: Serve, embedded: Path, answers: dict[str, Any]) -> None:
    ask = serve(embedded)
    example = Source(embedded, "model").examples[DEFAULT]
    assert "signature_name" not in example
    answer = json.loads(ask("POST", "/", example).body)
    assert same(answer, answers["pixels"])


def test_a_signature_that_was_left_out_says_why(serve: Serve, folder: Path) -> None:
    ask = serve(folder / "dtype_float32")
    answer = ask("POST", "/", {"signature_name": "any", "inputs": [1.0]})
    assert answer.status == 400
    assert b"no known rank" in answer.body


@pytest.mark.parametrize("kind", ["functions-framework", "standalone"])
def test_the_twin_is_served_behind_real_servers(kind: str, embedded: Path, answers: dict[str, Any]) -> None:
    example = Source(embedded, "model").examples["pixels"]
    with running(kind, embedded, RUNTIME="litert") as server:
        received: list[Any] = []
        threads = [threading.Thread(target=lambda: received.append(server.ask("POST", "/", example))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [answer.status for answer in received] == [200] * 8
        for answer in received:
            assert same(answer.json, answers["pixels"])


def test_eight_threads_with_batches_of_their_own(folder: Path) -> None:
    served = load(folder / "dense_512")
    signature = next(iter(served.signatures.values()))
    (name,), (output,) = signature.inputs, signature.outputs
    rows = np.random.default_rng(0).random((64, 512), np.float32)
    wanted = served.run(signature, {name: rows})[output]
    wrong: list[str] = []

    def work(size: int) -> None:
        for start in range(0, 64 - size, 3):
            part = served.run(signature, {name: rows[start : start + size]})[output]
            if not np.allclose(part, wanted[start : start + size], rtol=1e-4, atol=1e-4):
                wrong.append(f"{size} rows from {start}")

    threads = [threading.Thread(target=work, args=(size,)) for size in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_no_more_interpreters_than_allowed(embedded: Path) -> None:
    session = litert.Session(embedded, most=2)
    signature = Source(embedded, "model").signatures["pixels"]
    run = session.function(signature)
    threads = [
        threading.Thread(target=lambda: [run({"pixels": np.ones((50, 8, 8), np.float32)}) for _ in range(20)])
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1 <= len(session._idle) <= 2
    session.close()


BAD: Any = [
    # inputs                                                        error
    ({},                                                            InputError),
    ({"pixels": np.ones((1, 8, 8), np.float64)},                    InputError),
    ({"pixels": np.ones((8, 8), np.float32)},                       InputError),
    ({"pixels": np.ones((1, 8, 9), np.float32)},                    InputError),
    ({"pixels": np.ones((1, 8, 8), np.float32), "more": np.ones(1)}, InputError),
    ({"pixels": np.ones((0, 8, 8), np.float32)},                    RunError),
]  # fmt: skip


def test_bad_inputs_are_refused_and_the_next_call_works(embedded: Path) -> None:
    served = load(embedded)
    signature = served.signatures["pixels"]
    good = {"pixels": np.asfortranarray(np.ones((3, 8, 8), np.float32)[:, ::-1])}
    wanted = served.run(signature, good)
    for inputs, error in BAD:
        with pytest.raises(error):
            served.run(signature, inputs)
        again = served.run(signature, good)
        assert {key: value.tolist() for key, value in again.items()} == {k: v.tolist() for k, v in wanted.items()}


def test_an_input_that_litert_refuses_is_400_without_names_of_nodes(folder: Path) -> None:
    served = load(folder / "keras_functional")
    signature = served.signatures[DEFAULT]
    inputs = {
        name: np.ones([size or rows for size in spec.shape or ()], spec.dtype.numpy)
        for rows, (name, spec) in enumerate(signature.inputs.items(), 2)  # other rows for each input
    }
    with pytest.raises(RunError, match="the shapes of the inputs do not go together") as caught:
        served.run(signature, inputs)
    assert caught.value.code == "INVALID_ARGUMENT"


MESSAGES = [
    ("tflite/kernels/gather.cc:207 pos < num_strings was not true.gather index out of boundsNode number 0 (GATHER) "
     "failed to invoke.", "gather index out of bounds"),
    ("tflite/kernels/reshape.cc:92 num_input_elements != num_output_elements (10 != 12)Node number 1 (RESHAPE) failed "
     "to prepare.", "the shapes of the inputs do not go together"),
    ("XNNPack delegate failed to reshape runtimeNode number 3 (TfLiteXNNPackDelegate) failed to prepare.",
     "the shapes of the inputs do not go together"),
    ("Node number 4 (DIV) failed to invoke.", "DIV fails on it"),
    ("", "it fails on it"),
]  # fmt: skip


@pytest.mark.parametrize(("said", "plain"), MESSAGES)
def test_messages_of_litert_are_translated(said: str, plain: str) -> None:
    assert litert._plain(RuntimeError(said)) == plain


def test_the_highest_version_of_a_twin_is_served(embedded: Path, tmp_path: Path) -> None:
    (tmp_path / "3").symlink_to(EMBEDDED)
    (tmp_path / "10").symlink_to(embedded)
    (tmp_path / "11").mkdir()
    (tmp_path / "11" / twin_files.SIGNATURES).write_text("{}")  # half uploaded
    source = Source(tmp_path, "model")
    assert (source.version, source.light) == ("10", True)


def broken(embedded: Path, tmp_path: Path) -> dict[str, Path]:
    model, facts = (embedded / twin_files.MODEL).read_bytes(), (embedded / twin_files.SIGNATURES).read_text()
    lies = json.dumps({**json.loads(facts), "bytes": 5000})
    other = facts.replace('"pixels": {\n   "method', '"pixel": {\n   "method')
    content = {
        "half a model": (model[:5000], facts),
        "half a model that says so": (model[:5000], lies),
        "half the signatures": (model, facts[:200]),
        "another format": (model, facts.replace('"format": 1', '"format": 2')),
        "no list": (model, "[]"),
        "an unknown dtype": (model, facts.replace("DT_FLOAT", "DT_FLAT")),
        "other signatures": (model, other.replace('"runs": "pixels"', '"runs": "pixel"')),
        "no signatures": (model, None),
    }
    for name, (first, second) in content.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / twin_files.MODEL).write_bytes(first)
        if second is not None:
            (tmp_path / name / twin_files.SIGNATURES).write_text(second)
    return {name: tmp_path / name for name in content}


REASONS = {
    "half a model": "expected 249",
    "half a model that says so": "LiteRT cannot load model.tflite",
    "half the signatures": "signatures.json cannot be read",
    "another format": "expected format 1, got 2",
    "no list": "signatures.json cannot be read",
    "an unknown dtype": "not what `bake --litert` writes",
    "other signatures": "model.tflite has no signature 'pixel'",
    "no signatures": "a .tflite without its signatures.json",
}


def test_a_broken_twin_is_a_load_error_that_says_why(embedded: Path, tmp_path: Path) -> None:
    for name, directory in broken(embedded, tmp_path).items():
        with pytest.raises(LoadError) as caught:
            load(directory)
        assert REASONS[name] in str(caught.value), name
        assert str(tmp_path) not in str(caught.value)


RUNTIMES = [
    # RUNTIME   model       why not
    ("litert",  "original", "it is a SavedModel (RUNTIME=litert)"),
    ("c",       "twin",     "TensorFlow cannot run (RUNTIME=c)"),
    ("python",  "twin",     "TensorFlow cannot run (RUNTIME=python)"),
]  # fmt: skip


@pytest.mark.parametrize(("runtime", "which", "why"), RUNTIMES)
def test_a_runtime_that_cannot_serve_the_model_says_so(runtime: str, which: str, why: str, embedded: Path) -> None:
    with pytest.raises(LoadError) as caught:
        load(embedded if which == "twin" else EMBEDDED, RUNTIME=runtime)
    assert why in str(caught.value)


def test_without_litert_the_load_names_what_to_install(embedded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ai_edge_litert", None)
    with pytest.raises(LoadError, match=r"pip install -r requirements/light\.txt"):
        load(embedded)


def test_BATCH_ROWS_and_INTRA_OP_THREADS_with_litert(embedded: Path) -> None:
    source = Source(embedded, "model")
    options = settings.read({"INTRA_OP_THREADS": "0", "BATCH_ROWS": "32"})
    served = Model(source, open_session(source, options))
    decide(served, options.batch_rows)
    assert served.batching
    assert DEFAULT in served.batching.sizes
    outputs = served.run(served.signatures[DEFAULT], {"pixels": np.ones((2, 8, 8), np.float32)})
    assert outputs["probabilities"].shape == (2, 10)
