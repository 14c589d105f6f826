"""What HTTP and JSON add to a large request: `python -m bench.large_json MODEL BODY_FILE`.

One connection asks functions-framework and the standalone server in turns. The ratio is the time until the client has the
answer over the time of the model's own run in the same request (`run` of Server-Timing), the median of all requests.
"""

import argparse
import json
import os
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

from bench.measure import server_timing, timed
from bench.models import ROOT
from bench.process import running
from tools.client import connect, exchange, post
from tools.server import free_port

FRAMEWORK = str(Path(sys.executable).with_name("functions-framework"))
SERVERS = {
    "functions-framework": [FRAMEWORK, "--target", "predict", "--host", "127.0.0.1", "--port"],
    "standalone": [sys.executable, "-m", "serving.servers.standalone"],
}
PASSED_ON = ("ACCELERATOR",)
WARM = 5  # requests before the first measurement


@contextmanager
def started(command: list[str], model: Path, request: bytes, folder: Path) -> Iterator[int]:
    """Start a server and wait until it has answered; return its port."""
    port = free_port()
    settings = {"MODEL_DIR": str(model), "HOST": "127.0.0.1", "PORT": str(port), "TF_CPP_MIN_LOG_LEVEL": "3"}
    settings |= {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    arguments = [*command, str(port)] if command[-1] == "--port" else command
    with running(arguments, ROOT, settings, folder / f"{port}.log", os.sched_getaffinity(0)) as process:
        while True:
            process.must_live()
            try:
                with connect(port) as connection:
                    exchange(connection, request)
                yield port
                return
            except ConnectionError:
                continue


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
            port = stack.enter_context(started(command, options.model.resolve(), request, Path(folder)))
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
        print(json.dumps({"server": name, "body_mb": round(len(request) / 1e6, 2), "medians": steps}))


if __name__ == "__main__":
    main()
