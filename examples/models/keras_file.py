"""A .keras file: one command makes a SavedModel of it.

python -m examples.models.keras_file /tmp/model.keras
python -m exporting keras /tmp/model.keras /tmp/exported
MODEL_DIR=/tmp/exported make serve
curl localhost:8080 -d '{"instances": [[1.0, 2.0, 3.0]]}'
"""

import sys

import keras
import numpy as np


def main(file: str) -> None:
    """Train and save."""
    points = np.random.default_rng(7).normal(size=(500, 3)).astype(np.float32)
    model = keras.Sequential([keras.Input((3,), name="point"), keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(0.1), "mse")
    model.fit(points, points.sum(axis=1), epochs=10, verbose=0)
    model.save(file)


if __name__ == "__main__":
    main(sys.argv[1])
