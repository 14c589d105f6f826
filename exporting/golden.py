"""Example requests beside the model, with the answers that TensorFlow's Python API gives.

    assets.extra/examples.json                  signature → request, in TensorFlow Serving's JSON; the server shows it
    assets.extra/answers.json                   signature → answer to it
    assets.extra/tf_serving_warmup_requests     the same requests as TensorFlow Serving replays them when it starts
    assets.extra/smallest_runs.json             signature → rows that a single row runs as, with dynamic batching

The warm-up file is a TFRecord of tensorflow_serving/apis/prediction_log.proto, whose classes are not in TensorFlow's
package. Of the messages only a handful of fields are needed, and they are encoded here by hand.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from exporting.inputs import Array, Inputs, batched
from exporting.runner import Job, ask
from serving.protocols.json_tensors.writer import text_of
from serving.savedmodel.protobuf import write_field
from serving.savedmodel.signature import DEFAULT, Signature
from serving.savedmodel.source import SMALLEST_RUNS

EXACT = 2**24  # up to here every integer is a float32


def write(
    folder: Path, signatures: Mapping[str, Signature], examples: Mapping[str, Inputs], answers: Mapping[str, Inputs]
) -> None:
    """Write requests and answers of the examples, by signature."""
    extra = folder / "assets.extra"
    extra.mkdir(exist_ok=True)
    requests = {name: request(signatures[name], inputs) for name, inputs in examples.items()}
    replies = {name: answer(signatures[name], outputs) for name, outputs in answers.items()}
    (extra / "examples.json").write_text(json.dumps(requests) + "\n")
    (extra / "answers.json").write_text(json.dumps(replies) + "\n")
    write_warmup(extra / "tf_serving_warmup_requests", examples)


def write_smallest_runs(folder: Path, *, optimized: bool = False) -> None:
    """Measure whether a single row had better run as several, and write it where it had: serving.runtime.batch_sizes.

    `optimized`: the server does not optimize the graph again.
    """
    path = folder / "assets.extra" / SMALLEST_RUNS
    path.unlink(missing_ok=True)
    if rows := ask(Job(folder, [], optimized=optimized, batches=True)).smallest_runs:
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(rows) + "\n")


def request(signature: Signature, inputs: Inputs) -> dict[str, Any]:
    """Return the body of a predict request: rows where the signature has rows, else columns."""
    head = {} if signature.name == DEFAULT else {"signature_name": signature.name}
    if batched(signature):
        return {**head, "instances": _rows(inputs, asked=True)}
    return {**head, "inputs": _columns(inputs, asked=True)}


def answer(signature: Signature, outputs: Inputs) -> dict[str, Any]:
    """Return the body of the answer to such a request."""
    if batched(signature):
        return {"predictions": _rows(outputs)}
    return {"outputs": _columns(outputs)}


def _rows(arrays: Inputs, asked: bool = False) -> list[Any]:
    columns = _values(arrays, asked)
    if len(columns) == 1:
        (values,) = columns.values()
        return list(values)
    return [dict(zip(columns, row)) for row in zip(*columns.values())]


def _columns(arrays: Inputs, asked: bool = False) -> Any:
    columns = _values(arrays, asked)
    return next(iter(columns.values())) if len(columns) == 1 else columns


def _values(arrays: Inputs, asked: bool) -> dict[str, Any]:
    return {name: _value(array, name.endswith("_bytes") and not asked, asked) for name, array in arrays.items()}


def _value(array: Array, as_bytes: bool, asked: bool) -> Any:
    """Return an array as JSON, each number in the fewest digits that give it again."""
    if asked and array.dtype.kind == "f" and array.size and _whole(array):
        array = array.astype(int)
    kind = array.dtype.kind

    def plain(value: Any) -> Any:
        if kind == "O":
            return text_of(value, as_bytes)
        return float(str(value)) if kind in "fV" else value.item()

    def nested(part: Any, depth: int) -> Any:
        return [nested(row, depth - 1) for row in part] if depth else plain(part)

    return nested(array if array.ndim else array[()], array.ndim)


def _whole(array: Array) -> bool:
    return bool((abs(array) < EXACT).all() and (array == array.round()).all())


def write_warmup(path: Path, examples: Mapping[str, Inputs]) -> None:
    """Write the requests as TensorFlow Serving's warm-up records."""
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(path)) as writer:
        for name, inputs in examples.items():
            writer.write(_prediction_log(name, inputs))


def _prediction_log(signature: str, inputs: Inputs) -> bytes:
    """Return a PredictionLog { predict_log { request { model_spec { name, signature_name } inputs {...} } } }."""
    import tensorflow as tf

    spec = write_field(1, b"model") + write_field(3, signature.encode())
    tensors = (
        write_field(
            2,
            write_field(1, name.encode()),
            write_field(2, tf.make_tensor_proto(array).SerializeToString(deterministic=True)),
        )
        for name, array in inputs.items()
    )
    predict = write_field(1, spec) + b"".join(tensors)
    return write_field(6, write_field(1, predict))


def arrays(example: Mapping[str, Any], specs: Mapping[str, Any]) -> Iterable[tuple[str, Array]]:
    """Yield the values of an example as arrays of their specs' types; strings as arrays of bytes."""
    import numpy as np

    for name, spec in specs.items():
        value = example[name]
        value = value.numpy() if hasattr(value, "numpy") else value
        if spec.dtype.name == "string":
            strings = np.asarray(value, object)
            flat = np.empty(strings.size, object)
            flat[:] = [text.encode() if isinstance(text, str) else bytes(text) for text in strings.ravel().tolist()]
            yield name, flat.reshape(strings.shape)
        else:
            yield name, np.asarray(value).astype(spec.dtype.as_numpy_dtype)
