"""Write the models of tests.zoo.kinds: `python -m tests.zoo.make_kinds FOLDER`; in a process of its own."""

import pickle
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tests.zoo.kinds import KINDS
from tests.zoo.make import DEFAULT, Ask, Calls, Entry, Make, ask_nobody, ask_signatures, floats, function, spec, text

ENTRIES: dict[str, Entry] = {}
ROWS = spec("x", tf.float32, [None, 3])


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
    from tensorflow.core.protobuf import saved_model_pb2

    file = path / "saved_model.pb"
    message = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    change(message.meta_graphs[0])
    file.write_bytes(message.SerializeToString(deterministic=True))


def cut_copies(graph: Any) -> None:
    """Leave out what says which copy belongs to which variable."""
    kept = [node for node in graph.graph_def.node if not node.name.endswith(("/Assign", "/Initializer/ReadVariableOp"))]
    del graph.graph_def.node[:]
    graph.graph_def.node.extend(kept)


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
