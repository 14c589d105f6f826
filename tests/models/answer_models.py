"""SavedModels that invite a wrong answer, made once by `python -m tests.models.answer_models FOLDER`: build() / NAME.

Imports tensorflow where it makes them, so that runs in a process of its own.
"""

import os
import sys
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.models.once import digest, made_once


@cache
def build() -> Path:
    """Return the folder of the models, made first if this source has never made it here."""
    return made_once("answers", digest(Path(__file__), version("numpy")), "tests.models.answer_models")


def _make(folder: Path) -> None:
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    import tensorflow as tf

    v1 = tf.compat.v1

    def save(name: str, **signatures: Any) -> None:
        tf.saved_model.save(tf.Module(), str(folder / name), signatures=signatures)

    def of(*specs: Any) -> Any:
        return tf.function(input_signature=specs)

    def spec(name: str = "x", dtype: Any = tf.float32, shape: Any = (None,)) -> Any:
        return tf.TensorSpec(shape, dtype, name)

    strings = spec("s", tf.string)
    save(
        "fields",
        serving_default=of(spec())(lambda x: {"key": x * 2, "y": x}),
        key=of(spec())(lambda x: {"key": x * 2}),
        error=of(spec())(lambda x: {"error": x * 2, "y": x}),
        classes=of(spec("x", shape=(None, 3)))(lambda x: {"scores": x}),
    )
    save(
        "rows",
        serving_default=of(spec())(lambda x: {"y": x[1:]}),
        two=of(spec())(lambda x: {"a": x, "b": x[1:]}),
        fixed=of(spec())(lambda x: {"y": tf.zeros([2]) + tf.reduce_sum(x)}),
        positive=of(spec())(lambda x: {"y": tf.boolean_mask(x, x > 0)}),
        text=of(strings)(lambda s: {"y": tf.strings.split(s).flat_values}),
        scores=of(spec("x", shape=(None, 3)))(lambda x: {"scores": x, "names": tf.constant(["a", "b", "c"])}),
        refuses=of(spec())(lambda x: {"y": tf.reduce_mean(tf.debugging.check_numerics(x, "bad"), keepdims=True)}),
    )

    # Twice a row that runs alone, and more for most of those that run together.
    save("together", serving_default=of(spec())(lambda x: {"y": x + tf.reduce_max(x)}))

    def picture(data: Any) -> Any:
        return tf.size(tf.io.decode_image(data, expand_animations=False))

    @of(spec("x"), spec("l", tf.int64))
    def ragged(x: Any, l: Any) -> Any:  # noqa: E741
        return {"y": tf.RaggedTensor.from_row_lengths(x, l).to_tensor()}

    pictures = of(strings)(lambda s: {"n": tf.map_fn(picture, s, fn_output_signature=tf.int32)})
    examples = of(strings)(lambda s: {"a": tf.io.parse_example(s, {"a": tf.io.FixedLenFeature([], tf.float32)})["a"]})
    save(
        "refuses",
        serving_default=of(strings)(lambda s: {"a": tf.strings.to_number(s)}),
        picture=pictures, example=examples, ragged=ragged,
        base64=of(strings)(lambda s: {"a": tf.strings.length(tf.io.decode_base64(s))}),
    )  # fmt: skip
    with v1.Graph().as_default(), v1.Session() as session:
        words = v1.placeholder(tf.string, [None], "s")
        v1.saved_model.simple_save(
            session, str(folder / "refuses_tf1"), {"s": words}, {"y": tf.strings.to_number(words)}
        )
    with v1.Graph().as_default(), v1.Session() as session:
        table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(["a", "b"], [1, 2]), -1)
        words = v1.placeholder(tf.string, [None], "x")
        indices = table.lookup(words)
        v1.get_default_graph().clear_collection(v1.GraphKeys.TABLE_INITIALIZERS)  # a server would run what is in it
        v1.saved_model.simple_save(session, str(folder / "no_table"), {"x": words}, {"y": indices})

    @of(spec("x"), spec("scale", shape=()))
    def scaled(x: Any, scale: Any = tf.constant(2.0)) -> Any:  # noqa: B008 - how TensorFlow spells a default
        return {"y": x * scale}

    @of(spec("x"), spec("by"))
    def by_rows(x: Any, by: Any = tf.constant([3.0])) -> Any:  # noqa: B008
        return {"y": x * by}

    save("defaults", serving_default=scaled, by_rows=by_rows)
    with v1.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None], "x")
        scale = v1.placeholder_with_default(tf.constant(2.0), [], "scale")
        words = v1.placeholder_with_default(tf.constant(["a"]), [None], "words")
        outputs = {"y": x * scale, "n": tf.strings.length(words)}
        v1.saved_model.simple_save(
            session, str(folder / "defaults_tf1"), {"x": x, "scale": scale, "words": words}, outputs
        )
    with v1.Graph().as_default(), v1.Session() as session:
        x, rate = v1.placeholder(tf.float32, [None], "x"), v1.placeholder(tf.float32, [], "training/rate")
        v1.saved_model.simple_save(session, str(folder / "unfed"), {"x": x}, {"y": x * rate})
    save("columns", serving_default=of(spec(shape=(3, None)))(lambda x: {"y": tf.transpose(x)}))
    save("short", serving_default=of(spec())(lambda x: {"y": tf.cast(x, tf.dtypes.experimental.float8_e5m2)}))
    save("ragged_out", serving_default=of(strings)(lambda s: {"words": tf.strings.split(s)}))
    save(
        "complex",
        serving_default=of(spec("x", tf.complex64))(lambda x: {"y": tf.math.real(x)}),
        plain=of(spec())(lambda x: {"y": x}),
    )


if __name__ == "__main__":
    _make(Path(sys.argv[1]))
