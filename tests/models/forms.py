"""A SavedModel with the kinds of inputs that a form asks for, made once by `python -m tests.models.forms FOLDER`: build().

Imports tensorflow where it makes it, so that runs in a process of its own.
"""

import os
import sys
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.models.once import digest, made_once

LABELS = ("spam", "news", "<b>other</b>")
PICTURE = (28, 28, 1)


@cache
def build() -> Path:
    """Return the folder of the model, made first if this source has never made it here."""
    return made_once("forms", digest(Path(__file__), version("numpy")), "tests.models.forms")


def _make(folder: Path) -> None:
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    import tensorflow as tf

    def of(**specs: tuple[Any, tuple[int | None, ...]]) -> Any:
        return tf.function(
            input_signature=[tf.TensorSpec((None, *shape), dtype, name) for name, (dtype, shape) in specs.items()]
        )

    @of(age=(tf.float32, ()), city=(tf.string, ()))
    def two(age: Any, city: Any) -> Any:
        tf.debugging.assert_less(age, 200.0, "too old")
        return {
            "greeting": tf.strings.join([city, " at ", tf.strings.as_string(tf.cast(age, tf.int32))]),
            "half": age / 2,
        }

    @of(text=(tf.string, ()))
    def words(text: Any) -> Any:
        lengths = tf.cast(tf.strings.length(text), tf.float32)[:, None]
        return {"probabilities": tf.nn.softmax(tf.concat([lengths, 5 - lengths, 0 * lengths], 1))}

    @of(count=(tf.int64, ()), is_new=(tf.bool, ()), sizes=(tf.float32, (3,)), grid=(tf.int32, (2, 2)))
    def kinds(count: Any, is_new: Any, sizes: Any, grid: Any) -> Any:
        return {
            "count": count + 0,
            "is_old": tf.logical_not(is_new),
            "sizes": sizes / tf.constant([1.0, 0.0, 1.0]),
            "sum": tf.reduce_sum(grid, [1, 2]),
        }

    @of(image=(tf.float32, PICTURE))
    def picture(image: Any) -> Any:
        return {"mean": tf.reduce_mean(image, [1, 2, 3])}

    signatures = {"serving_default": two, "words": words, "kinds": kinds, "picture": picture}
    tf.saved_model.save(tf.Module(), str(folder), signatures=signatures)
    extra = folder / "assets.extra"
    extra.mkdir()
    (extra / "labels.txt").write_text("\n".join(LABELS))


if __name__ == "__main__":
    _make(Path(sys.argv[1]))
