"""Entries of the zoo: every dtype, and signatures with their names and shapes."""

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import tensorflow as tf

from tests.models.zoo import DTYPES, Array
from tests.models.zoo.entries import (
    BIG,
    DEFAULT,
    ENTRIES,
    Calls,
    Entry,
    ask_session,
    ask_signatures,
    entry,
    entry_asking,
    float32,
    floats,
    function,
    save,
    spec,
    text,
)

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
        return {name: first + second + third + fourth + number for number, name in enumerate(names)}

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
