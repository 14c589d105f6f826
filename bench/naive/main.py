"""The function that one writes by hand today: functions-framework, tensorflow, tf.saved_model.load.

The model is loaded by the first request: loaded at import, TensorFlow's threads would not survive gunicorn's
fork and the first request would hang.
"""

import base64
import os
import threading
import time

import flask
import functions_framework


def ended(phase):
    """Tell `python -m bench.profile` of a phase of the start."""
    print(f"phase {phase} ended at {time.perf_counter()}", flush=True)


ended("imports")
import tensorflow as tf  # noqa: E402

ended("library")
lock = threading.Lock()
model = None


def load():
    global model
    with lock:
        if model is None:
            ended("rest")
            model = tf.saved_model.load(os.environ["MODEL_DIR"])
            ended("model")
    return model


def plain(value):
    """JSON carries bytes as {"b64": "..."}."""
    return base64.b64decode(value["b64"]) if isinstance(value, dict) else value


def jsonable(array):
    return (array.astype(str) if array.dtype == object else array).tolist()


@functions_framework.http
def predict(request: flask.Request) -> flask.Response:
    first = model is None
    instances = [plain(instance) for instance in request.get_json()["instances"]]
    signature = load().signatures["serving_default"]
    ((name, spec),) = signature.structured_input_signature[1].items()
    outputs = signature(**{name: tf.constant(instances, spec.dtype)})
    if first:
        ended("run")
    outputs = {name: jsonable(tensor.numpy()) for name, tensor in outputs.items()}
    if len(outputs) == 1:
        (predictions,) = outputs.values()
    else:
        predictions = [dict(zip(outputs, row, strict=True)) for row in zip(*outputs.values(), strict=True)]
    return flask.jsonify(predictions=predictions)
