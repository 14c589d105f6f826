"""Exporting binary models and SavedModels whose source is lost, and how an export reports what it leaves out."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exporting import Refusal, class_names, export, forward, from_saved_model, probability, top_k
from exporting.runner import Job, ask
from serving.runtime.warmup import PLACE as WARMUP

tf: Any = pytest.importorskip("tensorflow")
keras: Any = pytest.importorskip("keras")
X = np.array([[1, 2, 3], [-4, 5, 0.5]], np.float32)


@pytest.fixture(scope="module")
def binary() -> Any:
    keras.utils.set_random_seed(2)
    net = keras.Sequential([keras.Input((3,), name="x"), keras.layers.Dense(1)])
    net.compile("adam", keras.losses.BinaryCrossentropy(from_logits=True))
    net.fit(X, np.array([0, 1], np.float32), verbose=0)
    return net


def answers(folder: Path, signature: str = "serving_default") -> Any:
    (answer,) = ask(Job(folder, [(signature, {"x": X})])).answers
    assert answer.outputs is not None, answer
    return answer.outputs


def test_a_single_logit_becomes_the_probability_of_the_second_class(binary: Any, tmp_path: Path) -> None:
    export(binary, tmp_path / "out", functions={"serving_default": class_names(binary, ["no", "yes"], logits=True)})
    outputs, logits = answers(tmp_path / "out"), binary(X).numpy()
    expected = 1 / (1 + np.exp(-logits[:, 0]))
    np.testing.assert_allclose(outputs["probabilities"], np.stack([1 - expected, expected], 1), rtol=1e-5)
    np.testing.assert_allclose(outputs["probability"], np.maximum(expected, 1 - expected), rtol=1e-5)
    assert outputs["label"].tolist() == [[b"no", b"yes"][int(logit > 0)] for logit in logits[:, 0]]


def test_one_column_needs_the_names_of_both_classes(binary: Any, tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="one column, a binary model's: expected 2 names, got 1"):
        export(binary, tmp_path / "out", functions={"serving_default": class_names(binary, ["yes"], logits=True)})


def test_logits_and_probability_in_one_signature(binary: Any, tmp_path: Path) -> None:
    export(binary, tmp_path / "out", functions={"serving_default": probability(forward(binary))})
    outputs, logits = answers(tmp_path / "out"), binary(X).numpy()
    np.testing.assert_allclose(outputs["logits"], logits, rtol=1e-5)
    np.testing.assert_allclose(outputs["probability"], 1 / (1 + np.exp(-logits)), rtol=1e-5)


def test_a_saved_model_is_wrapped_without_its_source(binary: Any, tmp_path: Path) -> None:
    binary.export(str(tmp_path / "theirs"), verbose=False)
    theirs = from_saved_model(tmp_path / "theirs")["serving_default"]
    export(
        None, tmp_path / "out", functions={"serving_default": probability(theirs), "top": top_k(theirs, logits=True)}
    )
    expected = tf.saved_model.load(str(tmp_path / "theirs")).signatures["serving_default"](x=tf.constant(X))
    (logits,) = expected.values()
    np.testing.assert_allclose(answers(tmp_path / "out")["logits"], logits.numpy(), rtol=1e-5)
    assert answers(tmp_path / "out", "top")["scores"].shape == (2, 2)


def test_an_export_says_what_it_left_out_and_what_it_wrote(
    binary: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    notes = export(binary, tmp_path / "out").notes
    assert any(note.startswith("left out, for no function reads them: ") and "iteration" in note for note in notes)
    assert capfd.readouterr().err.splitlines()[-1] == f"export: wrote {tmp_path / 'out'} with serving_default"


def test_warm_up_requests_are_made_from_the_signature(binary: Any, tmp_path: Path) -> None:
    export(binary, tmp_path / "out")
    records = list(tf.data.TFRecordDataset(str(tmp_path / "out" / WARMUP)).as_numpy_iterator())
    assert len(records) == 1
    assert b"serving_default" in records[0]
