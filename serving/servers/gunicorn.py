"""The server of the platform: functions-framework's gunicorn, whose workers run the loop of the standalone server.

gunicorn listens, and starts, replaces and stops the workers. Its own workers have no time limit for a slow request, are
blocked by clients that stay connected after a refusal, and take five times as long for a request as a small model does.
functions-framework has no setting for the worker class, so `prepare` changes its configuration of gunicorn. Without
epoll, as on macOS, gunicorn's threaded worker is used, for development.
"""

import gc
import os
import select
import signal
from typing import Any, ClassVar

from functions_framework._http.gunicorn import GunicornApplication
from gunicorn import glogging
from gunicorn.workers import base

from serving.core import inflight, settings
from serving.core.settings import Settings
from serving.core.telemetry.log import handler, log
from serving.pipeline import admission
from serving.runtime.sessions import open_library
from serving.savedmodel.safety import guarding  # noqa: F401 - for the load, imported once for all workers
from serving.servers import connections
from serving.servers.functions import application_of

EPOLL = hasattr(select, "epoll")
if EPOLL:
    from serving.servers.standalone.loop import Loop
GRACE = 8  # seconds for requests in flight after SIGTERM; the platform kills after 10


def prepare(options: Settings) -> None:
    """Add these settings to functions-framework's configuration of gunicorn; call it before gunicorn starts."""
    application: Any = GunicornApplication
    load_config = getattr(application, "_load_config", application.load_config)

    def pre_fork(_arbiter: Any, _worker: Any) -> None:
        open_library(options)  # once, for all workers
        gc.freeze()  # a collection in a worker would write to all that it shares with this process

    configuration = {
        "pre_fork": pre_fork,
        "worker_class": "serving.servers.gunicorn.Worker" if EPOLL else "gthread",
        "threads": admission.server_threads(options),
        "graceful_timeout": GRACE,
        "control_socket_disable": True,  # it takes commands, and asyncio and a thread before the first worker starts
        "timeout": 0,  # no timeout of a worker's heartbeat: the watchdog ends a worker whose run does not end
        "forwarder_headers": "",  # SCRIPT_NAME and PATH_INFO, which would rewrite the path
        "logger_class": "serving.servers.gunicorn.Logger",
        "child_exit": child_exit,
    }

    def load_ours(self: Any) -> None:
        load_config(self)
        for name, value in configuration.items():
            self.cfg.set(name, value)

    application._load_config, application.load_config = load_config, load_ours


def child_exit(_arbiter: Any, worker: Any) -> None:
    """Log the runs of a worker that died; gunicorn logs the signal and starts another worker."""
    if runs := inflight.left_by(worker.pid):
        log("ERROR", "a worker died while it ran the model", worker=worker.pid, runs=runs)


class Logger(glogging.Logger):  # type: ignore[misc]
    """Writes gunicorn's own messages into our log."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        self.error_log.handlers = [handler()]


class Worker(base.Worker):  # type: ignore[misc]
    """A worker process of gunicorn that runs the loop of the standalone server."""

    parent: ClassVar[tuple[int, ...]] = ()  # a pipe whose writing end only the parent holds

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        Worker.parent = Worker.parent or os.pipe()  # this still runs in the parent

    def run(self) -> None:
        """Serve until gunicorn ends this process, or is gone."""
        gone, alive = self.parent
        os.close(alive)
        options, application = settings.current(), application_of(self.wsgi)
        listener = self.sockets[0].sock
        connections.end_unread(listener, options.read_timeout)
        loop = Loop(
            options, listener, gone, application.answer, may_block=application.may_block, is_shared=self.cfg.workers > 1
        )
        signal.set_wakeup_fd(loop.waker, warn_on_full_buffer=False)
        loop.run()

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Take no new connections, and end when the requests in flight are answered."""
        admission.stop()
