"""Many callers at once: which threads, and does batching pay? `python -m bench.concurrency` measures both.

Callers are threads of one process that call `serving.model.Model.run` and nothing else, each as soon as it was
answered. TensorFlow's intra-op threads are the process's, so every way of running is a process of its own. The ways
take turns, round after round, and each figure is the median of the rounds. Figures and picture go to
bench/CONCURRENCY.md and bench/concurrency.png; the words above the figures there are a person's.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from inspect import getsource
from pathlib import Path
from statistics import median
from textwrap import fill
from typing import Any, NamedTuple

import numpy as np

from bench.machine import about
from bench.models import CACHE, EMBEDDED, ROOT, load, versions

Figures = dict[str, dict[str, float]]  # by cell, then by measure
Medians = dict[str, Figures]  # by "model: way"
Arrays = dict[str, np.ndarray[Any, Any]]

CORES = len(os.sched_getaffinity(0))
MOST_ROWS = 64
FIGURES = "<!-- What follows is written by `python -m bench.concurrency`. -->\n"

# fmt: off
MODELS = {
    "mlp":         "MLP 64→128→10",
    "digits":      "embedded digits model, pixels",
    "transformer": "transformer: 32 words (strings), table, 2 blocks of width 128",
    "mobilenet":   "MobileNetV2, 224×224×3",
    "dense":       "dense 3 × 4096×4096",
}
CELLS = [(callers, rows) for rows in (1, 32) for callers in (1, 4, 16)]
# fmt: on


class Way(NamedTuple):
    """How a process runs its calls."""

    cores: int
    intra: int
    inter: int
    runs: int = 0  # batches under way at once; 0: no batching

    def __str__(self) -> str:
        batching = f", batching, {self.runs} at once" if self.runs else ""
        return f"{self.cores} {'cores' if self.cores > 1 else 'core'}, intra {self.intra}, inter {self.inter}{batching}"


THREADS = [
    Way(1, 1, -1), Way(1, 1, 0),
    *(Way(CORES, intra, inter) for intra in sorted({1, CORES}) for inter in (-1, 0)),
]  # fmt: skip
BATCHING = [Way(CORES, 1, -1, 1), Way(CORES, 1, -1, CORES), Way(CORES, CORES, -1, 1), Way(CORES, CORES, -1, CORES)]


# ---- The models


def folder_of(name: str) -> Path:
    """Give a model's folder, made first if it is not in the cache."""
    if name == "digits":
        return EMBEDDED
    if name not in MAKERS:
        return load(name, say).saved_model
    recipe = hashlib.sha256(" ".join([getsource(MAKERS[name]), *versions("tensorflow-cpu", "tensorflow")]).encode())
    folder = CACHE / "concurrency" / f"{name}-{recipe.hexdigest()[:12]}"
    if not folder.exists():
        say(f"making {name}")
        child("make", name, str(folder))
    return folder


def make_dense(tf: Any, random: np.random.Generator) -> Any:
    """Return three layers of 64 MiB each: a run reads them all, however many rows it has."""
    module = tf.Module()
    module.layers = [tf.Variable(random.normal(0, 1 / 64, (4096, 4096)).astype(np.float32)) for _ in range(3)]

    @tf.function(input_signature=[tf.TensorSpec([None, 4096], tf.float32, "x")])  # type: ignore[untyped-decorator]
    def serve(x: Any) -> Any:
        for layer in module.layers:
            x = tf.nn.relu(x @ layer)
        return {"y": x[:, :10]}

    return module, serve


def make_transformer(tf: Any, random: np.random.Generator) -> Any:
    """Return words → table → embedding → two blocks of attention → probabilities."""
    width, heads, words = 128, 4, 32

    def weight(*shape: int) -> Any:
        return tf.Variable(random.normal(0, shape[0] ** -0.5, shape).astype(np.float32))

    def normal(x: Any) -> Any:
        mean, variance = tf.nn.moments(x, [-1], keepdims=True)
        return (x - mean) * tf.math.rsqrt(variance + 1e-6)

    module = tf.Module()
    known = tf.lookup.KeyValueTensorInitializer([b"w%d" % n for n in range(1000)], tf.range(1000, dtype=tf.int64))
    module.table = tf.lookup.StaticVocabularyTable(known, 64)
    module.embedding, module.place, module.out = weight(1064, width), weight(words, width), weight(width, 4)
    module.blocks = [
        [weight(width, 3 * width), weight(width, width), weight(width, 4 * width), weight(4 * width, width)]
        for _ in range(2)
    ]

    @tf.function(input_signature=[tf.TensorSpec([None, words], tf.string, "words")])  # type: ignore[untyped-decorator]
    def serve(text: Any) -> Any:
        x = tf.gather(module.embedding, module.table.lookup(text)) + module.place
        for mix, join, wide, narrow in module.blocks:
            parts = tf.reshape(tf.tensordot(normal(x), mix, 1), [-1, words, 3, heads, width // heads])
            query, key, value = tf.unstack(parts, axis=2)
            scores = tf.nn.softmax(tf.einsum("bqhd,bkhd->bhqk", query, key) * (width // heads) ** -0.5)
            seen = tf.reshape(tf.einsum("bhqk,bkhd->bqhd", scores, value), [-1, words, width])
            x += tf.tensordot(seen, join, 1)
            x += tf.tensordot(tf.nn.gelu(tf.tensordot(normal(x), wide, 1)), narrow, 1)
        return {"probabilities": tf.nn.softmax(tf.reduce_mean(x, 1) @ module.out)}

    return module, serve


MAKERS: dict[str, Callable[[Any, np.random.Generator], Any]] = {"dense": make_dense, "transformer": make_transformer}


def make(name: str, folder: str) -> None:
    """Save a model; in a process of its own, for it imports tensorflow."""
    import tensorflow as tf

    module, serve = MAKERS[name](tf, np.random.default_rng(1))
    tf.saved_model.save(module, folder, signatures=serve)


# ---- The callers


def open_model(name: str, way: Way) -> tuple[Callable[[Arrays], Arrays], str]:
    """Load the model in this process; give the signature that is called, and its input's name."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: way.cores])
    from serving import settings
    from serving.batching import Batcher
    from serving.model import Model, Source, open_session

    threads = {"INTRA_OP_THREADS": str(way.intra), "INTER_OP_THREADS": str(way.inter)}
    source = Source(folder_of(name), name)
    model = Model(source, open_session(source, settings.read(threads)))
    signature = model.signatures["pixels" if name == "digits" else "serving_default"]
    (argument,) = signature.inputs

    def call(inputs: Arrays) -> Arrays:
        return model.run(signature, inputs)

    return Batcher(call, way.runs, MOST_ROWS, name, trials=0) if way.runs else call, argument


SHAPES = {"mlp": (64,), "dense": (4096,), "mobilenet": (224, 224, 3)}


def rows_of(name: str, rows: int, random: np.random.Generator) -> np.ndarray[Any, Any]:
    """Make an input."""
    if name == "transformer":
        words = [b"w%d" % number for number in random.integers(0, 1200, rows * 32)]
        return np.array(words, object).reshape(rows, 32)
    if name == "digits":
        return random.integers(0, 17, (rows, 8, 8)).astype(np.float32)
    return random.random((rows, *SHAPES[name]), np.float32)


def measure(name: str, way: Way, seconds: float) -> Figures:
    """Give rows a second and the latency of a call, for each number of callers and rows."""
    call, argument = open_model(name, way)
    figures = {}
    for callers, rows in CELLS:
        if name in ("mobilenet", "dense") and callers * rows > 4 * 32:
            continue  # gigabytes, or minutes
        random = np.random.default_rng(callers)
        inputs = [{argument: rows_of(name, rows, random)} for _ in range(callers)]
        press(call, inputs, seconds / 4)
        used = time.process_time()
        latencies, lasted = press(call, inputs, seconds)
        used = time.process_time() - used
        latencies.sort()
        figures[f"{callers}x{rows}"] = {
            "rows_per_second": rows * len(latencies) / lasted,
            "cpu_ms_per_row": 1000 * used / (rows * len(latencies)),
            "p50_ms": 1000 * latencies[len(latencies) // 2],
            "p99_ms": 1000 * latencies[int(len(latencies) * 0.99)],
        }
    return figures


def press(call: Callable[[Arrays], Arrays], inputs: list[Arrays], seconds: float) -> tuple[list[float], float]:
    """Call from as many threads as there are inputs; give all latencies, and how long it took."""
    latencies: list[float] = []
    start = threading.Barrier(len(inputs) + 1)

    def work(own: Arrays) -> None:
        mine = []
        start.wait()
        end = time.perf_counter() + seconds
        while (now := time.perf_counter()) < end:
            call(own)
            mine.append(time.perf_counter() - now)
        latencies.extend(mine)

    threads = [threading.Thread(target=work, args=(own,)) for own in inputs]
    for thread in threads:
        thread.start()
    start.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    return latencies, time.perf_counter() - began


def latency(name: str, way: Way) -> dict[str, float]:
    """Give what a call of one caller takes, by its rows: the tenth percentile, which others on the machine touch least."""
    call, argument = open_model(name, way)
    found = {}
    for rows in (1, 2, 8, 32):
        inputs = [{argument: rows_of(name, rows, np.random.default_rng(0))}]
        press(call, inputs, 0.1)
        latencies, _ = press(call, inputs, 0.6)
        found[str(rows)] = 1000 * sorted(latencies)[len(latencies) // 10]
    return found


def sizes_alike(name: str, way: Way) -> dict[str, str]:
    """Give a digest of the answer to one row, for each size of batch that the row is in."""
    call, argument = open_model(name, way)
    sizes = (1, 2, 3, 4, 5, 7, 8, 16) if name == "mobilenet" else (1, 2, 3, 4, 5, 7, 8, 12, 16, 24, 31, 32, 48, 64)
    inputs = {argument: rows_of(name, sizes[-1], np.random.default_rng(0))}
    found = {}
    for size in sizes:
        digests = set()
        for place in {0, size // 2, size - 1}:
            order = [*range(1, place + 1), 0, *range(place + 1, size)]
            outputs = call({key: array[order] for key, array in inputs.items()})
            digests.add(hashlib.sha256(b"".join(to_bytes(outputs[key][place]) for key in sorted(outputs))).hexdigest())
        found[str(size)] = " ".join(sorted(digests))
    return found


def to_bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else np.asarray(value).tobytes()


# ---- The rounds


def child(*arguments: str) -> Any:
    """Run a part of this module in a process of its own, and give what it printed last."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    run = subprocess.run(
        [sys.executable, "-m", "bench.concurrency", *arguments],
        cwd=ROOT, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    if run.returncode:
        raise SystemExit(run.stderr)
    lines = run.stdout.splitlines()
    return json.loads(lines[-1]) if lines else None


def collect(names: list[str], repeat: int, seconds: float) -> Iterator[tuple[int, Medians]]:
    """Measure round after round, and give the medians as they stand after each."""
    samples: dict[tuple[str, Way], list[Figures]] = {}
    for number in range(repeat):
        for name in names:
            for way in dict.fromkeys([*THREADS, *BATCHING]):
                samples.setdefault((name, way), []).append(child("measure", name, json.dumps(way), str(seconds)))
                say(f"{number + 1}/{repeat}  {name:<12} {way}")
        yield number + 1, {f"{name}: {way}": medians(found) for (name, way), found in samples.items()}


def latencies(names: list[str], repeat: int) -> dict[str, dict[str, dict[str, float]]]:
    """Give the median of the rounds, by model, intra-op threads and rows."""
    found: dict[str, dict[str, dict[str, list[float]]]] = {name: {"1": {}, str(CORES): {}} for name in names}
    for _ in range(repeat):
        for name, by_threads in found.items():
            for intra, by_rows in by_threads.items():
                for rows, value in child("latency", name, json.dumps(Way(CORES, int(intra), -1))).items():
                    by_rows.setdefault(rows, []).append(value)
    return {
        name: {
            intra: {rows: median(values) for rows, values in by_rows.items()} for intra, by_rows in by_threads.items()
        }
        for name, by_threads in found.items()
    }


def medians(found: list[Figures]) -> Figures:
    return {cell: {key: median(one[cell][key] for one in found) for key in found[0][cell]} for cell in found[0]}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.concurrency", description=__doc__)
    parser.add_argument("--repeat", type=int, default=5, help="rounds (default 5)")
    parser.add_argument("--seconds", type=float, default=0.5, help="of each figure in each round (default 0.5)")
    parser.add_argument("--models", default=",".join(MODELS), help=f"of {','.join(MODELS)}")
    parser.add_argument("--draw", action="store_true", help="write the figures that were measured last, again")
    options = parser.parse_args()
    file = CACHE / "concurrency" / "results.json"
    if not options.draw:
        names = options.models.split(",")
        for name in names:
            folder_of(name)
        bits = {
            name: {str(intra): child("bits", name, json.dumps(Way(CORES, intra, -1))) for intra in (1, 2, 4)}
            for name in names
        }
        quick = latencies(names, options.repeat)
        for done, figures in collect(names, options.repeat, options.seconds):
            facts = {**about(done), "command": " ".join(["python -m bench.concurrency", *sys.argv[1:]])}
            facts.pop("load generator", None)
            file.write_text(json.dumps({"about": facts, "bits": bits, "latency": quick, "medians": figures}, indent=1))
    write(json.loads(file.read_bytes()))


# ---- What is written


def write(results: dict[str, Any]) -> None:
    """Draw the picture, and put the figures below the words of bench/CONCURRENCY.md."""
    file = ROOT / "bench" / "CONCURRENCY.md"
    words = file.read_text().partition(FIGURES)[0] if file.exists() else "# Many callers at once\n\n"
    file.write_text(words + FIGURES + "\n" + "\n".join(report(results)) + "\n")
    draw(results, ROOT / "bench" / "concurrency.png")
    say(f"written: {file}")


def report(results: dict[str, Any]) -> Iterator[str]:
    figures: Medians = results["medians"]
    yield "## Figures"
    for name, title in MODELS.items():
        ways = {key.partition(": ")[2]: found for key, found in figures.items() if key.startswith(f"{name}: ")}
        if not ways:
            continue
        cells = list(next(iter(ways.values())))
        yield f"\n{title}: rows a second · median latency of a call in ms · CPU ms a row\n"
        yield f"| | {' | '.join(heading(cell) for cell in cells)} |"
        yield f"| --- |{' --- |' * len(cells)}"
        for way, found in ways.items():
            yield f"| {way} | {' | '.join(shown(found[cell]) for cell in cells)} |"
    yield "\nOne caller, intra-op threads: tenth percentile of a call's latency in ms\n"
    for number, (name, by_threads) in enumerate(results["latency"].items()):
        if not number:
            sizes = next(iter(by_threads.values()))
            titles = [
                f"{rows} {'rows' if rows != '1' else 'row'}, intra {intra}" for rows in sizes for intra in by_threads
            ]
            yield f"| | {' | '.join(titles)} |\n| --- |{' --- |' * len(titles)}"
        values = [f"{by_threads[intra][rows]:.3g}" for rows in sizes for intra in by_threads]
        yield f"| {MODELS[name]} | {' | '.join(values)} |"
    yield "\nSizes of batch in which a row has the same bytes, at its beginning, middle and end, by intra-op threads:\n"
    yield "| model | intra 1 | intra 2 | intra 4 |\n| --- | --- | --- | --- |"
    for name, by_threads in results["bits"].items():
        letters: dict[str, str] = {}
        yield f"| {MODELS[name]} | {' | '.join(classes(sizes, letters) for sizes in by_threads.values())} |"
    yield "\nOne letter stands for one answer, byte for byte.\n"
    yield from (f"- {key}: {value}" for key, value in results["about"].items())


def heading(cell: str) -> str:
    callers, _, rows = cell.partition("x")
    return f"{callers} {'callers' if callers != '1' else 'caller'} × {rows} {'rows' if rows != '1' else 'row'}"


def shown(cell: dict[str, float]) -> str:
    return f"{cell['rows_per_second']:,.0f} · {cell['p50_ms']:.3g} · {cell['cpu_ms_per_row']:.2g}"


def classes(sizes: dict[str, str], letters: dict[str, str]) -> str:
    """Group the sizes by their answers, each answer under a letter of its own: "A: 1; B: 2, 3, 4"."""
    groups: dict[str, list[str]] = {}
    for size, answer in sizes.items():
        letter = letters.setdefault(answer, chr(ord("A") + len(letters)))
        groups.setdefault(letter, []).append(size)
    return "; ".join(f"{letter}: {group[0]}{f'–{group[-1]}' if group[1:] else ''}" for letter, group in groups.items())


def draw(results: dict[str, Any], file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shades = {
        "1x1": "#9aa5b1",
        "4x1": "#79b0f5",
        "16x1": "#1f6feb",
        "1x32": "#f0d28c",
        "4x32": "#d9a441",
        "16x32": "#8a5a00",
    }
    figures: Medians = results["medians"]
    one = Way(CORES, 1, -1)
    names = [name for name in MODELS if f"{name}: {one}" in figures]
    figure, grid = plt.subplots(1, 3, figsize=(15, 7), layout="constrained", sharey=True)
    rows = dict(zip(("1", "2", "8", "32"), ("#9aa5b1", "#79b0f5", "#1f6feb", "#d9a441")))
    for number, name in enumerate(names):
        by_threads = results["latency"][name]
        gains = {row: by_threads["1"][row] / by_threads[str(CORES)][row] for row in rows}
        bars(grid[0], number, gains, rows)
        for axes, runs in zip(grid[1:], (1, CORES)):
            found, plain = figures[f"{name}: {one._replace(runs=runs)}"], figures[f"{name}: {one}"]
            bars(
                axes,
                number,
                {cell: plain[cell]["cpu_ms_per_row"] / found[cell]["cpu_ms_per_row"] for cell in plain},
                shades,
            )
    titles = (
        f"Intra-op threads: 1 → {CORES}, one caller\nhow many times faster a call is",
        "Batching, one run at a time\nhow many times less CPU a row costs",
        f"Batching, {CORES} runs at a time\nhow many times less CPU a row costs",
    )
    for axes, title, colours in zip(grid, titles, (rows, shades, shades)):
        axes.axvline(1, color="black", linewidth=0.8)
        axes.set_xscale("log", base=2)
        axes.set_xticks([0.25, 0.5, 1, 2, 4, 8], ["¼", "½", "1", "2", "4", "8"])
        axes.set_xlim(0.2, 16)
        axes.set_title(title, fontsize=11)
        labels = [heading(key) if "x" in key else ("1 row" if key == "1" else f"{key} rows") for key in colours]
        handles = [plt.Rectangle((0, 0), 1, 1, color=colour) for colour in colours.values()]
        axes.legend(handles, labels, loc="upper right", fontsize=8, frameon=False)
    grid[0].set_yticks([-number for number in range(len(names))], [fill(MODELS[name], 22) for name in names])
    figure.suptitle(f"{results['about']['machine']} · {results['about']['date']}", fontsize=11)
    figure.savefig(file, dpi=100)
    plt.close(figure)


def bars(axes: Any, number: int, gains: dict[str, float], colours: dict[str, str]) -> None:
    for place, (key, gain) in enumerate(gains.items()):
        where = -number - 0.14 * (place - (len(gains) - 1) / 2)
        axes.barh(where, gain - 1, left=1, height=0.12, color=colours[key])
        place_of_label: Any = {"textcoords": "offset points", "va": "center", "fontsize": 8}
        axes.annotate(f"{gain:.2f}", (gain, where), (4 if gain >= 1 else -24, 0), **place_of_label)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["make", name, folder]:
            make(name, folder)
        case ["measure", name, way, seconds]:
            print(json.dumps(measure(name, Way(*json.loads(way)), float(seconds))))
        case ["bits", name, way]:
            print(json.dumps(sizes_alike(name, Way(*json.loads(way)))))
        case ["latency", name, way]:
            print(json.dumps(latency(name, Way(*json.loads(way)))))
        case _:
            main()
