"""Print the sizes in which `auto` lets the models of folders share runs, and those that change a row after all.

python -m tests.runtime.allowed_sizes model      {"model pixels": [[2, 3, 4, 5, 6, 7, 8, 12, 16], []], ...}
"""

import json
import sys
from itertools import islice
from pathlib import Path

import numpy as np

from serving.core import settings
from serving.runtime import batch_sizes
from serving.runtime.model import Model
from serving.runtime.sessions import open_session
from serving.savedmodel.signature import Signature
from serving.savedmodel.source import Source

ROWS, BATCHES = 32, 200  # rows that `auto` has not tried; batches of each size


def changed(model: Model, signature: Signature, sizes: tuple[int, ...]) -> list[int]:
    """Return the sizes in which a row of random batches differs from the same row alone, in the smallest run."""
    made = list(islice(batch_sizes.example_rows(model, signature), batch_sizes.MANY, batch_sizes.MANY + ROWS))
    inputs = {name: np.concatenate([row[name] for row in made]) for name in signature.inputs}

    def run(rows: list[int]) -> list[str]:
        outputs = model.run(signature, {name: array[rows] for name, array in inputs.items()})
        return [str([array[row : row + 1].tolist() for array in outputs.values()]) for row in range(len(rows))]

    random, alone, seen = np.random.default_rng(0), [run([row] * sizes[0])[0] for row in range(ROWS)], []
    for size in sizes:
        batches = random.integers(ROWS, size=(BATCHES, size)).tolist()
        if any(run(batch) != [alone[row] for row in batch] for batch in batches):
            seen.append(size)
    return seen


if __name__ == "__main__":
    batch_sizes.FASTER = 99.0  # whether it pays is another question
    result = {}
    for folder in map(Path, sys.argv[1:]):
        source = Source(folder, "model")
        model = Model(source, open_session(source, settings.read({})))
        for name, (sizes, *_) in batch_sizes.of_model(model, 16, exact=True).items():
            differ = changed(model, model.signatures[name], sizes) if sizes else []
            result[f"{folder.name} {name}"] = [sizes, differ]
        model.close()
    print(json.dumps(result))
