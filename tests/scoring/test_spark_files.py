"""What a Spark job sends to its executors: the files of the model that a load may open, and no others."""

import shutil
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from serving.core.errors import LoadError
from serving.scoring import spark_files
from tests.conftest import EMBEDDED


class Context:
    """Stands for Spark's context: notes what it is given to send."""

    applicationId = "app-1"

    def __init__(self) -> None:
        self.sent: list[str] = []

    def addPyFile(self, path: str) -> None:
        self.sent.append(path)

    addArchive = addPyFile


def archive(model: Path, digest: str) -> list[tuple[str, bytes]]:
    context: Any = Context()
    spark_files.pack(SimpleNamespace(sparkContext=context), model, digest)
    path, _ = context.sent[-1].split("#")
    with tarfile.open(path) as file:
        return [(member.name, file.extractfile(member).read()) for member in file]  # type: ignore[union-attr]


def test_the_archive_holds_the_files_of_the_model(tmp_path: Path) -> None:
    model = shutil.copytree(EMBEDDED, tmp_path / "7")
    (model / "notes.txt").write_text("not for a load")
    sent = dict(archive(model, "a"))
    assert sent["7/saved_model.pb"] == (EMBEDDED / "saved_model.pb").read_bytes()
    assert {name for name in sent if "variables/" in name} == {
        f"7/variables/{path.name}" for path in (EMBEDDED / "variables").iterdir()
    }
    assert "7/notes.txt" not in sent


REASONS = [
    # what Spark raises                                                                    the line that is written
    ("[PATH_NOT_FOUND] Path does not exist: file:/x.\nmore",                                "[PATH_NOT_FOUND] Path does not exist: file:/x."),
    ("\n  from a worker\nTraceback (most recent call last):\n  File\nKeyError: 'x'\n",       "KeyError: 'x'"),
    ("Job aborted\nTraceback (most recent call last):\n  File\nserving.scoring.faults.BadFile: no rows\n\n\tat org.apache", "no rows"),
    ("",                                                                                   "ValueError"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "line"), REASONS)
def test_the_reason_of_a_failed_job_is_one_line(text: str, line: str) -> None:
    assert spark_files.reason_of(ValueError(text)) == line


def test_the_reason_of_an_error_in_the_jvm_is_its_first_cause() -> None:
    cause = SimpleNamespace(toString=lambda: "java.io.IOException: no disk\n\tat x", getCause=lambda: None)
    error = ValueError("an error in the JVM")
    error.java_exception = SimpleNamespace(toString=lambda: "Job aborted", getCause=lambda: cause)  # type: ignore[attr-defined]
    assert spark_files.reason_of(error) == "java.io.IOException: no disk"


def test_a_link_out_of_the_model_is_refused(tmp_path: Path) -> None:
    model = shutil.copytree(EMBEDDED, tmp_path / "model")
    (tmp_path / "secret").write_text("not the model's")
    (model / "assets").mkdir()
    (model / "assets" / "words").symlink_to(tmp_path / "secret")
    with pytest.raises(LoadError, match="assets/words is a link that leads out of the model's folder"):
        archive(model, "b")
