"""What the zoo's entries are written with: a registry, the oracle that is asked for the answers, and helpers.

An entry saves a SavedModel at the path it gets and returns what to ask of it. The answers are TensorFlow's own, asked
after saving: by `tf.saved_model.load(path).signatures`, and for TensorFlow 1 by a session. ZOO has what each entry is.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import error_codes_pb2

from tests.models.zoo import Array, Case

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
