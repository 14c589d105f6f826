"""The LiteRT twin: which signatures of each model are converted, and what is reported about the others."""

import json
from pathlib import Path
from typing import Any

import pytest

from exporting.conversion import reason
from serving.savedmodel.folder.card import digest
from serving.savedmodel.source import Source
from tests.conftest import EMBEDDED
from tests.exporting import twins
from tests.harness.forks import python
from tests.models.zoo import ZOO, build

pytest.importorskip("ai_edge_litert")

TWIN = ""
STRINGS = "holds strings; they stay with TensorFlow"

# fmt: off
OUTCOMES = {
    # model                 TWIN, or why there is none
    "dtype_bool":           TWIN,
    "dtype_int16":          TWIN,
    "dtype_int32":          TWIN,
    "dtype_int64":          TWIN,
    "dtype_uint32":         TWIN,
    "dtype_float32":        TWIN,
    "dtype_string":         STRINGS,
    **{f"dtype_{dtype}":    f"LiteRT has no AddV2 of {dtype}"
       for dtype in ("int8", "uint8", "uint16", "uint64", "float16", "float64", "bfloat16", "complex64", "complex128")},
    "many_named":           STRINGS,
    "odd_names":            TWIN,
    "passthrough":          STRINGS,
    "constants":            "converted, it fails: Invalid tensor size",
    "no_inputs":            TWIN,
    "fixed_shape":          TWIN,
    "unnamed_output":       TWIN,
    "default_values":       TWIN,
    "shared_variables":     TWIN,
    "sparse_input":         TWIN,
    "ragged_input":         "LiteRT has no RaggedTensorToTensor",
    "ragged_output":        "no signature that can be served",
    "float8":               "LiteRT has no type f8E4M3FN",
    "keras_sequential":     TWIN,
    "keras_functional":     TWIN,
    "keras_subclassed":     TWIN,
    "keras_string_lookup":  STRINGS,
    "keras_text":           STRINGS,
    "keras_lstm":           "LiteRT's TensorListReserve requires element_shape to be static",
    "keras_attention":      TWIN,
    "keras_convolution":    TWIN,
    "dense_512":            TWIN,
    "lookup_table":         STRINGS,
    "counter":              "keeps or changes state between calls",
    "control_flow":         TWIN,
    "xla":                  TWIN,
    "random_stateful":      "draws random numbers that no input decides",
    "random_stateless":     "LiteRT has no StatelessRandom",
    "decode_image":         STRINGS,
    "parse_example":        STRINGS,
    "string_ops":           STRINGS,
    "ragged_inside":        "LiteRT has no RaggedTensorToTensor",
    "failures":             "TensorFlow refused every generated input",
    "py_function":          "calls Python",
    "custom_op":            "is not an operation of TensorFlow",
    "tf1_simple_save":      TWIN,
    "tf1_ref_variables":    "reference type",
    "tf1_passthrough":      "more than once",
    "tf1_names":            "the converter says",
    "tf1_table_main_op":    STRINGS,
    "tf1_table_legacy":     STRINGS,
    "tf1_classify":         STRINGS,
    "tf1_regress":          STRINGS,
    "tf1_control_flow":     "the converter says: Graph does not contain node",
    "tf1_tags":             TWIN,
    "tf1_sparse_input":     "no signature that can be served",

    "too strict":           "converted, it gives other answers",
    "too large":            "do not fit LiteRT's 2 GB",
    "default alone":        "--signature NAME chooses another to answer in its place: pixels",
    "no such default":      "did you mean 'pixels'?",
    "it exists":            "it exists; --force replaces it",
    twins.PIXELS:           TWIN,

    "numbers":              TWIN,
    "cosine":               "(--largest 1e+08 converts it for smaller ones)",
    "cosine, smaller":      TWIN,
    "python_words":         TWIN,
    "optimizer_slots":      TWIN,
}
LEFT_OUT = {
    # model, signature              why
    ("dtype_float32", "any"):       "its input 'x' has no known rank, which LiteRT needs",
    (twins.PIXELS, "the original"): STRINGS,
    ("numbers", "'to_int16'"):      "converted, it gives other answers for numbers up to ±100000: output 'y' has",
    ("numbers", "'cos'"):           "converted, it gives other answers for numbers up to ±1e+09: output 'y' has",
    ("numbers", "'sin'"):           "converted, it gives other answers for numbers up to",
    ("cosine, smaller", "compared"): "for inputs up to ±1e+06 only",
}
# fmt: on


def test_the_table_has_every_model() -> None:
    assert set(ZOO) <= set(OUTCOMES)


@pytest.mark.parametrize("name", OUTCOMES)
def test_every_model_has_its_outcome(name: str) -> None:
    if name not in twins.results():
        pytest.skip("LITERT_ZOO=all converts it")
    became = twins.results()[name]
    if OUTCOMES[name] == TWIN:
        assert isinstance(became, list), became
        assert (twins.build() / name / "model.tflite").is_file()
    else:
        assert OUTCOMES[name] in became
        assert "\n" not in became


@pytest.mark.parametrize(("name", "signature"), LEFT_OUT)
def test_omitted_signatures_are_noted(name: str, signature: str) -> None:
    notes = [note for note in twins.results()[name] if signature in note]
    assert any(LEFT_OUT[name, signature] in note for note in notes)


@pytest.mark.parametrize("name", ["numbers", "python_words", "optimizer_slots"])
def test_a_twin_answers_numbers_of_any_size_as_tensorflow_does(name: str) -> None:
    problems = twins.results()["differences"][name]
    assert problems
    assert {signature: problem for signature, problem in problems.items() if problem} == (
        dict.fromkeys(("to_int16", "cos", "sin"), "UNCALLABLE") if name == "numbers" else {}
    )


def test_a_refusal_leaves_nothing_behind() -> None:
    made = {name for name, became in twins.results().items() if isinstance(became, list)} - {"left"}
    assert set(twins.results()["left"]) == made


def test_files_beside_a_twin_describe_the_twin() -> None:
    from exporting import manifest

    folder = twins.build() / twins.PIXELS
    assert manifest.differences(folder) == []
    assert (folder / "assets.extra" / "labels.txt").read_text() == (
        EMBEDDED / "assets.extra" / "labels.txt"
    ).read_text()
    examples = json.loads((folder / "assets.extra" / "examples.json").read_bytes())
    assert examples.keys() == {"pixels", "serving_default"}
    card = Source(folder, "model").card
    assert (card["source"], card["source_name"]) == ("bake --litert", EMBEDDED.name)
    assert card["source_digest"] == digest(EMBEDDED)
    assert {path.name for path in folder.iterdir()} == {
        "model.tflite",
        "signatures.json",
        "assets.extra",
        "README.md",
    }


# As the converter writes them, shortened.
MESSAGES = [
    ("error: 'tf.AddV2' op is neither a custom op nor a flex op\nDetails:\n"
     "\ttf.AddV2(tensor<?x?xf64>, tensor<f64>) -> (tensor<?x?xf64>) : {device = \"\"}\n",
     "LiteRT has no AddV2 of float64"),
    ("error: 'tf.A' op is neither a custom op nor a flex op\nerror: 'tf.B' op is neither a custom op nor a flex op\n"
     "\ttf.B(tensor<?x!tf_type.string>, tensor<*xcomplex<f32>>) -> (tensor<?xf32>) : {}\n",
     "LiteRT has no A, B of strings and complex64"),
    ("): 'tf.TensorListReserve' op requires element_shape to be static during TF Lite transformation pass\n",
     "LiteRT's TensorListReserve requires element_shape to be static"),
    ("something\nnew", "the converter says: something new"),
]  # fmt: skip


@pytest.mark.parametrize(("message", "line"), MESSAGES)
def test_a_message_of_the_converter_becomes_one_line(message: str, line: str) -> None:
    assert reason(message) == line


def commands(tmp_path: Path) -> list[tuple[list[str], str]]:
    model = str(build() / "dense_512")
    (tmp_path / "there").mkdir()
    return [
        # arguments                                                 what it says
        ([model, str(tmp_path / "there"), "--litert"],              "it exists; --force replaces it"),
        ([model, str(tmp_path / "out"), "--signature", "x"],        "--signature: expected --litert with it"),
        ([model, str(tmp_path / "out"), "--litert", "--keep-variables"], "not with --litert"),
        ([str(tmp_path / "no"), str(tmp_path / "out"), "--litert"], "there is no such folder"),
    ]  # fmt: skip


def test_commands_fail_with_one_clear_line(tmp_path: Path) -> None:
    for arguments, line in commands(tmp_path):
        done = python("-m", "exporting", "bake", *arguments)
        assert done.returncode in (1, 2), done.stderr
        assert line in done.stderr.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_a_twin_from_the_command_line_shows_figures(tmp_path: Path) -> None:
    out: Any = tmp_path / "out"
    done = python("-m", "exporting", "bake", "--litert", str(build() / "fixed_shape"), str(out))
    assert done.returncode == 0, done.stderr
    assert all(word in done.stdout for word in ("before", "after", "size", "load", "first call", "later calls"))
    assert all(line.startswith("bake: ") for line in done.stderr.splitlines())
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
