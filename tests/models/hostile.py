"""SavedModels that a stranger might send, and such as believe their inputs: `build()` makes them once.

    folder = build()                folder / "ragged_nested" is a SavedModel; TensorFlow's own answers are in answers()

Imports tensorflow where it makes them, so that runs in a process of its own: `python -m tests.models.hostile FOLDER`.
"""

import os
import pickle
import shutil
import sys
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from tests.models.once import digest, made_once


@cache
def build() -> Path:
    """Return the folder of the models, made first if this source has never made it here."""
    return made_once("hostile", digest(Path(__file__), version("numpy")), "tests.models.hostile")


def answers() -> dict[str, list[tuple[dict[str, Any], Any]]]:
    """Return inputs and TensorFlow's answer, by model."""
    content: dict[str, list[tuple[dict[str, Any], Any]]] = pickle.loads((build() / "answers.pkl").read_bytes())
    return content


def _make(folder: Path) -> None:
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    import tensorflow as tf
    from tensorflow.core.framework import node_def_pb2
    from tensorflow.core.protobuf import saved_model_pb2

    floats, longs = np.arange(1, 6, dtype=np.float32), np.array([0, 2, 2, 5])
    asked: dict[str, list[tuple[dict[str, Any], Any]]] = {}

    def save(name: str, serve: Any, *given: dict[str, Any]) -> None:
        tf.saved_model.save(tf.Module(), str(folder / name), signatures=serve)
        if given:
            loaded = tf.saved_model.load(str(folder / name)).signatures["serving_default"]
            asked[name] = [
                (inputs, loaded(**{k: tf.constant(v) for k, v in inputs.items()})["y"].numpy()) for inputs in given
            ]

    def ragged(rank: int, dtype: Any = tf.float32) -> Any:
        return tf.RaggedTensorSpec([None] * (rank + 1), dtype, ragged_rank=rank)

    def of(*specs: Any) -> Any:
        return tf.function(input_signature=specs)

    def plain(name: str, dtype: Any = tf.float32, shape: Any = (None,)) -> Any:
        return tf.TensorSpec(shape, dtype, name)

    table = tf.constant(np.arange(20, dtype=np.float32).reshape(10, 2))
    save(
        "ragged_embedded",
        of(ragged(1, tf.int64))(lambda r: {"y": r.with_values(tf.gather(table, r.values)).to_tensor()}),
        {"r": np.array([1, 2, 3, 4, 5]), "r_1": longs},
    )
    inner = np.array([0, 1, 1, 2, 4, 5])
    save(
        "ragged_nested",
        of(ragged(2))(lambda r: {"y": r.to_tensor()}),
        {"r": floats, "r_1": longs, "r_2": inner},
    )
    save("ragged_cut", of(ragged(1))(lambda r: {"y": r[:, :2].to_tensor()}), {"r": floats, "r_1": longs})
    save(
        "ragged_means",
        of(ragged(1))(lambda r: {"y": tf.reduce_sum(r, axis=1)}),
        {"r": floats, "r_1": longs},
    )
    save(
        "ragged_two",
        of(ragged(1), ragged(1))(lambda a, b: {"y": tf.concat([a, b], axis=1).to_tensor()}),
        {"a": floats, "a_1": longs, "b": floats[:3], "b_1": np.array([0, 1, 2, 3])},
    )

    def by_rows(values: Any, rows: Any) -> Any:
        return {"y": tf.RaggedTensor.from_value_rowids(values, rows, nrows=3, validate=False).to_tensor()}

    save(
        "own_rows",
        of(plain("values"), plain("rows", tf.int64))(by_rows),
        {"values": floats, "rows": np.array([0, 0, 2, 2, 2])},
    )

    def by_splits(data: Any, cuts: Any) -> Any:
        return {"y": tf.RaggedTensor.from_row_splits(data, cuts, validate=False).to_tensor()}

    save("own_splits", of(plain("data"), plain("cuts", tf.int32))(by_splits), {"data": floats, "cuts": np.int32(longs)})
    mixed = of(plain("a"), plain("b"), plain("cuts", tf.int64))
    save("unclear", mixed(lambda a, b, cuts: by_splits(tf.concat([a, b], 0), cuts)))
    lengths = of(plain("data"), plain("lengths", tf.int64))
    save(
        "checked_lengths",
        lengths(lambda data, lengths: {"y": tf.RaggedTensor.from_row_lengths(data, lengths).to_tensor()}),
        {"data": floats, "lengths": np.array([2, 0, 3])},
    )
    sparse = {"s": np.array([[0, 0], [1, 2]]), "s_1": floats[:2], "s_2": np.array([2, 3])}
    weights = tf.constant(np.arange(6, dtype=np.float32).reshape(3, 2))
    save(
        "sparse_product",
        of(tf.SparseTensorSpec([None, None], tf.float32))(lambda s: {"y": tf.sparse.sparse_dense_matmul(s, weights)}),
        sparse,
    )
    save(
        "sparse_sum",
        of(tf.SparseTensorSpec([None, None], tf.float32))(lambda s: {"y": tf.sparse.reduce_sum(s, axis=1)}),
        sparse,
    )
    # Token numbers beside other numbers are no row splits.
    save(
        "no_parts",
        of(plain("ids", tf.int64), plain("x"))(lambda ids, x: {"y": tf.gather(x, ids)}),
        {"ids": np.array([4, 0, 0]), "x": floats},
    )

    words = folder / "words.txt"
    words.write_text("cat\ndog\n")
    lookup = tf.lookup.StaticHashTable(
        tf.lookup.TextFileInitializer(
            str(words), tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER
        ),
        -1,
    )
    module = tf.Module()
    module.table = lookup
    serve = of(plain("word", tf.string))(lambda word: {"y": lookup.lookup(word)})
    tf.saved_model.save(module, str(folder / "vocabulary"), signatures=serve)
    save("reads_a_file", of(plain("path", tf.string, ()))(lambda path: {"y": tf.io.read_file(path)}))

    def changed(name: str, change: Any) -> None:
        shutil.copytree(folder / "vocabulary", folder / name)
        message = saved_model_pb2.SavedModel.FromString((folder / name / "saved_model.pb").read_bytes())
        change(message.meta_graphs[0])
        (folder / name / "saved_model.pb").write_bytes(message.SerializeToString(deterministic=True))

    def names(asset: str) -> Any:
        def change(graph: Any) -> None:
            graph.asset_file_def[0].filename = asset

        return change

    def takes_a_constant(graph: Any) -> None:
        secret = node_def_pb2.NodeDef(name="secret", op="Const")
        secret.attr["dtype"].type = tf.string.as_datatype_enum
        secret.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(b"/etc/passwd"))
        graph.graph_def.node.append(secret)
        for node in graph.graph_def.node:
            if node.op == "StatefulPartitionedCall" and "initializer" in node.attr["f"].func.name:
                node.input[0] = "secret"

    def assigns_twice(graph: Any) -> None:
        takes_a_constant(graph)
        for node in graph.graph_def.node:
            if "secret" in node.input:
                node.input[0] = "ReadVariableOp"
            if node.op == "ReadVariableOp" and node.name == "ReadVariableOp":
                node.input.append("^other_assign")
        handle = next(node.input[0] for node in graph.graph_def.node if node.op == "AssignVariableOp")
        other = node_def_pb2.NodeDef(name="other_assign", op="AssignVariableOp", input=[handle, "secret"])
        other.attr["dtype"].type = tf.string.as_datatype_enum
        graph.graph_def.node.append(other)

    def calls_itself(graph: Any) -> None:
        function = next(f for f in graph.graph_def.library.function if "signature_wrapper" in f.signature.name)
        call = next(node for node in function.node_def if "f" in node.attr)
        call.attr["f"].func.name = function.signature.name

    changed("recursive", calls_itself)
    changed("asset_above", names("../../../../../../../../../../etc/passwd"))
    changed("asset_absolute", names("/etc/passwd"))
    changed("asset_empty", names(""))
    changed("asset_constant", takes_a_constant)
    changed("asset_assigned_twice", assigns_twice)
    (folder / "answers.pkl").write_bytes(pickle.dumps(asked))


if __name__ == "__main__":
    _make(Path(sys.argv[1]))
