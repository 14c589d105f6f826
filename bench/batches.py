"""What rows together cost a model, without a server: `python -m bench.batches MODEL`.

This bounds what dynamic batching can bring: CPU time of a run by its rows, medians; and whether the rows get the bytes
that each gets alone, and in a run of two. The sizes take turns, each with runs for 50 ms in a row: behind a larger run
a small one would find nothing that it needs in the processor's caches.
"""

import argparse
import time
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from serving.core import settings
from serving.runtime.batch_sizes import example_rows
from serving.runtime.model import Model
from serving.runtime.sessions import open_session
from serving.savedmodel.signature import DEFAULT
from serving.savedmodel.source import Source

DIFFERENT = 8  # rows
TURN = 0.05  # seconds


def _bytes(value: Any) -> Any:
    return value.tobytes() if isinstance(value, np.ndarray | np.generic) and value.dtype != object else repr(value)


def main() -> None:
    """Print a line for each number of rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="a folder with a SavedModel")
    parser.add_argument("--signature", default=DEFAULT)
    parser.add_argument("--rows", default="1,2,4,8,16,32,64")
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    source = Source(options.model, "model")
    model = Model(source, open_session(source, settings.read({})))
    signature = model.signatures[options.signature]
    rows = list(islice(example_rows(model, signature), DIFFERENT))
    sizes = [int(size) for size in options.rows.split(",")]

    def run(places: list[int]) -> tuple[float, dict[str, Any]]:
        inputs = {name: np.concatenate([rows[place][name] for place in places]) for name in signature.inputs}
        began = time.thread_time()
        outputs = model.run(signature, inputs)
        return time.thread_time() - began, outputs

    def parts(places: list[int]) -> list[list[Any]]:
        outputs = run(places)[1]
        return [[_bytes(array[row]) for array in outputs.values()] for row in range(len(places))]

    places = {size: [place % len(rows) for place in range(size)] for size in sizes}
    times: dict[int, list[float]] = {size: [] for size in sizes}
    until = time.monotonic() + options.seconds
    while time.monotonic() < until or not times[sizes[0]]:
        for size in sizes:
            run(places[size])
            turn = time.monotonic() + TURN
            while time.monotonic() < turn:
                times[size].append(run(places[size])[0])
    alone = [parts([place])[0] for place in range(len(rows))]
    paired = [parts([place, place])[0] for place in range(len(rows))]
    print(f"{options.model}, {options.signature}, {min(map(len, times.values()))} runs of each size at least")
    print("rows   µs a run   µs a row   times the rows   bytes of a row alone   bytes of a row as two")
    first = median(times[sizes[0]]) / sizes[0]
    for size in sizes:
        took, together = median(times[size]), parts(places[size])
        same = ["yes" if together == [each[place] for place in places[size]] else "no" for each in (alone, paired)]
        print(
            f"{size:4} {1e6 * took:10.0f} {1e6 * took / size:10.1f} {first * size / took:16.2f} {same[0]:>22} {same[1]:>23}"
        )


if __name__ == "__main__":
    main()
