"""A time series: the last 24 values in, the next 3 out. The model scales them itself.

python -m examples.models.series /tmp/series
MODEL_DIR=/tmp/series make serve
curl localhost:8080 -d '{"instances": [[0,26,50,71,87,97,100,97,87,71,50,26,0,-26,-50,-71,-87,-97,-100,-97,-87,-71,-50,-26]]}'
"""  # noqa: E501

import sys

import keras
import numpy as np

from exporting import export

PAST, NEXT = 24, 3


def windows(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return parts of waves of a day: their past [count, PAST], and what follows [count, NEXT]."""
    random = np.random.default_rng(7)
    begins, heights = random.uniform(0, 24, (count, 1)), random.uniform(50, 200, (count, 1))
    waves = heights * np.sin(2 * np.pi * (begins + np.arange(PAST + NEXT)) / 24)
    return waves[:, :PAST].astype(np.float32), waves[:, PAST:].astype(np.float32)


def main(folder: str) -> None:
    """Train and export."""
    past, following = windows(1000)
    series = keras.Input((PAST,), name="past")
    scale = keras.ops.max(keras.ops.abs(series), axis=1, keepdims=True) + 1e-6
    model = keras.Model(series, {"next": keras.layers.Dense(NEXT)(series / scale) * scale})
    model.compile(keras.optimizers.Adam(0.01), "mae")
    model.fit(past, {"next": following}, epochs=30, verbose=0)
    export(model, folder, examples={"serving_default": {"past": past[:1]}})


if __name__ == "__main__":
    main(sys.argv[1])
