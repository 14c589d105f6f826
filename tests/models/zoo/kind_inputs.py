"""Models of kinds whose inputs must hold something: examples, indices, pictures, text, numbers."""

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tests.models.zoo.entries import (
    DEFAULT,
    Calls,
    ask_session,
    example,
    floats,
    function,
    save,
    spec,
    text,
    vocabulary,
)
from tests.models.zoo.kind_entries import STRINGS, entry, of_each, one_feature
from tests.models.zoo.make_tf1 import build_v1, predicts


@entry(ask_session)
def example_required(path: Path) -> Calls:
    with tf.Graph().as_default():
        examples, x = one_feature([None])
        build_v1(path, {DEFAULT: predicts({"inputs": examples}, {"outputs": x * 0.5})})
    return [(DEFAULT, {"inputs": text(example(x=[1.0]))})]


@entry(ask_session)
def example_any_rank(path: Path) -> Calls:
    with tf.Graph().as_default():
        examples, x = one_feature()
        build_v1(path, {DEFAULT: predicts({"inputs": examples}, {"outputs": x * 0.5})})
    return [(DEFAULT, {"inputs": text(example(x=[1.0]))})]


@entry()
def example_features(path: Path) -> Calls:
    features = {
        "pair": tf.io.FixedLenFeature([2], tf.float32),
        "word": tf.io.FixedLenFeature([], tf.string, "none"),
        "count": tf.io.FixedLenFeature([], tf.int64),
        "ids": tf.io.VarLenFeature(tf.int64),
        "steps": tf.io.FixedLenSequenceFeature([2], tf.float32, allow_missing=True),
        "tokens": tf.io.RaggedFeature(tf.string),
    }

    def parse(strings: Any) -> Any:
        parsed = tf.io.parse_example(strings, features)
        ids = tf.sparse.to_dense(parsed["ids"])
        return {
            "sum": tf.reduce_sum(parsed["pair"], 1) + tf.cast(parsed["count"], tf.float32),
            "word": parsed["word"],
            "ids": tf.reduce_sum(ids, 1),
            "steps": tf.reduce_sum(parsed["steps"], [1, 2]),
            "tokens": parsed["tokens"].row_lengths(),
        }

    save(path, serving_default=function(STRINGS)(parse))
    full = example(pair=[1.0, 2.0], word=[b"a"], count=[3], ids=[4, 5], steps=[1.0, 2.0, 3.0, 4.0], tokens=[b"x", b"y"])
    return [(DEFAULT, {"strings": text(full, example(pair=[1.0, 2.0], count=[1]))})]


@entry()
def example_single(path: Path) -> Calls:
    def one(serialized: Any) -> Any:
        features = {"x": tf.io.FixedLenFeature([2], tf.float32), "n": tf.io.FixedLenFeature([], tf.int64)}
        parsed = tf.io.parse_single_example(serialized, features)
        return parsed["x"] * tf.cast(parsed["n"], tf.float32)

    @function(STRINGS)
    def every(strings: Any) -> Any:
        return {"y": tf.map_fn(one, strings, fn_output_signature=tf.float32)}

    save(path, serving_default=every)
    return [(DEFAULT, {"strings": text(example(x=[1.0, 2.0], n=[3]))})]


@entry()
def example_sequence(path: Path) -> Calls:
    @function(STRINGS)
    def every(strings: Any) -> Any:
        context, sequence, _ = tf.io.parse_sequence_example(
            strings,
            {"n": tf.io.FixedLenFeature([], tf.int64)},
            {"x": tf.io.FixedLenSequenceFeature([2], tf.float32), "t": tf.io.VarLenFeature(tf.string)},
        )
        return {"y": tf.reduce_sum(sequence["x"], [1, 2]) + tf.cast(context["n"], tf.float32)}

    save(path, serving_default=every)
    steps = [tf.train.Feature(float_list=tf.train.FloatList(value=[1.0, 2.0]))] * 3
    message = tf.train.SequenceExample(
        context=tf.train.Example.FromString(example(n=[7])).features,
        feature_lists=tf.train.FeatureLists(feature_list={"x": tf.train.FeatureList(feature=steps)}),
    )
    return [(DEFAULT, {"strings": text(message.SerializeToString())})]


@entry()
def float_indices(path: Path) -> Calls:
    owner = tf.Module()
    owner.w = tf.Variable(floats(50, 4))

    @function(spec("x", tf.float32, [None, 25]))
    def embed(x: Any) -> Any:
        return {"y": tf.reduce_mean(tf.nn.embedding_lookup(owner.w, tf.cast(x, tf.int32)), 1)}

    save(path, owner=owner, serving_default=embed)
    return [(DEFAULT, {"x": np.arange(50, dtype=np.float32).reshape(2, 25)})]


@entry()
def picture_png(path: Path) -> Calls:
    of_each(path, lambda picture: tf.reduce_mean(tf.cast(tf.io.decode_png(picture, 3), tf.float32)))
    png = tf.io.encode_png(np.full((4, 5, 3), 7, np.uint8)).numpy()
    return [(DEFAULT, {"strings": text(png)})]


@entry()
def sound_wav(path: Path) -> Calls:
    of_each(path, lambda sound: tf.reduce_mean(tf.abs(tf.audio.decode_wav(sound)[0])))
    wav = tf.audio.encode_wav(np.full((16, 1), 0.5, np.float32), 8000).numpy()
    return [(DEFAULT, {"strings": text(wav)})]


@entry()
def web_safe_base64(path: Path) -> Calls:
    of_each(
        path, lambda encoded: tf.reduce_mean(tf.cast(tf.io.decode_png(tf.io.decode_base64(encoded), 3), tf.float32))
    )
    png = tf.io.encode_png(np.full((4, 5, 3), 7, np.uint8))
    return [(DEFAULT, {"strings": text(tf.io.encode_base64(png).numpy())})]


@entry()
def numbers_as_text(path: Path) -> Calls:
    save(path, serving_default=function(STRINGS)(lambda strings: {"y": tf.strings.to_number(strings) * 2.0}))
    return [(DEFAULT, {"strings": text(b"1.5", b"-2")})]


@entry()
def raw_bytes(path: Path) -> Calls:
    def decoded(strings: Any) -> Any:
        return {"y": tf.ensure_shape(tf.io.decode_raw(strings, tf.float32), [None, 3])}

    save(path, serving_default=function(STRINGS)(decoded))
    return [(DEFAULT, {"strings": text(floats(3).tobytes())})]


@entry()
def json_example(path: Path) -> Calls:
    def parse(strings: Any) -> Any:
        serialized = tf.io.decode_json_example(strings)
        return {"y": tf.io.parse_example(serialized, {"x": tf.io.FixedLenFeature([2], tf.float32)})["x"]}

    save(path, serving_default=function(STRINGS)(parse))
    return [(DEFAULT, {"strings": text(b'{"features": {"feature": {"x": {"floatList": {"value": [1, 2]}}}}}')})]


@entry()
def rank_unknown(path: Path) -> Calls:
    @function(tf.TensorSpec(None, tf.float32, "x"))
    def third(x: Any) -> Any:
        return {
            "y": tf.linalg.matmul(x, x, transpose_b=True)
            + tf.reduce_sum(tf.transpose(x, [0, 2, 1]), [1, 2], keepdims=True)
        }

    save(path, serving_default=third)
    return [(DEFAULT, {"x": floats(2, 3, 4)})]


@entry()
def vocabulary_strict(path: Path) -> Calls:
    owner = tf.Module()
    with vocabulary("Paris", "Rome") as file:
        owner.table = tf.lookup.StaticHashTable(
            tf.lookup.TextFileInitializer(
                file, tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER
            ),
            -1,
        )

        @function(STRINGS)
        def look(strings: Any) -> Any:
            ids = owner.table.lookup(strings)
            tf.debugging.assert_non_negative(ids)
            return {"y": ids}

        save(path, owner=owner, serving_default=look)
    return [(DEFAULT, {"strings": text(b"Rome")})]


@entry()
def same_length(path: Path) -> Calls:
    @function(spec("ids", tf.int32, [None, None]), spec("mask", tf.int32, [None, None]))
    def masked(ids: Any, mask: Any) -> Any:
        return {"y": tf.reduce_sum(ids * mask, 1)}

    save(path, serving_default=masked)
    return [(DEFAULT, {"ids": np.ones((2, 5), np.int32), "mask": np.ones((2, 5), np.int32)})]


@entry()
def ragged_parts(path: Path) -> Calls:
    ragged = tf.RaggedTensorSpec([None, None], tf.float32, 1, tf.int64)
    nested = tf.RaggedTensorSpec([None, None, None], tf.int64, 2, tf.int64)
    save(
        path,
        serving_default=function(ragged)(lambda r: {"y": tf.reduce_sum(r, 1)}),
        nested=function(nested)(lambda r: {"y": tf.reduce_sum(tf.reduce_sum(r, 2), 1)}),
    )
    return []


@entry()
def sparse_parts(path: Path) -> Calls:
    sparse = tf.SparseTensorSpec([None, 6], tf.float32)
    save(path, serving_default=function(sparse)(lambda s: {"y": tf.sparse.reduce_sum(s, 1)}))
    return []


@entry()
def csv_lines(path: Path) -> Calls:
    def parse(strings: Any) -> Any:
        count, price = tf.io.decode_csv(strings, [tf.constant([], tf.int32), tf.constant([], tf.float32)])
        return {"y": tf.cast(count, tf.float32) * price}

    save(path, serving_default=function(STRINGS)(parse))
    return [(DEFAULT, {"strings": text(b"2,1.5")})]
