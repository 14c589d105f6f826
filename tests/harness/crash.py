"""How many requests a worker that ends takes with it: `python -m tests.harness.crash [--server NAME] [--workers 2] ...`.

Clients send short requests without a pause; a worker is killed five times, and what was not answered is counted.
"""

import argparse
import http.client
import json
import statistics
import threading
import time

import psutil

from tests.models.zoo import build
from tests.server import COMMANDS, Server, running

BODY = json.dumps({"signature_name": "loop", "inputs": {"n": 1000}})  # a few milliseconds
CRASHES, PAUSE = 5, 3.0  # seconds, longer than a start


class Client(threading.Thread):
    """Send requests on a connection that is kept, or each on one of its own."""

    def __init__(self, port: int, kept: bool) -> None:
        """Begin at `start`; end soon after `ended` is set."""
        super().__init__(daemon=True)
        self._port, self._kept, self.ended = port, kept, threading.Event()
        self.answered = self.lost = 0

    def run(self) -> None:
        """Count what is answered with 200, and what is not."""
        connection = None
        while not self.ended.is_set():
            connection = connection or http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
            try:
                connection.request("POST", "/", BODY, {} if self._kept else {"Connection": "close"})
                response = connection.getresponse()
                response.read()
                good = response.status == 200
            except (OSError, http.client.HTTPException):
                good = False
            self.answered, self.lost = self.answered + good, self.lost + (not good)
            if not (good and self._kept):
                connection.close()
                connection = None
            if not good:
                time.sleep(0.02)


def _workers(server: Server) -> list[psutil.Process]:
    """Return the processes that have a model, the oldest first."""
    below = psutil.Process(server.process.pid).children(recursive=True)
    return sorted(
        (process for process in below if process.memory_info().rss > 80 << 20), key=psutil.Process.create_time
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.harness.crash")
    parser.add_argument("--server", choices=COMMANDS, action="append")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--clients", type=int, default=16)
    options = parser.parse_args()
    for kind in options.server or ("functions-framework", "standalone"):
        for kept in (True, False):
            with running(kind, build() / "control_flow", WORKERS=str(options.workers)) as server:
                clients = [Client(server.port, kept) for _ in range(options.clients)]
                for client in clients:
                    client.start()
                time.sleep(PAUSE)
                lost = []
                for _ in range(CRASHES):
                    before = sum(client.lost for client in clients)
                    while not (workers := _workers(server)):
                        time.sleep(0.1)
                    workers[0].kill()
                    time.sleep(PAUSE)
                    lost.append(sum(client.lost for client in clients) - before)
                for client in clients:
                    client.ended.set()
            connections = "kept" if kept else "one a request"
            print(
                f"{kind}, {options.workers} workers, {options.clients} clients, connections {connections}: lost {lost},"
                f" median {statistics.median(lost):g}, of {sum(client.answered for client in clients)} answered"
            )


if __name__ == "__main__":
    main()
