"""Where the time of one picture goes in the embedded model, without a server: `python -m bench.pictures`.

Each line is a signature of its own that does all that the lines above it do, and one thing more. CPU time of a run
through the server's runtime, without baking, on one thread; all lines in turns, medians. TensorFlow reads
TF_ENABLE_ONEDNN_OPTS when it is loaded, so each column is another process.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from bench.machine import about, interleaved
from bench.models import ROOT
from bench.page import Part, publish
from serving.core import settings
from serving.runtime.batch_sizes import example_rows
from serving.runtime.model import Model
from serving.runtime.sessions import open_session
from serving.savedmodel.source import Source

MODEL = ROOT / "model"
CALLS = 50  # in a row, for one time
# fmt: off
LINES = {  # signature → what it does more than the one before it
    "run":      "a run of the graph that returns its input",
    "called":   "pixels counted in the header, a function called for each picture",
    "decoded":  "`DecodeImage`",
    "grey":     "at most 96 pixels a side, grey, over white paper",
    "inked":    "how much ink is on each pixel",
    "fitted":   "strokes fitted to 8x8",
    "read":     "network and labels: `serving_default`",
}
OTHERS = {
    "looped":   "`serving_default` by `tf.map_fn`, each picture counted when it is decoded",
    "pixels":   "network and labels alone: `pixels`",
}
# fmt: on


def make(folder: Path) -> None:
    """Write a SavedModel whose signatures are the lines; imports TensorFlow's Python package."""
    import tensorflow as tf

    from examples.digits import reader
    from examples.digits.__main__ import build
    from exporting.pictures import LARGEST, claimed_pixels, decode_picture, each_picture

    checkpoint = tf.train.load_checkpoint(str(MODEL / "variables" / "variables"))
    network, names = build(), [name for name in checkpoint.get_variable_to_shape_map() if name.startswith("weights/")]
    network.set_weights(
        [checkpoint.get_tensor(name) for name in sorted(names, key=lambda name: int(name.split("/")[1]))]
    )
    model = reader.Reader(lambda scans: network(scans, training=False))
    scan = tf.TensorSpec((reader.SIDE, reader.SIDE))

    def step(work: Callable[[Any], Any], spec: Any) -> Any:
        return lambda image: {"y": each_picture(work, image, spec)}

    byte, number = tf.TensorSpec((), tf.uint8), tf.TensorSpec(())

    def one(file: Any) -> Any:
        fits = tf.raw_ops.Assert(condition=claimed_pixels(file) <= LARGEST, data=["too large"])
        with tf.control_dependencies([fits]):
            return reader.fit(reader.ink(reader.decode(tf.identity(file))))

    functions = {
        "run": lambda image: {"y": tf.identity(image)},
        "called": step(tf.strings.length, tf.TensorSpec((), tf.int32)),
        "decoded": step(lambda file: decode_picture(file, channels=0)[0, 0, 0], byte),
        "grey": step(lambda file: reader.decode(file)[0, 0], number),
        "inked": step(lambda file: reader.ink(reader.decode(file))[0, 0], number),
        "fitted": step(lambda file: reader.fit(reader.ink(reader.decode(file))), scan),
        "read": model.read_image,
        "looped": lambda image: model.classify(tf.map_fn(one, image, parallel_iterations=1, fn_output_signature=scan)),
    }
    strings = tf.TensorSpec((None,), tf.string, name="image")
    signatures = {
        name: tf.function(call, autograph=False).get_concrete_function(strings) for name, call in functions.items()
    }
    model.kept = [weight.value for weight in network.weights]
    tf.saved_model.save(model, str(folder), signatures={**signatures, "pixels": model.read_pixels})


def measured(folder: Path, seconds: float) -> dict[str, float]:
    """Return the median CPU time of a run of each signature, in µs."""
    source = Source(folder, "model")
    model = Model(source, open_session(source, settings.read({})))
    embedded = Source(MODEL, "model")
    shown = Model(embedded, open_session(embedded, settings.read({})))
    inputs: dict[str, dict[str, Any]] = {}
    for name in (*LINES, *OTHERS):
        rows = next(iter(example_rows(shown, shown.signatures["pixels" if name == "pixels" else "serving_default"])))
        inputs[name] = {key: np.array(rows[key]) for key in model.signatures[name].inputs}
    times: dict[str, list[float]] = {name: [] for name in inputs}
    until = time.monotonic() + seconds
    while time.monotonic() < until or len(times["run"]) < 6:
        for name, arrays in inputs.items():
            signature, began = model.signatures[name], time.thread_time()
            for _ in range(CALLS):
                model.run(signature, arrays)
            times[name].append(1e6 * (time.thread_time() - began) / CALLS)
    return {name: median(took[1:]) for name, took in times.items()}  # the first has the graph's optimization in it


def child(*arguments: str, onednn: str = "1") -> str:
    """Run this module in a process of its own; return what it printed."""
    environment = {**os.environ, "TF_ENABLE_ONEDNN_OPTS": onednn, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-m", "bench.pictures", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout


def parts(columns: list[dict[str, float]]) -> list[Part]:
    """Return the page's tables of the times with oneDNN's kernels and without."""
    names = list(LINES)
    rows = [["what is done", "µs", "µs more", "µs without oneDNN", "µs more"]]
    for previous, name in zip([None, *names], names):
        line = [LINES[name]]
        for times in columns:
            line += [f"{times[name]:.0f}", f"{times[name] - times[previous]:.0f}" if previous else ""]
        rows.append(line)
    others = [["for comparison", "µs", "µs without oneDNN"]]
    others += [[title, *(f"{times[name]:.0f}" for times in columns)] for name, title in OTHERS.items()]
    ratio = columns[0]["read"] / columns[0]["looped"]
    return [
        rows, others,
        f"One call for each picture takes {ratio:.2f} of the time of `tf.map_fn`, a loop of some sixty operations of "
        "its own. Half of it is not reached: the network alone takes about half, mostly for calls of oneDNN's kernels, "
        "which cost more than their arithmetic where there is one row. TF_ENABLE_ONEDNN_OPTS=0 takes much of that off, "
        "but a batch then takes longer; `python -m bench.batches model --signature pixels` shows both.",
    ]  # fmt: skip


def main() -> None:
    """Make the model, measure it and write docs/benchmarks/pictures.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("folder", nargs="?", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=20.0, help="for each column")
    options = parser.parse_args()
    if options.work == "make":
        return make(options.folder)
    if options.work == "measure":
        return print(json.dumps(measured(options.folder, options.seconds)))
    with tempfile.TemporaryDirectory() as folder:
        child("make", folder)
        facts = about(interleaved(round(options.seconds)) + " (seconds a column)", "python -m bench.pictures")
        columns = [
            json.loads(child("measure", folder, "--seconds", str(options.seconds), onednn=onednn)) for onednn in "10"
        ]
    assert __doc__
    publish("pictures.md", "One picture", facts, [" ".join(__doc__.split("\n\n")[1].split()), *parts(columns)])
    return None


if __name__ == "__main__":
    main()
