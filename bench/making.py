"""Make one model and what it must answer, with TensorFlow: `python -m bench.making NAME`.

Run in a process of its own, so that the measuring one never imports tensorflow. In the model's folder it leaves
request.json, answer.json, the same of a batch where its rows are small, an .npy file for the input, and model.json, read by `bench.models`.
"""

import base64
import json
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

from bench.models import BATCH, CACHE, EMBEDDED, MOST_ROWS, recipe_of

Instances = list[Any]


def mlp(folder: Path) -> tuple[Path, Instances]:
    """64 -> 128 -> 10."""
    random = np.random.default_rng(1)
    module = tf.Module()
    module.hidden = tf.Variable(random.normal(0, 0.125, (64, 128)).astype(np.float32))
    module.offset = tf.Variable(np.zeros(128, np.float32))
    module.out = tf.Variable(random.normal(0, 0.125, (128, 10)).astype(np.float32))

    @tf.function(input_signature=[tf.TensorSpec([None, 64], tf.float32, "x")])
    def serve(x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"probabilities": tf.nn.softmax(tf.nn.relu(x @ module.hidden + module.offset) @ module.out)}

    tf.saved_model.save(module, str(folder / "saved_model"), signatures=serve)
    return folder / "saved_model", random.random((BATCH, 64)).round(6).tolist()


def mobilenet(folder: Path) -> tuple[Path, Instances]:
    """MobileNetV2 as Keras exports it, one picture as nested numbers; no weights are fetched."""
    import keras

    keras.utils.set_random_seed(1)
    random = np.random.default_rng(1)
    model = keras.applications.MobileNetV2(weights=None)
    # Untrained, all its answers are 1/1000. The statistics of one batch are enough for the picture to matter.
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    model(random.random((8, 224, 224, 3), np.float32), training=True)
    model.export(str(folder / "saved_model"), verbose=False)
    return folder / "saved_model", random.random((1, 224, 224, 3)).round(6).tolist()


def digits(folder: Path) -> tuple[Path, Instances]:
    """The embedded model, and its own examples."""
    examples = json.loads((EMBEDDED / "assets.extra" / "examples.json").read_bytes())["serving_default"]["instances"]
    return EMBEDDED, [examples[number % len(examples)] for number in range(BATCH)]


def dense(layers: int, side: int, folder: Path) -> tuple[Path, Instances]:
    """Square layers: their weights are read once for any number of rows, and nothing in them can be computed ahead."""
    random = np.random.default_rng(1)
    module = tf.Module()
    module.layers = [tf.Variable(random.standard_normal((side, side), np.float32) / side**0.5) for _ in range(layers)]

    @tf.function(input_signature=[tf.TensorSpec([None, NARROW], tf.float32, "x")])
    def serve(x: tf.Tensor) -> dict[str, tf.Tensor]:
        x = tf.tile(x, [1, side // NARROW])
        for layer in module.layers:
            x = tf.nn.relu(x @ layer)
        return {"y": x[:, :10]}

    tf.saved_model.save(module, str(folder / "saved_model"), signatures=serve)
    return folder / "saved_model", random.random((BATCH, NARROW)).round(6).tolist()


def loop(folder: Path) -> tuple[Path, Instances]:
    """A recurrent network in TensorFlow 1's graph and while loop, with reference variables."""
    v1 = tf.compat.v1
    random = np.random.default_rng(1)
    with tf.Graph().as_default(), v1.Session() as session:
        v1.disable_control_flow_v2()
        x = v1.placeholder(tf.float32, [None, STEPS, NARROW], "x")
        weights = v1.get_variable(
            "w", initializer=random.normal(0, 0.1, (2 * NARROW, NARROW)).astype("f"), use_resource=False
        )
        offset = v1.get_variable("b", initializer=np.zeros(NARROW, np.float32), use_resource=False)

        def step(at: Any, state: Any) -> Any:
            return at + 1, tf.tanh(tf.matmul(tf.concat([x[:, at], state], 1), weights) + offset)

        _, state = tf.while_loop(lambda at, _: at < STEPS, step, (0, tf.zeros_like(x[:, 0])))
        session.run(v1.global_variables_initializer())
        v1.saved_model.simple_save(session, str(folder / "saved_model"), {"x": x}, {"y": tf.identity(state, "y")})
    return folder / "saved_model", random.random((1, STEPS, NARROW)).round(6).tolist()


def transformer(folder: Path) -> tuple[Path, Instances]:
    """Two encoder layers of 128 over 32 words."""
    import keras

    keras.utils.set_random_seed(1)
    words = keras.Input((32,), dtype="int32", name="words")
    x = keras.layers.Embedding(1000, 128)(words)
    for _ in range(2):
        x = keras.layers.LayerNormalization()(x + keras.layers.MultiHeadAttention(4, 32)(x, x))
        x = keras.layers.LayerNormalization()(x + keras.layers.Dense(128)(keras.layers.Dense(512, "relu")(x)))
    scores = keras.layers.Dense(10, "softmax")(keras.layers.GlobalAveragePooling1D()(x))
    keras.Model(words, scores).export(str(folder / "saved_model"), verbose=False)
    return folder / "saved_model", np.random.default_rng(1).integers(0, 1000, (BATCH, 32)).tolist()


def text(folder: Path) -> tuple[Path, Instances]:
    """A classifier of texts: of its 26 MB, 25.6 are the table of an embedding."""
    import keras

    keras.utils.set_random_seed(1)
    words = keras.Input((32,), dtype="int32", name="words")
    x = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(50_000, 128)(words))
    x = keras.layers.ReLU()(keras.layers.BatchNormalization()(keras.layers.Dense(512)(x)))
    keras.Model(words, keras.layers.Dense(10, "softmax")(x)).export(str(folder / "saved_model"), verbose=False)
    return folder / "saved_model", np.random.default_rng(1).integers(0, 50_000, (BATCH, 32)).tolist()


NARROW, STEPS = 64, 32
MAKERS = {
    "mlp": mlp,
    "digits": digits,
    "mobilenet": mobilenet,
    "transformer": transformer,
    "text": text,
    "loop": loop,
    "dense": partial(dense, 3, 4096),
    "dense16": partial(dense, 1, 2048),
    "dense96": partial(dense, 6, 2048),
    "large": partial(dense, 5, 5056),
}
ROWS = {"mlp": "serving_default", "digits": "pixels"}  # the signatures that take many small rows


def many_rows(name: str, signatures: Any, file: Path) -> dict[str, str] | None:
    """Leave many rows and their answers, for the signatures that take them."""
    if name not in ROWS:
        return None
    signature = signatures[ROWS[name]]
    ((argument, spec),) = signature.structured_input_signature[1].items()
    inputs = np.random.default_rng(2).integers(0, 17, (MOST_ROWS, *spec.shape[1:].as_list())).astype(np.float32)
    outputs = signature(**{argument: tf.constant(inputs)})["probabilities"].numpy()
    np.savez(file, inputs=inputs, outputs=outputs)
    return {"signature": ROWS[name], "input": argument, "output": "probabilities"}


def plain(value: Any) -> Any:
    """Decode {"b64": ...} to bytes."""
    return base64.b64decode(value["b64"]) if isinstance(value, dict) else value


def answer(signature: Any, argument: str, spec: Any, instances: Instances, folder: Path, suffix: str) -> dict[str, Any]:
    """Write a request of these instances and what it must be answered; return the outputs, arrays by name."""
    rows = tf.constant([plain(instance) for instance in instances], spec.dtype)
    outputs = {key: tensor.numpy() for key, tensor in signature(**{argument: rows}).items()}
    lists = {key: array.tolist() for key, array in sorted(outputs.items())}
    if len(lists) == 1:
        (predictions,) = lists.values()
    else:
        predictions = [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]
    for file, value in (("request", {"instances": instances}), ("answer", {"predictions": predictions})):
        text = json.dumps(value, separators=(",", ":"), default=bytes.decode)
        (folder / f"{file}{suffix}.json").write_text(text)
    return outputs


def main(name: str) -> None:
    folder = CACHE / name
    folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder / "saved_model", ignore_errors=True)  # of another recipe
    saved_model, instances = MAKERS[name](folder)

    signatures = tf.saved_model.load(str(saved_model)).signatures
    signature = signatures["serving_default"]
    ((argument, spec),) = signature.structured_input_signature[1].items()
    rows = np.asarray([plain(instances[0])], spec.dtype.as_numpy_dtype)
    outputs = answer(signature, argument, spec, instances[:1], folder, "")
    if len(instances) > 1:
        answer(signature, argument, spec, instances, folder, "-batch")
    np.save(folder / "input.npy", rows.astype("S") if spec.dtype == tf.string else rows)

    graph = SavedModel.FromString((saved_model / "saved_model.pb").read_bytes()).meta_graphs[0]
    tensors = graph.signature_def["serving_default"]
    floats = [key for key, array in sorted(outputs.items()) if array.dtype == np.float32]
    floor = {
        "input": tensors.inputs[argument].name,
        "outputs": [tensors.outputs[key].name for key in floats],
        "answer": [outputs[key].tolist() for key in floats],
    }
    facts = {
        "saved_model": str(saved_model),
        "input": argument,
        "floor": floor,
        "rows": many_rows(name, signatures, folder / "rows.npz"),
        "recipe": recipe_of(name),
    }
    (folder / "model.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main(*sys.argv[1:])
