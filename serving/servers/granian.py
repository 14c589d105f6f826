"""The fast door's server: `python -m serving.servers.granian` serves `serving.pipeline.handler` with Granian.

The port is opened first, and the library while Granian is still being imported: each worker is forked with both. A
session is opened by the worker's first request, never before the fork. A worker that ends is replaced, however often:
what connects meanwhile waits in the port's queue, which is the server's and not the worker's.
"""

import signal
import socket
import sys
import threading
import time
from typing import Any

from serving.core import inflight, settings
from serving.core.settings import Settings
from serving.core.telemetry import observe, phases
from serving.core.telemetry.log import log
from serving.pipeline import limits
from serving.pipeline.handler import prepare
from serving.runtime import model
from serving.servers import connections

QUEUE = 1024  # connections that wait until one is accepted
SHORT_LIVED = 1.0  # seconds: a worker that ends sooner may not be able to start
MOST_PAUSE = 1.0  # seconds before such a one is replaced


def listen(options: Settings) -> list[socket.socket]:
    """Open the port, once for each worker; raise OSError where another process has it."""
    places = socket.getaddrinfo(options.host, options.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, address = places[0]

    def opened(shared: bool) -> socket.socket:
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        connections.end_unread(listener, options.read_timeout)
        listener.bind(address)
        listener.listen(QUEUE)
        return listener

    first = opened(shared=False)  # a port that another process holds is refused, whether it would share it or not
    if options.workers == 1:
        return [first]
    first.close()
    return [opened(shared=True) for _ in range(options.workers)]  # the system deals connections out evenly


def main() -> None:
    """Serve until a signal ends it."""
    try:
        options = settings.current()
        prepare()
        listeners = listen(options)
    except settings.SettingError as error:
        sys.exit(f"serving.servers.granian: {error}")
    except OSError as error:
        place = f"{options.host}:{options.port}"
        sys.exit(f"serving.servers.granian: cannot listen on {place} (HOST, PORT): {error.strerror or error}")
    opening = threading.Thread(target=model.open_library, args=(options,))
    opening.start()
    observe.start("Granian", options)
    _import_server()
    opening.join()
    phases.imported()
    _server(options, listeners).serve()


def _import_server() -> None:
    """Import what the workers are to find imported."""
    import granian.server.mp  # noqa: F401

    import serving.servers.incoming  # noqa: F401


def _server(options: Settings, listeners: list[socket.socket]) -> Any:
    from granian.constants import HTTPModes, Interfaces
    from granian.log import LogLevels, logger
    from granian.server.mp import MPServer, WorkerProcess

    base: Any = MPServer
    process: Any = WorkerProcess

    class Server(base):  # type: ignore[misc]
        """Granian's server, with sockets and workers of ours; it outlives its workers."""

        _pause = 0.0

        def _init_shared_socket(self) -> None:
            self._sso = None

        def _drop_shared_socket(self) -> None:
            for listener in listeners:
                listener.close()

        def _spawn_worker(self, idx: int, target: Any, callback_loader: Any) -> Any:
            return process(self, idx, work, (options, listeners, idx, self.ssl_ctx))

        def _serve_loop(self, spawn_target: Any, target_loader: Any) -> None:
            while not self.interrupt_signal:
                self.main_loop_interrupt.wait()
                self.main_loop_interrupt.clear()
                self.interrupt_children.clear()
                workers: list[Any] = self.wrks
                for place, worker in enumerate(workers):
                    if not self.interrupt_signal and not worker.is_alive():
                        self._replace(place, worker)

        def _replace(self, place: int, worker: Any) -> None:
            lived = time.monotonic() - worker.birth
            self._pause = 0.0 if lived > SHORT_LIVED else min(MOST_PAUSE, max(0.05, 2 * self._pause))
            log("ERROR", f"worker {place + 1} ended: {_how(worker.inner.exitcode)}; another takes its place",
                lived_seconds=round(lived, 1), pause_seconds=self._pause,
                runs=inflight.left_by(worker.inner.pid))  # fmt: skip
            until = time.monotonic() + self._pause
            while time.monotonic() < until and not self.interrupt_signal:
                time.sleep(0.02)
            if not self.interrupt_signal:
                self.wrks[place] = another = self._spawn_worker(place, None, None)
                another.start()

    logger.addFilter(lambda record: "Unexpected exit" not in str(record.msg))  # we say more
    return Server(
        "serving.pipeline.handler:handle",
        interface=Interfaces.ASGINL,
        http=HTTPModes.http1,
        websockets=False,
        workers=options.workers,
        log_level=LogLevels.warning,
        log_dictconfig={
            "handlers": {name: {"()": "serving.core.telemetry.log.handler"} for name in ("console", "access")}
        },
        workers_kill_timeout=7,
    )


def _how(status: int | None) -> str:
    if status is not None and status < 0:
        return f"killed by {signal.Signals(-status).name}"
    return f"exit status {status}"


def work(options: Settings, listeners: list[socket.socket], place: int, tls: tuple[Any, ...]) -> None:
    """Serve as one worker, in a process of its own, until a signal ends it."""
    import granian._granian
    from granian.http import HTTP1Settings

    from serving.servers.incoming import Desk, Loop

    native: Any = granian._granian

    for other, listener in enumerate(listeners):
        if other != place:
            listener.close()
    stop = native.WorkerSignal()
    ended = threading.Event()
    stop.add_cb(ended.set)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: _stop(stop))
    worker = native.ASGIWorker(
        place + 1,
        (None, native.SocketHolder(listeners[place].detach(), False, QUEUE)),
        None,
        1,  # thread that reads and writes
        1,  # thread for files, of which there are none
        limits.server_threads(options),
        30,  # seconds until a thread without work ends
        connections.most(),
        "1",
        HTTP1Settings(options.read_timeout * 1000, max_buffer_size=options.max_header_bytes),
        None,
        False,
        None,
        *tls,
        (None, None),
    )
    loop = Loop()
    scheduler = native.CallbackScheduler(loop, None, None, None, None)
    scheduler._schedule_fn = Desk(options).schedule
    worker.serve_mtr(scheduler, loop, stop)
    ended.wait()


def _stop(stop: Any) -> None:
    limits.stop()
    stop.set()


if __name__ == "__main__":
    main()
