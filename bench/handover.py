"""What a handover to another thread costs: `python -m bench.handover`.

The standalone server answers short requests in the thread that receives them. It is compared with the same server whose
pool of threads answers all of them, in turns: CPU time of the server per request, its own core, the load on another.
"""

import argparse
import json
import os
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from bench.process import answering
from tools.client import post
from tools.load import load

POOL = """
from serving.servers.standalone import __main__ as server, answering
answering.Short.holds = lambda self, kind: False
server.main()
"""
SERVERS = {"the thread that receives": ["-m", "serving.servers.standalone"], "another thread": ["-c", POOL]}
CORES = sorted(os.sched_getaffinity(0))
WARM = 0.5  # seconds of load before the first measurement


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
            name: stack.enter_context(
                answering([sys.executable, *arguments], options.model, request, Path(folder), {CORES[0]})
            )
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
