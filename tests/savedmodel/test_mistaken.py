"""The error for a folder that is not a SavedModel names what is there and what to do."""

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from serving.__main__ import main
from serving.core import settings
from serving.core.errors import LoadError
from serving.runtime.model import Model
from serving.runtime.sessions import judge, open_session
from serving.savedmodel.source import Source
from tests.conftest import ROOT, Serve, plain_environment
from tests.harness.forks import python
from tests.models import answer_models, hostile, zoo
from tests.models.zoo.kinds import build


def reason(directory: Path, **environment: str) -> str:
    """Return why a folder is not served."""
    options = settings.read(environment)
    with pytest.raises(LoadError) as refused:
        load(directory, options)
    return str(refused.value)


def load(directory: Path, options: settings.Settings) -> None:
    source = Source(directory, "model")
    judge(source, options)
    Model(source, open_session(source, options)).close()


GIT_LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
FOLDERS = [
    # files                                        words
    ({"net.keras": b"PK"},                         "keras.saving.load_model('net.keras').export('saved')"),
    ({"net.h5": b""},                              "keras.saving.load_model('net.h5')"),
    ({"net.onnx": b""},                            "onnx2tf -i net.onnx -o saved"),
    ({"pytorch_model.bin.pt": b""},                "torch.onnx.export"),
    ({"model.safetensors": b""},                   "weights of PyTorch, model.safetensors"),
    ({"net.zip": b""},                             "an archive, net.zip; unpack it"),
    ({"net.tflite": b""},                          "signatures.json"),
    ({"model.json": b"{}", "shard1.bin": b""},     "tensorflowjs_converter"),
    ({"config.json": b"{}", "model.weights.h5": b""}, "an unpacked .keras archive"),
    ({"checkpoint": b"", "ckpt-1.index": b""},     "a checkpoint, weights without a graph"),
    ({"fingerprint.pb": b"", "variables/variables.index": b""}, "saved_model.pb is missing: the folder holds only part"),
    ({"fingerprint.pb": b""},                      "saved_model.pb is missing: the folder holds only part"),
    ({"frozen_graph.pb": b""},                     "frozen_graph.pb, a frozen graph perhaps"),
    ({"inner/saved_model.pb": b""},                "one folder down, in inner: MODEL_DIR="),
    ({"saved_model.pb": GIT_LFS},                  "a Git LFS pointer, not the file itself: git lfs pull"),
    ({"saved_model.pb": b"<!DOCTYPE html><html>"}, "an HTML page"),
    ({"saved_model.pb": b"\n <html>"},             "an HTML page"),
    ({"saved_model.pb": b"PK\x03\x04abc"},         "a zip archive"),
    ({"saved_model.pb": b"\x08\x08\x12\x07pytorch"}, "an ONNX model"),
    ({"saved_model.pb": b"\x89HDF\r\n\x1a\n"},     "an HDF5 file"),
    ({"saved_model.pb": b"\x1c\0\0\0TFL3"},        "a LiteRT model"),
    ({"Saved_Model.pb": b""},                      "it holds Saved_Model.pb; rename it to saved_model.pb"),
    ({"readme.txt": b""},                          "it holds no saved_model.pb and no numbered version"),
]  # fmt: skip


@pytest.mark.parametrize(("files", "words"), FOLDERS, ids=[case[1] for case in FOLDERS])
def test_other_formats_are_recognised_and_named(files: dict[str, bytes], words: str, tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    assert words in reason(tmp_path)


LINKS = ["nowhere.pb", "/nowhere/saved_model.pb", "saved_model.pb"]  # the last one leads to itself


@pytest.mark.parametrize("target", LINKS)
def test_a_link_that_leads_nowhere_is_named(target: str, tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").symlink_to(target)
    (tmp_path / "frozen.pb").write_bytes(b"")
    assert reason(tmp_path) == "saved_model.pb is a link to a file that is not there"


FILES = [
    ("net.keras", "a Keras archive, net.keras; export a SavedModel of it: python -c"),
    ("notes.txt", "it is a file (.txt)"),
]


@pytest.mark.parametrize(("name", "words"), FILES)
def test_a_file_instead_of_a_folder_is_named(name: str, words: str, tmp_path: Path) -> None:
    if name.endswith(".keras"):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("config.json", "{}")
    else:
        (tmp_path / name).write_text("hello")
    assert words in reason(tmp_path / name)
    assert "expected the folder of a saved_model.pb" in reason(tmp_path / name)


def remove(name: str) -> Callable[[Path], None]:
    return lambda model: (model / name).unlink()


DATA = "variables/variables.data-00000-of-00001"
ASSETS = [
    # the asset in place of a vocabulary    words
    (lambda path: path.write_bytes(GIT_LFS), "assets/words.txt is a Git LFS pointer, not the file itself: git lfs pull"),
    (lambda path: path.write_bytes(b""),     "TensorFlow cannot load it: assets/words.txt is empty"),
    (lambda path: path.unlink(),             "assets/words.txt is missing"),
    (lambda path: (path.unlink(), path.mkdir()), "TensorFlow cannot load it: assets/words.txt is not a file"),
    (lambda path: (path.unlink(), path.symlink_to("words.txt")), "assets/words.txt cannot be read (Too many levels"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "words"), ASSETS, ids=[case[1] for case in ASSETS])
def test_an_asset_that_is_no_vocabulary_is_named(change: Callable[[Path], object], words: str, tmp_path: Path) -> None:
    model = shutil.copytree(build() / "vocabulary_strict", tmp_path / "model")
    change(model / "assets" / "words.txt")
    assert words in reason(model)


@pytest.mark.parametrize("name", ["fingerprint.pb", DATA, "notes.json", "assets.extra/labels.txt"])
def test_a_link_to_itself_is_named(name: str, tmp_path: Path) -> None:
    model = shutil.copytree(build() / "vocabulary_strict", tmp_path / "model")
    (model / name).parent.mkdir(exist_ok=True)
    (model / name).unlink(missing_ok=True)
    (model / name).symlink_to(Path(name).name)
    assert f"{name} cannot be read (Too many levels of symbolic links)" in reason(model)


LACKING = [
    ("keras3_saved", DATA),
    ("vocabulary_strict", "assets/words.txt"),
]


@pytest.mark.parametrize(("name", "lost"), LACKING)
def test_a_missing_file_is_named(
    name: str, lost: str, tmp_path: Path, serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(build() / name, tmp_path / "model")
    (tmp_path / "model" / lost).unlink()
    assert reason(tmp_path / "model") == f"{lost} is missing"
    assert serve(tmp_path / "model")("GET", "/readyz").status == 503
    assert f"{lost} is missing" in capsys.readouterr().out


INDEX = "variables/variables.index"
MOVED = [
    # to                         words
    ("variables.index",          "it is beside saved_model.pb; make the folder variables/"),
    ("variables\\variables.index", "a zip archive of Windows was unpacked without its folders"),
    ("elsewhere.index",          "the folder holds only part of a SavedModel"),
]  # fmt: skip


@pytest.mark.parametrize(("to", "words"), MOVED)
def test_misplaced_variables_are_named(to: str, words: str, tmp_path: Path) -> None:
    shutil.copytree(build() / "keras3_saved", tmp_path / "model")
    (tmp_path / "model" / INDEX).rename(tmp_path / "model" / to)
    assert f"{INDEX} is missing: {words}" in reason(tmp_path / "model")


@pytest.mark.parametrize("name", [DATA, INDEX])
def test_a_git_lfs_pointer_for_variables_is_named(name: str, tmp_path: Path) -> None:
    shutil.copytree(build() / "keras3_saved", tmp_path / "model")
    (tmp_path / "model" / name).write_bytes(GIT_LFS)
    assert f"{name} is a Git LFS pointer, not the file itself: git lfs pull" in reason(tmp_path / "model")


def test_a_file_that_is_cut_off_is_named(tmp_path: Path) -> None:
    shutil.copytree(build() / "keras3_saved", tmp_path / "model")
    data = tmp_path / "model" / DATA
    data.write_bytes(data.read_bytes()[:100])
    assert f"{DATA} has 100 bytes of" in reason(tmp_path / "model")


@pytest.mark.skipif(zoo.absent("custom_op") is not None, reason="the library cannot be built here")
@pytest.mark.parametrize(
    ("named", "status", "words"),
    [
        (False, 1, "name its library in CUSTOM_OP_LIBRARIES"),
        (True, 0, "ZooZeroOut is an operation of a library"),
    ],
)
def test_audit_judges_a_custom_operation_as_check_does(named: bool, status: int, words: str) -> None:
    directory = zoo.build() / "custom_op"
    environment = plain_environment()
    if named:
        environment["CUSTOM_OP_LIBRARIES"] = str(directory / "zero_out.so")
    audit = python("-m", "exporting", "audit", "--no-run", directory, env=environment)
    assert words in audit.stdout
    assert "list of pure operations" not in audit.stdout
    command = [sys.executable, "-m", "serving", "check", str(directory)]
    check = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    for run in (audit, check):
        assert run.returncode == status, run.stdout + run.stderr
        assert named or "DANGEROUS_OPS" not in run.stdout + run.stderr


def test_check_says_that_a_random_model_is_served(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(zoo.build() / "random_stateful")]) == 1
    said = capsys.readouterr().err
    assert "draws random numbers" in said
    assert "a server serves it, with a warning in its log" in said
    assert "DANGEROUS_OPS" not in said


def test_an_operation_without_a_kernel_is_named() -> None:
    said = reason(build() / "trees")
    assert said == "it uses BoostedTreesBucketize, for which this TensorFlow has no kernel on a CPU"


@pytest.mark.parametrize("setting", ["refuse", "allow"])
def test_a_model_that_calls_python_cannot_be_served(setting: str) -> None:
    said = reason(zoo.build() / "py_function", DANGEROUS_OPS=setting)
    assert said == (
        "it calls Python (EagerPyFunc, in signature 'serving_default'), which is not part of an exported model: "
        "write that step with TensorFlow's operations, or export without it"
    )


def test_a_model_whose_function_calls_itself_is_refused() -> None:
    """TensorFlow inlines such functions until its stack overflows, which ends the process."""
    for setting in ("refuse", "allow"):
        said = reason(hostile.build() / "recursive", DANGEROUS_OPS=setting)
        assert said == "a function in its graph calls itself, which TensorFlow cannot load"


def test_a_ragged_output_is_refused_with_advice_and_no_word_of_tensorflows_own_signature() -> None:
    assert reason(answer_models.build() / "ragged_out") == (
        "the SavedModel has no signature that can be served; 'serving_default': its output 'words' is a sparse or "
        "composite tensor, which is no array: return its values, with to_tensor() or tf.sparse.to_dense"
    )


def test_a_model_without_signatures_is_refused() -> None:
    assert "signatures=" in reason(zoo.build() / "broken" / "no_signatures")


def test_a_model_that_prints_to_the_log_is_served(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    assert serve(build() / "prints")("GET", "/readyz").status == 200
    assert "the model prints its inputs: PrintV2" in capsys.readouterr().out
    assert "PrintV2 (files)" in reason(build() / "prints_to_a_file")
