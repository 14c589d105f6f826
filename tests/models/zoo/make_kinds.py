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

from tests.models.zoo import Case
from tests.models.zoo.kinds import KINDS
from tests.models.zoo.make import (
    DEFAULT,
    Ask,
    Calls,
    Entry,
    Make,
    ask_nobody,
    ask_session,
    ask_signatures,
    build_v1,
    case,
    example,
    floats,
    function,
    predicts,
    save,
    spec,
    text,
    vocabulary,
)

ENTRIES: dict[str, Entry] = {}
ROWS = spec("x", tf.float32, [None, 3])
v1 = tf.compat.v1


def ask_softly(path: Path, calls: Calls, *before: str) -> list[Case]:
    """Ask as `ask_session` does where a device that is not there does not matter; run the nodes `before` first."""
    with tf.Graph().as_default(), v1.Session(config=v1.ConfigProto(allow_soft_placement=True)) as session:
        signatures = v1.saved_model.load(session, ["serve"], str(path)).signature_def
        session.run([session.graph.get_operation_by_name(name) for name in before])

        def run(name: str, inputs: dict[str, Any]) -> dict[str, Any]:
            of = signatures[name]
            fetches = {key: info.name for key, info in of.outputs.items()}
            outputs: dict[str, Any] = session.run(fetches, {of.inputs[key].name: inputs[key] for key in inputs})
            return outputs

        return [case(run, name, inputs) for name, inputs in calls]


def ask_with_tables(path: Path, calls: Calls) -> list[Case]:
    """Ask after what the collection table_initializer names has run."""
    graph = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes()).meta_graphs[0]
    return ask_softly(path, calls, *graph.collection_def["table_initializer"].node_list.value)


def entry(ask: Ask = ask_signatures) -> Callable[[Make], Make]:
    def register(make: Make) -> Make:
        ENTRIES[make.__name__] = Entry(make, ask)
        return make

    return register


# ---- Keras 3, saved by tf.saved_model.save


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


# ---- TensorFlow 1


def one_feature(shape: Any = None) -> tuple[Any, Any]:
    examples = v1.placeholder(tf.string, shape, "tf_example")
    return examples, v1.parse_example(examples, {"x": v1.FixedLenFeature([1], tf.float32)})["x"]


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


@entry(ask_session)
def vocabulary_scoped(path: Path) -> Calls:
    with tempfile.NamedTemporaryFile(suffix=".txt") as file, tf.Graph().as_default(), v1.Session() as session:
        Path(file.name).write_text("cat\ndog\n")
        words = v1.placeholder(tf.string, [None], "words")
        line, number = tf.lookup.TextFileIndex.WHOLE_LINE, tf.lookup.TextFileIndex.LINE_NUMBER
        with tf.name_scope("features/lookup"):
            made = tf.lookup.TextFileInitializer(file.name, tf.string, line, tf.int64, number)
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


# ---- What is told


def printing(path: Path, **options: Any) -> None:
    @function(spec("x"))
    def told(x: Any) -> Any:
        tf.print(x, **options)
        return {"y": x * 2.0}

    save(path, serving_default=told)


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


# ---- What an input has to hold


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


STRINGS = spec("strings", tf.string)


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
        found = tf.io.parse_example(strings, features)
        ids = tf.sparse.to_dense(found["ids"])
        return {
            "sum": tf.reduce_sum(found["pair"], 1) + tf.cast(found["count"], tf.float32),
            "word": found["word"],
            "ids": tf.reduce_sum(ids, 1),
            "steps": tf.reduce_sum(found["steps"], [1, 2]),
            "tokens": found["tokens"].row_lengths(),
        }

    save(path, serving_default=function(STRINGS)(parse))
    full = example(pair=[1.0, 2.0], word=[b"a"], count=[3], ids=[4, 5], steps=[1.0, 2.0, 3.0, 4.0], tokens=[b"x", b"y"])
    return [(DEFAULT, {"strings": text(full, example(pair=[1.0, 2.0], count=[1]))})]


@entry()
def example_single(path: Path) -> Calls:
    def one(serialized: Any) -> Any:
        features = {"x": tf.io.FixedLenFeature([2], tf.float32), "n": tf.io.FixedLenFeature([], tf.int64)}
        found = tf.io.parse_single_example(serialized, features)
        return found["x"] * tf.cast(found["n"], tf.float32)

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
    one = tf.train.SequenceExample(
        context=tf.train.Example.FromString(example(n=[7])).features,
        feature_lists=tf.train.FeatureLists(feature_list={"x": tf.train.FeatureList(feature=steps)}),
    )
    return [(DEFAULT, {"strings": text(one.SerializeToString())})]


@entry()
def float_indices(path: Path) -> Calls:
    owner = tf.Module()
    owner.w = tf.Variable(floats(50, 4))

    @function(spec("x", tf.float32, [None, 25]))
    def embed(x: Any) -> Any:
        return {"y": tf.reduce_mean(tf.nn.embedding_lookup(owner.w, tf.cast(x, tf.int32)), 1)}

    save(path, owner=owner, serving_default=embed)
    return [(DEFAULT, {"x": np.arange(50, dtype=np.float32).reshape(2, 25)})]


def of_each(path: Path, work: Callable[[Any], Any], dtype: Any = tf.float32) -> None:
    @function(STRINGS)
    def every(strings: Any) -> Any:
        return {"y": tf.map_fn(work, strings, fn_output_signature=dtype)}

    save(path, serving_default=every)


@entry()
def picture_png(path: Path) -> Calls:
    of_each(path, lambda one: tf.reduce_mean(tf.cast(tf.io.decode_png(one, 3), tf.float32)))
    png = tf.io.encode_png(np.full((4, 5, 3), 7, np.uint8)).numpy()
    return [(DEFAULT, {"strings": text(png)})]


@entry()
def sound_wav(path: Path) -> Calls:
    of_each(path, lambda one: tf.reduce_mean(tf.abs(tf.audio.decode_wav(one)[0])))
    wav = tf.audio.encode_wav(np.full((16, 1), 0.5, np.float32), 8000).numpy()
    return [(DEFAULT, {"strings": text(wav)})]


@entry()
def web_safe_base64(path: Path) -> Calls:
    of_each(path, lambda one: tf.reduce_mean(tf.cast(tf.io.decode_png(tf.io.decode_base64(one), 3), tf.float32)))
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


def main(folder: Path) -> None:
    assert set(ENTRIES) == set(KINDS), set(ENTRIES) ^ set(KINDS)
    warnings.simplefilter("ignore")
    tf.compat.v1.logging.set_verbosity(tf.compat.v1.logging.ERROR)
    tf.autograph.set_verbosity(0)
    for name, one in ENTRIES.items():
        keras.utils.set_random_seed(1)
        (folder / f"{name}.cases.pkl").write_bytes(pickle.dumps(one.ask(folder / name, one.make(folder / name))))


if __name__ == "__main__":
    np.random.seed(1)
    main(Path(sys.argv[1]))
