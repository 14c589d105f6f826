"""A table: numbers and categories in, a number out. What is missing is sent as "" or as a negative number.

python -m examples.models.tabular /tmp/tabular
MODEL_DIR=/tmp/tabular make serve
curl localhost:8080 -d '{"instances": [{"city": "Oslo", "rooms": 3}, {"city": "", "rooms": -1}]}'
"""

import sys
from typing import Any

import keras
import numpy as np

from exporting import export

CITIES = ["Bern", "Oslo", "Rome"]
PRICES = {"Bern": 9.0, "Oslo": 7.0, "Rome": 5.0}


def rents(count: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return the columns of a table, a tenth of each missing, and what is to be predicted [count]."""
    random = np.random.default_rng(7)
    cities, rooms = random.choice(CITIES, count), random.integers(1, 6, count).astype(np.float32)
    rent = np.array([PRICES[city] for city in cities]) * rooms
    cities[random.random(count) < 0.1] = ""
    rooms[random.random(count) < 0.1] = -1
    return {"city": cities, "rooms": rooms}, rent.astype(np.float32)


def network() -> Any:
    """Return the model: it knows the categories, and what stands for a missing number."""
    city, rooms = keras.Input((), dtype="string", name="city"), keras.Input((), name="rooms")
    one_hot = keras.layers.StringLookup(vocabulary=CITIES, output_mode="one_hot")(city)
    number = keras.layers.Reshape((1,))(rooms)
    known = keras.ops.cast(number >= 0, "float32")
    features = keras.layers.Concatenate()([one_hot, number * known, known])
    hidden = keras.layers.Dense(32, "relu")(features)
    return keras.Model([city, rooms], {"rent": keras.layers.Reshape(())(keras.layers.Dense(1)(hidden))})


def main(folder: str) -> None:
    """Train and export."""
    import tensorflow as tf  # strings are TensorFlow's

    columns, rent = rents(2000)
    model = network()
    model.compile(keras.optimizers.Adam(0.02), "mse")
    model.fit([tf.constant(columns["city"]), columns["rooms"]], {"rent": rent}, epochs=20, verbose=0)
    export(model, folder, examples={"serving_default": {"city": ["Oslo", ""], "rooms": [3.0, -1.0]}})


if __name__ == "__main__":
    main(sys.argv[1])
