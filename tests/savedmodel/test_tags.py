"""SAVED_MODEL_TAGS chooses the graph of a SavedModel, for serving and for every command."""

from pathlib import Path

import pytest

from serving.__main__ import main
from serving.core import settings
from serving.savedmodel.safety.rewrite import Piece, edited, rewritten
from tests.conftest import ROOT, Serve, plain_environment
from tests.harness.forks import python

MAKE = """
import sys
import tensorflow as tf
v1 = tf.compat.v1
builder = v1.saved_model.Builder(sys.argv[1])
info = v1.saved_model.build_tensor_info
for number, tags in enumerate((["train"], ["serve", "gpu"], ["serve", "tpu"], ["debug"]), 1):
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None], "x")
        y = x + number + (v1.random_uniform([]) * 0.0 if tags == ["debug"] else 0.0)
        signature = v1.saved_model.build_signature_def({"x": info(x)}, {"y": info(y)}, "tensorflow/serving/predict")
        if number == 1:
            builder.add_meta_graph_and_variables(session, tags, {"serving_default": signature})
        else:
            builder.add_meta_graph(tags, {"serving_default": signature})
builder.save()
for tags in (["train"], ["serve", "gpu"], ["tpu", "serve"]):
    print(tf.saved_model.load(sys.argv[1], tags).signatures["serving_default"](tf.constant([0.0]))["y"].numpy()[0])
"""


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float]]:
    """Return a SavedModel of four graphs, and what TensorFlow answers to 0 by three of them."""
    directory = tmp_path_factory.mktemp("tags") / "model"
    run = python("-c", MAKE, directory, env=plain_environment())
    assert run.returncode == 0, run.stderr
    return directory, [float(line) for line in run.stdout.split()]


def test_the_graph_with_the_tags_answers_as_tensorflow_does(serve: Serve, graphs: tuple[Path, list[float]]) -> None:
    directory, wanted = graphs
    for tags, answer in zip(("train", "gpu,serve", " serve , tpu"), wanted):
        ask = serve(directory, SAVED_MODEL_TAGS=tags)
        assert ask("POST", "/", {"instances": [0]}).body == b'{"predictions":[%.1f]}' % answer
        assert ask("GET", "/readyz").status == 200
    # Without a graph of exactly these tags, the one that has the fewest beside them.
    assert serve(directory, SAVED_MODEL_TAGS="tpu")("POST", "/", {"instances": [0]}).status == 200


REFUSED = [
    # tags         words
    ("eval",       "no graph of the SavedModel is tagged 'eval'; SAVED_MODEL_TAGS: expected one of: "),
    ("serve",      "more than one graph of the SavedModel is tagged 'serve'; SAVED_MODEL_TAGS: expected one of: "),
    ("serve,eval", "no graph of the SavedModel is tagged 'eval,serve'; SAVED_MODEL_TAGS: expected one of: "),
]  # fmt: skip


@pytest.mark.parametrize("command", ["show", "check", "verify"])
@pytest.mark.parametrize(("tags", "words"), REFUSED)
def test_the_error_names_the_existing_tags_and_the_setting(
    command: str,
    tags: str,
    words: str,
    graphs: tuple[Path, list[float]],
    serve: Serve,
    capsys: pytest.CaptureFixture[str],
) -> None:
    serve(graphs[0], SAVED_MODEL_TAGS=tags)
    assert main([command, str(graphs[0])]) != 0
    said = capsys.readouterr().err
    assert words in said
    assert all(f"{there}" in said for there in ("train; ", "serve", "gpu", "tpu", "; debug"))


@pytest.mark.parametrize(("tags", "status"), [("train", 0), ("debug", 1)])
def test_check_and_audit_examine_the_served_graph(
    tags: str, status: int, graphs: tuple[Path, list[float]], serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    serve(graphs[0], SAVED_MODEL_TAGS=tags)
    assert main(["show", str(graphs[0])]) == 0
    assert f"tags {tags}," in capsys.readouterr().out
    assert main(["check", str(graphs[0])]) == status
    environment = {**plain_environment(), "SAVED_MODEL_TAGS": tags}
    run = python("-m", "exporting", "audit", "--no-run", graphs[0], env=environment)
    assert run.returncode == status, run.stdout + run.stderr
    assert ("RandomUniform" in run.stdout) == (status == 1)


@pytest.mark.parametrize("text", [",", "serve,,gpu", " "])
def test_empty_tags_are_refused(text: str) -> None:
    with pytest.raises(settings.SettingError, match="SAVED_MODEL_TAGS: expected tags separated by commas"):
        settings.read({"SAVED_MODEL_TAGS": text})


def test_a_graph_without_tags_is_refused_in_words(serve: Serve) -> None:
    def untagged(graph: memoryview) -> list[Piece]:
        return edited(graph, 1, lambda info: edited(info, 4, lambda _: []))

    with rewritten(ROOT / "model", untagged) as folder:
        answer = serve(folder)("GET", "/readyz")
    assert b"no graph of the SavedModel is tagged 'serve'; no graph has tags: export it with them" in answer.body
