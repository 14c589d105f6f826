"""The boundary to C: no handle leaks, no memory outside of a buffer is touched, no pointer is read after its free.

As far as ctypes allows: handles and strings are counted through an Api that wraps the real one; buffers stand between
canaries; and the zoo runs once under glibc's own checks of the heap.
"""

import gc
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.core import settings
from serving.core.errors import InputError, LoadError, RunError
from serving.runtime import tensorflow_c
from serving.runtime.model import Model
from serving.runtime.tensorflow_c import tensors
from serving.savedmodel.signature import read
from serving.savedmodel.source import Source
from tests.conftest import EMBEDDED, ROOT, plain_environment
from tests.models.zoo import ZOO, absent, build, cases
from tests.runtime.live_handles import CountingApi


@pytest.fixture
def api() -> Iterator[CountingApi]:
    """Lend an Api that counts; at the end nothing may be alive."""
    path = tensorflow_c.find()
    assert path is not None
    gc.collect()
    before = len(tensors._lent)
    counting = CountingApi(tensorflow_c.api(path))
    yield counting
    gc.collect()  # a function's idle runs keep a status each
    assert len(tensors._lent) == before
    assert {kind: count for kind, count in counting.left().items() if kind != "lent"} == {}


def load(api: CountingApi, directory: Path) -> Model:
    source, options = Source(directory, "model"), settings.read({})
    config = tensorflow_c.config(options.intra_op_threads, options.inter_op_threads)
    return Model(source, tensorflow_c.Session(api, directory, source.contents.tags, config))  # type: ignore[arg-type]


WHOLE = [name for name in ZOO if cases(name) and absent(name) is None and name != "custom_op"]


@pytest.mark.parametrize("name", WHOLE)
def test_no_handle_outlives_a_model_of_the_zoo(api: CountingApi, name: str) -> None:
    model = load(api, build() / name)
    for case in cases(name):
        signature = model.signatures[case["signature"]]
        if signature.refusal is None:
            try:
                model.run(signature, case["inputs"])
            except (InputError, RunError):
                assert case["error"] or name == "py_function"
        assert api.live["tensor"] == 0
        assert api.live["string"] == 0
    assert api.made["tensor"] + api.made["session"] > 0
    model.close()


def test_a_model_that_cannot_be_loaded_leaves_no_handle(api: CountingApi) -> None:
    directory = build() / "broken" / "unknown_op"
    tags = read(directory).tags
    for _ in range(3):
        with pytest.raises(RunError):
            tensorflow_c.Session(api, directory, tags, tensorflow_c.config(1, -1))  # type: ignore[arg-type]
    assert api.made["graph"] == 3


def test_a_signature_missing_from_the_graph_leaves_no_handle(api: CountingApi) -> None:
    model = load(api, build() / "broken" / "dangling_output")
    assert model.signatures["affine"].refusal
    model.close()


MIDWAY = [
    # what fails                    at which call
    ("TF_AllocateTensor",           1),
    ("TF_AllocateTensor",           2),
    ("TF_NumDims",                  1),
    ("TF_NumDims",                  2),
    ("TF_StringGetSize",            1),
    ("run_unchecked",               1),
]  # fmt: skip


@pytest.mark.parametrize(("function", "at"), MIDWAY)
def test_an_error_in_between_leaves_no_handle(api: CountingApi, function: str, at: int) -> None:
    model = load(api, build() / "many_named")
    case = cases("many_named")[0]
    real, calls = getattr(api._api, function), 0

    def fail(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at:
            raise MemoryError
        return real(*arguments)

    api.broken[function] = fail
    with pytest.raises(MemoryError):
        model.run(model.signatures[case["signature"]], case["inputs"])
    api.broken.clear()
    assert api.live["string"] == api.live["tensor"] == 0
    assert len(model.run(model.signatures[case["signature"]], case["inputs"])) == 4  # and the next call is as ever
    model.close()


def test_a_run_that_returns_before_it_begins_reads_no_pointer_of_an_earlier_one(api: CountingApi) -> None:
    """TF_SessionRun clears its outputs itself, but not where it fails to extend the session first (c_api.cc)."""
    model = load(api, EMBEDDED)
    signature, inputs = model.signatures["pixels"], {"pixels": np.zeros((1, 8, 8), np.float32)}
    assert model.run(signature, inputs)
    api.broken["run_unchecked"] = lambda *_: None
    for _ in range(2):
        with pytest.raises(RunError):
            model.run(signature, inputs)
    api.broken.clear()
    assert model.run(signature, inputs)
    model.close()


CANARY = bytes(range(1, 65)) * 4


@pytest.mark.parametrize("size", [0, 1, 7, 64, 1000, (tensorflow_c.SHARED_BYTES // 4) - 1, tensorflow_c.SHARED_BYTES])
def test_the_memory_around_an_input_is_not_written(api: CountingApi, size: int) -> None:
    """Inputs above a size are lent as they are: the graph must neither write them nor what is beside them."""
    model = load(api, build() / "dtype_float32")
    memory = bytearray(CANARY + np.arange(size, dtype=np.float32).tobytes() + CANARY)
    whole = bytes(memory)
    array = np.frombuffer(memory, np.float32, size, len(CANARY))
    outputs = model.run(model.signatures["vector"], {"x": array})
    assert outputs["y"].tolist() == array.tolist()
    assert bytes(memory) == whole
    assert not np.shares_memory(outputs["y"], array)
    model.close()


@pytest.mark.parametrize("name", ["dtype_float32", "dtype_string", "dtype_bool", "dtype_complex128", "dtype_bfloat16"])
def test_as_many_bytes_are_read_of_an_output_as_tensorflow_says_it_has(api: CountingApi, name: str) -> None:
    model = load(api, build() / name)
    sizes: list[int] = []

    def data(tensor: Any) -> Any:
        sizes.append(api._api.TF_TensorByteSize(tensor))
        return api._api.TF_TensorData(tensor)

    api.broken["TF_TensorData"] = data
    for case in cases(name):
        outputs = model.run(model.signatures[case["signature"]], case["inputs"])
        width = {
            array.dtype: tensorflow_c.TSTRING_BYTES if array.dtype == object else array.itemsize
            for array in outputs.values()
        }
        assert sorted(sizes[-len(outputs) :]) == sorted(array.size * width[array.dtype] for array in outputs.values())
    model.close()


@pytest.mark.parametrize("length", [0, 1, 21, 22, 23, 24, 255, 256, 70_000])
def test_strings_are_copied_to_the_byte(api: CountingApi, length: int) -> None:
    """TF_TString keeps up to 22 bytes inside itself, and longer ones elsewhere."""
    model = load(api, build() / "dtype_string")
    text = bytes(index * 7 % 256 for index in range(length))
    outputs = model.run(model.signatures["vector"], {"x": np.array([text, b"x", text], object)})
    assert outputs["y"].tolist() == [text, b"x", text]
    assert outputs["more"].tolist() == [length, 1, length]
    model.close()


CHECKED = """
from serving.core import settings; from serving.runtime.tensorflow_c import tensors
from serving.runtime.model import Model
from serving.runtime.sessions import open_session
from serving.savedmodel.source import Source
from serving.core.errors import InputError, RunError
from tests.models.zoo import build, cases
for name in ("dtype_string", "dtype_float32", "many_named", "failures", "decode_image", "ragged_input", "passthrough"):
    source = Source(build() / name, name)
    model = Model(source, open_session(source, settings.read({})))
    for case in cases(name):
        if case["error"] != "RESOURCE_EXHAUSTED":
            for _ in range(3):
                try:
                    model.run(model.signatures[case["signature"]], case["inputs"])
                except (InputError, RunError):
                    pass
    model.close()
print("whole", len(tensors._lent))
"""


def test_glibcs_heap_checks_find_nothing() -> None:
    """Freed memory is overwritten at once, and the heap's own bookkeeping compared at each call."""
    checks = {"MALLOC_PERTURB_": "165", "MALLOC_CHECK_": "3", "LD_PRELOAD": "libc_malloc_debug.so.0"}
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("no glibc")
    run = subprocess.run(
        [sys.executable, "-c", CHECKED], cwd=ROOT, env=plain_environment(**checks), capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout.splitlines()[-1] == "whole 0"


def test_loading_fails_cleanly_without_the_library(tmp_path: Path) -> None:
    library = tmp_path / "libtensorflow_cc.so.2"
    library.write_bytes(b"\x7fELF nothing")
    with pytest.raises(LoadError, match=r"^libtensorflow_cc\.so\.2 cannot be opened: file too short$"):
        tensorflow_c.api(library)
    tensorflow_c.api.cache_clear()
