"""What Granian costs by itself: `python -m bench.two_bytes`, started as serving/granian.py starts the function.

The function is empty, but for reading large bodies: of one that nobody reads, Granian closes the connection.
"""

import os

LARGE = 1 << 16


def app(environ, start_response):
    if (size := int(environ["CONTENT_LENGTH"])) > LARGE:
        environ["wsgi.input"].read(size)
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", "2")])
    return [b"ok"]


if __name__ == "__main__":
    from granian.constants import Interfaces
    from granian.log import LogLevels
    from granian.server import Server

    Server(
        "bench.two_bytes:app",
        address=os.environ["HOST"],
        port=int(os.environ["PORT"]),
        interface=Interfaces.WSGI,
        blocking_threads=int(os.environ.get("THREADS", "8")),
        backlog=1024,
        log_level=LogLevels.warning,
    ).serve()
