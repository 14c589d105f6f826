"""Refuses clients that speak gRPC or HTTP/2, because this server speaks HTTP/1.1 only, and logs the reason.

A gRPC client reports only a failed connection, so its user looks into the log of the server.
"""

import threading
import time

from serving.core import settings
from serving.core.http import Headers, media_type
from serving.core.telemetry.log import log

PREFACE = b"PRI * HTTP/2.0"  # what HTTP/2 begins with (RFC 9113, 3.4)
PAUSE = 60.0  # seconds between two lines of the log

_next = 0.0  # time.monotonic
_lock = threading.Lock()


def is_grpc(headers: Headers) -> bool:
    """Return whether a request is a gRPC call, which a proxy may send over HTTP/1.1."""
    return media_type(headers).startswith("application/grpc")


def refused() -> str:
    """Return the text of the refusal; log it, once a minute at most."""
    global _next
    path = f"POST /v1/models/{settings.current().model_name}:predict"
    text = f"gRPC and HTTP/2 are not supported: send the request to {path} as JSON over HTTP/1.1"
    now = time.monotonic()
    with _lock:
        logs, _next = now >= _next, max(_next, now + PAUSE if now >= _next else 0.0)
    if logs:
        log("WARNING", f"a client was refused: {text}")
    return text
