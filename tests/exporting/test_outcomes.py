"""The result of the audit and of the bake for each model, in one table."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, plain_environment
from tests.models.zoo import BROKEN, DTYPES, VERSIONS, ZOO, absent

PURE, BAKED = "", ""
STATE = "keeps or changes state between calls"
RANDOM = "draws random numbers that no input decides"
UNREADABLE = "Unreadable: "

# fmt: off
OUTCOMES = {
    # model                   the audit's first reason, or PURE              the refusal to bake, or BAKED
    **{f"dtype_{dtype}":     (PURE,                                          BAKED) for dtype in DTYPES},
    "many_named":            (PURE,                                          BAKED),
    "odd_names":             (PURE,                                          BAKED),
    "passthrough":           (PURE,                                          BAKED),
    "constants":             (PURE,                                          BAKED),
    "no_inputs":             (PURE,                                          BAKED),
    "fixed_shape":           (PURE,                                          BAKED),
    "unnamed_output":        (PURE,                                          BAKED),
    "default_values":        (PURE,                                          BAKED),
    "shared_variables":      (PURE,                                          BAKED),
    "sparse_input":          (PURE,                                          BAKED),
    "ragged_input":          (PURE,                                          BAKED),
    "ragged_output":         (UNREADABLE,                                    "no signature that can be served"),
    "float8":                (PURE,                                          BAKED),
    "keras_sequential":      (PURE,                                          BAKED),
    "keras_functional":      (PURE,                                          BAKED),
    "keras_subclassed":      (PURE,                                          BAKED),
    "keras_string_lookup":   (PURE,                                          BAKED),
    "keras_text":            (PURE,                                          BAKED),
    "keras_lstm":            (PURE,                                          BAKED),
    "keras_attention":       (PURE,                                          BAKED),
    "keras_convolution":     (PURE,                                          BAKED),
    "dense_512":             (PURE,                                          BAKED),
    "lookup_table":          (PURE,                                          BAKED),
    "counter":               (f"AssignAddVariableOp {STATE}",                f"AssignAddVariableOp {STATE}"),
    "control_flow":          (PURE,                                          BAKED),
    "xla":                   (PURE,                                          BAKED),
    "random_stateful":       (f"RandomUniform {RANDOM}",                     f"RandomUniform {RANDOM}"),
    "random_stateless":      (PURE,                                          BAKED),
    "decode_image":          (PURE,                                          BAKED),
    "parse_example":         (PURE,                                          BAKED),
    "string_ops":            (PURE,                                          BAKED),
    "ragged_inside":         (PURE,                                          BAKED),
    "failures":              (PURE,                                          BAKED),
    "py_function":           ("EagerPyFunc calls Python",                    "EagerPyFunc calls Python"),
    "custom_op":             ("ZooZeroOut is not an operation of TensorFlow",    "ZooZeroOut is not an operation of TensorFlow"),
    "tf1_simple_save":       (PURE,                                          BAKED),
    "tf1_ref_variables":     (PURE,                                          BAKED),
    "tf1_passthrough":       (PURE,                                          BAKED),
    "tf1_names":             (PURE,                                          BAKED),
    "tf1_table_main_op":     (PURE,                                          BAKED),
    "tf1_table_legacy":      (PURE,                                          BAKED),
    "tf1_classify":          (PURE,                                          BAKED),
    "tf1_regress":           (PURE,                                          BAKED),
    "tf1_control_flow":      (PURE,                                          BAKED),
    "tf1_tags":              (PURE,                                          BAKED),
    "tf1_sparse_input":      (UNREADABLE,                                    "no signature that can be served"),

    "broken/truncated_pb":   (UNREADABLE,                                    "not a SavedModel, or only part of one"),
    "broken/empty_pb":       (UNREADABLE,                                    "saved_model.pb is empty"),
    "broken/random_pb":      (UNREADABLE,                                    "not a SavedModel"),
    "broken/html_pb":        (UNREADABLE,                                    "not a SavedModel"),
    "broken/lfs_pb":         (UNREADABLE,                                    "not a SavedModel"),
    "broken/empty":          (UNREADABLE,                                    "it holds no saved_model.pb"),
    "broken/text_files":     (UNREADABLE,                                    "it holds no saved_model.pb"),
    "broken/keras_file":     (UNREADABLE,                                    "it holds a Keras archive"),
    "broken/text_format":    (UNREADABLE,                                    "it holds saved_model.pbtxt"),
    "broken/no_variables":   (UNREADABLE,                                    "variables.index is missing"),
    "broken/no_index":       (UNREADABLE,                                    "variables.index is missing"),
    "broken/truncated_variables": (PURE,                                     "does not work as it is"),
    "broken/no_asset":       ("assets/words.txt is not there",               "assets/words.txt is not there"),
    "broken/no_signatures":  (UNREADABLE,                                    "no signature that can be served"),
    "broken/train_tag":      (UNREADABLE,                                    "is tagged 'serve'"),
    "broken/unknown_op":     ("AddV9 is not an operation of TensorFlow",         "AddV9 is not an operation of TensorFlow"),
    "broken/dangling_output": ("names the tensor 'Nowhere:0'",               "names the tensor 'Nowhere:0'"),

    "training_state":        (PURE,                                          BAKED),
    "dropout":               (f"RandomUniform {RANDOM}",                     f"RandomUniform {RANDOM}"),
    "files":                 ("ReadFile touches files",                      "ReadFile touches files"),
    "whole_file":            (f"FIFOQueueV2 {STATE}",                        f"FIFOQueueV2 {STATE}"),
    "mutable_table_read":    (PURE,                                          "is a table that can change"),
    "mutable_table_written": (f"LookupTableInsertV2 {STATE}",                f"LookupTableInsertV2 {STATE}"),
    "asset_above":           ("'../../stray.txt' is outside assets/",        "'../../stray.txt' is outside assets/"),
    "table_elsewhere":       ("reads '/etc/hostname', which is not an asset",    "InitializeTableFromTextFileV2 touches files"),
    "two_definitions":       (UNREADABLE,                                    "MetaGraphDef.graph_def"),
    "aborts":                ("the process died (SIGABRT)",                  BAKED),
    "unproved":              (PURE,                                          BAKED),
    "unproved_tf1":          (PURE,                                          BAKED),
    "scoped_vocabulary":     (PURE,                                          BAKED),
    "own_saver":             (PURE,                                          BAKED),
    "chaotic":               (PURE,                                          BAKED),
    "brittle":               (PURE,                                          "gives other answers: output 'y'"),
}
# fmt: on


def test_the_table_has_every_model() -> None:
    every = {*ZOO, *(f"broken/{name}" for name in BROKEN)}
    assert every <= set(OUTCOMES)
    assert not every & set(VERSIONS)


@pytest.mark.parametrize("name", OUTCOMES)
def test_every_model_has_its_outcome(name: str, results: dict[str, Any]) -> None:
    if name in ZOO and absent(name):
        pytest.skip(absent(name) or "")
    audit, bake = OUTCOMES[name]
    said = results["audit"][name]
    if isinstance(said, str):
        assert audit == UNREADABLE
        assert said.startswith(UNREADABLE)
    else:
        assert said["pure"] == (audit == PURE), said["no"]
        assert audit in " ".join(said["no"][:1])
    became = results["bake"][name]
    if bake == BAKED:
        assert not isinstance(became, str), became
    else:
        assert bake in became
        assert became.count("\n") == 0
        assert len(became) < 800


def test_baked_models_answer_as_the_oracle(baked: Path, results: dict[str, Any]) -> None:
    command = [sys.executable, "-m", "tests.exporting.ask", str(baked)]
    done = subprocess.run(command, cwd=ROOT, env=plain_environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout)
    assert report["asked"] > 400
    # Two inputs that are one tensor: no runtime can feed that, and the original cannot either.
    assert report["differ"].keys() <= {"tf1_passthrough"}, report["differ"]
    assert all(problem.startswith("twins") for problem in report["differ"].get("tf1_passthrough", []))


@pytest.mark.parametrize("name", [name for name, (_, bake) in OUTCOMES.items() if bake == BAKED and name in ZOO])
def test_tensorflows_python_api_loads_what_was_baked(name: str, results: dict[str, Any]) -> None:
    assert results["python"][name] in (None, "as the original")


@pytest.mark.parametrize("name", ["unproved", "unproved_tf1", "scoped_vocabulary", "own_saver"])
def test_odd_models_answer_as_before_when_baked(name: str, results: dict[str, Any]) -> None:
    assert results["python"][name] is None


@pytest.mark.parametrize(
    ("name", "signature"), [("unproved", "closed"), ("unproved_tf1", "closed"), ("aborts", "empty")]
)
def test_a_signature_without_a_test_input_is_kept_unchanged(name: str, signature: str, results: dict[str, Any]) -> None:
    (note,) = [note for note in results["bake"][name]["notes"] if repr(signature) in note]
    assert "its graph is kept as it is" in note
    assert "--input FILE" in note
