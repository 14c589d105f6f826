"""Reading saved_model.pb without a schema: the result of TensorFlow's reader, or LoadError."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from serving.core.dtypes import DTYPES
from serving.core.errors import LoadError
from serving.savedmodel.signature import Contents, Shape, Signature, TensorSpec, check, read
from serving.savedmodel.source import Source
from tests.conftest import EMBEDDED, plain_environment
from tests.harness.forks import python
from tests.models.zoo import VERSIONS, ZOO, absent, build

ORACLE = """
import json, sys
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import saved_model_pb2
def tensor(info):
    shape = info.tensor_shape
    return [types_pb2.DataType.Name(info.dtype % 100),
            None if shape.unknown_rank else [d.size for d in shape.dim], info.name]
found = {}
for folder in sys.argv[1:]:
    model = saved_model_pb2.SavedModel()
    model.ParseFromString(open(folder + "/saved_model.pb", "rb").read())
    graph = min((g for g in model.meta_graphs if "serve" in g.meta_info_def.tags), key=lambda g: len(g.meta_info_def.tags))
    found[folder] = [list(graph.meta_info_def.tags), graph.meta_info_def.tensorflow_version, {
        name: [{k: tensor(v) for k, v in s.inputs.items()}, {k: tensor(v) for k, v in s.outputs.items()}, s.method_name]
        for name, s in graph.signature_def.items()}]
found["dtypes"] = {str(v): n for n, v in types_pb2.DataType.items()}
print(json.dumps(found))
"""


def described(contents: Contents) -> list[object]:
    def side(specs: object) -> object:
        return {
            spec.name: [
                spec.dtype.name,
                None if spec.shape is None else [-1 if s is None else s for s in spec.shape],
                spec.tensor,
            ]
            for spec in specs.values()  # type: ignore[attr-defined]
        }

    return [list(contents.tags), contents.tensorflow_version, {
        signature.name: [side(signature.inputs), side(signature.outputs), signature.method_name] for signature in contents.signatures.values()
    }]  # fmt: skip


def test_signatures_are_what_tensorflows_own_protobuf_classes_read() -> None:
    folders = [str(build() / name) for name in ZOO if absent(name) is None] + [str(EMBEDDED)]
    oracle = json.loads(python("-c", ORACLE, *folders, env=plain_environment()).stdout)
    for folder in folders:
        try:
            contents = read(Path(folder))
        except LoadError as error:  # a model of which no signature can be called
            assert "no signature that can be served" in str(error)
            continue
        assert described(contents) == oracle[folder], folder
    assert {str(dtype.code): dtype.name for dtype in DTYPES}.items() <= oracle["dtypes"].items()


@hypothesis(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.binary(max_size=400))
def test_arbitrary_bytes_raise_LoadError(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "saved_model.pb").write_bytes(content)
    with pytest.raises(LoadError):
        read(tmp_path)


@hypothesis(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_a_damaged_model_is_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray((build() / "versions" / "1" / "saved_model.pb").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "saved_model.pb").write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        read(tmp_path)
    except LoadError as error:
        assert str(error)


FOLDERS = [
    # folder                 version served
    ("versions",             "10"),
    ("versions/2",           "2"),
    ("versions_with_junk",   "9"),
    ("lookup_table",         "1"),
]  # fmt: skip


@pytest.mark.parametrize(("folder", "version"), FOLDERS)
def test_the_highest_complete_version_is_served(folder: str, version: str) -> None:
    assert folder.partition("/")[0] in VERSIONS or folder in ZOO
    assert Source(build() / folder, "model").version == version


REASONS = [
    # what is in the folder                       words
    ({},                                          "no saved_model.pb and no numbered version"),
    ({"saved_model.pbtxt": b"x"},                 "binary form"),
    ({"model.keras": b"x"},                       "Keras archive"),
    ({"saved_model.pb": b""},                     "saved_model.pb is empty"),
    ({"saved_model.pb": b"<html></html>"},        "not a SavedModel"),
    ({"saved_model.pb": b"\x08\x01"},             "holds no graph"),
]  # fmt: skip


@pytest.mark.parametrize(("files", "words"), REASONS)
def test_the_error_for_a_folder_without_a_model_lists_its_content(
    tmp_path: Path, files: dict[str, bytes], words: str
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(LoadError, match=words):
        Source(tmp_path, "model")


def test_the_error_for_a_missing_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="no such folder"):
        Source(tmp_path / "none", "model")


FITS = [
    # declared         came          problem
    ("pixels",         (1, 8, 8),    None),
    ("pixels",         (0, 8, 8),    None),
    ("pixels",         (8, 8),       "expected shape [?, 8, 8], got [8, 8]"),
    ("pixels",         (1, 8, 9),    "expected shape [?, 8, 8], got [1, 8, 9]"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "came", "problem"), FITS)
def test_a_shape_is_checked_against_the_declared_one(name: str, came: tuple[int, ...], problem: str | None) -> None:
    assert check(read(EMBEDDED).signatures["pixels"].inputs[name], came) == problem


def floats(shape: Shape | None, tensor: str = "t:0", code: int = 1) -> TensorSpec:
    return TensorSpec("t", next(dtype for dtype in DTYPES if dtype.code == code), shape, tensor)


REFUSED = [
    # name                     input                      output                    words
    ("a",                      floats((None,)),           floats(None),             None),
    ("a",                      floats((1,) * 64),         floats(None),             None),
    ("a",                      floats((1,) * 65),         floats(None),             "its input 't' has 65 dimensions, more than the 64"),
    ("a",                      floats(()),                floats((), tensor=""),    "its output 't' is a sparse or composite tensor, which is no array: return its values"),
    ("a",                      floats((), tensor=""),     floats(()),               "its input 't' is a sparse or composite tensor, which is no array: take its values"),
    ("a",                      floats((), code=20),       floats(()),               "its input 't' has dtype DT_RESOURCE"),
    ("",                       floats(()),                floats(()),               "its name is empty"),
    ("__saved_model_init_op",  floats(()),                floats(()),               "TensorFlow runs it once, when it loads the model"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "given", "returned", "words"), REFUSED)
def test_a_signature_that_no_request_can_call_says_why(
    name: str, given: TensorSpec, returned: TensorSpec, words: str | None
) -> None:
    refusal = Signature(name, {"t": given}, {"t": returned}, "").refusal
    assert refusal is None if words is None else words in str(refusal)
