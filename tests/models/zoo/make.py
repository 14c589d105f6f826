"""Write the zoo: `python -m tests.models.zoo.make FOLDER`. Imports tensorflow, so it runs in a process of its own.

An entry saves a SavedModel at the path it gets and returns what to ask of it. The answers are TensorFlow's own, asked
after saving: by `tf.saved_model.load(path).signatures`, and for TensorFlow 1 by a session. ZOO tells what each is.
"""

import os

os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1", "KERAS_BACKEND": "tensorflow"}

import pickle
import random
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import keras
import ml_dtypes
import numpy as np
import tensorflow as tf
from google.protobuf import text_format
from tensorflow.core.protobuf import error_codes_pb2, saved_model_pb2

from tests.models.zoo import BROKEN, DTYPES, VERSIONS, ZOO, Array, Case

v1 = tf.compat.v1
SERVE = [v1.saved_model.tag_constants.SERVING]
DEFAULT = "serving_default"
BIG = 1 << 20
float32, int32 = (partial(np.array, dtype=dtype) for dtype in (np.float32, np.int32))

Calls = list[tuple[str, dict[str, Any]]]  # signature, inputs
Make = Callable[[Path], Calls]
Ask = Callable[[Path, Calls], list[Case]]


class Absent(Exception):
    """This machine cannot make the entry."""


@dataclass(frozen=True)
class Entry:
    make: Make
    ask: Ask


ENTRIES: dict[str, Entry] = {}


# ---- The oracle


def ask_signatures(path: Path, calls: Calls) -> list[Case]:
    if not calls:
        return []
    loaded = tf.saved_model.load(str(path), tags=SERVE)

    def run(signature: str, inputs: dict[str, Any]) -> dict[str, Any]:
        function = loaded.signatures[signature]
        specs = function.structured_input_signature[1]
        outputs = function(**{name: tf.constant(value, specs[name].dtype) for name, value in inputs.items()})
        return {name: tensor.numpy() for name, tensor in outputs.items()}

    return [case(run, signature, inputs) for signature, inputs in calls]


def ask_session(path: Path, calls: Calls) -> list[Case]:
    with tf.Graph().as_default(), v1.Session() as session:
        signatures = v1.saved_model.load(session, SERVE, str(path)).signature_def

        def run(signature: str, inputs: dict[str, Any]) -> dict[str, Any]:
            of = signatures[signature]
            fetches = {name: info.name for name, info in of.outputs.items()}
            outputs: dict[str, Any] = session.run(fetches, {of.inputs[name].name: inputs[name] for name in inputs})
            return outputs

        return [case(run, signature, inputs) for signature, inputs in calls]


def ask_nobody(error: str | None = None) -> Ask:
    """Make cases that no oracle answers: failures with that error, or values that are not decided."""

    def ask(path: Path, calls: Calls) -> list[Case]:
        return [Case(signature=name, inputs=to_arrays(inputs), outputs=None, error=error) for name, inputs in calls]

    return ask


def case(run: Callable[[str, dict[str, Any]], dict[str, Any]], signature: str, inputs: dict[str, Any]) -> Case:
    outputs, error = None, None
    arrays = to_arrays(inputs)
    try:
        outputs = to_arrays(dict(sorted(run(signature, arrays).items())))
    except tf.errors.OpError as failure:
        error = error_codes_pb2.Code.Name(failure.error_code)
    return Case(signature=signature, inputs=arrays, outputs=outputs, error=error)


def to_arrays(values: dict[str, Any]) -> dict[str, Array]:
    return {name: np.array(value, object if is_text(value) else None) for name, value in values.items()}


def is_text(value: Any) -> bool:
    return isinstance(value, bytes) or np.asarray(value).dtype.kind in "OSU"


# ---- The registry, and what the entries are written with


def entry(make: Make) -> Make:
    ENTRIES[make.__name__] = Entry(make, ask_signatures)
    return make


def entry_asking(ask: Ask) -> Callable[[Make], Make]:
    def register(make: Make) -> Make:
        ENTRIES[make.__name__] = Entry(make, ask)
        return make

    return register


def spec(name: str, dtype: Any = tf.float32, shape: Any = (None,)) -> tf.TensorSpec:
    return tf.TensorSpec(shape, dtype, name)


def function(*specs: Any, **options: Any) -> Callable[[Callable[..., Any]], Any]:
    decorate: Callable[[Callable[..., Any]], Any] = tf.function(input_signature=specs, **options)
    return decorate


def save(path: Path, *, owner: tf.Module | None = None, **signatures: Any) -> None:
    tf.saved_model.save(owner or tf.Module(), str(path), signatures=signatures)


def text(*values: bytes) -> Array:
    return np.array(values, object)


def floats(*shape: int) -> Array:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def example(**features: list[Any]) -> bytes:
    def feature(values: list[Any]) -> tf.train.Feature:
        if isinstance(values[0], bytes):
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
        if isinstance(values[0], int):
            return tf.train.Feature(int64_list=tf.train.Int64List(value=values))
        return tf.train.Feature(float_list=tf.train.FloatList(value=values))

    named = {name: feature(values) for name, values in features.items()}
    return bytes(tf.train.Example(features=tf.train.Features(feature=named)).SerializeToString(deterministic=True))


@contextmanager
def vocabulary(*words: str) -> Iterator[str]:
    """Lend a file of words, gone afterwards: what loads it later has to find the asset's copy."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "words.txt")
        path.write_text("".join(f"{word}\n" for word in words))
        yield str(path)


# ---- Every dtype


NAN, INF = float("nan"), float("inf")
TEXTS = text(
    b"", b"a", b"a\0b", b"\0", b"\xff\xfe\x80", "äß水🐟".encode(), b'"\\/\n\t\x7f', b" ",
    *(bytes(range(65, 65 + length)) for length in (15, 16, 22, 23, 24, 25)),  # TF_TString is inline up to 22
)  # fmt: skip


def extremes(dtype: tf.DType) -> Array:
    if dtype == tf.string:
        return TEXTS
    kind = dtype.as_numpy_dtype
    if dtype == tf.bool:
        return np.array([True, False, False])
    if dtype.is_integer:
        return np.array([0, 1, 100, dtype.min, dtype.max, dtype.max - 1], kind)
    values = np.array([0, -0.0, 1, -1.5, 1 / 3, NAN, INF, -INF], kind)
    if dtype.is_complex:
        return np.concatenate([values, (values[::-1] * 1j).astype(kind), np.array([3 - 4j, complex(NAN, -INF)], kind)])
    smallest = ml_dtypes.finfo(kind).tiny, ml_dtypes.finfo(kind).smallest_subnormal
    limits = np.array([dtype.min, dtype.max, *smallest], kind)
    return np.concatenate([values, limits])


def dtype_entry(name: str) -> None:
    dtype = tf.as_dtype(name)

    def more(x: tf.Tensor) -> tf.Tensor:
        if dtype == tf.string:
            return tf.strings.length(x)
        return tf.logical_not(x) if dtype == tf.bool else x + x

    def of(shape: Any) -> Any:
        return function(spec("x", dtype, shape))(lambda x: {"y": tf.identity(x), "more": more(x)})

    def make(path: Path) -> Calls:
        save(path, scalar=of([]), vector=of([None]), matrix=of([None, None]), any=of(None))
        values = extremes(dtype)

        def call(signature: str, *shape: int) -> tuple[str, dict[str, Any]]:
            return signature, {"x": np.resize(values, shape) if np.prod(shape) else np.empty(shape, values.dtype)}

        return [
            *(("scalar", {"x": value}) for value in values),
            ("vector", {"x": values}),
            ("any", {"x": values}),
            *(call("vector", size) for size in (0, 1, 1000)),
            *(call("matrix", *shape) for shape in [(2, 3), (1, 1), (0, 3), (2, 0), (0, 0), (70, 3)]),
            *(call("any", *range(1, 1 + rank)) for rank in range(6)),
            *(call("any", *shape) for shape in [(0,), (0, 3), (2, 0), (2, 0, 3), (1, 2, 1, 2, 1, 2, 1, 3)]),
            *([("scalar", {"x": b"\0\xff" * (BIG // 2)})] if dtype == tf.string else []),
            *([("vector", {"x": text(b"", b"x" * BIG, b"y")})] if dtype == tf.string else []),
        ]

    ENTRIES[f"dtype_{name}"] = Entry(make, ask_signatures)


for dtype_name in DTYPES:
    dtype_entry(dtype_name)


# ---- Signatures, names and shapes


@entry
def many_named(path: Path) -> Calls:
    @function(spec("zebra"), spec("apple", tf.int64, (None, 2)), spec("Mango", tf.string), spec("Flag_", tf.bool, ()))
    def many(zebra: Any, apple: Any, mango: Any, flag: Any) -> Any:
        chosen = tf.where(flag, zebra, -zebra)
        return {"z_sum": tf.reduce_sum(apple, 1), "a_text": mango + b"!", "M": chosen, "not": tf.logical_not(flag)}

    save(path, serving_default=many)
    given = {"zebra": float32([1.5, -2]), "apple": np.array([[1, 2], [1 << 40, 3]]), "Mango": text(b"x", b"")}
    return [(DEFAULT, given | {"Flag_": flag}) for flag in (True, False)]


@entry_asking(ask_session)  # loaded in Python, the first input has another name: my_x_1_a
def odd_names(path: Path) -> Calls:
    @function(spec("my-x.1/a"), spec("instances"), spec("UPPER"), spec("x_1"))
    def odd(first: Any, second: Any, third: Any, fourth: Any) -> Any:
        names = ["x y", "é水", "a/b", "a.b", "with:0", 'quote"', "back\\slash", "tab\t", "{}", "0"]
        return {name: first + second + third + fourth + place for place, name in enumerate(names)}

    save(path, serving_default=odd)
    return [(DEFAULT, {"my-x.1/a": floats(2), "instances": floats(2), "UPPER": floats(2), "x_1": floats(2)})]


@entry
def passthrough(path: Path) -> Calls:
    @function(spec("x"), spec("s", tf.string))
    def aliases(x: Any, s: Any) -> Any:
        twice = x * 2
        return {"x": x, "x_again": x, "s": s, "one": twice, "two": twice}

    save(path, serving_default=aliases)
    return [(DEFAULT, {"x": floats(rows), "s": np.resize(TEXTS, rows)}) for rows in (1, 3, 100)]


@entry
def constants(path: Path) -> Calls:
    @function(spec("x", shape=(None, 2)))
    def reduced(x: Any) -> Any:
        return {
            "constant": tf.constant([b"cat", b"dog"]),
            "scalar": tf.reduce_mean(x),
            "columns": tf.reduce_sum(x, 0),
            "rows": tf.shape(x)[0],
            "empty": tf.zeros([0, 4]),
        }

    save(path, serving_default=reduced)
    return [(DEFAULT, {"x": floats(rows, 2)}) for rows in (1, 2, 5)]


@entry
def no_inputs(path: Path) -> Calls:
    save(path, serving_default=function()(lambda: {"answer": tf.constant(42), "name": tf.constant(b"zoo")}))
    return [(DEFAULT, {})]


@entry
def fixed_shape(path: Path) -> Calls:
    save(path, serving_default=function(spec("x", shape=(2, 3)))(lambda x: {"y": tf.transpose(x)}))
    return [(DEFAULT, {"x": floats(2, 3)})]


@entry
def unnamed_output(path: Path) -> Calls:
    save(path, serving_default=function(spec("x"))(lambda x: x * 2))
    return [(DEFAULT, {"x": floats(3)})]


@entry
def default_values(path: Path) -> Calls:
    @function(spec("x"), spec("scale", shape=()))
    def scaled(x: Any, scale: Any = tf.constant(2.0)) -> Any:  # noqa: B008 - how TensorFlow spells a default
        return {"y": x * scale}

    save(path, serving_default=scaled)
    return [(DEFAULT, {"x": floats(3), "scale": float32(scale)}) for scale in (2, 10)]


class Shared(tf.Module):
    def __init__(self) -> None:
        self.weight = tf.Variable(floats(3, 2), name="weight")
        self.bias = tf.Variable([0.5, -0.5], name="bias")

    @function(spec("x", shape=(None, 3)))
    def affine(self, x: Any) -> Any:
        return {"y": x @ self.weight + self.bias}

    @function(spec("x", shape=(None, 3)))
    def linear(self, x: Any) -> Any:
        return {"y": x @ self.weight}

    @function()
    def parameters(self) -> Any:
        return {"weight": self.weight.read_value(), "bias": self.bias.read_value()}


@entry
def shared_variables(path: Path) -> Calls:
    model = Shared()
    save(path, owner=model, affine=model.affine, linear=model.linear, parameters=model.parameters)
    return [("affine", {"x": floats(4, 3)}), ("linear", {"x": floats(4, 3)}), ("parameters", {})]


@entry
def sparse_input(path: Path) -> Calls:
    sparse = tf.SparseTensorSpec([None, 3], tf.float32)
    save(path, serving_default=function(sparse)(lambda s: {"y": tf.sparse.to_dense(s)}))
    # TensorFlow 2 writes its parts as plain inputs: indices, values, shape
    parts = {"s_1": float32([1, 2]), "s_2": np.array([4, 3])}
    return [(DEFAULT, parts | {"s": np.array([[0, 0], last])}) for last in ([3, 2], [4, 0], [-1, 0])]


@entry
def ragged_input(path: Path) -> Calls:
    ragged = tf.RaggedTensorSpec([None, None], tf.float32)
    save(path, serving_default=function(ragged)(lambda r: {"y": r.to_tensor()}))
    # TensorFlow 2 writes its parts as plain inputs: values, row splits. It believes the splits: with one beyond the
    # values it answers with whatever lies behind them in memory, so there is no such case
    return [(DEFAULT, {"r": floats(5), "r_1": np.array([0, 2, 2, 5])})]


@entry
def ragged_output(path: Path) -> Calls:
    save(path, serving_default=function(spec("x", tf.string))(lambda x: {"words": tf.strings.split(x), "x": x}))
    return []


@entry
def float8(path: Path) -> Calls:
    float8 = tf.dtypes.experimental.float8_e4m3fn
    save(path, serving_default=function(spec("x", float8))(lambda x: {"y": tf.identity(x)}))
    return []


# ---- Keras


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


# ---- Graphs


@entry
def dense_512(path: Path) -> Calls:
    model = tf.Module()
    model.weight = tf.Variable(floats(512, 512) / 23)
    affine = function(spec("x", shape=(None, 512)))(lambda x: {"y": tf.nn.relu(x @ model.weight)})
    save(path, owner=model, serving_default=affine)
    return [(DEFAULT, {"x": floats(rows, 512)}) for rows in (1, 64)]


def table_of(words: str) -> tf.lookup.StaticHashTable:
    whole_line, line_number = tf.lookup.TextFileIndex.WHOLE_LINE, tf.lookup.TextFileIndex.LINE_NUMBER
    source = tf.lookup.TextFileInitializer(words, tf.string, whole_line, tf.int64, line_number)
    return tf.lookup.StaticHashTable(source, default_value=-1)


@entry
def lookup_table(path: Path) -> Calls:
    model = tf.Module()
    with vocabulary("ant", "bee", "cat") as words:
        model.table = table_of(words)
        find = function(spec("word", tf.string))(lambda word: {"number": model.table.lookup(word)})
        save(path, owner=model, serving_default=find)
    return [(DEFAULT, {"word": text(b"cat", b"ant", b"cow", b"")})]


@entry
def counter(path: Path) -> Calls:
    model = tf.Module()
    model.count = tf.Variable(0, dtype=tf.int64)
    add = function(spec("by", tf.int64, ()))(lambda by: {"count": model.count.assign_add(by)})
    read = function()(lambda: {"count": model.count.read_value()})
    save(path, owner=model, serving_default=add, read=read)
    return [("read", {}), (DEFAULT, {"by": 1}), (DEFAULT, {"by": 10}), ("read", {})]


@entry
def control_flow(path: Path) -> Calls:
    @function(spec("n", tf.int64, ()))
    def loop(n: Any) -> Any:
        _, total = tf.while_loop(lambda i, _: i < n, lambda i, total: (i + 1, total + i), (tf.zeros_like(n), n * 0))
        return {"total": total}

    @function(spec("x"), spec("flag", tf.bool, ()))
    def branch(x: Any, flag: Any) -> Any:
        return {"y": tf.cond(flag, lambda: tf.sort(x), lambda: tf.zeros([0]))}

    @function(spec("x", shape=(None, None)))
    def mapped(x: Any) -> Any:
        return {"y": tf.map_fn(tf.reduce_max, x)}

    @function(spec("x"), spec("which", tf.int32, ()))
    def switch(x: Any, which: Any) -> Any:
        return {"y": tf.switch_case(which, [lambda: x, lambda: -x, lambda: x * x])}

    save(path, loop=loop, branch=branch, mapped=mapped, switch=switch)
    return [
        *(("loop", {"n": np.int64(n)}) for n in (0, 1, 1000)),
        *(("branch", {"x": floats(5), "flag": flag}) for flag in (True, False)),
        *(("mapped", {"x": floats(*shape)}) for shape in [(3, 4), (1, 1)]),
        *(("switch", {"x": floats(3), "which": int32(which)}) for which in (0, 1, 2, 7, -1)),
    ]


@entry
def xla(path: Path) -> Calls:
    @function(spec("x", shape=(None, 4)), jit_compile=True)
    def compiled(x: Any) -> Any:
        return {"y": tf.nn.softmax(x @ tf.constant(floats(4, 4)))}

    save(path, serving_default=compiled)
    return [(DEFAULT, {"x": floats(rows, 4)}) for rows in (1, 3)]


@entry_asking(ask_nobody())
def random_stateful(path: Path) -> Calls:
    draw = function(spec("x"))(lambda x: {"y": x + tf.random.uniform(tf.shape(x), seed=7)})
    save(path, serving_default=draw)
    return [(DEFAULT, {"x": floats(3)})] * 2


@entry
def random_stateless(path: Path) -> Calls:
    draw = function(spec("seed", tf.int32, (2,)))(lambda seed: {"y": tf.random.stateless_normal([3], seed)})
    save(path, serving_default=draw)
    return [(DEFAULT, {"seed": int32(seed)}) for seed in ([1, 2], [1, 2], [3, 4])]


@entry
def decode_image(path: Path) -> Calls:
    @function(spec("image_bytes", tf.string))
    def mean_colour(image_bytes: Any) -> Any:
        def one(encoded: Any) -> Any:
            picture = tf.io.decode_image(encoded, channels=3, expand_animations=False, dtype=tf.float32)
            return tf.reduce_mean(picture, [0, 1])

        return {"colour": tf.map_fn(one, image_bytes, fn_output_signature=tf.TensorSpec([3], tf.float32))}

    @function(spec("png", tf.string, ()))
    def pixels(png: Any) -> Any:
        return {"pixels": tf.io.decode_png(png)}

    save(path, serving_default=mean_colour, pixels=pixels)
    picture = np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3) * 4
    png, jpeg = tf.io.encode_png(picture).numpy(), tf.io.encode_jpeg(picture).numpy()
    return [
        (DEFAULT, {"image_bytes": text(png, jpeg)}),
        (DEFAULT, {"image_bytes": text(png, b"junk")}),
        (DEFAULT, {"image_bytes": text(b"")}),
        ("pixels", {"png": png}),
        ("pixels", {"png": png[: len(png) // 2]}),
        ("pixels", {"png": b"junk"}),
    ]


def parsed(examples: Any) -> Any:
    features = {
        "x": tf.io.FixedLenFeature([2], tf.float32),
        "word": tf.io.FixedLenFeature([], tf.string, default_value=b"none"),
        "ids": tf.io.VarLenFeature(tf.int64),
    }
    return tf.io.parse_example(examples, features)


@entry
def parse_example(path: Path) -> Calls:
    @function(spec("examples", tf.string))
    def parse(examples: Any) -> Any:
        found = parsed(examples)
        return {"sum": tf.reduce_sum(found["x"], 1), "word": found["word"], "ids": tf.sparse.to_dense(found["ids"])}

    save(path, serving_default=parse)
    full, bare = example(x=[1.0, 2.5], word=[b"cat"], ids=[7, 8]), example(x=[3.0, 4.0])
    missing, wrong = example(word=[b"dog"]), example(x=[1, 2])
    given = [(full, bare), (bare,), (full, missing), (wrong,), (b"junk",)]
    return [(DEFAULT, {"examples": text(*examples)}) for examples in given] + [(DEFAULT, {"examples": text()})]


@entry
def string_ops(path: Path) -> Calls:
    @function(spec("s", tf.string))
    def work(s: Any) -> Any:
        return {
            "lower": tf.strings.lower(s, "utf-8"),
            "clean": tf.strings.regex_replace(s, r"[^a-z]+", "-"),
            "joined": tf.strings.reduce_join(s, separator="|"),
            "words": tf.strings.split(s).to_tensor(b"."),
            "length": tf.strings.length(s, "UTF8_CHAR"),
            "bytes": tf.io.decode_raw(tf.strings.substr(s + b"....", 0, 4), tf.uint8),
        }

    save(path, serving_default=work)
    return [(DEFAULT, {"s": text(*given)}) for given in [(b"A cat sat", b"", "ÄÖ b".encode()), (b"one",), ()]]


@entry
def ragged_inside(path: Path) -> Calls:
    @function(spec("values"), spec("lengths", tf.int64))
    def means(values: Any, lengths: Any) -> Any:
        ragged = tf.RaggedTensor.from_row_lengths(values, lengths)
        return {"mean": tf.reduce_sum(ragged, 1), "dense": ragged.to_tensor(-1)}

    save(path, serving_default=means)
    return [(DEFAULT, {"values": floats(5), "lengths": np.array(lengths)}) for lengths in ([2, 0, 3], [5], [2, 9])]


@entry
def failures(path: Path) -> Calls:
    @function(spec("x"))
    def reshape(x: Any) -> Any:
        return {"y": tf.reshape(x, [-1, 3])}

    @function(spec("x"))
    def check(x: Any) -> Any:
        with tf.control_dependencies([tf.debugging.assert_positive(x, "only positive numbers")]):
            return {"y": tf.sqrt(x)}

    @function(spec("index", tf.int32))
    def gather(index: Any) -> Any:
        return {"y": tf.gather(tf.constant([10.0, 20.0, 30.0]), index)}

    @function(spec("a", tf.int32), spec("b", tf.int32))
    def divide(a: Any, b: Any) -> Any:
        return {"y": a // b}

    @function(spec("a"), spec("b"))
    def add(a: Any, b: Any) -> Any:
        return {"y": a + b}

    @function(spec("size", tf.int64, ()))
    def allocate(size: Any) -> Any:
        return {"y": tf.reverse(tf.range(size), [0])[:2]}

    @function(spec("s", tf.string))
    def number(s: Any) -> Any:
        return {"y": tf.strings.to_number(s)}

    save(path, reshape=reshape, check=check, gather=gather, divide=divide, add=add, allocate=allocate, number=number)
    return [
        *(("reshape", {"x": floats(size)}) for size in (6, 7)),
        *(("check", {"x": float32(x)}) for x in ([1, 4], [1, -4])),
        *(("gather", {"index": int32(index)}) for index in ([0, 2], [3], [-1])),
        *(("divide", {"a": int32([7, 8]), "b": int32(b)}) for b in ([2, 3], [0, 1])),
        *(("add", {"a": floats(2), "b": floats(size)}) for size in (2, 1, 3)),
        *(("allocate", {"size": np.int64(size)}) for size in (10, -1)),
        ("allocate", {"size": np.int64(1 << 62)}),  # 1 << 50 fails too, after TensorFlow has retried for 10 s
        *(("number", {"s": text(s)}) for s in (b"1.5", b"nan", b"one", b"")),
    ]


@entry_asking(ask_nobody("INVALID_ARGUMENT"))
def py_function(path: Path) -> Calls:
    doubled = function(spec("x"))(lambda x: {"y": tf.py_function(lambda value: value * 2, [x], tf.float32)})
    save(path, serving_default=doubled)
    return [(DEFAULT, {"x": floats(3)})]


ZERO_OUT = r"""
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"
using namespace tensorflow;
REGISTER_OP("ZooZeroOut").Input("x: float").Output("y: float").SetShapeFn([](shape_inference::InferenceContext* c) {
  c->set_output(0, c->input(0));
  return absl::OkStatus();
});
class ZooZeroOut : public OpKernel {
 public:
  explicit ZooZeroOut(OpKernelConstruction* context) : OpKernel(context) {}
  void Compute(OpKernelContext* context) override {
    const Tensor& x = context->input(0);
    Tensor* y = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, x.shape(), &y));
    for (int64_t i = 0; i < x.NumElements(); ++i) y->flat<float>()(i) = i ? 0 : x.flat<float>()(i);
  }
};
REGISTER_KERNEL_BUILDER(Name("ZooZeroOut").Device(DEVICE_CPU), ZooZeroOut);
"""


@entry
def custom_op(path: Path) -> Calls:
    if not shutil.which("g++"):
        raise Absent("no g++ on this machine")
    path.mkdir()
    source, library = path / "zero_out.cc", path / "zero_out.so"
    source.write_text(ZERO_OUT)
    flags = [*tf.sysconfig.get_compile_flags(), *tf.sysconfig.get_link_flags()]
    command = ["g++", "-shared", "-fPIC", "-O0", "-w", str(source), "-o", str(library), *flags]
    if subprocess.run(command, stderr=subprocess.DEVNULL).returncode:
        raise Absent("g++ could not compile an op against TensorFlow's headers")
    op = tf.load_op_library(str(library))
    save(path, serving_default=function(spec("x"))(lambda x: {"y": op.zoo_zero_out(x=x)}))
    return [(DEFAULT, {"x": floats(4)})]


# ---- TensorFlow 1


def info(tensor: Any) -> Any:
    return v1.saved_model.utils.build_tensor_info(tensor)


def predicts(inputs: dict[str, Any], outputs: dict[str, Any]) -> Any:
    named = ({name: info(tensor) for name, tensor in tensors.items()} for tensors in (inputs, outputs))
    return v1.saved_model.build_signature_def(*named, "tensorflow/serving/predict")


def build_v1(path: Path, signatures: dict[str, Any], tags: list[str] = SERVE, **options: Any) -> None:
    """Save the default graph, its variables freshly initialized."""
    builder = v1.saved_model.Builder(str(path))
    with v1.Session() as session:
        session.run([v1.global_variables_initializer(), v1.tables_initializer()])
        assets = v1.get_collection(v1.GraphKeys.ASSET_FILEPATHS)
        options = {"assets_collection": assets or None} | options
        builder.add_meta_graph_and_variables(session, tags, signatures, **options)
    builder.save()


@entry_asking(ask_session)
def tf1_simple_save(path: Path) -> Calls:
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None, 3], "x")
        weight = v1.get_variable("weight", initializer=floats(3, 2))
        session.run(v1.global_variables_initializer())
        v1.saved_model.simple_save(session, str(path), {"x": x}, {"y": x @ weight})
    return [(DEFAULT, {"x": floats(rows, 3)}) for rows in (0, 2)]


@entry_asking(ask_session)
def tf1_ref_variables(path: Path) -> Calls:
    with tf.Graph().as_default():
        x = v1.placeholder(tf.float32, [None, 3], "x")
        weight = v1.get_variable("weight", initializer=floats(3, 2), use_resource=False)
        reference = weight._ref()  # dtype float32_ref: DT_FLOAT_REF in the SignatureDef
        build_v1(path, {DEFAULT: predicts({"x": x}, {"y": x @ weight, "weight": reference})})
    return [(DEFAULT, {"x": floats(2, 3)})]


@entry_asking(ask_session)
def tf1_passthrough(path: Path) -> Calls:
    with tf.Graph().as_default():
        x = v1.placeholder(tf.float32, [None], "x")
        twice = x * 2
        fed = predicts({"x": x}, {"x": x, "twice": twice})
        fed_only = predicts({"x": x}, {"x": x})
        same = predicts({"x": x}, {"one": twice, "two": twice})
        # An input may be any tensor, not only a placeholder
        inner = predicts({"twice": twice}, {"y": twice + 1})
        twins = predicts({"a": x, "b": x}, {"y": twice})
        build_v1(path, {"fed": fed, "fed_only": fed_only, "same": same, "inner": inner, "twins": twins})
    calls: Calls = [(name, {"x": floats(2)}) for name in ("fed", "fed_only", "same")]
    return [*calls, ("inner", {"twice": floats(2)}), ("twins", {"a": floats(2), "b": floats(2)})]


@entry_asking(ask_session)
def tf1_names(path: Path) -> Calls:
    names = ["", " ", "é水", "a/b:0", 'quote"', "\n", "x" * 300]
    with tf.Graph().as_default():
        inputs = {name: v1.placeholder(tf.float32, [None]) for name in names}
        outputs = {name: inputs[name] + place for place, name in enumerate(names)}
        build_v1(path, {"": predicts(inputs, outputs), "a b/c:é": predicts(inputs, outputs)})
    return [(signature, {name: floats(2) for name in names}) for signature in ("", "a b/c:é")]


def table_v1(path: Path, initialized_by: str) -> Calls:
    with tf.Graph().as_default(), vocabulary("ant", "bee", "cat") as words:
        word = v1.placeholder(tf.string, [None], "word")
        number = table_of(words).lookup(word)
        build_v1(path, {DEFAULT: predicts({"word": word}, {"number": number})}, **{
            initialized_by: v1.tables_initializer()})  # fmt: skip
    return [(DEFAULT, {"word": text(b"cat", b"cow")})]


@entry_asking(ask_session)
def tf1_table_main_op(path: Path) -> Calls:
    return table_v1(path, "main_op")


@entry_asking(ask_session)
def tf1_table_legacy(path: Path) -> Calls:
    return table_v1(path, "legacy_init_op")


@entry_asking(ask_session)
def tf1_classify(path: Path) -> Calls:
    with tf.Graph().as_default():
        examples = v1.placeholder(tf.string, [None], "examples")
        scores = tf.nn.softmax(parsed(examples)["x"] @ v1.get_variable("weight", initializer=floats(2, 3)))
        classes = tf.tile(tf.constant([[b"ant", b"bee", b"cat"]]), [tf.shape(scores)[0], 1])
        classify = v1.saved_model.classification_signature_def
        signatures = {
            DEFAULT: classify(examples, classes, scores),
            "scores": classify(examples, None, scores),
            "classes": classify(examples, classes, None),
        }
        build_v1(path, signatures)
    given = text(example(x=[1.0, 2.0]), example(x=[0.0, -1.0]))
    calls: Calls = [(signature, {"inputs": given}) for signature in (DEFAULT, "scores", "classes")]
    return [*calls, (DEFAULT, {"inputs": text(b"junk")}), (DEFAULT, {"inputs": text(example(word=[b"x"]))})]


@entry_asking(ask_session)
def tf1_regress(path: Path) -> Calls:
    with tf.Graph().as_default():
        examples = v1.placeholder(tf.string, [None], "examples")
        value = parsed(examples)["x"] @ v1.get_variable("weight", initializer=floats(2, 1))
        build_v1(path, {DEFAULT: v1.saved_model.regression_signature_def(examples, value)})
    return [(DEFAULT, {"inputs": text(example(x=[1.0, 2.0]), example(x=[0.0, -1.0]))})]


@entry_asking(ask_session)
def tf1_control_flow(path: Path) -> Calls:
    v1.disable_control_flow_v2()
    try:
        with tf.Graph().as_default():
            n, x = v1.placeholder(tf.int32, [], "n"), v1.placeholder(tf.float32, [None], "x")
            _, powers = v1.while_loop(lambda i, _: i < n, lambda i, value: (i + 1, value * x), (0, tf.ones_like(x)))
            chosen = v1.cond(n > 2, lambda: powers, lambda: -powers)
            build_v1(path, {DEFAULT: predicts({"n": n, "x": x}, {"powers": powers, "chosen": chosen})})
    finally:
        v1.enable_control_flow_v2()
    return [(DEFAULT, {"n": int32(n), "x": floats(3)}) for n in (0, 2, 5)]


@entry_asking(ask_session)
def tf1_tags(path: Path) -> Calls:
    builder = v1.saved_model.Builder(str(path))
    for factor, tags in ((2, ["serve"]), (3, ["serve", "gpu"])):
        with tf.Graph().as_default(), v1.Session() as session:
            x = v1.placeholder(tf.float32, [None], "x")
            offset = v1.get_variable("offset", initializer=0.5)
            session.run(v1.global_variables_initializer())
            signatures = {DEFAULT: predicts({"x": x}, {"y": x * factor + offset})}
            if factor == 2:
                builder.add_meta_graph_and_variables(session, tags, signatures)
            else:
                builder.add_meta_graph(tags, signatures)
    builder.save()
    return [(DEFAULT, {"x": floats(2)})]


@entry_asking(ask_session)
def tf1_sparse_input(path: Path) -> Calls:
    with tf.Graph().as_default():
        sparse = v1.sparse_placeholder(tf.float32, [None, 3])
        build_v1(path, {DEFAULT: predicts({"s": sparse}, {"y": tf.sparse.to_dense(sparse)})})
    return []


# ---- Broken on purpose, and versions


def break_things(zoo: Path) -> None:
    broken = zoo / "broken"

    def copy(source: str, name: str) -> Path:
        return Path(shutil.copytree(zoo / source, broken / name))

    def pb(name: str, content: bytes) -> None:
        (copy("shared_variables", name) / "saved_model.pb").write_bytes(content)

    def folder(name: str, **files: str) -> Path:
        (broken / name).mkdir(parents=True)
        for file, content in files.items():
            (broken / name / file.replace("_", ".")).write_text(content)
        return broken / name

    good = (zoo / "shared_variables" / "saved_model.pb").read_bytes()
    assert b"AddV2" in good
    pb("truncated_pb", good[: len(good) // 2])
    pb("empty_pb", b"")
    pb("random_pb", random.Random(1).randbytes(5000))
    pb("html_pb", b"<!DOCTYPE html>\n<html><head><title>404</title></head><body>Not Found</body></html>\n")
    pb("lfs_pb", b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 123456\n")
    pb("unknown_op", good.replace(b"AddV2", b"AddV9"))
    folder("empty")
    folder("text_files", README_md="# A model\n", model_txt="weights: many\n")
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(folder("keras_file") / "model.keras")

    message = saved_model_pb2.SavedModel.FromString(good)
    message.meta_graphs[0].signature_def["affine"].outputs["y"].name = "Nowhere:0"
    pb("dangling_output", message.SerializeToString(deterministic=True))
    written = copy("shared_variables", "text_format") / "saved_model.pb"
    message = saved_model_pb2.SavedModel.FromString(good)
    written.with_suffix(".pbtxt").write_text(text_format.MessageToString(message))
    written.unlink()

    shutil.rmtree(copy("dense_512", "no_variables") / "variables")
    (copy("dense_512", "no_index") / "variables" / "variables.index").unlink()
    (data,) = copy("dense_512", "truncated_variables").glob("variables/*.data-*")
    os.truncate(data, data.stat().st_size // 2)
    (asset,) = copy("lookup_table", "no_asset").glob("assets/*")
    asset.unlink()

    tf.saved_model.save(tf.Module(), str(broken / "no_signatures"))
    with tf.Graph().as_default():
        x = v1.placeholder(tf.float32, [None], "x")
        bias = v1.get_variable("bias", initializer=1.0)
        build_v1(broken / "train_tag", {DEFAULT: predicts({"x": x}, {"y": x + bias})}, ["train"])
    assert set(BROKEN) == {path.name for path in broken.iterdir()}


def number_versions(zoo: Path) -> None:
    def add(path: Path, version: int) -> None:
        save(path, serving_default=function(spec("x"))(lambda x: {"y": x + version}))

    for name, versions in VERSIONS.items():
        for version in versions:
            add(zoo / name / str(version), version)
    junk = zoo / "versions_with_junk"
    (junk / "11").mkdir()
    (junk / "12" / "variables").mkdir(parents=True)
    (junk / "12" / "variables" / "variables.index").write_bytes(b"")
    add(junk / "v13", 13)
    (junk / "README.md").write_text("# Versions\n")
    (junk / "14").write_text("a file, not a version\n")
    (junk / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")


def main(zoo: Path) -> None:
    assert set(ENTRIES) == set(ZOO), set(ENTRIES) ^ set(ZOO)
    warnings.simplefilter("ignore")
    v1.logging.set_verbosity(v1.logging.ERROR)
    tf.autograph.set_verbosity(0)
    for name, entry in ENTRIES.items():
        keras.utils.set_random_seed(1)
        try:
            calls = entry.make(zoo / name)
        except Absent as reason:
            shutil.rmtree(zoo / name, ignore_errors=True)
            (zoo / f"{name}.absent.txt").write_text(str(reason))
            continue
        (zoo / f"{name}.cases.pkl").write_bytes(pickle.dumps(entry.ask(zoo / name, calls)))
    break_things(zoo)
    number_versions(zoo)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
