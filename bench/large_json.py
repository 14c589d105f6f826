"""What HTTP and JSON add to a large request: `python -m bench.large_json MODEL BODY_FILE`.

One connection asks functions-framework and the standalone server in turns. The ratio is the time until the client has the
answer over the time of the model's own run in the same request (`run` of Server-Timing), the median of all requests. The
budget is for MobileNetV2 and a picture of 1.4 MB.
"""

import argparse
import json
import os
import sys
import tempfile
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from bench.measure import server_timing, timed
from bench.process import answering
from tools.client import connect, post

FRAMEWORK = str(Path(sys.executable).with_name("functions-framework"))
SERVERS = {
    "functions-framework": [FRAMEWORK, "--target", "predict"],
    "standalone": [sys.executable, "-m", "serving.servers.standalone"],
}
WARM = 5  # requests before the first measurement
BUDGET = 1.3  # times the model's own run


def main() -> None:
    """Print for each server the medians of a request, of its steps and of the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="a folder with a SavedModel")
    parser.add_argument("body", type=Path, help="a file with a body for POST /")
    parser.add_argument("--requests", type=int, default=100)
    options = parser.parse_args()
    request = post(0, "/", options.body.read_bytes())
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        connections = {}
        for name, command in SERVERS.items():
            cores = os.sched_getaffinity(0)
            _, port = stack.enter_context(answering(command, options.model, request, Path(folder), cores))
            connections[name] = stack.enter_context(connect(port))
        measured: dict[str, list[dict[str, float]]] = defaultdict(list)
        for turn in range(WARM + options.requests):
            for name, connection in connections.items():
                taken, head = timed(connection, request)
                if turn >= WARM:
                    steps = server_timing(head)
                    measured[name].append({"request": taken, **steps, "ratio": taken / steps["run"]})
    for name, requests in measured.items():
        steps = {step: round(median([each.get(step, 0.0) for each in requests]), 2) for step in requests[-1]}
        budget = f"at most {BUDGET}: {'met' if steps['ratio'] <= BUDGET else 'MISSED'}"
        print(json.dumps({"server": name, "body_mb": round(len(request) / 1e6, 2), "medians": steps, "budget": budget}))


if __name__ == "__main__":
    main()
