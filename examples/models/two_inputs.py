"""Two inputs of different types: a user's id and what a film is about in, how much the user will like it out.

python -m examples.models.two_inputs /tmp/two
MODEL_DIR=/tmp/two make serve
curl localhost:8080 -d '{"instances": [{"user": 3, "topics": [1.0, 0.0]}, {"user": 3, "topics": [0.0, 1.0]}]}'
"""

import sys

import keras
import numpy as np

from exporting import export

USERS = 20


def ratings(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return users [count], topics of films [count, 2] and ratings [count]: odd users like the first topic."""
    random = np.random.default_rng(7)
    users, topics = random.integers(0, USERS, count), random.random((count, 2)).astype(np.float32)
    return users, topics, np.where(users % 2 == 1, topics[:, 0], topics[:, 1])


def main(folder: str) -> None:
    """Train and export."""
    users, topics, liked = ratings(2000)
    user, film = keras.Input((), dtype="int64", name="user"), keras.Input((2,), name="topics")
    taste = keras.layers.Embedding(USERS, 2)(user)
    model = keras.Model([user, film], {"rating": keras.ops.sum(taste * film, axis=1)})
    model.compile(keras.optimizers.Adam(0.05), "mse")
    model.fit([users, topics], {"rating": liked}, epochs=10, verbose=0)
    export(model, folder, examples={"serving_default": {"user": users[:2], "topics": topics[:2]}})


if __name__ == "__main__":
    main(sys.argv[1])
