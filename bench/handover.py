"""What a handover to another thread costs: `python -m bench.handover`.

The standalone server answers short requests in the thread that receives them. It is compared with the same server whose
pool of threads answers all of them, in turns: CPU time of the server per request, its own core, the load on another.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

from bench.models import ROOT
from bench.process import Running, running
from tools.client import connect, exchange, post
from tools.load import load
from tools.server import free_port

POOL = """
from serving.servers.standalone import __main__ as server, answering
answering.Short.holds = lambda self, kind: False
server.main()
"""
SERVERS = {"the thread that receives": ["-m", "serving.servers.standalone"], "another thread": ["-c", POOL]}
CORES = sorted(os.sched_getaffinity(0))
WARM = 0.5  # seconds of load before the first measurement


@contextmanager
def started(arguments: list[str], model: Path, request: bytes, folder: Path) -> Iterator[tuple[Running, int]]:
    """Start a server and wait until it has answered."""
    port = free_port()
    environment = {"MODEL_DIR": str(model), "HOST": "127.0.0.1", "PORT": str(port), "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment |= {name: os.environ[name] for name in ("ACCELERATOR",) if name in os.environ}
    with running([sys.executable, *arguments], ROOT, environment, folder / f"{port}.log", {CORES[0]}) as process:
        while True:
            process.must_live()
            try:
                with connect(port) as connection:
                    head, body = exchange(connection, request)
            except OSError:
                time.sleep(0.02)
                continue
            if not head.startswith(b"HTTP/1.1 200 "):
                raise process.failed(f"expected status 200, got {(head + body)[:300]!r}")
            yield process, port
            return


def main() -> None:
    """Print CPU microseconds per request for each number of connections, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="a folder with a SavedModel that has no loops")
    parser.add_argument("body", type=Path, help="a file with a body for POST /")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        request = post(0, "/", options.body.read_bytes())
        servers = {
            name: stack.enter_context(started(arguments, options.model.resolve(), request, Path(folder)))
            for name, arguments in SERVERS.items()
        }
        for connections in (1, 8):
            costs: dict[str, list[float]] = {name: [] for name in servers}
            for turn in range(options.repeat + 1):
                for name, (process, port) in servers.items():
                    before = process.cpu_seconds()
                    seconds = options.seconds if turn else WARM
                    result = load(port, "/", options.body, seconds, {CORES[-1]}, connections=connections)
                    if result.failed or result.refused:
                        raise process.failed(f"expected answers alone, got {result}")
                    if turn:
                        costs[name].append((process.cpu_seconds() - before) / result.answered * 1e6)
            here, there = costs.values()
            ratio = median(inline / pooled for inline, pooled in zip(here, there))
            medians = {name: round(median(values), 1) for name, values in costs.items()}
            print(json.dumps({"connections": connections, "cpu_microseconds": medians, "ratio": round(ratio, 2)}))


if __name__ == "__main__":
    main()
