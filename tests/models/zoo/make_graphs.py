"""Entries of the zoo: what graphs can hold, such as tables, loops, pictures and custom operations."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tests.models.zoo.entries import (
    DEFAULT,
    Absent,
    Calls,
    ask_nobody,
    entry,
    entry_asking,
    example,
    float32,
    floats,
    function,
    int32,
    save,
    spec,
    text,
    vocabulary,
)


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
        row = parsed(examples)
        return {
            "sum": tf.reduce_sum(row["x"], 1),
            "word": row["word"],
            "ids": tf.sparse.to_dense(row["ids"]),
        }

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
