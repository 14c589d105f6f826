"""The bake: what it keeps, what it refuses, and that it leaves nothing behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exporting import weights
from exporting.graph import import_tensorflow, served
from exporting.runner import ONEDNN
from serving.savedmodel.folder.card import digest
from serving.savedmodel.safety.purity import impurities
from serving.savedmodel.signature import read
from serving.savedmodel.source import SMALLEST_RUNS, Source
from tests.conftest import ROOT
from tests.harness.forks import python
from tests.models.zoo import build

REFUSED = [
    # name          why
    ("disk full",   "cannot be written: File too large; nothing of it was kept"),
    ("too strict",  "differs by"),
    ("again",       "it is baked already"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "why"), REFUSED)
def test_a_refusal_says_why(name: str, why: str, results: dict[str, Any]) -> None:
    assert results["bake"][name].startswith("Refusal: ")
    assert why in results["bake"][name]


def test_a_refusal_leaves_nothing_behind(results: dict[str, Any]) -> None:
    assert results["left"] == ["large", "large but folded", "much", "smallest runs", "twice"]


def test_signatures_are_kept(baked: Path, results: dict[str, Any]) -> None:
    for name, outcome in results["bake"].items():
        if isinstance(outcome, dict) and (build() / name).is_dir():
            before, after = read(build() / name), read(baked / name)
            assert after.tags == before.tags
            assert after.tensorflow_version == before.tensorflow_version
            for key, signature in after.signatures.items():
                original = before.signatures[key]
                assert signature.method_name == original.method_name
                assert describe(signature.inputs) == describe(original.inputs)
                assert describe(signature.outputs) == describe(original.outputs)
            assert after.signatures.keys() == before.signatures.keys() - {"__saved_model_init_op"}


def describe(specs: Any) -> list[Any]:
    return [(spec.name, spec.dtype, spec.shape, spec.dimensions) for spec in specs.values()]


def test_a_baked_model_is_pure(baked: Path, results: dict[str, Any]) -> None:
    for name, outcome in results["bake"].items():
        if isinstance(outcome, dict) and (baked / name).is_dir():
            assert impurities(baked / name) == []


def test_baking_twice_gives_the_same_bytes(baked: Path) -> None:
    once, twice = baked / "dense_512", baked / "rest" / "twice"
    assert (once / "saved_model.pb").read_bytes() == (twice / "saved_model.pb").read_bytes()


def test_the_smallest_runs_are_written_beside_the_model(baked: Path) -> None:
    assert Source(baked / "rest" / "smallest runs", "model").smallest_runs["serving_default"] in (2, 4)  # by the CPU
    assert not (baked / "identity" / "assets.extra" / SMALLEST_RUNS).exists()


def test_assets_and_the_mark_of_a_baked_model_are_written(baked: Path) -> None:
    assert (baked / "lookup_table" / "assets" / "words.txt").read_text() == "ant\nbee\ncat\n"
    card = json.loads((baked / "lookup_table" / "assets.extra" / "baked.json").read_text())
    assert card["variables"] == "folded"
    assert card["compared_calls"] > 1
    assert not (baked / "dense_512" / "variables").exists()


def test_the_card_names_the_baked_model_without_its_path(baked: Path) -> None:
    card = Source(baked / "lookup_table", "model").card
    assert (card["source"], card["source_name"]) == ("bake", "lookup_table")
    assert card["source_digest"] == digest(build() / "lookup_table")
    assert card["digest"] == digest(baked / "lookup_table") != card["source_digest"]
    assert str(build()) not in (baked / "lookup_table" / "assets.extra" / "card.json").read_text()


@pytest.mark.parametrize("name", ["shared_variables", "keras_string_lookup", "tf1_simple_save"])
def test_variables_too_large_for_protobuf_stay_in_their_file(name: str, baked: Path, results: dict[str, Any]) -> None:
    assert results["bake"][f"{name}-kept"]["variables"] == "kept"
    assert "stay in their own file" in results["bake"][f"{name}-kept"]["notes"][0]
    assert (baked / f"{name}-kept" / "variables" / "variables.index").is_file()
    assert results["python"][f"{name}-kept"] is None


def test_constants_that_signatures_share_are_stored_once(baked: Path) -> None:
    size = (baked / "keras_sequential" / "saved_model.pb").stat().st_size
    assert size < (build() / "keras_sequential" / "saved_model.pb").stat().st_size / 5


def commands(tmp_path: Path) -> list[tuple[list[str], int, str]]:
    model, tables = build() / "dense_512", build() / "broken" / "truncated_pb"
    (tmp_path / "there").mkdir()
    return [
        # arguments                                          status  what it says
        (["audit", str(tmp_path / "nowhere")],               2, "audit: {0}/nowhere: there is no such folder"),
        (["audit", str(tables)],                             2, "only part of one"),
        (["bake", str(tables), str(tmp_path / "out")],       2, "only part of one"),
        (["verify", str(model)],                             2, "there is no assets.extra/manifest.json"),
        (["bake", str(model), str(model / "inside")],        1, "it is inside"),
        (["bake", str(model), str(model.parent)],            1, "it holds"),
        (["bake", str(model), str(tmp_path / "there")],      1, "it exists; --force replaces it"),
        (["bake", str(model), str(tmp_path / "no" / "way")], 1, "there is no folder {0}/no to write it in"),
        (["bake", str(model), str(tmp_path / "out"), "--input", __file__], 1, "not an .npz"),
    ]  # fmt: skip


def test_commands_fail_with_one_clear_line(tmp_path: Path) -> None:
    for arguments, status, line in commands(tmp_path):
        done = python("-m", "exporting", *arguments)
        *progress, last = done.stderr.splitlines()
        assert done.returncode == status, done.stderr
        assert line.format(tmp_path) in last
        assert all(text.startswith(f"{arguments[0]}: ") for text in progress)
        assert done.stdout == ""
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


VARIABLES = [
    # what                      variables        note
    ("large",                    "kept",          "would take five times their size in memory as constants"),
    ("large but folded",         "folded",        None),
    ("nothing to save",          "kept",          "would save no operation as constants"),
    ("much to save",             "folded",        None),
    ("keras_convolution-partly", "partly folded", "are large weights of products or lookups"),
    ("shared_variables-partly",  "partly folded", "are large weights of products or lookups"),
    ("tf1_ref_variables-partly", "partly folded", "are large weights of products or lookups"),
]  # fmt: skip


@pytest.mark.parametrize(("what", "variables", "note"), VARIABLES)
def test_variables_are_folded_where_that_is_faster(
    what: str, variables: str, note: str | None, results: dict[str, Any]
) -> None:
    assert results["bake"][what]["variables"] == variables
    notes = results["bake"][what]["notes"]
    assert len(notes) == (note is not None)
    assert all(note in text and "stay in their own file" in text for text in notes)


@pytest.mark.parametrize("name", ["keras_convolution", "shared_variables", "tf1_ref_variables"])
def test_weights_are_variables_where_only_products_and_lookups_read_them(
    name: str, baked: Path, results: dict[str, Any]
) -> None:
    graph = served(baked / f"{name}-partly").graph_def
    nodes = {node.name: node for node in graph.node}
    inputs = [(node.op, nodes[node.input[1]].op) for node in graph.node if node.op in ("MatMul", "_FusedMatMul")]
    filters = [nodes[node.input[1]].op for node in graph.node if "Conv2D" in node.op]
    assert {op for _, op in inputs} == {"ReadVariableOp"}
    assert set(filters) == ({"Const"} if name == "keras_convolution" else set())
    assert results["python"][f"{name}-partly"] is None


@pytest.mark.parametrize(
    ("readers", "is_replaced"),
    [
        ([("MatMul", ["x", "weight"])], True),
        ([("GatherV2", ["weight", "x", "axis"]), ("MatMul", ["x", "weight:0"])], True),
        ([("GatherV2", ["x", "weight", "axis"])], False),  # as the indices
        ([("MatMul", ["x", "weight"]), ("AddV2", ["x", "weight"])], False),
        ([("MatMul", ["x", "x", "^weight"])], False),
        ([], False),
    ],
)
def test_a_constant_stays_one_where_another_operation_reads_it(
    readers: list[tuple[str, list[str]]], is_replaced: bool, tf: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorflow.core.protobuf import meta_graph_pb2

    monkeypatch.setattr(weights, "WORTH", weights.LEAST)
    graph = meta_graph_pb2.MetaGraphDef()
    constant = graph.graph_def.node.add(name="weight", op="Const")
    constant.attr["dtype"].type = tf.float32.as_datatype_enum
    value = np.random.default_rng(0).random((512, 512)).astype(np.float32)
    constant.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value))
    for number, (op, inputs) in enumerate(readers):
        graph.graph_def.node.add(name=f"reader_{number}", op=op, input=inputs)
    before = graph.SerializeToString(deterministic=True)
    values = weights.make_variables(graph)
    assert [*values] == (["weight"] if is_replaced else [])
    if is_replaced:
        assert values["weight"].tobytes() == value.tobytes()
        assert graph.graph_def.node[0].op == "ReadVariableOp"
    else:
        assert graph.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("command", ["audit", "bake", "verify"])
def test_help_shows_an_example(command: str) -> None:
    done = python("-m", "exporting", command, "--help")
    assert done.returncode == 0
    assert f"example:  python -m exporting {command} model/" in done.stdout
    assert "exit status:" in done.stdout


def test_a_bake_from_the_command_line_shows_figures_and_replaces_by_force(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "saved_model.pb").write_bytes(b"old")
    done = python("-m", "exporting", "bake", str(build() / "dense_512"), str(out), "--force")
    assert done.returncode == 0, done.stderr
    assert all(word in done.stdout for word in ("before", "after", "size", "load", "first call", "later calls"))
    assert all(line.startswith("bake: ") for line in done.stderr.splitlines())
    assert read(out).signatures
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_interrupted_bake_leaves_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "exporting", "bake", str(build() / "dense_512"), str(tmp_path / "out")]
    with subprocess.Popen(command, cwd=ROOT, env=os.environ, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        for line in process.stderr:
            if "comparing" in line:
                time.sleep(0.05)
                process.send_signal(signal.SIGTERM)
                break
        assert process.wait(timeout=60) == 143
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("as_started", [None, "1"])
def test_tensorflow_is_imported_without_onednn_which_other_processes_keep(
    as_started: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tensorflow.py").write_text(f"import os\nONEDNN = os.environ.get('{ONEDNN}')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    monkeypatch.setattr(os, "environ", {} if as_started is None else {ONEDNN: as_started})
    import_tensorflow()
    assert sys.modules.pop("tensorflow").ONEDNN == "0"
    assert os.environ.get(ONEDNN) == as_started
