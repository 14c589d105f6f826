"""The port that a server listens on, and how many connections a process may hold: each takes an open file."""

import errno
import os
import resource
import socket
import time
from contextlib import suppress

MOST = 4096
OTHER_FILES = 256
MAX_HEADER_BYTES = 32 << 10  # bytes of one header field; with the standalone server, of all fields together


def most() -> int:
    """Raise this process's limit on open files to the maximum; return how many of them may be connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = MOST + OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(hard, needed)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return MOST if soft == resource.RLIM_INFINITY else max(64, min(MOST, soft - OTHER_FILES))


def end_unread(listener: socket.socket, seconds: int) -> None:
    """Let the kernel end connections of the listener whose client reads nothing of an answer for so many seconds.

    Otherwise a client could keep its answer in memory for any time.
    """
    with suppress(AttributeError, OSError):  # Linux only
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, seconds * 1000)


def is_taken(port: int) -> bool:
    """Return whether another process listens on a port of this machine."""
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind(("0.0.0.0", port))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
    return False


def wait_for(port: int, process: int) -> bool:
    """Return True when a server listens on a port of this machine, False if the process ends before."""
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return True
        except OSError:
            time.sleep(0.1)
        try:
            os.kill(process, 0)
        except OSError:
            return False
