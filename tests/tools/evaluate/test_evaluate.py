"""Logged predictions against labels: reading, joining, choosing and measuring, and one run from the server to the report."""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sklearn.datasets import load_digits

from serving.__main__ import main
from tests.conftest import ROOT, Serve
from tests.events.emulators import storage
from tests.server import running

Evaluate = Callable[..., tuple[int, dict[str, Any], str]]


@pytest.fixture
def evaluate(tmp_path: Path, capsys: pytest.CaptureFixture[str], serve: Serve) -> Evaluate:
    """Run the command on rows of (key, outputs) and of (key, label): give its status, its JSON and its error."""
    serve()

    def run(rows: list[tuple[Any, Any]], labels: list[tuple[Any, Any]], *options: str, **fields: Any) -> Any:
        lines = [line(key, outputs, minute, **fields) for minute, (key, outputs) in enumerate(rows)]
        (tmp_path / "log.jsonl").write_text("".join(f"{json.dumps(entry)}\n" for entry in lines))
        (tmp_path / "labels.csv").write_text("key,label\n" + "".join(f"{key},{label}\n" for key, label in labels))
        status = main(["evaluate", str(tmp_path / "log.jsonl"), str(tmp_path / "labels.csv"), "--json", *options])
        out, error = capsys.readouterr()
        return status, json.loads(out) if out.startswith("{") else {}, error

    return run


def line(key: Any, outputs: Any, minute: int = 0, **fields: Any) -> dict[str, Any]:
    return {
        "time": f"2026-11-30T{minute // 60:02d}:{minute % 60:02d}:00.5Z", "model": "m", "version": "1", "digest": "d",
        "signature": "s", "inputs": {}, "outputs": outputs, **({} if key is None else {"key": key}), **fields,
    }  # fmt: skip


def classes(*names: str) -> list[tuple[Any, Any]]:
    return [(row, {"label": name}) for row, name in enumerate(names)]


def numbered(*labels: Any) -> list[tuple[Any, Any]]:
    return list(enumerate(labels))


def test_the_measures_of_classes_match_a_hand_calculation(evaluate: Evaluate) -> None:
    """Two of a, two of b, and one a called b: worked out by hand."""
    status, report, _ = evaluate(classes("a", "b", "b", "b"), numbered("a", "a", "b", "b"))
    assert status == 0
    assert report["task"] == "classification"
    measured = report["all"]
    assert (measured["rows"], measured["accuracy"]) == (4, 0.75)
    assert measured["classes"] == {
        "a": {"precision": 1.0, "recall": 0.5, "f": pytest.approx(2 / 3), "labels": 2},
        "b": {"precision": pytest.approx(2 / 3), "recall": 1.0, "f": pytest.approx(0.8), "labels": 2},
    }
    assert report["confusion"] == {"classes": ["a", "b"], "matrix": [[1, 1], [0, 2]]}
    assert report["calibration"] is None


def test_a_probability_is_measured_as_two_classes(evaluate: Evaluate) -> None:
    rows = [(row, {"y": value}) for row, value in enumerate((0.9, 0.8, 0.3, 0.1))]
    _, report, _ = evaluate(rows, numbered(1, 0, 1, 0))
    assert (report["task"], report["positive"], report["all"]["accuracy"]) == ("binary", "1", 0.5)
    assert report["all"]["roc_auc"] == 0.75  # of the four pairs of a positive and a negative, three are in order
    assert report["all"]["brier_score"] == pytest.approx((0.01 + 0.64 + 0.49 + 0.01) / 4)
    bins = {(b["from"], b["rows"]): (b["mean_score"], b["right"]) for b in report["calibration"]}
    assert bins == {(0.0, 1): (0.1, 0), (0.2, 1): (0.3, 1), (0.7, 1): (0.8, 0), (0.8, 1): (0.9, 1)}
    _, report, _ = evaluate(rows, numbered(1, 0, 1, 0), "--threshold", "0.85")
    assert report["all"]["accuracy"] == 0.75
    _, report, _ = evaluate(rows, numbered("spam", "ham", "spam", "ham"), "--positive", "spam")
    assert report["all"]["classes"]["spam"]["recall"] == 0.5


def test_the_errors_of_numbers_match_a_hand_calculation(evaluate: Evaluate) -> None:
    rows = [(row, {"y": value}) for row, value in enumerate((1.0, 2.0, 4.0))]
    _, report, _ = evaluate(rows, numbered(1, 3, 2))
    assert report["task"] == "regression"
    assert report["all"]["mean_absolute_error"] == 1.0
    assert report["all"]["mean_squared_error"] == pytest.approx(5 / 3)
    assert report["all"]["r2"] == pytest.approx(1 - 5 / 2)
    assert (report["confusion"], report["calibration"]) == (None, None)


CHOSEN = [
    # outputs of two rows                                                        labels      options                    task              output   right
    ([{"y": [0.1, 0.9]}, {"y": [0.6, 0.4]}],                                     (1, 0),     [],                        "classification", "y",     1.0),
    ([{"y": [0.1, 0.9]}, {"y": [0.6, 0.4]}],                                     (1.0, "0.0"), [],                      "classification", "y",     1.0),
    ([{"y": [0.1, 0.9]}, {"y": [0.6, 0.4]}],                                     ("b", "a"), ["--classes", "CLASSES"],  "classification", "y",     1.0),
    ([{"c": "a", "y": [0.1, 0.9], "p": 0.9}, {"c": "b", "y": [0.6, 0.4], "p": 0.6}], ("a", "a"), [],                    "classification", "c",     0.5),
    ([{"c": "a", "y": [0.1, 0.9]}, {"c": "b", "y": [0.6, 0.4]}],                 (1, 0),     ["--output", "y"],         "classification", "y",     1.0),
    ([{"y": 3}, {"y": 4}],                                                       (3, 5),     [],                        "regression",     "y",     None),
    ([{"y": 0.2}, {"y": 1.0}],                                                   (0.5, 1),   ["--task", "regression"],  "regression",     "y",     None),
    ([{"y": 0.2}, {"y": 0.9}, {"y": 0.9}],                                       (0, 1, 2),  [],                        "regression",     "y",     None),
]  # fmt: skip


@pytest.mark.parametrize(("outputs", "labels", "options", "task", "output", "right"), CHOSEN)
def test_the_outputs_and_the_labels_show_what_is_compared(
    evaluate: Evaluate, tmp_path: Path, outputs: list[Any], labels: tuple[Any, ...], options: list[str], task: str,
    output: str, right: float | None,
) -> None:  # fmt: skip
    (tmp_path / "labels.txt").write_text("a\nb\n")
    options = [str(tmp_path / "labels.txt") if option == "CLASSES" else option for option in options]
    status, report, error = evaluate(list(enumerate(outputs)), numbered(*labels), *options)
    assert status == 0, error
    assert (report["task"], report["output"], report["all"].get("accuracy")) == (task, output, right)


REFUSED = [
    # rows                                          labels                    options                    words
    ([(1, {"a": "x", "b": "y"})],                   [(1, "x")],               [],                        "expected one output to evaluate, got a, b; choose one with --output NAME"),
    ([(1, {"scores": "x"})],                        [(1, "x")],               ["--output", "score"],     "no output is named 'score'; did you mean 'scores'?"),
    ([(1, {"a": [[1.0]]})],                         [(1, "x")],               [],                        "expected an output of a class, of scores or of a number"),
    ([(1, {"a": "x"}), (2, {"a": None})],           [(1, "x"), (2, "x")],     [],                        "the key '2': expected a class in 'a', got None"),
    ([(1, {"a": [0.1, 0.9]})],                      [(1, "cat")],             [],                        "expected labels that are indexes of scores, got 'cat'; name them: --classes"),
    ([(1, {"a": 0.5}), (2, {"a": 0.1})],            [(1, "cat"), (2, "dog")], [],                        "expected two classes, the positive one named by --positive, got cat, dog"),
    ([(1, {"a": 5.5}), (2, {"a": 0.1})],            [(1, "cat"), (2, "dog")], [],                        "'a' is a number, and a label is not"),
    ([(1, {"a": 5.5})],                             [(1, "nan")],             [],                        "expected finite labels"),
    ([("x1", {"a": "x"})],                          [("y1", "x")],            [],                        "no prediction has a label: keys of predictions: 'x1'; keys of labels: 'y1'"),
    ([(1, {"a": "x"})],                             [],                       [],                        "labels.csv: expected rows with 'key' and 'label', got none"),
    ([(1, {"a": "x"})],                             [(1, "x")],               ["--label", "species"],    "labels.csv, line 2: expected 'species', got 'key', 'label'"),
    ([],                                            [(1, "x")],               [],                        "log.jsonl: expected lines of LOG_PREDICTIONS, got 0 other lines"),
    ([(1, {"a": "x"})],                             [(1, "x")],               ["--signature", "other"],  "--signature: expected one of s, got other"),
]  # fmt: skip


@pytest.mark.parametrize(("rows", "labels", "options", "words"), REFUSED)
def test_an_output_that_cannot_be_evaluated_is_named(
    evaluate: Evaluate, rows: list[Any], labels: list[Any], options: list[str], words: str
) -> None:
    status, _, error = evaluate(rows, labels, *options)
    assert status == 1
    assert words in error


def test_unmatched_lines_are_counted(evaluate: Evaluate) -> None:
    rows = [
        ("a", {"y": "x"}),
        ("a", {"y": "z"}),
        (None, {"y": "x"}),
        (7, {"y": "x"}),
        ("c", {"y": "x"}),
        ("d", {"y": "x"}),
    ]
    labels = [("a", "z"), ("a", "z"), ("7", "x"), ("d", "x"), ("d", "z"), ("e", "x")]
    _, report, _ = evaluate(rows, labels)
    assert report["counts"] == {
        "predictions": 6, "without_key": 1, "repeated_keys": 1, "labels": 6, "contradicting_labels": 1,
        "labels_without_prediction": 1, "predictions_without_label": 1, "joined": 2, "other_lines": 0,
    }  # fmt: skip
    assert report["all"]["accuracy"] == 1.0  # of the two predictions for a, the last one counts


PERIODS = [
    # minutes of the rows     option    the periods
    ([0, 1, 1],               "",       ["2026-11-30 00:00", "2026-11-30 00:01"]),
    ([0, 59, 60, 600],        "",       ["2026-11-30 00:00", "2026-11-30 01:00", "2026-11-30 10:00"]),
    ([0, 600],                "day",    ["2026-11-30"]),
]  # fmt: skip


@pytest.mark.parametrize(("minutes", "period", "expected"), PERIODS)
def test_measures_are_shown_over_time(
    tmp_path: Path, serve: Serve, capsys: pytest.CaptureFixture[str], minutes: list[int], period: str, expected: list[str]
) -> None:  # fmt: skip
    serve()
    lines = [line(minute, {"y": "a" if minute else "b"}, minute, digest=f"d{minute > 1}") for minute in minutes]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "labels.csv").write_text("key,label\n" + "".join(f"{minute},a\n" for minute in set(minutes)))
    arguments = ["evaluate", str(tmp_path), str(tmp_path / "labels.csv"), "--json"]
    assert main([*arguments, *(["--period", period] if period else [])]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [part["from"] for part in report["over_time"]] == expected
    assert report["over_time"][-1]["accuracy"] == (0.5 if period else 1.0)
    assert [part["rows"] for part in report["by_model"]] == ([2] if len(minutes) == 3 else [1, len(minutes) - 1])


WRAPPED = [
    # a line of Cloud Logging's export, of the log of a server, of no prediction
    lambda entry: {"timestamp": "2026-11-30T00:00:00.123456789Z", "jsonPayload": {k: v for k, v in entry.items() if k != "time"}},
    lambda entry: {"severity": "INFO", "message": "prediction", **entry},
]  # fmt: skip


@pytest.mark.parametrize("wrap", WRAPPED, ids=["cloud logging", "log"])
def test_a_log_is_read_with_its_other_lines_passed_over(
    tmp_path: Path, serve: Serve, capsys: pytest.CaptureFixture[str], wrap: Any
) -> None:
    serve()
    others = ["WARNING: no JSON", '{"severity":"INFO","message":"ended"}', "[1]"]
    (tmp_path / "log").write_text("\n".join([*others, json.dumps(wrap(line("k", {"y": "a"})))]))
    (tmp_path / "labels.jsonl").write_text('{"id": "k", "class": "a"}\n')
    arguments = ["evaluate", str(tmp_path / "log"), str(tmp_path / "labels.jsonl"), "--key=id", "--label=class"]
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["counts"]["other_lines"] == 3


def test_the_report_is_a_table_and_a_picture(tmp_path: Path, serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    serve()
    rows = [line(row, {"y": [row / 10, 1 - row / 10]}, row) for row in range(10)]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "labels.csv").write_text("key,label\n" + "".join(f"{row},{int(row < 4)}\n" for row in range(9)))
    picture = tmp_path / "picture.png"
    assert main(["evaluate", str(tmp_path / "log.jsonl"), str(tmp_path / "labels.csv"), "--picture", str(picture)]) == 0
    text = capsys.readouterr().out
    for words in (
        "9 of 10 predictions have a label",
        "predictions without a label: 1",
        "accuracy",
        "label \\ predicted",
        "score",
    ):
        assert words in text
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert main(["evaluate", str(tmp_path / "log.jsonl"), str(tmp_path / "labels.csv"), "--picture", "x.pnf"]) == 1
    assert "--picture: x.pnf: " in capsys.readouterr().err


def test_a_prediction_without_a_picture_library_is_evaluated() -> None:
    """The command says which file installs what it needs."""
    script = "import sys; sys.modules['sklearn'] = None; from serving.__main__ import main; sys.exit(main(['evaluate', 'a', 'b']))"
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "pip install -r requirements/evaluate.txt" in run.stderr


def test_serve_log_label_evaluate(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The digits of scikit-learn, most of which the model was trained on, one in each request; scikit-learn is the oracle."""
    digits = load_digits()
    images, targets = digits.images[:200], digits.target[:200]
    right = 0
    with storage() as store:
        store.bucket("box")
        cloud: Any = {
            "STORAGE_EMULATOR_HOST": store.address,
            "LOG_PREDICTIONS": "1",
            "LOG_PREDICTIONS_TO": "gs://box/log",
        }
        with running("standalone", LOG_PREDICTIONS_WITHOUT="pixels", **cloud) as server:
            for number, (image, target) in enumerate(zip(images, targets)):
                body = {"signature_name": "pixels", "instances": [{"key": number, "pixels": image.tolist()}]}
                right += server.ask("POST", "/", body).json["predictions"][0]["label"] == str(target)
        labels = "".join(f"{json.dumps({'key': n, 'label': int(t)})}\n" for n, t in enumerate(targets))
        store.put("box", "labels.jsonl", labels.encode())
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", store.address)
        from tests.conftest import forget

        forget()
        assert main(["evaluate", "gs://box/log", "gs://box/labels.jsonl", "--json"]) == 0
    forget()
    report = json.loads(capsys.readouterr().out)
    assert report["counts"]["joined"] == 200
    assert report["all"]["accuracy"] == right / 200
    assert report["all"]["accuracy"] > 0.9
    assert sum(map(sum, report["confusion"]["matrix"])) == 200
    assert sum(part["rows"] for part in report["calibration"]) == 200
    assert not math.isnan(report["all"]["f"])
