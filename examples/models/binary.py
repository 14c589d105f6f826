"""A binary classifier: measurements in, a probability out; the threshold is the caller's.

python -m examples.models.binary /tmp/binary
MODEL_DIR=/tmp/binary make serve
curl localhost:8080 -d '{"instances": [[2.0, 1.5], [-2.0, -1.0]]}'
"""

import sys

import keras
import numpy as np

from exporting import export, forward, probability


def main(folder: str) -> None:
    """Train and export."""
    keras.utils.set_random_seed(7)
    points = np.random.default_rng(7).normal(size=(1000, 2)).astype(np.float32)
    truths = (points.sum(axis=1) > 0).astype(np.float32)
    model = keras.Sequential([keras.Input((2,), name="point"), keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(0.1), keras.losses.BinaryCrossentropy(from_logits=True))
    model.fit(points, truths, epochs=10, verbose=0)
    export(model, folder, functions={"serving_default": probability(forward(model))},
           examples={"serving_default": {"point": points[:2]}})  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1])
