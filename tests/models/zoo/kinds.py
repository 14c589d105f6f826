"""Models of the kinds that people really have, each with TensorFlow's own answers: the second half of the zoo.

folder = build()                          made once, by `python -m tests.models.zoo.make_kinds` in a process of its own
for case in cases("half_plus_three"):     as in tests.models.zoo
"""

import pickle
import platform
from functools import cache
from importlib.metadata import version
from pathlib import Path

from tests.models.once import digest, made_once
from tests.models.zoo import HERE, Case

# fmt: off
KINDS = {
    # Keras 3, by tf.saved_model.save: the restore fills copies of the variables that the signatures read
    "keras3_saved":         "a trained Keras 3 model with an optimizer, by tf.saved_model.save",
    "keras3_untrained":     "a Keras 3 model with Dropout and a seed, by tf.saved_model.save",
    "keras3_signatures":    "a Keras 3 model, by tf.saved_model.save with signatures=",
    "keras3_module":        "two Keras 3 models of the same names in one tf.Module, with variables of its own",
    "keras3_layer":         "one Keras 3 layer in a tf.Module",
    "keras3_text":          "Keras 3 TextVectorization, Embedding and LSTM, by tf.saved_model.save",
    "keras2_gru":           "a recurrent layer with kernels for a GPU beside it, as Keras 2 exports it",
    "variable_lost":        "a signature that reads a variable which was not saved with it",

    # TensorFlow 1
    "no_tensor_shape":      "signatures without shapes, one of them with a dtype that is not the graph's: half_plus_three",
    "output_dtype":         "a signature that declares an output of another dtype than the graph's",
    "pinned_to_gpu":        "nodes that name a GPU, as a builder leaves them without clear_devices",
    "table_collection":     "a table that only the collection table_initializer fills",
    "vocabulary_scoped":    "a vocabulary file whose table stands in a name scope",
    "vocabulary_twice":     "a vocabulary file that the list of assets names twice",
    "answers_nothing":      "TensorFlow 1: a variable that is not saved, so that every request fails",

    # What is reported
    "prints":               "a tf.print that was left in",
    "prints_to_a_file":     "a tf.print to a file; no cases",
    "trees":                "an operation without a kernel: BoostedTreesPredict; no cases",

    # What an input has to hold
    "example_required":     "a tf.Example whose feature has no default",
    "example_any_rank":     "the same, and the input has no rank",
    "example_features":     "tf.Examples: dense, sparse and ragged features, with and without defaults",
    "example_single":       "parse_single_example in a map",
    "example_sequence":     "tf.SequenceExamples",
    "float_indices":        "floats that are cast to the indices of an embedding of 50 rows",
    "picture_png":          "an encoded picture",
    "sound_wav":            "an encoded WAV file",
    "web_safe_base64":      "a picture in web-safe base64",
    "numbers_as_text":      "strings that are numbers",
    "raw_bytes":            "strings of 12 bytes: three floats",
    "json_example":         "strings that are tf.Examples in JSON",
    "rank_unknown":         "an input without a rank that has to have three dimensions",
    "vocabulary_strict":    "strings that have to be in the model's vocabulary",
    "same_length":          "two inputs of one free length",
    "ragged_parts":         "the parts of a ragged tensor",
    "sparse_parts":         "the parts of a sparse tensor",
    "csv_lines":            "lines of CSV with an integer and a float",
}
# fmt: on


@cache
def build() -> Path:
    """Return the folder of the models, made first if this content has never been made here."""
    versions = f"{version('tensorflow-cpu')} {version('keras')} {platform.machine()}"
    sources = ("entries.py", "kind_entries.py", "kind_inputs.py", "make_kinds.py", "make_tf1.py")
    content = digest(*(HERE / name for name in sources), versions)
    return made_once("kinds", content, "tests.models.zoo.make_kinds")


def cases(name: str) -> list[Case]:
    """Return what the model was asked and what TensorFlow answered."""
    content: list[Case] = pickle.loads((build() / f"{name}.cases.pkl").read_bytes())
    return content
