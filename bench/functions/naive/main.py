"""The function that one writes by hand: functions-framework, tensorflow, tf.saved_model.load.

The model is loaded by the first request: loaded at import, TensorFlow's threads would not survive gunicorn's
fork and the first request would hang.
"""

import base64
import os
import threading

import flask
import functions_framework
import tensorflow as tf

lock = threading.Lock()
model = None


def load():
    global model
    with lock:
        if model is None:
            model = tf.saved_model.load(os.environ["MODEL_DIR"])
    return model


def plain(value):
    """JSON carries bytes as {"b64": "..."}."""
    return base64.b64decode(value["b64"]) if isinstance(value, dict) else value


def jsonable(array):
    return (array.astype(str) if array.dtype == object else array).tolist()


@functions_framework.http
def predict(request: flask.Request) -> flask.Response:
    instances = [plain(instance) for instance in request.get_json()["instances"]]
    signature = load().signatures["serving_default"]
    ((name, spec),) = signature.structured_input_signature[1].items()
    outputs = signature(**{name: tf.constant(instances, spec.dtype)})
    outputs = {name: jsonable(tensor.numpy()) for name, tensor in outputs.items()}
    if len(outputs) == 1:
        (predictions,) = outputs.values()
    else:
        predictions = [dict(zip(outputs, row, strict=True)) for row in zip(*outputs.values(), strict=True)]
    return flask.jsonify(predictions=predictions)
