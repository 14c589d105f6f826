"""Training that continues from its exported state gives the same weights as uninterrupted training."""

import sys
from pathlib import Path
from typing import Any

import numpy as np

from exporting import (
    export,
    fingerprint,
    from_keras,
    resume,
)
from tests.harness.forks import python

INTERRUPTED, WHOLE = 3, 7  # epochs


def test_resumed_training_gives_the_weights_of_uninterrupted_training(tmp_path: Path) -> None:
    for part in ("first", "second"):
        done = python("-m", "tests.exporting.test_training", part, str(tmp_path))
        assert done.returncode == 0, done.stderr[-2000:]
    whole, resumed = (np.load(tmp_path / f"{name}.npz") for name in ("whole", "resumed"))
    assert len(whole.files) == len(resumed.files) > 10
    for name in whole.files:
        assert whole[name].tobytes() == resumed[name].tobytes(), name


def _train(part: str, folder: Path) -> None:
    """Train in a process of its own: `first` to the end, with an export on the way, or `second` from that export."""
    import keras
    import tensorflow as tf

    tf.config.experimental.enable_op_determinism()
    random = np.random.default_rng(0)
    x, y = random.random((40, 6)).astype(np.float32), random.integers(0, 3, 40)

    def build() -> Any:
        net = keras.Sequential([keras.Input((6,)), keras.layers.Dense(8, "relu"), keras.layers.BatchNormalization()])
        net.add(keras.layers.Dropout(0.4))
        net.add(keras.layers.Dense(3))
        rate = keras.optimizers.schedules.CosineDecay(0.05, WHOLE * 5)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        net.compile(keras.optimizers.AdamW(rate, use_ema=True), loss, metrics=["accuracy"], jit_compile=False)
        return net

    def train(net: Any, begin: int, end: int) -> None:
        for epoch in range(begin, end):
            order = np.random.default_rng([1, epoch]).permutation(len(x))
            net.fit(x[order], y[order], batch_size=8, initial_epoch=epoch, epochs=epoch + 1, shuffle=False, verbose=0)

    def keep(net: Any, name: str) -> None:
        variables = [*net.weights, *net.optimizer.variables]
        np.savez(folder / name, **{str(number): variable.numpy() for number, variable in enumerate(variables)})

    if part == "first":
        keras.utils.set_random_seed(5)
        net = build()
        train(net, 0, INTERRUPTED)
        export(net, folder / "model", state=from_keras(net, epoch=INTERRUPTED, seed=1, data=fingerprint(x, y)))
        train(net, INTERRUPTED, WHOLE)  # without an export
        keep(net, "whole.npz")
    else:
        keras.utils.set_random_seed(99)
        net = build()
        facts = resume(net, folder / "model.state.json")
        assert facts["data"] == fingerprint(x, y)
        assert facts["step"] == INTERRUPTED * 5
        train(net, facts["epoch"], WHOLE)
        keep(net, "resumed.npz")


if __name__ == "__main__":
    _train(sys.argv[1], Path(sys.argv[2]))
