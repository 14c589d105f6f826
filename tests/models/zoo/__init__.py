"""Small SavedModels of every kind, each with the answers that TensorFlow's Python API gives.

    folder = build()                    made once, by `python -m tests.models.zoo.make` in a process of its own
    model = folder / "lookup_table"
    for case in cases("lookup_table"):  {"signature": "serving_default", "inputs": {"word": array([b"cat"])},
                                         "outputs": {"number": array([1])}, "error": None}

A case that fails has outputs None and the name of TensorFlow's status code as its error. A case with neither runs,
and its values are not decided. Strings are object arrays of bytes. Cases are in order, from a fresh load.
"""

import contextlib
import os
import pickle
import platform
import shutil
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from tests.models.once import digest, made_once

HERE = Path(__file__).resolve().parent

# fmt: off
DTYPES = (
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
    "float16", "float32", "float64", "bfloat16", "complex64", "complex128", "string",
)

# What is in build()/NAME, with cases in build()/NAME.cases.pkl.
ZOO = {
    **{f"dtype_{dtype}": f"{dtype}: extremes, ranks 0 to 8, empty and unknown shapes" for dtype in DTYPES},

    # Signatures, names and shapes
    "many_named":          "inputs and outputs of several dtypes, names that sort otherwise than declared",
    "odd_names":           "input and output names of spaces, dots, slashes, colons, Unicode",
    "passthrough":         "an output that is an input, two outputs that are one tensor",
    "constants":           "a constant, a scalar and a reduced output: no batch dimension",
    "no_inputs":           "a signature that takes nothing",
    "fixed_shape":         "an input of shape [2, 3], a batch size that is part of the model",
    "unnamed_output":      "an output without a name: TensorFlow calls it output_0",
    "default_values":      "an input with a default value in the SignatureDef",
    "shared_variables":    "three signatures over the same variables, none called serving_default",
    "sparse_input":        "a SparseTensor as input: TensorFlow 2 writes its three parts as plain inputs",
    "ragged_input":        "a RaggedTensor as input: TensorFlow 2 writes its two parts as plain inputs",
    "ragged_output":       "a RaggedTensor as output; no cases",
    "float8":              "a dtype that no protocol has; no cases",

    # Keras
    "keras_sequential":    "Keras Sequential, model.export",
    "keras_functional":    "Keras functional, two named inputs, two named outputs",
    "keras_subclassed":    "Keras subclassed, by ExportArchive, with two endpoints",
    "keras_string_lookup": "Keras StringLookup, vocabulary inside",
    "keras_text":          "Keras TextVectorization and Embedding: strings in, probabilities out",
    "keras_lstm":          "Keras LSTM over sequences of any length",
    "keras_attention":     "Keras MultiHeadAttention, a small one",
    "keras_convolution":   "Keras Conv2D, pooling, softmax: images of [None, 8, 8, 1]",

    # Graphs
    "dense_512":           "a dense layer of 512 x 512",
    "lookup_table":        "a StaticHashTable read from an asset file",
    "counter":             "impure: each call adds to a variable",
    "control_flow":        "while_loop, cond, map_fn, switch_case: one signature each",
    "xla":                 "a function with jit_compile=True",
    "random_stateful":     "impure: tf.random with a seed; values not decided",
    "random_stateless":    "tf.random.stateless_*: pure",
    "decode_image":        "encoded pictures as strings; junk fails",
    "parse_example":       "serialized tf.train.Examples; junk fails",
    "string_ops":          "lower, regex, join, split to dense",
    "ragged_inside":       "a RaggedTensor inside, dense output",
    "failures":            "reshape mismatch, tf.debugging.assert, gather out of range, division by zero, memory",
    "py_function":         "calls back into Python: fails wherever that Python process is not",
    "custom_op":           "an op from a library beside it, zero_out.so; absent without g++",

    # TensorFlow 1
    "tf1_simple_save":     "simple_save with resource variables",
    "tf1_ref_variables":   "reference variables, one of them fetched as such",
    "tf1_passthrough":     "a signature that feeds and fetches one tensor, feeds one twice, fetches one twice",
    "tf1_names":           "signature keys that only a builder can write, an empty one among them",
    "tf1_table_main_op":   "table and asset initialized by main_op",
    "tf1_table_legacy":    "table and asset initialized by legacy_init_op",
    "tf1_classify":        "classification signatures over serialized tf.Example: classes, scores, both",
    "tf1_regress":         "a regression signature over serialized tf.Example",
    "tf1_control_flow":    "while and cond of old: Enter, Exit, Switch, Merge",
    "tf1_tags":            "two metagraphs: serve doubles, serve+gpu triples; the cases are of serve",
    "tf1_sparse_input":    "a SparseTensor as input, written by a builder; no cases",
}

# What is in build()/broken/NAME: what should not be served, at least not as it is.
BROKEN = {
    "truncated_pb":        "the first half of a saved_model.pb",
    "empty_pb":            "saved_model.pb of zero bytes",
    "random_pb":           "saved_model.pb of random bytes",
    "html_pb":             "saved_model.pb is the HTML page of a failed download",
    "lfs_pb":              "saved_model.pb is a Git LFS pointer",
    "empty":               "an empty folder",
    "text_files":          "a folder of text files only",
    "keras_file":          "a folder with a .keras file instead of a SavedModel",
    "text_format":         "a good SavedModel in text form, saved_model.pbtxt; TensorFlow loads it",
    "no_variables":        "no variables folder; TensorFlow loads it, and fails at the first run",
    "no_index":            "variables without their index; TensorFlow loads it, and fails at the first run",
    "truncated_variables": "the first half of the variables' data",
    "no_asset":            "the vocabulary file is gone",
    "no_signatures":       "saved without functions: no signature to serve",
    "train_tag":           "only a metagraph tagged train",
    "unknown_op":          "uses an op that nobody registered",
    "dangling_output":     "signature affine names a tensor that the graph does not have",
}

# What is in build()/NAME/VERSION; each version answers y = x + VERSION for the float32 vector x.
VERSIONS = {
    "versions":            (1, 2, 10),
    "versions_with_junk":  (3, 9),  # beside them: 11 empty, 12 half-uploaded, v13, files
}
# fmt: on

IMPURE = ("counter", "random_stateful")


Array = np.ndarray[Any, Any]


class Case(TypedDict):
    signature: str
    inputs: dict[str, Array]
    outputs: dict[str, Array] | None
    error: str | None


SOURCES = ("entries.py", "make.py", "make_graphs.py", "make_keras.py", "make_signatures.py", "make_tf1.py")


@cache
def build() -> Path:
    """Return the folder of the zoo, made first if this content has never been made here."""
    return made_once("zoo", content(), "tests.models.zoo.make")


def cases(name: str) -> list[Case]:
    """Return what the model was asked and what it answered; nothing for an entry that is absent."""
    if absent(name):
        return []
    stored: list[Case] = pickle.loads((build() / f"{name}.cases.pkl").read_bytes())
    return stored


def absent(name: str) -> str | None:
    """Say why this machine could not make an entry, or None if it could."""
    path = build() / f"{name}.absent.txt"
    return path.read_text() if path.exists() else None


def content() -> str:
    """Hash what decides the zoo: its generator and names, the versions of TensorFlow and Keras, the machine, the kernels."""
    packages = []
    for package in ("tensorflow", "tensorflow-cpu", "keras"):
        with contextlib.suppress(PackageNotFoundError):
            packages.append(f"{package}={version(package)}")
    return digest(
        HERE / "__init__.py",
        *(HERE / name for name in SOURCES),
        *packages,
        f"{platform.machine()};{shutil.which('g++')};{os.environ.get('TF_ENABLE_ONEDNN_OPTS')}",
    )
