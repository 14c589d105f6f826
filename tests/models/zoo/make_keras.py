"""Entries of the zoo: models of Keras."""

from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from tests.models.zoo.entries import DEFAULT, Calls, entry, floats, int32, text, vocabulary


def export(model: keras.Model, path: Path) -> None:
    model.export(str(path), format="tf_saved_model", verbose=False)


@entry
def keras_sequential(path: Path) -> Calls:
    layers = [keras.layers.Dense(8, "relu"), keras.layers.Dropout(0.5), keras.layers.Dense(3, "softmax")]
    model = keras.Sequential([keras.Input((4,), name="features"), *layers])
    export(model, path)
    return [(signature, {"features": floats(rows, 4)}) for signature in (DEFAULT, "serve") for rows in (0, 1, 33)]


@entry
def keras_functional(path: Path) -> Calls:
    wide, deep = keras.Input((2,), name="wide"), keras.Input((3,), name="deep", dtype="int32")
    embedded = keras.layers.Flatten()(keras.layers.Embedding(10, 4)(deep))
    joined = keras.layers.Concatenate()([wide, embedded])
    outputs = {"price": keras.layers.Dense(1)(joined), "kind": keras.layers.Dense(3, "softmax")(joined)}
    export(keras.Model({"wide": wide, "deep": deep}, outputs), path)
    return [
        (DEFAULT, {"wide": floats(3, 2), "deep": int32([[0, 1, 9]] * 3)}),
        (DEFAULT, {"wide": floats(1, 2), "deep": int32([[0, 1, 10]])}),
    ]


@keras.saving.register_keras_serializable("zoo")
class Subclassed(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.last = keras.layers.Dense(5, "tanh"), keras.layers.Dense(2)

    def call(self, x: Any) -> Any:
        return self.last(self.hidden(x))


@entry
def keras_subclassed(path: Path) -> Calls:
    model = Subclassed()
    model(floats(1, 3))
    archive = keras.export.ExportArchive()
    archive.track(model)
    features = [keras.InputSpec(shape=(None, 3), dtype="float32", name="x")]
    archive.add_endpoint("logits", model.call, input_signature=features)
    archive.add_endpoint("chosen", lambda x: {"index": tf.argmax(model(x), 1)}, input_signature=features)
    archive.write_out(str(path), verbose=False)
    return [(signature, {"x": floats(4, 3)}) for signature in (DEFAULT, "logits", "chosen")]


@entry
def keras_string_lookup(path: Path) -> Calls:
    word = keras.Input((1,), name="word", dtype="string")
    lookup = keras.layers.StringLookup(vocabulary=["cat", "dog", "水"], output_mode="one_hot")
    export(keras.Model(word, keras.layers.Dense(2)(lookup(word))), path)
    return [(DEFAULT, {"word": text(b"cat", "水".encode(), b"cow", b"").reshape(4, 1)})]


@entry
def keras_text(path: Path) -> Calls:
    with vocabulary("the", "cat", "sat") as words:
        vectorize = keras.layers.TextVectorization(output_sequence_length=6, vocabulary=words)
        sentence = keras.Input((), name="sentence", dtype="string")
        pooled = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(5, 4)(vectorize(sentence)))
        export(keras.Model(sentence, keras.layers.Dense(2, "softmax")(pooled)), path)
    return [(DEFAULT, {"sentence": text(b"The cat, sat!", b"", b"nobody knows these", b"cat " * 100)})]


@entry
def keras_lstm(path: Path) -> Calls:
    layers = [keras.layers.LSTM(6), keras.layers.Dense(2)]
    export(keras.Sequential([keras.Input((None, 3), name="steps"), *layers]), path)
    return [(DEFAULT, {"steps": floats(*shape)}) for shape in [(1, 1, 3), (2, 7, 3), (5, 50, 3)]]


@entry
def keras_attention(path: Path) -> Calls:
    tokens = keras.Input((None, 8), name="tokens")
    attended = keras.layers.MultiHeadAttention(2, 4)(tokens, tokens)
    normal = keras.layers.LayerNormalization()(keras.layers.Add()([tokens, attended]))
    export(keras.Model(tokens, keras.layers.GlobalAveragePooling1D()(normal)), path)
    return [(DEFAULT, {"tokens": floats(*shape)}) for shape in [(1, 1, 8), (3, 5, 8)]]


@entry
def keras_convolution(path: Path) -> Calls:
    layers = [
        keras.layers.Conv2D(4, 3, activation="relu"),
        keras.layers.BatchNormalization(),
        keras.layers.MaxPooling2D(2),
        keras.layers.Flatten(),
        keras.layers.Dense(10, "softmax"),
    ]
    export(keras.Sequential([keras.Input((8, 8, 1), name="image"), *layers]), path)
    return [(DEFAULT, {"image": floats(rows, 8, 8, 1)}) for rows in (1, 4)]
