"""The audit: its text and its JSON, and that it runs no operation that it must not run."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from serving.core.errors import LoadError
from serving.savedmodel.safety import purity
from tests.conftest import EMBEDDED, ROOT
from tests.harness.forks import python
from tests.models.zoo import build

KINDS = [
    # operation                      kind
    ("MatMul",                       None),
    ("StatelessRandomUniformV2",     None),
    ("TensorArrayWriteV3",           None),
    ("MutableHashTableV2",           None),
    ("_FusedConv2D",                 None),
    ("AssignVariableOp",             "state"),
    ("ResourceScatterAdd",           "state"),
    ("LookupTableInsertV2",          "state"),
    ("QueueEnqueueV2",               "state"),
    ("IteratorGetNext",              "state"),
    ("WriteSummary",                 "state"),
    ("RandomUniform",                "random"),
    ("RngReadAndSkip",               "random"),
    ("FractionalMaxPool",            "random"),
    ("ReadFile",                     "files"),
    ("WriteFile",                    "files"),
    ("WholeFileReaderV2",            "files"),
    ("ReaderReadV2",                 "files"),
    ("MatchingFiles",                "files"),
    ("ImmutableConst",               "files"),
    ("DecodeProtoV2",                "files"),
    ("PrintV2",                      "files"),
    ("SaveV2",                       "files"),
    ("RpcCall",                      "network"),
    ("DataServiceDatasetV4",         "network"),
    ("PyFunc",                       "python"),
    ("EagerPyFunc",                  "python"),
    ("Abort",                        "unknown"),
    ("MlirPassthroughOp",            "unknown"),
    ("MyCustomOp",                   "unknown"),
]  # fmt: skip


@pytest.mark.parametrize(("op", "kind"), KINDS)
def test_operations_are_classed(op: str, kind: str | None) -> None:
    assert purity.kind(op) == kind


def test_loading_may_restore_and_fill_tables() -> None:
    for op in ("AssignVariableOp", "RestoreV2", "InitializeTableFromTextFileV2", "LookupTableImportV2"):
        assert purity.kind(op) is not None
        assert purity.kind(op, loading=True) is None
    assert purity.kind("WriteFile", loading=True) == "files"


def test_reading_operations_of_a_damaged_file_raises_only_LoadError() -> None:
    """A cut or a changed byte gives a LoadError or a list, and never anything else."""
    whole = (build() / "keras_string_lookup" / "saved_model.pb").read_bytes()
    folder = build().parent / "audit-damage"
    folder.mkdir(exist_ok=True)
    file = folder / "saved_model.pb"
    for step in range(0, len(whole), max(1, len(whole) // 150)):
        for damaged in (whole[:step], whole[:step] + bytes([whole[step] ^ 0xFF]) + whole[step + 1 :]):
            file.write_bytes(damaged)
            try:
                assert isinstance(purity.impurities(folder), list)
            except LoadError:
                continue
    file.unlink()
    folder.rmdir()


def test_operations_excluded_from_trials_are_not_run(baked: Path, results: dict[str, Any]) -> None:
    assert results["audit"]["files"]["trials"] == {}
    assert not (ROOT / "was-here").exists()


def test_impure_models_are_found_by_running_them(results: dict[str, Any]) -> None:
    assert results["audit"]["random_stateful"]["trials"] == {"serving_default": "differs"}
    assert results["audit"]["dropout"]["trials"] == {"serving_default": "differs"}
    assert results["audit"]["mutable_table_written"]["trials"]["find"] == "differs"
    assert results["audit"]["aborts"]["trials"] == {"empty": "died", "well": "same"}
    assert results["audit"]["keras_attention"]["trials"] == {"serve": "same", "serving_default": "same"}
    assert results["audit"]["decode_image"]["trials"] == {"pixels": "same", "serving_default": "same"}


def test_findings_name_the_variable_and_the_cause(results: dict[str, Any]) -> None:
    assert "variable Variable" in results["audit"]["counter"]["no"][0]
    assert "left in training mode" in results["audit"]["dropout"]["no"][0]
    assert results["audit"]["training_state"]["notes"] == [
        "no signature reads the training's adam/dense_kernel_momentum, adam/iteration, global_step",
        "no signature reads the variable spare",
    ]
    assert "no known rank" in results["audit"]["dtype_float32"]["notes"][0]


def test_in_a_folder_of_versions_the_highest_complete_one_is_read(tmp_path: Path) -> None:
    for version in ("1", "2", "3"):
        shutil.copytree(EMBEDDED, tmp_path / version)
    (tmp_path / "3" / "variables" / "variables.index").unlink()
    done = python("-m", "exporting", "audit", "--no-run", str(tmp_path))
    assert done.stdout.startswith(f"{tmp_path}/2: a pure function"), done.stderr


def test_the_command_prints_text_or_json() -> None:
    model = build() / "counter"
    people = python("-m", "exporting", "audit", str(model), "--no-run")
    assert people.returncode == 1
    assert "not a pure function, for 1 reason" in people.stdout
    assert people.stderr == "audit: reading the graph\n"
    programs = python("-m", "exporting", "audit", str(build() / "lookup_table"), "--json")
    assert programs.returncode == 0, programs.stdout
    report = json.loads(programs.stdout)
    assert report["pure"] is True
    assert report["trials"][0]["verdict"] == "same"
    assert report["cost"]["file_bytes"] > 0


def test_a_run_that_does_not_end_is_a_finding_after_RUN_TIMEOUT(tf: Any, tmp_path: Path) -> None:
    kind = {"component_types": [tf.float32]}

    def waiting(x: Any) -> dict[str, Any]:
        """Wait for an element of an empty queue, which takes no time of the processor."""
        (element,) = tf.raw_ops.QueueDequeueV2(handle=tf.raw_ops.FIFOQueueV2(shared_name="empty", **kind), **kind)
        return {"y": x + element}

    def waiting_for_seven(x: Any) -> dict[str, Any]:
        with tf.control_dependencies([tf.debugging.assert_equal(tf.shape(x)[1], 7)]):
            return waiting(x)

    signatures = {
        "a": lambda x: {"y": x * 2},
        "hangs": waiting,
        "hangs_for_seven": waiting_for_seven,
        "z": lambda x: {"y": x},
    }
    module, matrix = tf.Module(), tf.TensorSpec([None, None], tf.float32)
    functions = {name: tf.function(body, [matrix], autograph=False) for name, body in signatures.items()}
    tf.saved_model.save(module, str(tmp_path), functions)
    done = python("-m", "exporting", "audit", str(tmp_path), "--json", env={**os.environ, "RUN_TIMEOUT": "4"})
    assert done.returncode == 1, done.stderr
    trials = {trial["signature"]: (trial["verdict"], trial["detail"]) for trial in json.loads(done.stdout)["trials"]}
    late = ("late", "a run took more than 4 s (RUN_TIMEOUT)")
    assert (trials["hangs"], trials["hangs_for_seven"]) == (late, late)
    assert (trials["a"][0], trials["z"][0]) == ("same", "same")
