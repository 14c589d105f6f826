"""Warm-up requests that an exporter stored with a model: `assets.extra/tf_serving_warmup_requests`.

The first run of a signature takes many times as long as later runs, because TensorFlow optimizes the graph in it. A
readiness probe can wait for that; the first prediction should not.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from serving.core import files
from serving.core.errors import InputError, RunError, plain
from serving.core.telemetry import phases
from serving.core.telemetry.log import log
from serving.savedmodel.folder import manifest
from serving.savedmodel.prediction_log import Logged, records, request
from serving.savedmodel.signature import Signature

PLACE = "assets.extra/tf_serving_warmup_requests"
REQUESTS = 1000  # the most that TensorFlow Serving takes
BYTES = 64 << 20
SECONDS = 5.0  # no run begins later than this after the start

Run = Callable[[Signature, Mapping[str, np.ndarray[Any, Any]]], object]


def warm(directory: Path, signatures: Mapping[str, Signature], run: Run) -> int:
    """Run each request once, up to REQUESTS, BYTES and SECONDS; return how many were answered.

    Problems are logged; nothing is raised.
    """
    if PLACE in manifest.leftovers(directory):
        return 0
    begin, ran, problems = time.perf_counter(), 0, []
    with phases.measured("warmup"):
        try:
            for position, record in enumerate(records(files.opened(directory, PLACE, files.ANY), BYTES)):
                if position == REQUESTS or time.perf_counter() - begin > SECONDS:
                    break
                try:
                    _run(request(record, signatures), signatures, run)
                    ran += 1
                except (InputError, RunError, ValueError) as error:
                    problems.append(f"request {position}: {plain(str(error))}")
        except FileNotFoundError:
            return 0
        except Exception as error:  # a model that loads is served, even with a bad file of requests
            problems.append(plain(str(error)) or repr(error))
    if problems:
        more = f"; {len(problems) - 1} more" if len(problems) > 1 else ""
        log("WARNING", f"{PLACE}: {problems[0]}{more}")
    log("INFO", f"warmed up by {ran} request{'' if ran == 1 else 's'}", seconds=round(time.perf_counter() - begin, 3))
    return ran


def _run(logged: Logged, signatures: Mapping[str, Signature], run: Run) -> None:
    signature = signatures[logged.signature]
    if signature.refusal:
        raise ValueError(f"signature {signature.name!r} cannot be called: {signature.refusal}")
    run(signature, logged.inputs)
