"""The example of each kind of model: trained and exported, served, and called as its file says."""

import ast
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exporting.__main__ import main as exporting
from serving.servers.commands.replay import TOLERANCE, difference
from tests.conftest import ROOT, Serve
from tests.examples.make_models import MODELS
from tests.models.once import digest, made_once

FOLDER = ROOT / "examples" / "models"


@pytest.fixture(scope="module")
def made() -> Path:
    sources = [*sorted(FOLDER.glob("*.py")), ROOT / "tests" / "examples" / "make_models.py"]
    return made_once("example-models", digest(*sources), "tests.examples.make_models")


def body(name: str) -> Any:
    """Return the body that the file's docstring sends."""
    text = ast.get_docstring(ast.parse((FOLDER / f"{name}.py").read_text())) or ""
    match = re.search(r"curl localhost:8080 -d '(.*)'", text)
    assert match, name
    return json.loads(match[1])


def about(right: float, tolerance: float) -> Any:
    return pytest.approx(right, abs=tolerance)


RIGHT: dict[str, Callable[[list[Any]], bool]] = {
    "text": lambda rows: [row["label"] for row in rows] == ["positive", "negative"],
    "tabular": lambda rows: rows[0] == about(21, 3) and rows[1] > 0,
    "series": lambda rows: rows[0] == about(0, 15) or rows[0] == [about(0, 15), about(26, 15), about(50, 15)],
    "two_inputs": lambda rows: rows == [about(1, 0.2), about(0, 0.2)],
    "binary": lambda rows: rows[0]["probability"][0] > 0.9 and rows[1]["probability"][0] < 0.1,
    "tensorflow_1": lambda rows: rows == [about(3, 0.01), about(5, 0.01)],
    "keras_file": lambda rows: rows == [[about(6, 0.5)]],
}


def test_every_example_is_tested() -> None:
    assert {path.stem for path in FOLDER.glob("[!_]*.py")} == set(MODELS) == set(RIGHT)


@pytest.mark.parametrize("name", MODELS)
def test_an_example_is_served_and_gives_the_right_answer(serve: Serve, made: Path, name: str) -> None:
    ask = serve(made / name)
    response = ask("POST", "/", body(name))
    assert response.status == 200, response.body
    rows = json.loads(response.body)["predictions"]
    assert RIGHT[name](rows), rows
    examples, answers = (made / name / "assets.extra" / f"{file}.json" for file in ("examples", "answers"))
    if examples.exists():  # TensorFlow's own answers, which the export has left
        for signature, example in json.loads(examples.read_bytes()).items():
            right = json.loads(answers.read_bytes())[signature]
            assert difference(right, json.loads(ask("POST", "/", example).body), TOLERANCE) is None


WRONG = [
    # what there is          status  words
    (None,                   2,      "expected a .keras file, which model.save(...) writes, got nothing"),
    (b"no archive",          2,      "expected a .keras file, which model.save(...) writes, got another file"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "status", "words"), WRONG)
def test_a_file_that_is_not_a_keras_model_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, status: int, words: str
) -> None:
    if content is not None:
        (tmp_path / "model.keras").write_bytes(content)
    assert exporting(["keras", str(tmp_path / "model.keras"), str(tmp_path / "out")]) == status
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
