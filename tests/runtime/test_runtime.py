"""The runtime against TensorFlow's own answers: the zoo through the C library, and through the Python package."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.core import settings
from serving.core.errors import InputError, LoadError, RunError
from serving.runtime import tensorflow_c
from serving.runtime.model import Model
from serving.runtime.sessions import open_session
from serving.runtime.tensorflow_c import tensors
from serving.savedmodel.source import Source
from tests.conftest import EMBEDDED, ROOT, plain_environment
from tests.harness.forks import python
from tests.models.zoo import BROKEN, ZOO, absent, build, cases
from tests.models.zoo_check import compare, differences


@pytest.fixture(autouse=True)
def nothing_stays_lent() -> Iterator[None]:
    """After every test TensorFlow has let go of all memory that was lent to it."""
    yield
    assert not tensors._lent


def load(directory: Path, **environment: str) -> Model:
    options = settings.read(environment)
    source = Source(directory, "model")
    return Model(source, open_session(source, options))


@pytest.mark.parametrize("name", [name for name in ZOO if cases(name) or absent(name)])
def test_a_model_answers_as_tensorflows_python_api_does(name: str) -> None:
    if reason := absent(name):
        pytest.skip(reason)
    if name != "py_function":
        assert differences("c", [name]) == []
        return
    # Where a test before this one imported TensorFlow's Python package, its operation would be there.
    run = subprocess.run(
        [sys.executable, "-m", "tests.models.zoo_check", "c", name],
        cwd=ROOT,
        env=plain_environment(),
        capture_output=True,
    )
    assert json.loads(run.stdout.splitlines()[-1]) == []


# What `tf.saved_model.load` cannot load, or says otherwise; the C library can.
PYTHON_CANNOT = ("py_function/", "tf1_ref_variables:", "tf1_passthrough:", "tf1_names:")


def test_the_fallback_to_the_python_package_gives_the_same_answers() -> None:
    run = python("-m", "tests.models.zoo_check", "python", env=plain_environment())
    problems = json.loads(run.stdout.splitlines()[-1])
    assert [line for line in problems if not line.startswith(PYTHON_CANNOT)] == []


def test_the_python_package_is_chosen_where_the_wheel_has_no_c_library(tmp_path: Path) -> None:
    script = """
import sys, json, pathlib
from serving.runtime import tensorflow_c
from serving.runtime.tensorflow_c import tensors
tensorflow_c.find = lambda directory=None: None
from serving.pipeline.handler import handle
from serving.core.http import Request
body = json.dumps(json.loads(pathlib.Path("model/assets.extra/examples.json").read_text())["pixels"]).encode()
answer = handle(Request("POST", "/", body=body))
print(answer.status, json.loads(answer.body)["predictions"][0]["label"], "tensorflow" in sys.modules)
"""
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=plain_environment(), capture_output=True, text=True
    )
    assert run.stdout.splitlines()[-1] == "200 3 True", run.stderr
    assert "is not in the installed wheel" in run.stdout


def test_the_tensorflow_package_is_not_imported() -> None:
    script = """
import sys, json, pathlib
from serving.pipeline.handler import handle
from serving.core.http import Request
for body in json.loads(pathlib.Path("model/assets.extra/examples.json").read_text()).values():
    assert handle(Request("POST", "/", body=json.dumps(body).encode())).status == 200
print([name for name in sys.modules if name.partition(".")[0] in ("tensorflow", "keras", "ml_dtypes") or name.startswith("google.protobuf")])
"""
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=plain_environment(), capture_output=True, text=True
    )
    assert run.stdout.splitlines()[-1] == "[]", run.stderr


def test_parallel_calls_get_the_answers_of_single_ones() -> None:
    model = load(EMBEDDED)
    signature = model.signatures["pixels"]
    random = np.random.default_rng(0)
    batches = [random.uniform(0, 16, (1 + n % 7, 8, 8)).astype(np.float32) for n in range(64)]
    alone = [model.run(signature, {"pixels": batch}) for batch in batches]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda batch: model.run(signature, {"pixels": batch}), batches * 8))
    for position, outputs in enumerate(together):
        assert compare(alone[position % len(alone)], outputs) == []
    model.close()


def test_a_run_lets_other_threads_run() -> None:
    model = load(build() / "dense_512")
    case = cases("dense_512")[0]
    signature = model.signatures[case["signature"]]
    inputs = {name: np.repeat(array, 2048, axis=0) for name, array in case["inputs"].items()}
    running, turns = threading.Event(), []

    def count() -> None:
        while not running.is_set():
            turns.append(None)

    thread = threading.Thread(target=count)
    thread.start()
    before = len(turns)
    model.run(signature, inputs)
    during = len(turns) - before
    running.set()
    thread.join()
    assert during > 100
    model.close()


LEAKS = """
import resource, pathlib, sys
import numpy as np
from serving.core import settings; from serving.runtime.tensorflow_c import tensors
from serving.core.errors import RunError
from serving.runtime.model import Model
from serving.runtime.sessions import open_session
from serving.savedmodel.source import Source
from tests.models.zoo import build, cases

def resident():
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

def load(name):
    source = Source(build() / name, name)
    return Model(source, open_session(source, settings.read({})))

models = {name: load(name) for name in ("dtype_float32", "dtype_string", "failures", "many_named", "decode_image")}
work = [(models[n], models[n].signatures[c["signature"]], c["inputs"]) for n in models for c in cases(n)
        if sum(a.nbytes for a in c["inputs"].values()) < 4096 and "1<<" not in str(c["error"])
        and c["error"] != "RESOURCE_EXHAUSTED"
        and all(len(s) < 4096 for a in c["inputs"].values() if a.dtype == object for s in a.ravel())]
large = {"x": np.ones((64, 1024), np.float32)}
work += [(models["dtype_float32"], models["dtype_float32"].signatures["matrix"], large)]
def rounds(calls):
    done = failed = 0
    while done < calls:
        for model, signature, inputs in work:
            try:
                model.run(signature, inputs)
            except RunError:
                failed += 1
            done += 1
    return done, failed
rounds(20_000)
before = resident()
done, failed = rounds(100_000)
print(done, failed, (resident() - before) >> 10, len(tensors._lent))
"""


def test_memory_is_flat_over_a_hundred_thousand_calls_good_and_failing() -> None:
    run = subprocess.run(
        [sys.executable, "-c", LEAKS], cwd=ROOT, env=plain_environment(), capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    calls, failed, grown_kib, lent = map(int, run.stdout.split())
    assert calls >= 100_000
    assert failed > 1_000
    assert grown_kib < 8 << 10
    assert lent == 0


FORKS = """
import os, sys, faulthandler
from serving.runtime import tensorflow_c
from serving.runtime.tensorflow_c import tensors
from serving.pipeline.handler import handle
from serving.core.http import Request
faulthandler.dump_traceback_later(60, exit=True)
def ask():
    return handle(Request("GET", "/readyz"))
if sys.argv[1] == "library":
    tensorflow_c.api(tensorflow_c.find())
else:
    assert ask().status == 200
if os.fork() == 0:
    answer = ask()
    print(answer.status, answer.body.decode(), flush=True)
    os._exit(0)
os.wait()
"""

AFTER_A_FORK = [
    # before it   in the child
    ("library",   "200"),
    ("session",   "503"),  # TensorFlow would hang: said at once instead
]  # fmt: skip


@pytest.mark.parametrize(("before", "status"), AFTER_A_FORK)
def test_a_forked_child_loads_its_own_model_or_says_why_it_cannot(before: str, status: str) -> None:
    run = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKS, before],
        cwd=ROOT, env=plain_environment(), capture_output=True, text=True, timeout=90,
    )  # fmt: skip
    assert run.stdout.splitlines()[-1].startswith(status), run.stdout + run.stderr
    if status == "503":
        assert "forked" in run.stdout


def test_numpy_random_imports_beside_the_open_library() -> None:
    script = "from serving.runtime import tensorflow_c as t; t.api(t.find()); import numpy.random; numpy.random.default_rng(0)"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=plain_environment()).returncode == 0


WRONG_INPUTS = [
    # inputs                                                words
    ({},                                                    "expected the inputs pixels, got none"),
    ({"pixel": np.zeros((1, 8, 8), np.float32)},            "expected the inputs pixels, got pixel"),
    ({"pixels": np.zeros((1, 8, 8), np.float64)},           "pixels: expected float32, got float64"),
    ({"pixels": np.zeros((8, 8), np.float32)},              "pixels: expected shape [?, 8, 8], got [8, 8]"),
    ({"pixels": np.zeros((1, 8, 7), np.float32)},           "pixels: expected shape [?, 8, 8], got [1, 8, 7]"),
]  # fmt: skip


@pytest.mark.parametrize(("inputs", "words"), WRONG_INPUTS)
def test_inputs_are_checked_before_tensorflow_sees_them(inputs: dict[str, Any], words: str) -> None:
    model = load(EMBEDDED)
    with pytest.raises(InputError) as raised:
        model.run(model.signatures["pixels"], inputs)
    assert str(raised.value) == words
    model.close()


def test_arrays_of_any_memory_order_are_fed_correctly() -> None:
    model = load(EMBEDDED)
    signature = model.signatures["pixels"]
    large = np.random.default_rng(1).uniform(0, 16, (600, 8, 8)).astype(np.float32)
    wanted = model.run(signature, {"pixels": large})
    for array in (np.asfortranarray(large), large[::-1][::-1], np.broadcast_to(large, large.shape)):
        assert compare(wanted, model.run(signature, {"pixels": array})) == []
    model.close()


def test_a_result_outlives_its_model() -> None:
    model = load(EMBEDDED)
    outputs = model.run(model.signatures["pixels"], {"pixels": np.full((3, 8, 8), 7, np.float32)})
    kept = {name: array.copy() for name, array in outputs.items()}
    model.close()
    assert compare(kept, outputs) == []


def test_a_custom_op_library_must_be_named() -> None:
    if reason := absent("custom_op"):
        pytest.skip(reason)
    script = """
import sys, pathlib
from serving.core import settings
from serving.core.errors import LoadError
from serving.runtime.sessions import open_session
from serving.savedmodel.source import Source
try:
    open_session(Source(pathlib.Path(sys.argv[1]), "model"), settings.read({}))
except LoadError as error:
    print(error)
"""
    run = subprocess.run(
        [sys.executable, "-c", script, str(build() / "custom_op")],
        cwd=ROOT, env=plain_environment(), capture_output=True, text=True,
    )  # fmt: skip
    assert "ZeroOut" in run.stdout
    assert "not registered" in run.stdout


def test_a_file_that_is_no_custom_op_library_is_named(tmp_path: Path) -> None:
    library = tmp_path / "ops.so"
    library.write_bytes(b"no library")
    with pytest.raises(LoadError, match=r"custom-op library ops\.so cannot be loaded"):
        load(EMBEDDED, CUSTOM_OP_LIBRARIES=str(library))


def test_one_broken_signature_does_not_affect_the_others() -> None:
    model = load(build() / "broken" / "dangling_output")
    refusals = {name: signature.refusal for name, signature in model.signatures.items()}
    assert "which the graph does not have" in (refusals["affine"] or "")
    assert None in refusals.values()
    model.close()


@pytest.mark.parametrize("name", [name for name in BROKEN if name != "dangling_output"])
def test_a_broken_model_is_refused_with_its_reason(name: str) -> None:
    directory = build() / "broken" / name
    with pytest.raises(LoadError) as raised:
        load(directory)
    words = str(raised.value)
    assert len(words) > 20
    assert str(directory.parent) not in words
    assert "{{" not in words


@pytest.mark.parametrize(("code", "name"), [(3, "INVALID_ARGUMENT"), (99, "99")])
def test_every_status_has_a_name(code: int, name: str) -> None:
    error = tensorflow_c.run_error(code, b"no")
    assert isinstance(error, RunError)
    assert error.code == name


def test_the_library_is_opened_where_the_setting_says(tmp_path: Path) -> None:
    assert tensorflow_c.find(tmp_path) is None
    library = tensorflow_c.find()
    assert library is not None
    os.symlink(library, tmp_path / library.name)
    assert tensorflow_c.find(tmp_path) == tmp_path / library.name
