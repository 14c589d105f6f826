"""Exporting: what is written, what is refused, and what answers."""

import json
import resource
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exporting import (
    Refusal,
    State,
    export,
    fingerprint,
    forward,
    from_keras,
    function,
    manifest,
    resume,
    text,
)
from exporting.export import Exported
from exporting.inputs import batched
from exporting.refusal import Unreadable
from exporting.state import load, save
from serving.savedmodel.protobuf import each_field, last_field, text_of
from serving.savedmodel.signature import read
from serving.savedmodel.source import Source
from serving.scoring import run
from tests.conftest import ROOT, plain_environment
from tests.exporting.exported import NAMES, answers, counting, otherwise, spec, strings, table_from_nowhere


def test_signatures_have_the_names_that_were_asked_for(exported: Exported) -> None:
    signatures = read(exported.folder).signatures
    specs = {name: (sorted(signatures[name].inputs), sorted(signatures[name].outputs)) for name in exported.signatures}
    assert specs == {
        "serving_default": (["image"], ["label", "probabilities", "probability"]),
        "pixels": (["input", "key"], ["key", "label", "probabilities", "probability"]),
        "classify": (["examples"], ["classes", "scores"]),
    }
    assert all(batched(signatures[name]) for name in exported.signatures)


def test_only_what_the_signatures_read_is_exported(tf: Any, model: Any, exported: Exported) -> None:
    stored = dict(tf.train.list_variables(str(exported.folder / "variables" / "variables")))
    stored.pop("_CHECKPOINTABLE_OBJECT_GRAPH")
    assert len(stored) == len(model.weights) == 8
    assert len(model.variables) + len(model.optimizer.variables) > 20
    assert sorted(map(tuple, stored.values())) == sorted(tuple(weight.shape) for weight in model.weights)
    assert not [path for path in exported.folder.rglob("*") if "state" in path.name]


def test_the_runtime_answers_as_the_model_in_memory(tf: Any, model: Any, picture: bytes, exported: Exported) -> None:
    pixels = tf.image.resize(tf.io.decode_png(picture), (8, 8), antialias=True)[tf.newaxis] / 255.0
    right = tf.nn.softmax(model(pixels, training=False)).numpy()
    outputs = answers(exported.folder, "serving_default", image=strings(picture))
    assert outputs["probabilities"] == pytest.approx(right, abs=1e-6)
    assert outputs["label"].tolist() == [NAMES[right[0].argmax()].encode()]
    assert exported.compared >= 5
    assert exported.difference <= exported.tolerance


def test_keys_are_returned_unchanged(exported: Exported) -> None:
    inputs = np.zeros((2, 8, 8, 3), np.float32)
    outputs = answers(exported.folder, "pixels", key=strings("b", b"\xff"), input=inputs)
    assert outputs["key"].tolist() == [b"b", b"\xff"]


def test_the_server_answers_the_examples_as_written(exported: Exported) -> None:
    code = (
        "import json, sys; from serving.pipeline.handler import handle; from serving.core.http import Request\n"
        "for body in json.load(open(sys.argv[1])).values():\n"
        "    print(handle(Request('POST', '/', '', {}, json.dumps(body).encode())).body.decode())"
    )
    extra = exported.folder / "assets.extra"
    done = subprocess.run(
        [sys.executable, "-c", code, str(extra / "examples.json")],
        cwd=ROOT, env=plain_environment(MODEL_DIR=str(exported.folder)), capture_output=True, text=True,
    )  # fmt: skip
    right = json.loads((extra / "answers.json").read_bytes())
    assert len(right) == 3
    said = [line for line in done.stdout.splitlines() if "severity" not in line]
    for came, wanted in zip(said, right.values(), strict=True):
        for row, expected in zip(json.loads(came)["predictions"], wanted["predictions"], strict=True):
            assert row.keys() == expected.keys()
            for name, value in expected.items():
                numbers = isinstance(value, float) or (isinstance(value, list) and isinstance(value[0], float))
                assert row[name] == (pytest.approx(value, abs=1e-5) if numbers else value)


def test_warm_up_requests_are_what_tensorflow_serving_reads(tf: Any, picture: bytes, exported: Exported) -> None:
    from tensorflow.core.framework.tensor_pb2 import TensorProto

    records = tf.data.TFRecordDataset(str(exported.folder / "assets.extra" / "tf_serving_warmup_requests"))
    inputs = {}
    for record in records.as_numpy_iterator():
        request = last_field(last_field(memoryview(record), 6), 1)  # predict_log, request
        assert text_of(last_field(last_field(request, 1), 1)) == "model"
        tensors = {text_of(last_field(entry, 1)): bytes(last_field(entry, 2)) for entry in each_field(request, 2)}
        inputs[text_of(last_field(last_field(request, 1), 3))] = {
            name: tf.make_ndarray(TensorProto.FromString(tensor)) for name, tensor in tensors.items()
        }
    assert sorted(inputs) == ["classify", "pixels", "serving_default"]
    assert inputs["serving_default"]["image"].tolist() == [picture]
    assert inputs["pixels"]["key"].tolist() == [b"first", b"second"]
    assert inputs["pixels"]["input"].shape == (2, 8, 8, 3)


def test_the_manifest_names_the_changed_files(exported: Exported, tmp_path: Path) -> None:
    import shutil

    assert manifest.differences(exported.folder) == []
    copy = tmp_path / "copy"
    shutil.copytree(exported.folder, copy)
    (copy / "README.md").write_text("other\n")
    (copy / "variables" / "variables.index").unlink()
    (copy / "new").write_text("")
    assert manifest.differences(copy) == [
        "variables/variables.index is not there",
        "new is not in the manifest",
        "README.md has changed",
    ]
    (copy / manifest.PLACE).unlink()
    with pytest.raises(Unreadable):
        manifest.differences(copy)


def test_card_and_labels_are_written_beside_the_model(exported: Exported) -> None:
    assert (exported.folder / "README.md").read_text().startswith("# ")
    assert (exported.folder / "assets.extra" / "labels.txt").read_text() == "ant\nbee\ncat\n"


def test_the_card_says_what_was_exported_and_when(tf: Any, keras: Any, exported: Exported, tmp_path: Path) -> None:
    card = Source(exported.folder, "model").card
    assert card.keys() == {"digest", "time", "tensorflow", "source", "keras"}
    assert (card["tensorflow"], card["source"], card["keras"]) == (tf.__version__, "keras", keras.__version__)
    assert card["digest"] == run.digest(exported.folder)
    written = datetime.strptime(card["time"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc).timestamp()
    assert abs(written - (exported.folder / "assets.extra" / "card.json").stat().st_mtime) < 5
    double = function(lambda x: {"y": 2 * x}, {"x": tf.TensorSpec([None], tf.float32)})
    out = export(double, tmp_path / "double").folder
    assert Source(out, "model").card["source"] == "function"


def test_the_training_state_is_complete_and_outside_of_the_model(model: Any, exported: Exported) -> None:
    assert exported.state == exported.folder.with_name("model.state.json")
    state = load(exported.state)
    assert {"epoch": 1, "seed": 1, "step": 1}.items() <= state.facts.items()
    assert state.facts["learning_rate"] == pytest.approx(1e-3)
    parts = [name.partition("/")[0] for name in state.arrays]
    counts = {part: parts.count(part) for part in dict.fromkeys(parts)}
    assert counts == {"weights": 8, "optimizer": len(model.optimizer.variables), "seeds": 2, "random": 2}


def test_by_default_only_the_forward_pass_is_exported(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    first, second = (export(model, tmp_path / name) for name in ("one", "two"))
    (signature,) = (s for s in read(first.folder).signatures.values() if not s.name.startswith("__"))
    assert (signature.name, list(signature.inputs), list(signature.outputs)) == (
        "serving_default",
        ["input"],
        ["output"],
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]
    differ = [
        name
        for name, digest in manifest.digests(first.folder).items()
        if manifest.digests(second.folder)[name] != digest
    ]
    graphs = ["assets.extra/card.json", "fingerprint.pb", "saved_model.pb"]
    assert differ in ([], graphs)  # TensorFlow counts up its functions' names
    assert Source(first.folder, "model").card["time"] == "2023-11-14T22:13:20Z"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "today")
    with pytest.raises(Refusal, match="SOURCE_DATE_EPOCH: expected seconds since 1970, got 'today'"):
        export(model, tmp_path / "three")
    assert not (tmp_path / "three").exists()


def test_several_inputs_and_outputs_keep_their_names(keras: Any, tmp_path: Path) -> None:
    age, name = keras.Input((1,), name="age"), keras.Input((2,), name="name", dtype="int32")
    both = keras.layers.Dense(2)(keras.layers.Concatenate()([age, keras.ops.cast(name, "float32")]))
    net = keras.Model({"name": name, "age": age}, {"risk": both, "sum": keras.ops.sum(both, axis=1)})
    done = export(net, tmp_path / "model")
    signature = read(done.folder).signatures["serving_default"]
    assert {key: spec.dtype.label for key, spec in signature.inputs.items()} == {"age": "float32", "name": "int32"}
    assert sorted(signature.outputs) == ["risk", "sum"]


def test_a_text_classifier_with_its_own_vocabulary_is_exported(tf: Any, keras: Any, tmp_path: Path) -> None:
    """A vocabulary of our own reads as Keras's layer does."""
    net = keras.Sequential([keras.Input((4,), dtype="int64", name="words"), keras.layers.Embedding(5, 2)])
    layer = keras.layers.TextVectorization(vocabulary=["the", "cat", "sat"], output_sequence_length=4)
    sentences = strings("The cat, sat!", "", "a cat sat on the mat  today", "É the-cat")
    by_hand = text(forward(net), vocabulary=["the", "cat", "sat"])
    done = export(
        net,
        tmp_path / "model",
        functions={"serving_default": by_hand, "keras": text(forward(net), encode=layer)},
        examples={"serving_default": {"text": sentences}},
    )
    right = net(layer(tf.constant(sentences))).numpy()
    for name in ("serving_default", "keras"):
        assert answers(done.folder, name, text=sentences)["output"].tolist() == right.tolist()


def test_a_module_is_exported_with_its_table_and_its_file(tf: Any, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("ant\nbee\n")

    class Finder(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.spare = tf.Variable(tf.zeros(1000))
            whole, number = tf.lookup.TextFileIndex.WHOLE_LINE, tf.lookup.TextFileIndex.LINE_NUMBER
            path = str(tmp_path / "words.txt")
            lines = tf.lookup.TextFileInitializer(path, tf.string, whole, tf.int64, number)
            self.table = tf.lookup.StaticHashTable(lines, -1)

        @tf.function(autograph=False, input_signature=[tf.TensorSpec((None,), tf.string)])
        def find(self, word: Any) -> Any:
            return {"line": self.table.lookup(word)}

    done = export(Finder(), tmp_path / "model")
    assert (done.folder / "assets" / "words.txt").read_text() == "ant\nbee\n"
    assert answers(done.folder, "serving_default", word=strings("bee", "cow"))["line"].tolist() == [1, -1]
    assert tf.train.list_variables(str(done.folder / "variables" / "variables")) == [
        ("_CHECKPOINTABLE_OBJECT_GRAPH", [])
    ]


# fmt: off
REFUSED: list[tuple[str, Callable[[Any], Any], str]] = [
    # what                     made by                                                                      message
    ("a counter",              counting,                                                                    "AssignAddVariableOp"),
    ("random numbers",         lambda tf: function(lambda x: x + tf.random.normal([]), spec(tf, None)),     "RandomStandardNormal"),
    ("py_function",            lambda tf: function(lambda x: tf.py_function(abs, [x], "float32"), spec(tf, None)),   "EagerPyFunc"),
    ("a file",                 lambda tf: function(lambda x: tf.io.read_file(x[0]), {"x": tf.TensorSpec((None,), tf.string)}), "ReadFile"),
    ("an unknown rank",        lambda tf: function(lambda x: x, {"x": tf.TensorSpec(None)}),                "serving_default.x: its rank is unknown"),
    ("no inputs",              lambda tf: function(lambda: 1.0, {}),                                        "it has no inputs"),
    ("a sparse input",         lambda tf: function(lambda x: x, {"x": tf.SparseTensorSpec((None, 2))}),     "SparseTensorSpec has no plain array form"),
    ("a sparse output",        lambda tf: function(lambda x: {"y": tf.sparse.from_dense(x)}, spec(tf, None, 2)),  "its output \'y\' is a SparseTensor"),
    ("a name of two words",    lambda tf: function(lambda **x: x, {"an x": tf.TensorSpec((None,))}),        "an input's name"),
    ("a table without owner",  table_from_nowhere,                                                          "holds="),
    ("what fails",             lambda tf: function(lambda x: tf.matmul(x, x), spec(tf, None, 2, 3)),        "no graph can be made of it"),
    ("another answer",         otherwise,                                                                   "gives other answers than in memory"),
    ("no types",               lambda tf: lambda x: x,                                                      "says nothing of its inputs' types"),
    ("no input signature",     lambda tf: tf.function(lambda x: x),                                         "has no input_signature"),
    ("no function",            lambda tf: tf.Module(),                                                      "no tf.function with an input_signature"),
    ("what no input fits",     lambda tf: function(lambda x: x + 0 * tf.ensure_shape(x, 7)[0], spec(tf, None)), "give one that does"),
]
# fmt: on


@pytest.mark.parametrize(("what", "make", "message"), REFUSED, ids=[case[0] for case in REFUSED])
def test_a_model_that_could_not_be_served_is_refused(
    tf: Any, tmp_path: Path, what: str, make: Callable[[Any], Any], message: str
) -> None:
    with pytest.raises(Refusal) as refused:
        export(make(tf), tmp_path / "model", state={"epoch": 1})
    assert message in str(refused.value)
    assert list(tmp_path.iterdir()) == []


MISTAKES = [
    # arguments                                                                 message
    ({"examples": {"other": {}}},                                               "there is no function 'other'"),
    ({"examples": {"serving_default": {"wrong": 1}}},                           "expected input, got wrong"),
    ({"examples": {"serving_default": {"input": [[1.0]]}}},                     "expected shape [?, 8, 8, 3], got [1, 1]"),
    ({"examples": {"serving_default": {"input": "text"}}},                      "could not convert"),
    ({"state_path": "somewhere.json"},                                          "no state="),
    ({"state": {}, "state_path": "{out}/state.json"},                           "nothing of the training"),
    ({"state": {"epoch": object()}},                                            "object has no JSON form"),
    ({"functions": {"a": 7}},                                                   "functions['a']: expected a function, got int"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), MISTAKES)
def test_a_wrong_argument_is_named(model: Any, tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    out = tmp_path / "model"
    if "{out}" in str(arguments.get("state_path")):
        arguments = {**arguments, "state_path": out / "state.json"}
    with pytest.raises(Refusal) as refused:
        export(model, out, **arguments)
    assert message in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_the_previous_export_stays_until_the_new_one_is_complete(
    tf: Any, model: Any, tmp_path: Path, capsys: Any
) -> None:
    out = tmp_path / "model"
    double = function(lambda x: x * 2, spec(tf, None))
    export(double, out)
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("export: ")]
    assert said[0] == "export: writing serving_default"
    assert "export: comparing with the model in memory" in said[1:-1]  # among the steps of the audit and the trial
    assert said[-1] == f"export: wrote {out} with serving_default"
    before = manifest.digests(out)
    with pytest.raises(Refusal, match="force=True"):
        export(double, out)
    with pytest.raises(Refusal, match="pure function"):
        export(counting(tf), out, force=True)

    def fails(_: Path) -> str:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        export(double, out, force=True, card=fails)
    assert manifest.digests(out) == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    export(double, out, force=True, card="new")
    assert (out / "README.md").read_text() == "new"
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    with pytest.raises(Refusal, match="is not a SavedModel"):
        export(double, tmp_path / "notes", force=True)


def test_a_full_disk_leaves_no_files(tf: Any, tmp_path: Path) -> None:
    wide = tf.Module()
    wide.w = tf.Variable(tf.zeros((100, 100)))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(Refusal, match=r"cannot (write it|be written)"):
            export(function(lambda x: x @ wide.w, spec(tf, None, 100), holds=[wide]), tmp_path / "model")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_an_incomplete_training_state_is_refused(keras: Any, model: Any, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    save(path, from_keras(model, epoch=1))
    first = {file.name for file in tmp_path.iterdir()}
    save(path, State({"epoch": 2}, {"weights/0000": np.ones(3, np.float32)}))
    assert len(first & {file.name for file in tmp_path.iterdir()}) == 1  # the JSON; the old arrays are gone
    weights = [weight.numpy() for weight in model.weights]
    with pytest.raises(Refusal, match="holds 1 variables of the weights, the model has 8"):
        resume(model, path)
    save(path, from_keras(keras.Sequential([keras.Input((2,)), *[keras.layers.Dense(2) for _ in range(4)]])))
    with pytest.raises(Refusal, match=r"has shape .*: it is another model's"):
        resume(model, path)
    assert all((weight.numpy() == was).all() for weight, was in zip(model.weights, weights, strict=True))
    arrays = next(tmp_path.glob("*.npz"))
    arrays.write_bytes(arrays.read_bytes()[:-1])
    with pytest.raises(Unreadable, match="has changed"):
        resume(model, path)
    path.write_text("{")
    with pytest.raises(Unreadable):
        resume(model, path)
    path.unlink()
    arrays.unlink()
    with pytest.raises(Refusal, match="no JSON form"):
        save(path, State({"epoch": object()}, {"a": np.zeros(1)}))
    assert list(tmp_path.iterdir()) == []


def test_a_training_state_holds_every_trainable_dtype(tmp_path: Path) -> None:
    import ml_dtypes

    arrays = {"half": np.array([0.5, 3e38], ml_dtypes.bfloat16), "none": np.zeros((0, 2)), "one": np.array(7, np.int64)}
    save(tmp_path / "run.json", State({"loss": [np.float32(0.5)], "best": np.int64(3)}, arrays))
    state = load(tmp_path / "run.json")
    assert state.facts == {"loss": [0.5], "best": 3}
    assert all(state.arrays[name].dtype == array.dtype for name, array in arrays.items())
    assert all((state.arrays[name] == array).all() for name, array in arrays.items())


def test_different_data_have_different_fingerprints() -> None:
    a = np.arange(6, dtype=np.float32)
    assert fingerprint(a) == fingerprint(a.copy())
    others = [a.reshape(2, 3), a.astype(np.float64), a + 1, np.array(["a"], object)]
    assert len({fingerprint(data) for data in [a, *others]}) == 5
