"""Small SavedModels whose answers show what reached them, made once by `python -m tests.pipeline.native.models FOLDER`.

folder = build()            folder / "types" is a SavedModel

Imports tensorflow where it makes them, so that runs in a process of its own.
"""

import os
import sys
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.models.once import digest, made_once

DTYPES = (
    "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
)  # fmt: skip
SHORT = ("float16", "bfloat16")
FUZZED = (*DTYPES, *SHORT, "bool")


@cache
def build() -> Path:
    """Return the folder of the models, made first if this source has never made it here."""
    return made_once("echoes", digest(Path(__file__), version("numpy")), "tests.pipeline.native.models")


def _make(folder: Path) -> None:
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    import tensorflow as tf

    def save(name: str, **signatures: Any) -> None:
        tf.saved_model.save(tf.Module(), str(folder / name), signatures=signatures)

    def of(*specs: Any) -> Any:
        return tf.function(input_signature=specs)

    def spec(name: str = "x", dtype: Any = tf.float32, shape: Any = (None,)) -> Any:
        return tf.TensorSpec(shape, dtype, name)

    def echo(dtype: Any = tf.float32, shape: Any = (None,)) -> Any:
        return of(spec("x", dtype, shape))(lambda x: {"y": tf.identity(x)})

    save("types", serving_default=echo(), **{name: echo(name) for name in (*DTYPES, *SHORT)}, bool=echo(tf.bool))
    save(
        "shapes",
        serving_default=echo(shape=(None, None)),
        three=echo(shape=(None, 3)),
        fixed=echo(tf.int32, (2, 3)),
        scalar=echo(tf.float64, ()),
        deep=echo(shape=(None, 2, None, 1)),
        deepest=echo(tf.int8, (None,) * 8),
        rank9=echo(tf.int8, (None,) * 9),
        any=echo(shape=None),
    )
    x, y = spec("x"), spec("y")
    save(
        "several",
        serving_default=of(spec("a"), spec("b", tf.int64, (None, 2)))(
            lambda a, b: {
                "sum": a + tf.cast(b[:, 0], tf.float32), "both": tf.identity(b), "above": a > 0,
                "wide": tf.cast(a, tf.float64) / 3, "é\"\\\n": tf.identity(a),
            }
        ),
        reduced=of(x)(lambda x: {"rows": tf.size(x), "sum": tf.reduce_sum(x)}),
        mixed=of(x)(lambda x: {"y": tf.identity(x), "sum": tf.reduce_sum(x)}),
        alone=of(x)(lambda x: {"sum": tf.reduce_sum(x)}),
        uneven=of(x)(lambda x: {"y": tf.identity(x), "first": x[:1]}),
        shorter=of(x)(lambda x: {"first": x[:1]}),
        longer=of(x)(lambda x: {"twice": tf.concat([x, x], 0), "again": tf.concat([x, x], 0)}),
        added=of(x, y)(lambda x, y: {"y": x + y}),
        scaled=of(x, spec("scale", shape=()))(lambda x, scale: {"y": x * scale}),
        scalars=of(spec("p", tf.int32, ()), spec("q", tf.uint8, ()))(
            lambda p, q: {"p": tf.identity(p), "q": tf.identity(q)}
        ),
        keyed=of(spec("key"), spec("b64"))(lambda key, b64: {"y": key - b64}),
        words=of(spec("inputs"), spec("instances"))(lambda inputs, instances: {"outputs": inputs - instances}),
        bools=of(x)(lambda x: {"above": x > 0}),
        decided=of(x)(lambda x: {"any": tf.reduce_any(x > 0)}),
    )  # fmt: skip
    matrix = spec("x", shape=(None, 2))
    save(
        "infinite",
        serving_default=of(x)(lambda x: {"y": 1 / x}),
        wide=of(spec("x", tf.float64))(lambda x: {"y": 1 / x}),
        rows=of(matrix)(lambda x: {"y": tf.math.sqrt(x)}),
        both=of(matrix)(
            lambda x: {
                "finite": x * 3, "root": tf.math.sqrt(x), "wide": 1 / tf.cast(x, tf.float64), "whole": tf.cast(x, tf.int32),
            }
        ),
        scalar=of(x)(lambda x: {"y": tf.reduce_sum(1 / x)}),
    )  # fmt: skip
    save(
        "unlike",
        serving_default=of(x)(lambda x: {"y": x[x > 0]}),
        hollow=of(x)(lambda x: {"y": tf.zeros([tf.size(x), 0])}),
        hollow_deep=of(x)(lambda x: {"y": tf.zeros([tf.size(x), 0, 2]), "z": tf.zeros([0, tf.size(x)], tf.int32)}),
        hollow_both=of(x)(lambda x: {"y": tf.zeros([tf.size(x), 0]), "x": tf.identity(x)}),
        rows=of(matrix)(lambda x: {"y": tf.boolean_mask(x, x[:, 0] > 0)}),
        rows_both=of(matrix)(
            lambda x: {"y": tf.boolean_mask(x, x[:, 0] > 0), "z": tf.boolean_mask(x[:, 1], x[:, 0] > 0) > 0}
        ),
        text=of(x)(lambda x: {"y": tf.strings.as_string(x)}),
        half=of(x)(lambda x: {"y": tf.cast(1 / x, tf.float16)}),
        brain=of(x)(lambda x: {"y": tf.cast(1 / x, tf.bfloat16)}),
        complex=of(x)(lambda x: {"y": tf.cast(x, tf.complex64)}),
        pairs=of(x)(lambda x: {"y": tf.reshape(x, [-1, 2])}),
        checked=of(x)(lambda x: {"y": tf.debugging.check_numerics(1 / x, "inverse")}),
        gathered=of(spec("x", tf.int32))(lambda x: {"y": tf.gather(tf.constant([1.5, 2.5]), x)}),
    )

    def text(name: str = "x", shape: Any = (None,)) -> Any:
        return spec(name, tf.string, shape)

    words = text()
    save(
        "strings",
        serving_default=of(words)(lambda x: {"y": tf.identity(x)}),
        raw=of(words)(lambda x: {"raw_bytes": tf.identity(x)}),
        both=of(words)(
            lambda x: {
                "text": tf.identity(x),
                "raw_bytes": tf.identity(x),
                "size": tf.strings.length(x),
                "b": tf.equal(x, ""),
            }
        ),
        mixed=of(text("a"), spec("b", tf.float32, (None, 2)))(lambda a, b: {"a": tf.identity(a), "b": 1 / b}),
        fixed=of(text(shape=(2, 2)))(lambda x: {"y": tf.identity(x)}),
        scalar=of(text(shape=()))(lambda x: {"y": tf.identity(x)}),
        matrix=of(text(shape=(None, None)))(lambda x: {"y": tf.identity(x)}),
        deep=of(text(shape=(None, 1, None)))(lambda x: {"y": tf.identity(x), "y_bytes": tf.identity(x)}),
        joined=of(words)(lambda x: {"all": tf.strings.reduce_join(x)}),
        halves=of(words)(lambda x: {"first": tf.strings.substr(x, 0, 1), "last": tf.strings.substr(x, -1, 1)}),
        counted=of(words)(lambda x: {"y": tf.strings.to_number(x)}),
        hollow=of(words)(lambda x: {"y": x[tf.strings.length(x) > 1]}),
        hollow_deep=of(words)(lambda x: {"y": tf.fill([tf.size(x), 0, 2], "never")}),
    )
    save(
        "named_b64",
        serving_default=of(text("b64"))(lambda b64: {"y": tf.identity(b64)}),
        scalar=of(text("b64", ()))(lambda b64: {"y": tf.identity(b64)}),
        matrix=of(text("b64", (None, None)))(lambda b64: {"y": tf.identity(b64)}),
        beside=of(text("b64"), text("key"))(lambda b64, key: {"y": tf.identity(b64), "key": tf.identity(key)}),
        number=of(spec("b64"))(lambda b64: {"y": tf.identity(b64)}),
    )

    # Each alone: an infer request goes to the default signature.
    save(
        "bytes_both",
        serving_default=of(words)(
            lambda x: {
                "text": tf.identity(x),
                "raw_bytes": tf.identity(x),
                "size": tf.strings.length(x),
                "b": tf.equal(x, ""),
            }
        ),
    )
    save(
        "bytes_mixed",
        serving_default=of(text("a"), spec("b", tf.float32, (None, 2)))(lambda a, b: {"a": tf.identity(a), "b": 1 / b}),
    )
    save("bytes_matrix", serving_default=of(text(shape=(None, None)))(lambda x: {"y": tf.identity(x)}))
    save("bytes_fixed", serving_default=of(text(shape=(2, 2)))(lambda x: {"y": tf.identity(x)}))
    save("bytes_scalar", serving_default=of(text(shape=()))(lambda x: {"y": tf.identity(x)}))
    save("number_scalar", serving_default=echo(shape=()))

    def pixels(x: Any) -> Any:
        return tf.size(tf.io.decode_image(x, expand_animations=False))

    save(
        "pictures",
        serving_default=of(words)(lambda x: {"size": tf.map_fn(pixels, x, tf.int32)}),
        two=of(text("a", ()), text("b"))(lambda a, b: {"a": pixels(a), "b": tf.strings.length(b)}),
        matrix=of(text(shape=(None, None)))(lambda x: {"size": tf.strings.length(x)}),
        unread=of(words)(lambda x: {"size": tf.strings.length(x)}),  # measured all the same
    )

    save(
        "fuzzed",  # all that the extension reads and writes, in as few signatures as it takes
        serving_default=of(spec("a", shape=(None, 2)), spec("b", tf.int64), text("s"))(
            lambda a, b, s: {
                "a": tf.identity(a), "b": tf.identity(b), "s": tf.identity(s), "s_bytes": tf.identity(s), "above": a > 0,
                "wide": 1 / tf.cast(a, tf.float64),
            }
        ),
        types=of([spec(name, name) for name in FUZZED])(
            lambda tensors: {name: tf.identity(tensor) for name, tensor in zip(FUZZED, tensors)}
        ),
        ranked=of(spec("x", shape=(None, 3)), text("names", (3,)))(
            lambda x, names: {"scores": 1 / x, "names": tf.identity(names)}
        ),
        matrix=echo(shape=(None, None)),
        cube=of(text(shape=(None, 1, None)))(lambda x: {"y": tf.identity(x)}),
        scalar=echo(tf.float64, ()),
        fixed=echo(tf.int32, (2, 3)),
        words=of(words)(lambda x: {"y": tf.identity(x)}),
        reduced=of(x)(lambda x: {"sum": tf.reduce_sum(x)}),
        shorter=of(x)(lambda x: {"first": x[:1], "all": tf.identity(x)}),
        inverse=of(x)(lambda x: {"y": 1 / x}),
        refused=of(x)(lambda x: {"y": tf.debugging.check_numerics(1 / x, "inverse")}),
        # For it, the headers of all pictures are read.
        decoded=of(text(shape=()), spec("b", tf.bool, ()))(lambda x, b: {"size": tf.where(b, pixels(x), 0)}),
    )  # fmt: skip

    three, names = spec("x", shape=(None, 3)), tf.constant(["a", 'é"\\\n', ""])
    ranked = {
        "serving_default": of(three)(lambda x: {"scores": 1 / x, "sum": tf.reduce_sum(x, 1), "whole": tf.cast(x, tf.int64)}),
        "named": of(three)(lambda x: {"scores": 1 / x, "names": tf.identity(names)}),
        "by_row": of(three)(lambda x: {"scores": 1 / x, "names": tf.strings.as_string(x), "more": tf.identity(names)}),
        "broken": of(three)(lambda x: {"scores": 1 / x, "names": tf.constant([b"a", b"\xff", b"c"])}),
        "two": of(three)(lambda x: {"best": 1 / x, "worst": -x}),
        "wide": of(three)(lambda x: {"scores": 1 / tf.cast(x, tf.float64)}),
        "half": of(three)(lambda x: {"scores": tf.cast(1 / x, tf.float16)}),
        "brain": of(three)(lambda x: {"scores": tf.cast(1 / x, tf.bfloat16)}),
        "none": of(three)(lambda x: {"sum": tf.reduce_sum(x, 1), "size": tf.size(x)}),
        "whole": of(three)(lambda x: {"scores": tf.cast(x, tf.int64)}),
        "deep": of(three)(lambda x: {"scores": tf.stack([x, -x], 1)}),
        "hollow": of(three)(lambda x: {"scores": tf.zeros([tf.size(x) // 3, 0])}),
        "shorter": of(three)(lambda x: {"scores": x[:1]}),
        "classes": of(spec("classes", shape=(None, None)))(lambda classes: {"classes": tf.identity(classes)}),
        "error": of(three)(lambda x: {"error": tf.identity(x), "key": tf.reduce_sum(x, 1)}),
    }  # fmt: skip
    save("ranked", **ranked)
    save("labelled", serving_default=ranked["serving_default"], named=ranked["named"], two=ranked["two"])
    extra = folder / "labelled" / "assets.extra"
    extra.mkdir()
    (extra / "labels.txt").write_text('cat\nété "\\\ndog\n')

    pair = spec("x", tf.uint32, (None, 2))
    save(
        "bits",  # of numbers: as whole numbers in, or out, so that what is read or written is one side alone
        serving_default=of(spec("x", tf.uint32))(lambda x: {"y": tf.bitcast(x, tf.float32)}),
        from64=of(pair)(lambda x: {"y": tf.bitcast(x, tf.float64)}),
        to32=of(x)(lambda x: {"y": tf.bitcast(x, tf.uint32)}),
        to64=of(spec("x", tf.float64))(lambda x: {"y": tf.bitcast(x, tf.uint32)}),
    )


if __name__ == "__main__":
    _make(Path(sys.argv[1]))
