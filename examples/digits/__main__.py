"""Train the embedded model and export it: `python -m examples.digits`.

Writes

    model/                              what is served: the SavedModel, its card, an example request to each signature
    examples/digits/digits.state.json    what is not: all that is known about the training, and what came of it

The training is over when it is exported: its learning rate has come to 0. So the state is facts alone, without the
arrays that `exporting.from_keras` keeps to go on with.

One seed decides everything, so that two runs on one machine write the same weights, byte for byte.
"""

import json
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from string import Template
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import sklearn
import tensorflow as tf
from scipy import ndimage

from examples.digits import reader
from examples.digits.data import SEED, Digits, Labels, Scans, load, split
from examples.digits.pictures import encode, paint, smallest_png
from exporting import export
from exporting.manifest import sha256
from exporting.pictures import LARGEST

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MODEL = ROOT / "model"
STATE = HERE / "digits.state.json"
CARD = HERE / "card.md"

REPEATED = 8  # copies of each scan, as it is
REDRAWN = 24  # copies of each scan, as other hands might have drawn it
EPOCHS = 8
BATCH = 64
LEARNING_RATE = 2e-3  # at first; a cosine takes it to 0 at the last step


def redraw(scan: Scans, random: np.random.Generator) -> Scans:
    """Return the strokes of a scan [0..1, larger], turned, slanted, stretched, and thicker or thinner."""
    large = ndimage.zoom(np.pad(scan, 2) / reader.DEPTH, 5, order=3, grid_mode=True, mode="nearest").clip(0.0, 1.0)
    turn, slant = random.normal(0.0, 0.10), random.normal(0.0, 0.12)
    stretch = np.exp(random.normal(0.0, 0.08, size=2))
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn) + slant, np.cos(turn)]]) * stretch
    middle = np.array(large.shape) / 2 - 0.5
    drawn = ndimage.affine_transform(large, matrix, middle - matrix @ middle, order=1)
    if random.random() < 0.7:  # where grey becomes ink decides how thick a stroke is
        drawn = 0.5 + (drawn - random.uniform(0.25, 0.75) * drawn.max()) * random.uniform(1.5, 8.0)
        drawn = drawn.clip(0.0, 1.0)
    return (drawn / drawn.max()).astype(np.float32)


def augment(digits: Digits) -> Digits:
    """Return every scan as it is and redrawn, prepared by the graph that prepares pictures when the model serves."""
    random = np.random.default_rng(SEED)
    fit = tf.function(reader.fit, autograph=False, input_signature=[tf.TensorSpec((None, None), tf.float32)])

    def redrawn() -> Iterator[Scans]:
        for scan in np.tile(digits.scans, (REDRAWN, 1, 1)):
            move = random.normal(0.0, (0.15, 0.35)).clip(-1.0, 1.0)
            yield ndimage.shift(fit(redraw(scan, random)).numpy(), move, order=1, mode="nearest")

    scans = np.concatenate([np.tile(digits.scans, (REPEATED, 1, 1)), np.stack(list(redrawn()))])
    return Digits(scans, np.tile(digits.labels, REPEATED + REDRAWN))


def build() -> keras.Model:
    """Return the network, untrained: from scans [n, 8, 8, 1], the darkest block of each 1, to ten logits."""
    return keras.Sequential(
        [
            keras.Input((reader.SIDE, reader.SIDE, 1)),
            keras.layers.Conv2D(24, 3, padding="same", activation="relu"),
            keras.layers.Conv2D(48, 3, padding="same", activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Dropout(0.3),
            keras.layers.Flatten(),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(10),
        ]
    )


def train(digits: Digits) -> keras.Model:
    """Return the network, trained. Resets the process's random state, and makes its TensorFlow deterministic."""
    keras.utils.set_random_seed(SEED)
    tf.config.experimental.enable_op_determinism()
    examples = augment(digits)
    network = build()
    steps = EPOCHS * -(-len(examples) // BATCH)
    network.compile(
        optimizer=keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps)),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,
    )
    inputs = reader.normalize(tf.constant(examples.scans)).numpy()
    network.fit(inputs, examples.labels, batch_size=BATCH, epochs=EPOCHS, verbose=2)
    return network


def ways_to_send(scans: Scans) -> dict[str, tf.Tensor]:
    """Return the same scans in every form of which the card gives the accuracy."""

    def files(side: int, dark_on_light: bool, mode: str) -> tf.Tensor:
        return tf.constant([encode(paint(scan, side, 0, dark_on_light).convert(mode)) for scan in scans])

    return {
        "pixels": tf.constant(scans),
        "grey PNG, 8x8, light on dark": files(8, False, "L"),
        "grey PNG, 8x8, dark on light": files(8, True, "L"),
        "RGB PNG, 64x64, light on dark": files(64, False, "RGB"),
        "RGB PNG, 64x64, dark on light": files(64, True, "RGB"),
    }


def read(model: Any, sent: tf.Tensor) -> dict[str, tf.Tensor]:
    if sent.dtype == tf.string:
        return model.signatures["serving_default"](image=sent)
    return model.signatures["pixels"](pixels=sent)


def measure(model: Any, digits: Digits) -> dict[str, Labels]:
    """Return what the exported model reads, for every way to send the scans."""
    return {
        way: read(model, sent)["label"].numpy().astype(np.int64) for way, sent in ways_to_send(digits.scans).items()
    }


def describe(
    held_out: Digits, trained_on: Digits, network: keras.Model, labels: dict[str, Labels], folder: Path
) -> dict[str, Any]:
    """Return the state of the training, as it is written to STATE."""
    optimizer = network.optimizer
    return {
        "seed": SEED,
        "epochs": EPOCHS,
        "steps": int(optimizer.iterations.numpy()),
        "batch_size": BATCH,
        "optimizer": optimizer.name,
        "learning_rate": {"schedule": "cosine", "first": LEARNING_RATE, "last": float(optimizer.learning_rate)},
        "parameters": network.count_params(),
        "data": {
            "source": "sklearn.datasets.load_digits",
            "scans": len(trained_on) + len(held_out),
            "sha256": load().fingerprint(),
            "trained_on": {"scans": len(trained_on), "sha256": trained_on.fingerprint()},
            "held_out": {"scans": len(held_out), "sha256": held_out.fingerprint()},
            "copies_of_each": {"as_it_is": REPEATED, "redrawn": REDRAWN},
        },
        "held_out_accuracy": {way: float(np.mean(read == held_out.labels)) for way, read in labels.items()},
        "weights_sha256": sha256(folder / "variables" / "variables.data-00000-of-00001"),
        "versions": {"tensorflow": tf.__version__, "keras": keras.__version__, "scikit-learn": sklearn.__version__},
    }


def card(state: dict[str, Any], written: Labels, labels: dict[str, Labels]) -> str:
    """Return the card's template filled with what was measured, so that its figures cannot drift from the model."""
    confusion = np.zeros((10, 10), np.int64)
    np.add.at(confusion, (written, labels["pixels"]), 1)
    held_out = len(written)
    return Template(CARD.read_text()).substitute(
        parameters=f"{state['parameters']:,}",
        largest=LARGEST // 10**6,
        finest=reader.FINEST,
        held_out=held_out,
        accuracies="\n".join(
            f"| {way} | {np.sum(read == written)} of {held_out}, {np.mean(read == written):.1%} |"
            for way, read in labels.items()
        ),
        confusion="\n".join(
            f"| **{digit}** | {' | '.join(str(count or '') for count in row)} | {row[digit] / row.sum():.1%} |"
            for digit, row in enumerate(confusion)
        ),
        one=f"{1 / held_out:.1%}",
        scans=f"{state['data']['scans']:,}",
        trained_on=f"{state['data']['trained_on']['scans']:,}",
        repeated=REPEATED,
        redrawn=REDRAWN,
        fingerprint=state["data"]["sha256"],
        tensorflow=state["versions"]["tensorflow"],
        keras=state["versions"]["keras"],
        seed=SEED,
        weights=state["weights_sha256"],
    )


def example(read_pixels: Any, held_out: Digits) -> Scans:
    """Return a 3 that the model is sure of, in the fewest bytes."""
    threes = held_out.scans[held_out.labels == 3]
    certainty = read_pixels(tf.constant(threes))["probabilities"].numpy()[:, 3]
    sure = threes[(certainty > 0.99) & (certainty < 0.9999)]  # and not so sure that the answer is all ones and zeros
    return min(sure, key=lambda scan: len(smallest_png(scan)))


def main() -> None:
    trained_on, held_out = split(load())
    network = train(trained_on)
    model = reader.Reader(lambda scans: network(scans, training=False))
    scan = example(model.read_pixels, held_out)

    @cache
    def labels(folder: Path) -> dict[str, Labels]:
        return measure(tf.saved_model.load(str(folder)), held_out)

    @cache
    def state(folder: Path) -> dict[str, Any]:
        return describe(held_out, trained_on, network, labels(folder), folder)

    export(
        network,
        MODEL,
        functions={"serving_default": model.read_image, "pixels": model.read_pixels},
        examples={"serving_default": {"image": [smallest_png(scan)]}, "pixels": {"pixels": [scan]}},
        labels=[str(digit) for digit in range(10)],
        card=lambda folder: card(state(folder), held_out.labels, labels(folder)),
        state=state,
        state_path=STATE,
        force=True,
    )
    for way, accuracy in json.loads(STATE.read_text())["held_out_accuracy"].items():
        print(f"{accuracy:.2%} of {len(held_out)} held-out scans right: {way}")


if __name__ == "__main__":
    main()
