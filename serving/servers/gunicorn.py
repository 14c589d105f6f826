"""The server of the platform: functions-framework's gunicorn, with more threads and a worker class of ours.

By default gunicorn's threaded worker blocks for up to 2 s for every refused client that keeps its connection open (1,
5 and 20 of them delay a good request by 2, 10 and 26 s), reads a slow request without a time limit, answers invalid
HTTP in HTML, and ends only after its connections have timed out. functions-framework has no setting for this, so
`prepare` adds to its configuration of gunicorn.
"""

import socket
import time
from collections import deque
from contextlib import suppress
from functools import partial
from typing import Any

import gunicorn.util
from gunicorn import glogging
from gunicorn.http.errors import ParseException
from gunicorn.workers import gthread

from serving.core import inflight, settings
from serving.core.http import JSON, Response, status_line, to_json
from serving.core.settings import Settings
from serving.core.telemetry.log import handler, log
from serving.pipeline import admission, grpc, watchdog
from serving.servers import connections

GRACE = 8  # seconds for requests in flight after SIGTERM; the platform kills after 10
LINGER = 2.0  # seconds for a client to read its last answer; what it still sends is dropped
MOST_LINGERING = 64
MOST_DROPPED = 64 << 20  # bytes of one client
KEPT_ALIVE = 65  # seconds that an idle connection stays open: longer than load balancers reuse it
HURRY = 1.0  # seconds for a request to arrive while slow requests hold most threads
SILENT = 5.0  # seconds for a new connection to send its first byte
TICK = 0.5  # seconds


def prepare(options: Settings) -> None:
    """Add these settings to functions-framework's configuration of gunicorn; call it before gunicorn starts."""
    from functions_framework._http.gunicorn import GunicornApplication as Application

    load_config = getattr(Application, "_load_config", Application.load_config)
    configuration = {
        "worker_class": "serving.servers.gunicorn.Worker",
        "threads": admission.server_threads(options),
        "worker_connections": connections.most(),
        "graceful_timeout": GRACE,
        "keepalive": KEPT_ALIVE,
        "limit_request_line": 8190,  # gunicorn's maximum; functions-framework sets no limit
        "limit_request_field_size": connections.MAX_HEADER_BYTES,
        "forwarder_headers": "",  # SCRIPT_NAME and PATH_INFO, which would rewrite the path
        "logger_class": "serving.servers.gunicorn.Logger",
        "child_exit": child_exit,
    }

    def load_ours(application: Any) -> None:
        load_config(application)
        for name, value in configuration.items():
            application.cfg.set(name, value)

    patched: Any = Application
    patched._load_config, patched.load_config = load_config, load_ours


def child_exit(_arbiter: Any, worker: Any) -> None:
    """Log what a worker was running when it died; gunicorn logs the signal and starts another worker."""
    if runs := inflight.left_by(worker.pid):
        log("ERROR", "a worker died while it ran the model", worker=worker.pid, runs=runs)


class Logger(glogging.Logger):  # type: ignore[misc]
    """Writes gunicorn's own messages into our log."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        self.error_log.handlers = [handler()]


class Worker(gthread.ThreadWorker):  # type: ignore[misc]
    """A worker that no client can block. Only the thread of the main loop uses its state."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        options = settings.current()
        self._read_timeout = options.read_timeout
        self._crowd = admission.server_threads(options) - admission.SPARE // 2
        self._receiving: dict[Any, float] = {}  # connections in a thread, with the deadline of their request
        self._lingering: deque[tuple[float, socket.socket]] = deque()
        self._dropped: dict[socket.socket, int] = {}
        self._next_look = 0.0

    def init_process(self) -> None:
        gunicorn.util.write_error = write_error
        gthread.DEFAULT_WORKER_DATA_TIMEOUT = 0.5  # then a silent connection waits in the loop, not in a thread
        gthread.STOP_KEEPALIVE_LINGER = 0.5
        for listener in self.sockets:
            connections.end_unread(listener, self._read_timeout)
        super().init_process()

    def handle_exit(self, sig: int, frame: Any) -> None:
        admission.stop()
        super().handle_exit(sig, frame)

    def enqueue_req(self, conn: Any) -> None:
        self._receiving[conn] = time.monotonic() + self._read_timeout
        conn.close = partial(self._close, conn.sock)
        super().enqueue_req(conn)

    def handle_request(self, req: Any, conn: Any) -> Any:
        watchdog.answers(partial(give, conn.sock))
        return super().handle_request(req, conn)

    def handle_error(self, req: Any, client: Any, addr: Any, exc: Any) -> None:
        if isinstance(exc, ParseException) and "PRI * HTTP/2.0" in str(exc):
            with suppress(OSError):
                write_error(client, 400, "Bad Request", grpc.refused())
        else:
            super().handle_error(req, client, addr, exc)

    def finish_request(self, conn: Any, fs: Any) -> None:
        self._receiving.pop(conn, None)
        super().finish_request(conn, fs)
        if self.pending_conns and self.pending_conns[-1] is conn:
            conn.timeout = time.monotonic() + SILENT

    def murder_pending(self) -> None:
        """Close connections past their deadline; called in every turn of the loop."""
        super().murder_pending()
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + TICK
        patience = self._read_timeout - HURRY if len(self._receiving) > self._crowd else 0.0
        for conn, until in list(self._receiving.items()):
            if now > until - patience:
                self._cut(conn)
        while self._lingering and (now > self._lingering[0][0] or len(self._lingering) > MOST_LINGERING):
            self._forget(self._lingering.popleft()[1])

    def _cap_keepalive(self, deadline: float) -> None:
        """Close idle connections and shorten deadlines when the worker stops."""
        super()._cap_keepalive(deadline)
        now = time.monotonic()
        for conn in self.pending_conns:
            conn.timeout = now
        for conn in list(self._receiving):
            if conn.initialized:
                self._receiving[conn] = min(self._receiving[conn], now + GRACE / 2)
            else:
                self._cut(conn)  # not a byte of a request yet

    def _cut(self, conn: Any) -> None:
        """Stop receiving a request: its reader reaches the end. An answer can still be written."""
        self._receiving[conn] = float("inf")
        with suppress(OSError):
            conn.sock.shutdown(socket.SHUT_RD)

    def _close(self, sock: socket.socket, graceful: bool = False) -> None:
        """Close a connection; where its client may still be reading, do so later, without blocking."""
        try:
            if graceful:
                sock.shutdown(socket.SHUT_WR)
                sock.setblocking(False)
                self._dropped[sock] = 0
                self.poller.register(sock, gthread.selectors.EVENT_READ, self._drop)
                self._lingering.append((time.monotonic() + LINGER, sock))
                self._drop(sock)
                return
        except (OSError, ValueError, KeyError):
            self._dropped.pop(sock, None)
        gunicorn.util.close(sock)

    def _drop(self, sock: socket.socket) -> None:
        try:
            size = len(sock.recv(1 << 18))
        except BlockingIOError:
            return
        except OSError:
            size = 0
        self._dropped[sock] += size
        if not size or self._dropped[sock] > MOST_DROPPED:
            self._forget(sock)

    def _forget(self, sock: socket.socket) -> None:
        if self._dropped.pop(sock, None) is not None:
            self.poller.unregister(sock)
            gunicorn.util.close(sock)


def give(sock: socket.socket, response: Response) -> None:
    """Send an answer on a connection whose thread hangs."""
    fields = f"Connection: close\r\nContent-Type: {response.content_type}\r\nContent-Length: {len(response.body)}\r\n"
    more = "".join(f"{name}: {value}\r\n" for name, value in response.headers)
    head = f"HTTP/1.1 {status_line(response.status)}\r\n{fields}{more}\r\n"
    sock.send(head.encode("latin-1") + response.body, socket.MSG_DONTWAIT)
    sock.shutdown(socket.SHUT_WR)


def write_error(sock: socket.socket, status: int, reason: str, message: str) -> None:
    """Answer a request that is not valid HTTP, in JSON."""
    body = to_json({"error": f"{reason}: {message[:200]}" if message else reason})
    fields = f"Connection: close\r\nContent-Type: {JSON}\r\nContent-Length: {len(body)}"
    head = f"HTTP/1.1 {status} {reason}\r\n{fields}\r\n\r\n"
    gunicorn.util.write_nonblock(sock, head.encode("latin-1") + body)
