"""SavedModels that somebody should look at before serving them; made in a process that has imported tensorflow."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from exporting.runner import Job, ask

v1 = tf.compat.v1


def floats(name: str = "x", shape: Any = (None,)) -> tf.TensorSpec:
    return tf.TensorSpec(shape, tf.float32, name=name)


def text(name: str = "x", shape: Any = ()) -> tf.TensorSpec:
    return tf.TensorSpec(shape, tf.string, name=name)


def function(*specs: Any) -> Any:
    return tf.function(input_signature=specs)


def save(path: Path, owner: Any = None, **signatures: Any) -> None:
    tf.saved_model.save(owner or tf.Module(), str(path), signatures=signatures)


def edit(path: Path, change: Any) -> None:
    """Change the SavedModel's first graph."""
    file = path / "saved_model.pb"
    message = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    change(message.meta_graphs[0])
    file.write_bytes(message.SerializeToString())


def training_state(path: Path) -> None:
    owner = tf.Module()
    owner.weight = tf.Variable([2.0], name="dense/kernel")
    owner.slots = [tf.Variable(0.0, name=name) for name in ("adam/iteration", "adam/dense_kernel_momentum")]
    owner.step = tf.Variable(0, name="global_step", dtype=tf.int64)
    owner.spare = tf.Variable(0.0, name="spare")
    save(path, owner, serving_default=function(floats())(lambda x: {"y": x * owner.weight}))


def dropout(path: Path) -> None:
    save(path, serving_default=function(floats())(lambda x: {"y": tf.nn.dropout(x, 0.5)}))


def files(path: Path) -> None:
    def write(x: Any) -> Any:
        with tf.control_dependencies([tf.io.write_file(tf.constant("was-here"), x)]):
            return {"y": tf.identity(x)}

    def say(x: Any) -> Any:
        tf.print(x)
        return {"y": tf.identity(x)}

    read = function(text(shape=(None,)))(lambda x: {"y": tf.map_fn(tf.io.read_file, x)})
    save(path, read=read, write=function(text())(write), say=function(text())(say))


def whole_file(path: Path) -> None:
    """Reads a file with neither ReadFile nor a file name in the graph."""
    with tf.Graph().as_default(), v1.Session() as session:
        queue, x = v1.FIFOQueue(1, [tf.string]), v1.placeholder(tf.string, [])
        with tf.control_dependencies([queue.enqueue(x)]):
            reader = tf.raw_ops.WholeFileReaderV2()
            _, value = tf.raw_ops.ReaderReadV2(reader_handle=reader, queue_handle=queue.queue_ref)
        v1.saved_model.simple_save(session, str(path), {"x": x}, {"y": value})


class Table(tf.Module):
    def __init__(self) -> None:
        self.table = tf.lookup.experimental.MutableHashTable(tf.string, tf.int64, -1)
        self.table.insert(tf.constant(["a", "b"]), tf.constant([1, 2], tf.int64))

    @function(text(shape=(None,)))
    def find(self, x: Any) -> Any:
        return {"y": self.table.lookup(x)}

    @function(text(shape=(None,)))
    def put(self, x: Any) -> Any:
        self.table.insert(x, tf.cast(tf.strings.length(x), tf.int64))
        return {"size": self.table.size()}


def mutable_table_read(path: Path) -> None:
    owner = Table()
    save(path, owner, serving_default=owner.find)


def mutable_table_written(path: Path) -> None:
    owner = Table()
    save(path, owner, find=owner.find, put=owner.put)


def _words(path: Path, words: str) -> None:
    Path(words).write_text("ant\nbee\n")
    owner = tf.Module()
    line, number = tf.lookup.TextFileIndex.WHOLE_LINE, tf.lookup.TextFileIndex.LINE_NUMBER
    owner.table = tf.lookup.StaticHashTable(tf.lookup.TextFileInitializer(words, tf.string, line, tf.int64, number), -1)
    save(path, owner, serving_default=function(text(shape=(None,)))(lambda x: {"y": owner.table.lookup(x)}))
    Path(words).unlink()


def asset_above(path: Path) -> None:
    _words(path, f"{path}.txt")
    shutil.copy(path / "assets" / f"{path.name}.txt", path.parent / "stray.txt")

    def change(graph: Any) -> None:
        graph.asset_file_def[0].filename = "../../stray.txt"

    edit(path, change)


def table_elsewhere(path: Path) -> None:
    _words(path, f"{path}.txt")

    def change(graph: Any) -> None:
        name = graph.asset_file_def[0].tensor_info.name.partition(":")[0]
        del graph.asset_file_def[:]
        (node,) = [node for node in graph.graph_def.node if node.name == name]
        node.op = "Const"
        for attribute in set(node.attr) - {"dtype"}:
            del node.attr[attribute]
        node.attr["value"].tensor.dtype = tf.string.as_datatype_enum
        node.attr["value"].tensor.tensor_shape.SetInParent()
        node.attr["value"].tensor.string_val.append(b"/etc/hostname")

    edit(path, change)


def two_definitions(path: Path) -> None:
    """Its graph is written in two parts, which protobuf joins; what reads only the last one sees no WriteFile."""
    files(path)
    file = path / "saved_model.pb"
    message = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    graph = message.meta_graphs[0].SerializeToString() + b"\x12\x00"  # graph_def, once more and empty
    size, length = len(graph), bytearray()
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    file.write_bytes(b"\x08\x01\x12" + bytes([*length, size]) + graph)


def brittle(path: Path) -> None:
    """Its sums of large and small numbers change with the order of the additions, and it answers with a bool."""
    owner = tf.Module()
    owner.offset = tf.Variable(1e8, name="offset")
    exact = function(floats())(lambda x: {"y": tf.equal((x + owner.offset) - owner.offset, x)})
    save(path, owner, serving_default=exact)


def aborts(path: Path) -> None:
    """A picture without pixels ends TensorFlow 2.21 by a failed CHECK; the other signature is well."""

    def empty(x: Any) -> Any:
        return {"png": tf.io.encode_png(tf.cast(tf.reshape(x, [-1, 1, 1])[:0], tf.uint8))}

    save(path, empty=function(floats())(empty), well=function(floats())(lambda x: {"y": x}))


def unproved(path: Path) -> None:
    """One of its signatures takes only what cannot be guessed; both read the same variable, table and function."""
    Path(f"{path}.txt").write_text("ant\nbee\n")
    owner = tf.Module()
    owner.weight = tf.Variable([2.0], name="weight")
    line, number = tf.lookup.TextFileIndex.WHOLE_LINE, tf.lookup.TextFileIndex.LINE_NUMBER
    words = tf.lookup.TextFileInitializer(f"{path}.txt", tf.string, line, tf.int64, number)
    owner.table = tf.lookup.StaticHashTable(words, -1)
    inner = tf.function(
        lambda x: tf.nn.relu(x * owner.weight) + tf.cast(owner.table.lookup(tf.constant("bee")), tf.float32)
    )

    def closed(x: Any) -> Any:
        with tf.control_dependencies([tf.debugging.assert_equal(x, 12345.0)]):
            return {"y": inner(x)}

    opened = function(floats())(lambda x: {"y": inner(x)})
    save(path, owner, serving_default=opened, closed=function(floats())(closed))
    Path(f"{path}.txt").unlink()


def unproved_tf1(path: Path) -> None:
    """The same of TensorFlow 1: no functions, and one placeholder for both."""
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, (None,), name="in/x")
        with v1.variable_scope("model"):
            weight = v1.get_variable("weight", initializer=[2.0])
            y = tf.nn.relu(x * weight, name="y") + 1.0
        with tf.control_dependencies([tf.debugging.assert_equal(x, 12345.0)]):
            closed = tf.identity(y * 2.0, name="model/closed")
        session.run(v1.global_variables_initializer())
        signatures = {
            name: v1.saved_model.predict_signature_def({"x": x}, {"y": output})
            for name, output in (("serving_default", y), ("closed", closed))
        }
        builder = v1.saved_model.Builder(str(path))
        builder.add_meta_graph_and_variables(session, ["serve"], signatures)
        builder.save()


def scoped_vocabulary(path: Path) -> None:
    """A vocabulary of TensorFlow 1 whose path is a constant inside a name scope."""
    words = Path(f"{path}.txt")
    words.write_text("ant\nbee\n")
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.string, (None,))
        with tf.name_scope("features/lookup"):
            name = tf.constant(str(words), name="vocabulary")
            line, number = tf.lookup.TextFileIndex.WHOLE_LINE, tf.lookup.TextFileIndex.LINE_NUMBER
            source = tf.lookup.TextFileInitializer(name, tf.string, line, tf.int64, number)
            indices = tf.lookup.StaticHashTable(source, -1).lookup(x)
        session.run(v1.tables_initializer())
        builder = v1.saved_model.Builder(str(path))
        builder.add_meta_graph_and_variables(
            session,
            ["serve"],
            {"serving_default": v1.saved_model.predict_signature_def({"x": x}, {"y": indices})},
            assets_collection=v1.get_collection(v1.GraphKeys.ASSET_FILEPATHS),
            main_op=v1.tables_initializer(),
        )
        builder.save()
    words.unlink()


def own_saver(path: Path) -> None:
    """TensorFlow 1 with a saver of the author's own beside the one that loads the model, and training variables."""
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, (None,))
        weight = v1.get_variable("weight", initializer=[2.0])
        for name in ("weight/Adam", "weight/Adam_1", "beta1_power"):
            v1.get_variable(name, initializer=0.0)
        v1.train.Saver(name="mine")
        session.run(v1.global_variables_initializer())
        v1.saved_model.simple_save(session, str(path), {"x": x}, {"y": x * weight})


def chaotic(path: Path) -> None:
    """Rounding grows in it: the original itself differs with and without oneDNN."""
    owner = tf.Module()
    owner.weight = tf.Variable(tf.random.stateless_normal((256, 256), (1, 2)))

    def work(x: Any) -> Any:
        for _ in range(20):
            x = tf.sin(tf.matmul(x, owner.weight))
        return {"y": x}

    save(path, owner, serving_default=function(floats(shape=(None, 256)))(work))


# What these are asked before and after the bake.
SMALL, LARGE = np.array([1, -2], np.float32), np.array([12345, 12345], np.float32)
ASKED: Any = {
    "unproved": [("serving_default", SMALL), ("closed", LARGE)],
    "unproved_tf1": [("serving_default", SMALL), ("closed", LARGE)],
    "scoped_vocabulary": [("serving_default", np.array([b"bee", b"cat"], object))],
    "own_saver": [("serving_default", SMALL)],
}

ODD = (
    training_state,
    dropout,
    files,
    whole_file,
    mutable_table_read,
    mutable_table_written,
    asset_above,
    table_elsewhere,
    two_definitions,
    brittle,
    aborts,
    unproved,
    unproved_tf1,
    scoped_vocabulary,
    own_saver,
    chaotic,
)


def differences(name: str, model: Path, baked: Path) -> str | None:
    """Return what the runtime answers differently from what TensorFlow's Python API gave of the original."""
    calls = [(signature, {"x": array}) for signature, array in ASKED[name]]
    answers = ask(Job(baked, calls, optimized=True))
    with tf.Graph().as_default(), v1.Session() as session:
        signatures = v1.saved_model.load(session, ["serve"], str(model)).signature_def
        for (signature, inputs), answer in zip(calls, answers.answers):
            fed = {signatures[signature].inputs["x"].name: inputs["x"]}
            expected = session.run(signatures[signature].outputs["y"].name, fed)
            if answer.outputs is None or not np.array_equal(expected, answer.outputs["y"]):
                return f"{signature}: {answer}, not {expected}"
    return answers.failure


def make(folder: Path) -> None:
    for write_model in ODD:
        write_model(folder / write_model.__name__)
