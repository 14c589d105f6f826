"""The function that one writes by hand to serve a .tflite file: functions-framework and LiteRT's interpreter.

LiteRT starts no threads of its own here, so the model is loaded at import and survives gunicorn's fork.
"""

import os
import threading

import flask
import functions_framework
import numpy as np
from ai_edge_litert.interpreter import Interpreter

lock = threading.Lock()  # an interpreter serves one caller at a time
interpreter = Interpreter(model_path=os.path.join(os.environ["MODEL_DIR"], "model.tflite"), num_threads=1)
signature = interpreter.get_signature_runner("serving_default")
((name, details),) = signature.get_input_details().items()


@functions_framework.http
def predict(request: flask.Request) -> flask.Response:
    instances = np.asarray(request.get_json()["instances"], details["dtype"])
    with lock:
        outputs = {output: array.tolist() for output, array in signature(**{name: instances}).items()}
    if len(outputs) == 1:
        (predictions,) = outputs.values()
    else:
        predictions = [dict(zip(outputs, row, strict=True)) for row in zip(*outputs.values(), strict=True)]
    return flask.jsonify(predictions=predictions)
