"""Granian answering two bytes, started with the settings that the fast server starts it with.

A large body is read and dropped: Granian closes the connection on one that is left unread.
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
        "main:app",
        address=os.environ["HOST"],
        port=int(os.environ["PORT"]),
        interface=Interfaces.WSGI,
        blocking_threads=8,
        backlog=1024,
        log_level=LogLevels.warning,
    ).serve()
