"""Everything audited and baked once, by one process that imports tensorflow; a model exported once for each file."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exporting import (
    class_names,
    export,
    fingerprint,
    forward,
    from_keras,
    image_bytes,
    keyed,
    tf_example,
    top_k,
)
from exporting.export import Exported
from tests.exporting.exported import NAMES
from tests.harness.forks import python
from tests.models.once import locked
from tests.models.zoo import build


@pytest.fixture(scope="session")
def baked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    build()
    mine = tmp_path_factory.getbasetemp()
    shared = mine.parent if "PYTEST_XDIST_WORKER" in os.environ else mine  # parallel workers bake once between them
    folder = shared / "baked"
    with locked(shared / "baked.lock"):
        if not (folder / "results.json").exists():
            folder.mkdir(exist_ok=True)
            done = python("-m", "tests.exporting.work", str(folder))
            assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="session")
def results(baked: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((baked / "results.json").read_text())
    return content


@pytest.fixture(scope="session")
def tf() -> Any:
    return pytest.importorskip("tensorflow")


@pytest.fixture(scope="session")
def keras(tf: Any) -> Any:
    return pytest.importorskip("keras")


@pytest.fixture(scope="session")
def model(keras: Any) -> Any:
    """Return a model that was trained a little, with everything that may not be exported."""
    keras.utils.set_random_seed(1)
    layers = keras.layers
    net = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.RandomFlip(),
            layers.Conv2D(2, 3),
            layers.BatchNormalization(),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(3),
        ]
    )
    net.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    random = np.random.default_rng(1)
    net.fit(random.random((8, 8, 8, 3)), random.integers(0, 3, 8), verbose=0)
    return net


@pytest.fixture(scope="session")
def picture(tf: Any) -> bytes:
    png: bytes = tf.io.encode_png(np.random.default_rng(2).integers(0, 255, (20, 30, 3)).astype(np.uint8)).numpy()
    return png


@pytest.fixture(scope="session")
def exported(tf: Any, model: Any, picture: bytes, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Export the model with everything around it, once."""
    out = tmp_path_factory.mktemp("exported") / "model"
    pixels = np.arange(2 * 8 * 8 * 3).reshape(2, 8, 8, 3) % 7
    features = tf.train.Features(
        feature={"input": tf.train.Feature(float_list=tf.train.FloatList(value=pixels[0].ravel()))}
    )
    classes = class_names(forward(model), NAMES, logits=True)
    return export(
        model,
        out,
        functions={
            "serving_default": image_bytes(classes, scale=1 / 255),
            "pixels": keyed(classes),
            "classify": tf_example(top_k(forward(model), 2, NAMES, logits=True)),
        },
        examples={
            "serving_default": {"image": [picture]},
            "pixels": {"key": ["first", "second"], "input": pixels},
            "classify": {"examples": [tf.train.Example(features=features).SerializeToString()]},
        },
        labels=NAMES,
        card=lambda folder: f"# {len(list(folder.iterdir()))} things\n",
        state=from_keras(model, epoch=1, seed=1, data=fingerprint(pixels)),
    )
