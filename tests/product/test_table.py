"""What is possible with each kind of model: the table of docs/models.md. TABLE=1 tries all of it again."""

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT, plain_environment
from tests.harness.forks import python
from tests.models.zoo.kinds import KINDS

DOCUMENT = ROOT / "docs" / "models.md"
STRINGS = "its input 'strings' holds strings"
LOST = "for which the SavedModel holds no value"
COLUMNS = ("serve", "check", "audit", "bake", "twin", "verify")

# fmt: off
OUTCOMES = {
    # kind                served                     check  audit                         bake                    twin                     verify
    "keras3_saved":      ("as TensorFlow",           "0",   "pure",                       "baked",                "converted",             "0"),
    "keras3_untrained":  ("as TensorFlow",           "0",   "pure",                       "baked",                "converted",             "0"),
    "keras3_signatures": ("as TensorFlow",           "0",   "pure",                       "baked",                "converted",             "0"),
    "keras3_module":     ("as TensorFlow",           "0",   "pure",                       "baked",                "converted",             "0"),
    "keras3_layer":      ("as TensorFlow",           "0",   "pure",                       "baked",                "converted",             "0"),
    "keras3_text":       ("as TensorFlow",           "0",   "pure",                       "baked",                "its input 'inputs' holds strings", "0"),
    "keras2_gru":        ("as TensorFlow",           "0",   "pure",                       "baked",                "converted",             "0"),
    "variable_lost":     (LOST,                      "0",   "pure",                       "baked",                "converted",             "0"),
    "no_tensor_shape":   ("as TensorFlow",           "0",   "pure",                       "baked",                "the converter says",    "0"),
    "output_dtype":      ("as TensorFlow",           "0",   "pure",                       "baked",                "converted",             "0"),
    "pinned_to_gpu":     ("as TensorFlow",           "0",   "pure",                       "baked",                "the converter says",    "0"),
    "table_collection":  ("as TensorFlow",           "0",   "pure",                       "baked",                "its input 'words' holds strings", "0"),
    "vocabulary_scoped": ("as TensorFlow",           "0",   "pure",                       "baked",                "its input 'words' holds strings", "0"),
    "vocabulary_twice":  ("as TensorFlow",           "0",   "pure",                       "baked",                "its input 'words' holds strings", "0"),
    "answers_nothing":   ("served",                  "3",   "pure",                       "does not work as it is", "does not work as it is", "2"),
    "prints":            ("as TensorFlow",           "0",   "pure",                       "baked",                "LiteRT has no",         "0"),
    "prints_to_a_file":  ("PrintV2 (files)",         "1",   "PrintV2 touches files",      "PrintV2 touches files", "PrintV2 touches files", "1"),
    "trees":             ("has no kernel on a CPU",  "1",   "no kernel for BoostedTrees", "no kernel for BoostedTrees", "no kernel for BoostedTrees", "2"),
    "example_required":  ("as TensorFlow",           "0",   "pure",                       "baked",                "its input 'inputs' holds strings", "0"),
    "example_any_rank":  ("as TensorFlow",           "0",   "pure",                       "baked",                "its input 'inputs' holds strings", "0"),
    "example_features":  ("as TensorFlow",           "0",   "pure",                       "baked",                STRINGS,                 "0"),
    "example_single":    ("as TensorFlow",           "0",   "pure",                       "baked",                STRINGS,                 "0"),
    "example_sequence":  ("as TensorFlow",           "0",   "pure",                       "baked",                STRINGS,                 "0"),
    "float_indices":     ("as TensorFlow",           "0",   "pure",                       "baked",                "converted",             "0"),
    "picture_png":       ("as TensorFlow",           "0",   "pure",                       "baked",                STRINGS,                 "0"),
    "sound_wav":         ("as TensorFlow",           "0",   "pure",                       "baked",                STRINGS,                 "0"),
    "web_safe_base64":   ("as TensorFlow",           "0",   "pure",                       "baked",                STRINGS,                 "0"),
    "numbers_as_text":   ("as TensorFlow",           "0",   "pure",                       "baked",                STRINGS,                 "0"),
    "raw_bytes":         ("as TensorFlow",           "0",   "pure",                       "baked",                STRINGS,                 "0"),
    "json_example":      ("as TensorFlow",           "0",   "pure",                       "baked",                STRINGS,                 "0"),
    "rank_unknown":      ("as TensorFlow",           "0",   "pure",                       "baked",                "has no known rank",     "0"),
    "vocabulary_strict": ("as TensorFlow",           "0",   "pure",                       "baked",                STRINGS,                 "0"),
    "same_length":       ("as TensorFlow",           "0",   "pure",                       "baked",                "converted",             "0"),
    "ragged_parts":      ("served",                  "0",   "pure",                       "baked",                "converted",             "0"),
    "sparse_parts":      ("served",                  "0",   "pure",                       "baked",                "LiteRT has no",         "0"),
    "csv_lines":         ("as TensorFlow",           "0",   "pure",                       "baked",                STRINGS,                 "0"),
}
# fmt: on
# What the whole table takes is minutes; these are asked every time.
ALWAYS = (
    *("keras3_module", "keras3_text", "no_tensor_shape", "pinned_to_gpu", "table_collection", "example_features"),
    *("keras2_gru", "variable_lost", "trees", "vocabulary_scoped", "vocabulary_twice"),
)

HEAD = """\
# Kinds of models, and what is possible with each

## What is not served

`python -m serving check` says which of these applies, and to which signature. It takes `RUN_TIMEOUT` seconds at most.
`python -m exporting audit` and `bake` wait as long for the load and for each run; a run that takes longer is reported.

| | a server | check, audit |
| --- | --- | --- |
| Python in the graph: `tf.py_function`, `tf.numpy_function` | refuses the model | fail |
| files, connections; operations without a kernel on a CPU; a function that calls itself | refuses the model | fail |
| a ragged or sparse output; a resource, a variant, a quantized type, int4 | refuses the signature, serves the others | check names the signature |
| variables, queues or tables that a request changes; random numbers; the time; `tf.data` in a signature | serves it, with a warning in the log | fail: not a pure function |
| a placeholder that is not an input; a variable or table without a value | is not ready; requests get 500 | check fails |
| complex numbers | refuses requests with them; JSON has no form for them | pass |

A ragged or sparse input is served: each of its parts is an input.

## What was tested

Generated by `tests/product/test_table.py` (`TABLE=1` tries all of it), which compares every answer with TensorFlow's Python
API.

- Served: with TensorFlow's answers, or the words of the refusal of the model or of a signature.
- Check: the exit status of `python -m serving check`: 0 it answers, 1 it cannot be served, 3 no signature was seen to answer.
- Audit: pure, or the first reason against it. Bake and twin: done, or the reason against it; a twin has no strings.
- Verify: the exit status of `python -m serving verify --quick`: 0 stateless, 1 not stateless, 2 not verified.

| Model | | Served | Check | Audit | Bake | Twin | Verify |
| --- | --- | --- | --- | --- | --- | --- | --- |
"""


def document() -> str:
    rows = [f"| `{name}` | {KINDS[name]} | {' | '.join(OUTCOMES[name])} |\n" for name in KINDS]
    return HEAD + "".join(rows)


def test_the_table_has_every_kind() -> None:
    assert list(OUTCOMES) == list(KINDS)


def test_the_document_shows_the_table() -> None:
    if os.environ.get("TABLE") == "1":
        DOCUMENT.write_text(document())
    assert DOCUMENT.read_text() == document(), "TABLE=1 pytest tests/product/test_table.py writes it"


def found(names: list[str], columns: tuple[str, ...]) -> dict[str, dict[str, str]]:
    arguments = ("-m", "tests.models.zoo.outcomes", *names, *columns)
    if {"audit", "bake", "twin"} & set(columns):
        run = python(*arguments, env=plain_environment())
    else:  # without TensorFlow's package, as a server has it
        command = [sys.executable, *arguments]
        run = subprocess.run(command, cwd=ROOT, env=plain_environment(), capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    rows = [json.loads(line) for line in run.stdout.splitlines() if line.startswith('{"name"')]
    return {row.pop("name"): row for row in rows}


def differences(names: list[str], columns: tuple[str, ...]) -> list[str]:
    rows = found(names, columns)
    assert list(rows) == names
    return [
        f"{name}: {column}: expected {expected!r}, got {rows[name][column]!r}"
        for name in names
        for column, expected in zip(COLUMNS, OUTCOMES[name])
        if column in columns
        and (rows[name][column] != expected if len(expected) == 1 else expected not in rows[name][column])
    ]


def test_models_are_served_and_checked_as_the_table_says() -> None:
    assert differences(list(KINDS), ("serve", "check")) == []


def test_models_are_audited_and_baked_as_the_table_says() -> None:
    assert differences(list(ALWAYS), ("audit", "bake")) == []


def test_a_keras_3_model_that_tensorflow_saved_has_a_twin() -> None:
    assert differences(["keras3_layer"], ("twin",)) == []


@pytest.mark.skipif(os.environ.get("TABLE") != "1", reason="TABLE=1 finds out the whole table, which takes minutes")
@pytest.mark.parametrize("columns", [("audit", "bake"), ("twin",), ("verify",)], ids=" ".join)
def test_the_whole_table(columns: tuple[str, ...]) -> None:
    assert differences(list(KINDS), columns) == []
