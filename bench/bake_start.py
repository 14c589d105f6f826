"""A process that starts, loads a model as the server does, and answers: `python -m bench.bake_start DIR INPUTS.npz OUT.npz`.

When it has its first answer it says so in a line, then a line of JSON with seconds and megabytes.
"""

import json
import os
import statistics
import sys
import time
from pathlib import Path

import numpy as np

from serving.core import settings
from serving.runtime.model import Model
from serving.runtime.sessions import open_library, open_session
from serving.savedmodel.source import Source
from tools.server import memory_of

CALLS = 50


def main(directory: str, inputs: str, out: str) -> None:
    options = settings.read({})
    open_library(options)
    begin = time.perf_counter()
    source = Source(Path(directory), "model")
    model = Model(source, open_session(source, options))
    load = time.perf_counter() - begin
    signature = model.signatures["serving_default"]
    arrays = {
        name: array.astype(object) if array.dtype.kind == "S" else array for name, array in np.load(inputs).items()
    }
    begin = time.perf_counter()
    outputs = model.run(signature, arrays)
    first = time.perf_counter() - begin
    print("answered", flush=True)
    times = []
    for _ in range(CALLS):
        begin = time.perf_counter()
        model.run(signature, arrays)
        times.append(time.perf_counter() - begin)
    np.savez(out, **{name: array.astype("S") if array.dtype == object else array for name, array in outputs.items()})
    steady = statistics.median(times)
    print(
        json.dumps(
            {"load": load, "first": first, "steady": steady, "private_mb": memory_of(os.getpid())["Pss_Anon"] / 1e6}
        ),
        flush=True,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
