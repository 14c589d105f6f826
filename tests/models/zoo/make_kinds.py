"""Write the models of tests.models.zoo.kinds: `python -m tests.models.zoo.make_kinds FOLDER`; in a process of its own."""

import pickle
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from tests.models.zoo import kind_inputs
from tests.models.zoo.entries import (
    DEFAULT,
    Calls,
    ask_nobody,
    ask_session,
    example,
    floats,
    function,
    save,
    spec,
    text,
)
from tests.models.zoo.kind_entries import ENTRIES, ROWS, ask_softly, ask_with_tables, entry, one_feature, v1
from tests.models.zoo.kinds import KINDS
from tests.models.zoo.make_tf1 import build_v1, predicts


def net() -> keras.Model:
    layers = (
        keras.layers.Dense(4, name="first"),
        keras.layers.BatchNormalization(name="normal"),
        keras.layers.Dropout(0.5, seed=3),
        keras.layers.Dense(2, name="last"),
    )
    return keras.Sequential([keras.Input((3,), name="x"), *layers], name="net")


@entry()
def keras3_saved(path: Path) -> Calls:
    model = net()
    model.compile("adam", "mse")
    model.fit(floats(64, 3), floats(64, 2), epochs=2, verbose=0)
    tf.saved_model.save(model, str(path))
    return [(DEFAULT, {"inputs": floats(rows, 3)}) for rows in (1, 3, 0)]


@entry()
def keras3_untrained(path: Path) -> Calls:
    tf.saved_model.save(net(), str(path))
    return [(DEFAULT, {"inputs": floats(rows, 3)}) for rows in (1, 3)]


@entry()
def keras3_signatures(path: Path) -> Calls:
    model = net()
    tf.saved_model.save(model, str(path), signatures=function(ROWS)(lambda x: {"y": model(x)}))
    return [(DEFAULT, {"x": floats(3, 3)})]


class Two(tf.Module):
    def __init__(self) -> None:
        self.one, self.other = net(), net()
        self.scale = tf.Variable(3.0, name="net/first/kernel")
        self.unnamed = tf.Variable(2.0)

    @function(ROWS)
    def both(self, x: Any) -> Any:
        return {"y": self.one(x) * self.scale + self.other(x) * self.unnamed}

    @function(ROWS)
    def second(self, x: Any) -> Any:
        return {"y": self.other(x)}


@entry()
def keras3_module(path: Path) -> Calls:
    module = Two()
    tf.saved_model.save(module, str(path), signatures={DEFAULT: module.both, "second": module.second})
    return [(name, {"x": floats(3, 3)}) for name in (DEFAULT, "second")]


class Layer(tf.Module):
    def __init__(self) -> None:
        self.layer = keras.layers.Dense(2)
        self.layer.build((None, 3))

    @function(ROWS)
    def serve(self, x: Any) -> Any:
        return {"y": self.layer(x)}


@entry()
def keras3_layer(path: Path) -> Calls:
    module = Layer()
    tf.saved_model.save(module, str(path), signatures=module.serve)
    return [(DEFAULT, {"x": floats(3, 3)})]


@entry()
def keras3_text(path: Path) -> Calls:
    words = keras.Input((), dtype="string", name="words")
    ids = keras.layers.TextVectorization(10, output_sequence_length=4, vocabulary=["the", "cat"])(words)
    state = keras.layers.LSTM(3)(keras.layers.Embedding(12, 3)(ids))
    tf.saved_model.save(keras.Model(words, keras.layers.Dense(1)(state)), str(path))
    return [(DEFAULT, {"inputs": text(b"the cat", b"a dog", b"")})]


class Recurrent(tf.Module):
    """A layer as Keras 2 exports it: one function that runs, one to run instead on a GPU, and one for training there."""

    def __init__(self) -> None:
        super().__init__()
        steps = spec("x", tf.float32, [None, 2, 3])

        def preferred(device: str, body: Callable[[Any], Any]) -> Any:
            attributes = {"api_implements": "gru", "api_preferred_device": device}
            return function(steps, experimental_attributes=attributes)(body)

        self.standard = preferred("CPU", standard_gru)
        self.on_a_gpu = preferred("GPU", gpu_gru)
        self.backward = preferred("GPU", backward_gpu_gru)
        self.serve = function(steps)(lambda x: {"y": self.standard(x)})


def standard_gru(x: Any) -> Any:
    return tf.tanh(tf.math.cumsum(x, axis=1))


def gpu_gru(x: Any) -> Any:
    layer = {"input": x, "input_h": x, "input_c": x, "params": [0.0], "rnn_mode": "gru"}
    return tf.raw_ops.CudnnRNNV3(**layer, sequence_lengths=[2])[0]


def backward_gpu_gru(x: Any) -> Any:
    layer = {"input": x, "input_h": x, "input_c": x, "params": [0.0], "rnn_mode": "gru"}
    names = ("output", "output_h", "output_c", "output_backprop", "output_h_backprop", "output_c_backprop")
    return tf.raw_ops.CudnnRNNBackprop(**layer, **dict.fromkeys(names, x), reserve_space=[0.0])[0]


def name_the_passes(graph: Any) -> None:
    for kept in graph.graph_def.library.function:
        if "backward" in kept.signature.name:
            kept.attr["forward_function_name"].s = b"__forward_gpu_gru"


@entry()
def keras2_gru(path: Path) -> Calls:
    module = Recurrent()
    tf.saved_model.save(module, str(path), signatures=module.serve)
    edit(path, name_the_passes)
    return [(DEFAULT, {"x": floats(rows, 2, 3)}) for rows in (1, 3)]


@entry(ask_nobody("FAILED_PRECONDITION"))
def variable_lost(path: Path) -> Calls:
    class Empty(tf.Module):
        pass

    module = Layer()
    tf.saved_model.save(
        module, str(path), signatures={"lost": module.serve, "kept": function(ROWS)(lambda x: {"y": x})}
    )
    edit(path, cut_copies)
    return []


def edit(path: Path, change: Callable[[Any], None]) -> None:
    """Change the graph of a SavedModel."""
    file = path / "saved_model.pb"
    message = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    change(message.meta_graphs[0])
    file.write_bytes(message.SerializeToString(deterministic=True))


def cut_copies(graph: Any) -> None:
    """Leave out what says which copy belongs to which variable."""
    kept = [node for node in graph.graph_def.node if not node.name.endswith(("/Assign", "/Initializer/ReadVariableOp"))]
    del graph.graph_def.node[:]
    graph.graph_def.node.extend(kept)


def bare(graph: Any) -> None:
    for signature in graph.signature_def.values():
        for info in (*signature.inputs.values(), *signature.outputs.values()):
            info.ClearField("tensor_shape")
    graph.signature_def["tensorflow/serving/regress"].inputs["inputs"].dtype = 1


@entry(ask_session)
def no_tensor_shape(path: Path) -> Calls:
    with tf.Graph().as_default():
        examples, parsed = one_feature([None])
        x = tf.identity(parsed, "x")
        y = tf.identity(x * v1.get_variable("w", initializer=0.5) + 3.0, "y")
        regress = predicts({"inputs": examples}, {"outputs": y})
        regress.method_name = "tensorflow/serving/regress"
        build_v1(path, {DEFAULT: predicts({"x": x}, {"y": y}), "tensorflow/serving/regress": regress})
    edit(path, bare)
    rows = text(example(x=[1.0]), example(x=[2.0]))
    return [(DEFAULT, {"x": floats(2, 1)}), ("tensorflow/serving/regress", {"inputs": rows})]


@entry(ask_session)
def output_dtype(path: Path) -> Calls:
    with tf.Graph().as_default():
        x = v1.placeholder(tf.float32, [None], "x")
        build_v1(path, {DEFAULT: predicts({"x": x}, {"y": tf.cast(x, tf.int64)})})
    edit(path, lambda graph: setattr(graph.signature_def[DEFAULT].outputs["y"], "dtype", 1))
    return [(DEFAULT, {"x": floats(4)})]


@entry(ask_softly)
def pinned_to_gpu(path: Path) -> Calls:
    with tf.Graph().as_default():
        with tf.device("/device:GPU:0"):
            x = v1.placeholder(tf.float32, [None, 3], "x")
            y = x @ v1.get_variable("w", initializer=floats(3, 2), use_resource=False)
        with v1.Session(config=v1.ConfigProto(allow_soft_placement=True)) as session:
            session.run(v1.global_variables_initializer())
            builder = v1.saved_model.Builder(str(path))
            builder.add_meta_graph_and_variables(session, ["serve"], {DEFAULT: predicts({"x": x}, {"y": y})})
            builder.save()
    return [(DEFAULT, {"x": floats(3, 3)})]


@entry(ask_with_tables)
def table_collection(path: Path) -> Calls:
    with tf.Graph().as_default():
        words = v1.placeholder(tf.string, [None], "words")
        keys, values = tf.constant(["cat", "dog"]), tf.constant([1, 2], tf.int64)
        table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(keys, values), -1)
        build_v1(path, {DEFAULT: predicts({"words": words}, {"ids": table.lookup(words)})})
    return [(DEFAULT, {"words": text(b"dog", b"cat", b"bird")})]


def vocabulary_v1(path: Path, scope: str, *, added: bool) -> Calls:
    """Save a table of a file; with `added` the program itself adds the file to the collection, as the table does."""
    with tempfile.NamedTemporaryFile(suffix=".txt") as file, tf.Graph().as_default(), v1.Session() as session:
        Path(file.name).write_text("cat\ndog\n")
        words, filename = v1.placeholder(tf.string, [None], "words"), tf.constant(file.name)
        if added:
            v1.add_to_collection(v1.GraphKeys.ASSET_FILEPATHS, filename)
        line, number = tf.lookup.TextFileIndex.WHOLE_LINE, tf.lookup.TextFileIndex.LINE_NUMBER
        with tf.name_scope(scope):
            made = tf.lookup.TextFileInitializer(filename if added else file.name, tf.string, line, tf.int64, number)
            table = tf.lookup.StaticHashTable(made, -1)
        session.run(v1.tables_initializer())
        builder = v1.saved_model.Builder(str(path))
        builder.add_meta_graph_and_variables(
            session,
            ["serve"],
            {DEFAULT: predicts({"words": words}, {"ids": table.lookup(words)})},
            assets_collection=v1.get_collection(v1.GraphKeys.ASSET_FILEPATHS),
            main_op=v1.tables_initializer(),
        )
        builder.save()
    return [(DEFAULT, {"words": text(b"dog", b"cat", b"bird")})]


@entry(ask_session)
def vocabulary_scoped(path: Path) -> Calls:
    return vocabulary_v1(path, "features/lookup", added=False)


@entry(ask_session)
def vocabulary_twice(path: Path) -> Calls:
    return vocabulary_v1(path, "lookup", added=True)


@entry(ask_nobody())
def answers_nothing(path: Path) -> Calls:
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None], "x")
        kept, lost = (v1.get_variable(name, initializer=2.0, use_resource=True) for name in ("kept", "lost"))
        session.run(v1.global_variables_initializer())
        builder = v1.saved_model.Builder(str(path))
        signatures = {DEFAULT: predicts({"x": x}, {"y": x * lost * kept})}
        builder.add_meta_graph_and_variables(session, ["serve"], signatures, saver=v1.train.Saver([kept]))
        builder.save()
    return []


def printing(path: Path, **options: Any) -> None:
    @function(spec("x"))
    def printing(x: Any) -> Any:
        tf.print(x, **options)
        return {"y": x * 2.0}

    save(path, serving_default=printing)


@entry()
def prints(path: Path) -> Calls:
    printing(path)
    return [(DEFAULT, {"x": floats(3)})]


@entry(ask_nobody())
def prints_to_a_file(path: Path) -> Calls:
    printing(path, output_stream="file:///tmp/printed-by-a-model")
    return []


@entry(ask_nobody())
def trees(path: Path) -> Calls:
    save(path, serving_default=function(spec("x"))(lambda x: {"y": x * 2.0}))

    def as_trees(graph: Any) -> None:
        for body in graph.graph_def.library.function:
            for node in body.node_def:
                if node.op == "Mul":
                    node.op = "BoostedTreesBucketize"

    edit(path, as_trees)
    return []


MODULES = (kind_inputs,)  # which registers its entries


def main(folder: Path) -> None:
    assert set(ENTRIES) == set(KINDS), set(ENTRIES) ^ set(KINDS)
    warnings.simplefilter("ignore")
    tf.compat.v1.logging.set_verbosity(tf.compat.v1.logging.ERROR)
    tf.autograph.set_verbosity(0)
    for name, kind in ENTRIES.items():
        keras.utils.set_random_seed(1)
        (folder / f"{name}.cases.pkl").write_bytes(pickle.dumps(kind.ask(folder / name, kind.make(folder / name))))


if __name__ == "__main__":
    np.random.seed(1)
    main(Path(sys.argv[1]))
