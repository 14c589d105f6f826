"""A model of TensorFlow 1: a graph, a session and simple_save. It is served as it is.

python -m examples.models.tensorflow_1 /tmp/one
python -m exporting audit /tmp/one
MODEL_DIR=/tmp/one make serve
curl localhost:8080 -d '{"instances": [1.0, 2.0]}'
"""

import sys

import numpy as np
import tensorflow.compat.v1 as tf  # type: ignore[import-untyped]


def main(folder: str) -> None:
    """Train and export: y = 2 x + 1."""
    random = np.random.default_rng(7)
    with tf.Graph().as_default(), tf.Session() as session:
        x, truth = tf.placeholder(tf.float32, [None], "x"), tf.placeholder(tf.float32, [None])
        slope, shift = tf.get_variable("slope", (), tf.float32), tf.get_variable("shift", (), tf.float32)
        y = slope * x + shift
        step = tf.train.GradientDescentOptimizer(0.1).minimize(tf.reduce_mean((y - truth) ** 2))
        session.run(tf.global_variables_initializer())
        for _ in range(500):
            points = random.uniform(-1, 1, 64)
            session.run(step, {x: points, truth: 2 * points + 1})
        tf.saved_model.simple_save(session, folder, {"x": x}, {"y": y})


if __name__ == "__main__":
    main(sys.argv[1])
