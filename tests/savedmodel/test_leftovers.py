"""A model that replaces another in its folder: files written for the previous one are ignored and logged."""

import json
import shutil
from pathlib import Path

import pytest

from serving.__main__ import main
from serving.savedmodel.folder.manifest import leftovers
from tests.conftest import EMBEDDED, Serve
from tests.models.zoo.kinds import build


@pytest.fixture
def replaced(tmp_path: Path) -> Path:
    """Copy another model over the embedded one, as `cp -r mine/* model/` does."""
    shutil.copytree(EMBEDDED, tmp_path / "model")
    shutil.copytree(build() / "keras3_signatures", tmp_path / "model", dirs_exist_ok=True)
    return tmp_path / "model"


@pytest.mark.parametrize("environment", [{}, {"MANIFEST": "full"}, {"MANIFEST": "off"}], ids=["quick", "full", "off"])
def test_files_of_the_previous_model_are_ignored_and_logged(
    replaced: Path, serve: Serve, environment: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    ask = serve(replaced, **environment)
    assert ask("GET", "/readyz").status == 200
    answer = ask("POST", "/", {"instances": [[1.0, 2.0, 3.0]]})
    assert len(json.loads(answer.body)["predictions"][0]) == 2
    assert b"label" not in answer.body
    output = capsys.readouterr().out
    assert "files that belong to another model" in output
    for name in ("manifest.json", "labels.txt", "examples.json", "answers.json", "tf_serving_warmup_requests"):
        assert f"assets.extra/{name}" in output


def test_check_and_show_ignore_files_of_the_previous_model(replaced: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(replaced)]) == 0
    assert "serving_default answered" in capsys.readouterr().out
    assert main(["show", str(replaced)]) == 0
    assert "pixels" not in capsys.readouterr().out


def test_files_of_the_new_model_are_used(replaced: Path, serve: Serve) -> None:
    (replaced / "assets.extra" / "labels.txt").write_text("low\nhigh\n")
    answer = serve(replaced)("POST", "/?top_k=1", {"instances": [[1.0, 2.0, 3.0]]})
    assert b'"low"' in answer.body or b'"high"' in answer.body


def test_files_of_the_previous_model_are_ignored_for_a_model_without_variables(tmp_path: Path) -> None:
    shutil.copytree(EMBEDDED, tmp_path / "model")
    shutil.copytree(build() / "csv_lines", tmp_path / "model", dirs_exist_ok=True)
    assert "assets.extra/manifest.json" in leftovers(tmp_path / "model")


DAMAGED = [
    # file             how
    ("saved_model.pb", "flipped"),
    ("variables/variables.index", "flipped"),
    ("variables/variables.index", "cut"),
    ("assets.extra/labels.txt", "longer"),
]


@pytest.mark.parametrize(("name", "how"), DAMAGED)
def test_a_damaged_model_is_still_refused(name: str, how: str, tmp_path: Path, serve: Serve) -> None:
    shutil.copytree(EMBEDDED, tmp_path / "model")
    path = tmp_path / "model" / name
    data = bytearray(path.read_bytes())
    if how == "flipped":
        data[-1] ^= 1
    path.write_bytes(data[: len(data) // 2] if how == "cut" else bytes(data) + (b"x" if how == "longer" else b""))
    assert leftovers(tmp_path / "model") == frozenset()
    answer = serve(tmp_path / "model")("GET", "/readyz")
    assert answer.status == 503, answer.body
