"""Dynamic batching of served models: which signatures are batched, and their answers."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporting import compare
from serving.core import settings
from serving.core.dtypes import by_code
from serving.core.errors import LoadError, RunError
from serving.core.telemetry import phases
from serving.pipeline.native import build as build_native
from serving.runtime import loading
from serving.runtime.batching import batchable, decide
from serving.runtime.model import Model
from serving.runtime.sessions import open_session
from serving.savedmodel.signature import Signature, TensorSpec
from serving.savedmodel.source import SMALLEST_RUNS, Source
from tests.conftest import EMBEDDED, ROOT, Serve, plain_environment
from tests.harness.waiting import PATIENCE, until
from tests.models.zoo import build, cases
from tests.pipeline.native.conftest import built
from tests.runtime.calls import Fake, batching_of, caller


# ---- Everything at once
class Rows(Fake):
    """The same, quickly, for inputs of several shapes; it never mixes them up."""

    def __call__(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        x, text = inputs["x"], inputs["text"]
        with self._lock:
            self._busy += 1
            self.most = max(self.most, self._busy)
            self.sizes.append(len(x))
        time.sleep(0)
        try:
            if (x < 0).any():
                raise RunError("INVALID_ARGUMENT", "negative")
            return {"sum": x.sum(axis=tuple(range(1, x.ndim))), "text": text + b"!"}
        finally:
            with self._lock:
                self._busy -= 1


@pytest.mark.parametrize("runs", [1, 2])
@pytest.mark.parametrize("sizes", [range(1, 41), (2, 10, 40)])
def test_each_of_6400_calls_gets_its_own_rows(runs: int, sizes: Iterable[int]) -> None:
    rows = Rows()
    batching = batching_of(rows, runs, sizes)

    def work(caller: int) -> list[str]:
        random, wrong = np.random.default_rng(caller), []
        for number in range(100):
            size, wide = int(random.integers(1, 9)), int(random.integers(1, 3))
            bad = random.random() < 0.02
            value = caller * 100 + number
            x = np.full((size, wide), value, np.float64)
            text = np.array([b"%d/%d" % (value, row) for row in range(size)], object)
            x[-1] = -1 if bad else value
            try:
                outputs = batching.run("fake", {"x": x, "text": text} if number % 2 else {"text": text, "x": x})
            except RunError:
                wrong += [] if bad else [f"{value}: refused"]
                continue
            if (
                bad
                or outputs["sum"].tolist() != [value * wide] * size
                or outputs["text"].tolist() != (text + b"!").tolist()
            ):
                wrong.append(f"{value}: {outputs}")
        return wrong

    with ThreadPoolExecutor(64) as pool:
        assert [wrong for wrong_rows in pool.map(work, range(64)) for wrong in wrong_rows] == []
    assert max(rows.sizes) <= 40
    assert len(rows.sizes) < 6400
    assert (batching.queue._free, len(batching.queue._waiting)) == (runs, 0)


@given(
    st.lists(st.lists(st.integers(-1, 5), min_size=1, max_size=4), min_size=2, max_size=12),
    st.integers(1, 8), st.integers(1, 3),
)  # fmt: skip
def test_any_batched_calls_get_the_answers_of_single_ones(calls: list[list[int]], most_rows: int, runs: int) -> None:
    fake = Fake()
    batching = batching_of(fake, runs, range(1, most_rows + 1))
    with ThreadPoolExecutor(len(calls)) as pool:
        futures = [pool.submit(caller(batching), {"x": np.array(values)}) for values in calls]
        for future, values in zip(futures, calls):
            if min(values) < 0:
                with pytest.raises(RunError):
                    future.result(PATIENCE)
            else:
                assert future.result(PATIENCE)["y"].tolist() == [2 * value for value in values]
    assert batching.queue._free == runs


# ---- Which signatures
def signature(inputs: dict[str, Any], outputs: dict[str, Any]) -> Signature:
    declared, returned = (
        {name: TensorSpec(name, by_code(1), shape, f"{name}:0") for name, shape in side.items()}
        for side in (inputs, outputs)
    )
    return Signature("s", declared, returned, "")


SHAPES = [
    # inputs                              outputs                               can meet
    ({"x": (None, 4)},                    {"y": (None, 2)},                     True),
    ({"x": (None,), "z": (None, None)},   {"y": (None,), "w": (None, 3, 3)},    True),
    ({"x": (None, 4)},                    {"y": (None, None)},                  False),  # padded to the longest row?
    ({"x": (None, 4)},                    {"y": None},                          False),
    ({"x": None},                         {"y": (None, 2)},                     False),
    ({"x": (2, 4)},                       {"y": (None, 2)},                     False),
    ({"x": (None, 4)},                    {"y": (2, 2)},                        False),
    ({"x": (None, 4)},                    {"y": ()},                            False),
    ({"x": (None, 4), "scale": ()},       {"y": (None, 4)},                     False),
    ({},                                  {"y": (None, 4)},                     False),
]  # fmt: skip


@pytest.mark.parametrize(("inputs", "outputs", "can"), SHAPES)
def test_a_signature_says_whether_its_calls_can_be_batched(inputs: Any, outputs: Any, can: bool) -> None:
    assert batchable(signature(inputs, outputs)) is can


def test_a_model_batches_where_the_setting_says_so_and_its_operations_allow_it(serve: Serve) -> None:
    ask = serve(EMBEDDED, BATCH_ROWS="32")
    assert ask("GET", "/readyz").status == 200
    assert (batching := loading.cache().get().batching)
    assert batching.sizes.keys() == loading.cache().get().functions.keys()
    ask = serve(build() / "random_stateful", BATCH_ROWS="32")
    assert ask("POST", "/", {"instances": [1.0]}).status == 200
    assert (batching := loading.cache().get().batching)
    assert batching.sizes == {}
    serve(EMBEDDED)
    assert loading.cache().get().batching is None


def test_batched_requests_get_the_answers_of_single_ones(serve: Serve, examples: dict[str, Any]) -> None:
    pictures = examples["pixels"]["instances"]
    bodies = [{"signature_name": "pixels", "instances": [picture]} for picture in pictures]
    bodies += [
        {"signature_name": "pixels", "instances": [[[1, 2]]]},
        {"signature_name": "pixels", "instances": pictures},
    ]
    ask = serve(EMBEDDED, BATCH_ROWS="32", THREADS="16")
    alone = [ask("POST", "/", body) for body in bodies]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda body: ask("POST", "/", body), bodies * 20))
    for number, answer in enumerate(answers):
        expected = alone[number % len(alone)]
        assert (answer.status, len(answer.body) > 20) == (expected.status, True)
        if expected.status == 200:
            labels = [
                [row["label"] for row in json.loads(body)["predictions"]] for body in (answer.body, expected.body)
            ]
            assert labels[0] == labels[1]


# ---- Real models
def load(directory: Path, **environment: str) -> Model:
    options = settings.read(environment)
    source = Source(directory, "model")
    return Model(source, open_session(source, options))


def pictures() -> tuple[str, list[dict[str, Any]]]:
    random = np.random.default_rng(0)
    return "pixels", [{"pixels": random.uniform(0, 16, (1 + n % 5, 8, 8)).astype(np.float32)} for n in range(64)]


def of_zoo(name: str) -> tuple[str, list[dict[str, Any]]]:
    rows: list[dict[str, Any]] = []
    for case in cases(name):
        if case["signature"] == "serving_default" and not case["error"]:
            size = len(next(iter(case["inputs"].values())))
            rows += [{key: array[n : n + 1] for key, array in case["inputs"].items()} for n in range(size)]
    return "serving_default", (rows * 16)[:64]


REAL = ["model", "dense_512", "keras_sequential", "keras_functional"]


@pytest.mark.parametrize("name", REAL)
def test_real_models_answer_sixteen_callers_as_one(name: str) -> None:
    model = load(EMBEDDED if name == "model" else build() / name)
    chosen, inputs = pictures() if name == "model" else of_zoo(name)
    alone = [model.run(model.signatures[chosen], call) for call in inputs]
    decide(model, 16)
    assert model.batching
    assert chosen in model.batching.sizes
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda call: model.run(model.signatures[chosen], call), inputs * 4))
    for number, outputs in enumerate(answers):
        assert compare.difference(alone[number % len(alone)], outputs, 1e-5)[1] is None
    model.close()


# ---- The same bytes at every time
ROWS = [[list(np.random.default_rng(row).uniform(-1, 1, 512).round(3)) for row in range(rows)] for rows in (1, 1, 2, 3)]


@pytest.mark.parametrize("codec", ["native", "off"])
def test_with_a_smallest_run_each_answer_has_the_bytes_of_the_first_one(
    serve: Serve, tmp_path: Path, codec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    extension = str(built(build_native.cached)) if codec == "native" else "off"
    folder = shutil.copytree(build() / "dense_512", tmp_path / "model")
    (folder / "assets.extra").mkdir()
    (folder / "assets.extra" / SMALLEST_RUNS).write_text('{"serving_default": 2}')

    def answers() -> list[bytes]:
        with ThreadPoolExecutor(8) as pool:
            return [answer.body for answer in pool.map(lambda rows: ask("POST", "/", {"instances": rows}), ROWS * 6)]

    ask = serve(folder, ACCELERATOR=extension, BATCH_ROWS="auto")
    first = answers()
    batching = loading.cache().get().batching
    assert batching
    monkeypatch.setattr(phases, "pending", False)  # a server has sent its first answer
    until(lambda: batching.sizes)
    assert answers() == first
    assert batching.sizes["serving_default"][0] == 2
    ask = serve(folder, ACCELERATOR=extension, BATCH_ROWS="8")
    assert answers() == first


def test_the_embedded_model_pads_a_single_row_of_pixels_to_two() -> None:
    assert Source(EMBEDDED, "model").smallest_runs == {"pixels": 2}  # a picture would take longer as two


@pytest.mark.parametrize("onednn", ["0", "1"])
def test_the_sizes_of_auto_change_no_byte_whichever_kernels_the_cpu_has(onednn: str) -> None:
    folders = [EMBEDDED, *(build() / name for name in REAL[1:])]
    command = [sys.executable, "-m", "tests.runtime.allowed_sizes", *map(str, folders)]
    environment = plain_environment(TF_ENABLE_ONEDNN_OPTS=onednn)
    result = json.loads(subprocess.run(command, capture_output=True, cwd=ROOT, env=environment, check=True).stdout)
    assert len(result) >= 2 * len(folders) - 1
    assert {name: changed for name, (_, changed) in result.items() if changed} == {}


BAD = ["[]", "{", '{"serving_default": 1}', '{"serving_default": true}', '{"serving_default": 17}']


@pytest.mark.parametrize("content", BAD)
def test_malformed_smallest_runs_are_refused(tmp_path: Path, content: str) -> None:
    folder = shutil.copytree(EMBEDDED, tmp_path / "model", ignore=lambda *_: ["manifest.json"])
    (folder / "assets.extra" / SMALLEST_RUNS).write_text(content)
    with pytest.raises(LoadError, match=r"smallest_runs.json: expected \{signature: rows from 2 to 16\}, got "):
        _ = Source(folder, "model").smallest_runs
