"""The requirements of the upload: without what only TensorFlow's Python package needs, and whole where that is needed."""

import shutil
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from deploy.requirements import FOLDER, dispensable, used, with_library
from tests.conftest import EMBEDDED, ROOT
from tests.deploy.library import staged_beside
from tools.image.elf import Refused

LINES = (ROOT / "requirements.txt").read_text().splitlines()
OURS = {"numpy", "ml_dtypes", "orjson", "simdjson", "flask", "functions_framework", "httptools", "gunicorn"}


def names(text: str) -> set[str]:
    lines = [line for line in text.splitlines() if line and line[0] not in "#."]
    return {Requirement(line).name for line in lines}


def test_tensorflow_and_its_own_requirements_are_replaced_by_its_library(tmp_path: Path) -> None:
    staged_beside(tmp_path)
    text = (tmp_path / "requirements.txt").read_text()
    gone = names("\n".join(LINES)) - names(text)
    assert {"tensorflow", "tensorflow-cpu", "keras", "h5py", "grpcio", "protobuf", "libclang", "opt-einsum"} <= gone
    assert {"numpy", "ml_dtypes", "flask", "functions-framework", "packaging", "typing-extensions"} <= names(text)
    assert text.count(f"./{FOLDER}  # ") == 1
    assert not list((tmp_path / FOLDER).rglob("__pycache__"))


def test_the_file_changes_with_the_model_so_that_the_cloud_builds_the_library_again(tmp_path: Path) -> None:
    texts = []
    for number, extra in enumerate(("", "another model")):
        folder, model = tmp_path / f"{number}", tmp_path / f"model-{number}"
        folder.mkdir()
        shutil.copytree(EMBEDDED, model)
        (model / "notes.txt").write_text(extra)
        staged_beside(folder, model)
        texts.append((folder / "requirements.txt").read_text())
    assert texts[0] != texts[1]


OF_KERAS = {"absl-py", "h5py", "keras", "markdown-it-py", "mdurl", "namex", "optree", "pygments", "rich"}
CASES = [
    # modules imported besides     what stays, or why all of it does
    (set(),                       set()),
    ({"keras"},                   OF_KERAS),
    ({"google"},                  {"protobuf"}),
    ({"requests"},                {"requests", "urllib3", "certifi", "charset-normalizer"}),
    ({"tensorflow"},              "a module of the function imports tensorflow"),
]  # fmt: skip


@pytest.mark.parametrize(("imports", "expected"), CASES)
def test_what_the_function_imports_stays_with_what_it_requires(imports: set[str], expected: set[str] | str) -> None:
    least = dispensable(LINES, OURS)
    if isinstance(expected, str):
        with pytest.raises(Refused, match=expected):
            dispensable(LINES, OURS | imports)
    else:
        assert expected <= least
        assert least - dispensable(LINES, OURS | imports) == expected


def test_a_version_whose_wheels_are_not_pinned_is_required_as_it_is() -> None:
    lines = [line.replace("tensorflow-cpu==2.21.0", "tensorflow-cpu==2.20.0") for line in LINES]
    with pytest.raises(Refused, match=r"those of tensorflow-cpu==2\.21\.0, which is not required"):
        dispensable(lines, OURS)


def test_imports_are_read_from_the_code_the_fallback_apart(tmp_path: Path) -> None:
    for name, code in {
        "main.py": "import flask\ndef f():\n    from google.cloud import storage",
        "serving/a.py": "from serving.core import files",
        "fallback/tensorflow_python.py": "import tensorflow as tf",
        f"{FOLDER}/backend.py": "import pip",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(code)
    assert used(tmp_path) == {"flask", "google", "serving"}


def test_without_a_model_to_try_it_with_nothing_changes(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("\n".join(LINES))
    with pytest.raises(Refused, match="there is no model in the upload"):
        with_library(tmp_path, "model")
    assert [path.name for path in tmp_path.iterdir()] == ["requirements.txt"]
