"""mosec <https://github.com/mosecorg/mosec>, which batches behind an HTTP server in Rust, serving a SavedModel.

A batch waits for all 16 connections of the load, or a millisecond: what gives it the most requests/s.
"""

import base64
import json
import os

import numpy as np
from mosec import Server, Worker


class Predict(Worker):
    def __init__(self):
        import tensorflow as tf

        self.model = tf.saved_model.load(os.environ["MODEL_DIR"])  # kept: its variables are freed with it
        self.signature = self.model.signatures["serving_default"]
        ((self.name, self.spec),) = self.signature.structured_input_signature[1].items()
        self.constant = tf.constant

    def deserialize(self, data):
        rows = json.loads(data)["instances"]
        return [base64.b64decode(row["b64"]) if isinstance(row, dict) else row for row in rows]

    def forward(self, data):
        rows = [row for request in data for row in request]
        outputs = self.signature(**{self.name: self.constant(rows, self.spec.dtype)})
        arrays = {name: tensor.numpy() for name, tensor in sorted(outputs.items())}
        lists = {
            name: (array.astype(str) if array.dtype == object else array).tolist() for name, array in arrays.items()
        }
        values = [
            row[0] if len(row) == 1 else dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)
        ]
        ends = np.cumsum([len(request) for request in data])
        return [values[end - len(request) : end] for request, end in zip(data, ends, strict=True)]

    def serialize(self, data):
        return json.dumps({"predictions": data}).encode()


if __name__ == "__main__":
    server = Server()
    server.append_worker(Predict, max_batch_size=16, max_wait_time=1)
    server.run()
