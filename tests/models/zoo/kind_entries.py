"""What the models of kinds are written with: a registry, and oracles that run nodes first."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from tests.models.zoo import Case
from tests.models.zoo.entries import (
    Ask,
    Calls,
    Entry,
    Make,
    ask_signatures,
    case,
    function,
    save,
    spec,
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


def one_feature(shape: Any = None) -> tuple[Any, Any]:
    examples = v1.placeholder(tf.string, shape, "tf_example")
    return examples, v1.parse_example(examples, {"x": v1.FixedLenFeature([1], tf.float32)})["x"]


STRINGS = spec("strings", tf.string)


def of_each(path: Path, work: Callable[[Any], Any], dtype: Any = tf.float32) -> None:
    @function(STRINGS)
    def every(strings: Any) -> Any:
        return {"y": tf.map_fn(work, strings, fn_output_signature=dtype)}

    save(path, serving_default=every)
