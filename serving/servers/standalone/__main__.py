"""Serves `serving.pipeline.handler` over HTTP/1.1: `python -m serving.servers.standalone`.

The parent opens the port and forks the worker before anything else is imported. The worker opens the library beside
its imports, and the session at its first request, never before a fork. A worker that ends is always replaced: in
between, new connections wait in the queue of the port, which belongs to the parent.

With several workers or a layer of the user, everything is imported before the fork: the workers share that memory, and
a failed import stops the start.
"""

import gc
import select
import signal
import socket
import sys
from collections.abc import Callable

from serving.core import settings
from serving.core.settings import Settings
from serving.core.telemetry import phases
from serving.servers.standalone.listening import listen
from serving.servers.standalone.workers import Workers

NAME = "serving.servers.standalone"


def main() -> None:
    """Serve until a signal ends it."""
    gc.disable()  # a start makes no garbage; `prepared` and the parent enable the collector again
    if not hasattr(select, "epoll"):
        sys.exit(f"{NAME}: expected Linux, got {sys.platform}; functions-framework serves here too (make serve)")
    try:
        options = settings.current()
        if options.layer:
            from serving.pipeline.handler import prepare

            prepare()
        listeners = listen(options)
    except settings.SettingError as error:
        sys.exit(f"{NAME}: {error}")
    except OSError as error:
        address = f"{options.host}:{options.port}"
        sys.exit(f"{NAME}: cannot listen on {address} (HOST, PORT): {error.strerror or error}")
    if options.workers > 1 or options.layer:
        share(options)
    workers = Workers(listeners, lambda listener, parent: prepared(options, listener, parent))
    workers.start()
    from serving.core.telemetry.log import starting  # in the parent while the worker starts

    gc.enable()
    starting("the standalone server", options)
    workers.serve()


def share(options: Settings) -> None:
    """Import everything and open the library before the fork: the workers share that memory."""
    from serving.core.telemetry import observe
    from serving.pipeline.handler import prepare
    from serving.runtime.sessions import open_library
    from serving.servers.standalone import loop  # noqa: F401 - for the workers

    observe.begin(options)
    prepare()
    phases.imported()
    open_library(options)


def imports() -> None:
    """Import what a worker needs."""
    from serving.core.telemetry import observe  # noqa: F401
    from serving.pipeline import handler  # noqa: F401
    from serving.servers.standalone import loop  # noqa: F401


def prepared(options: Settings, listener: socket.socket, parent: int) -> Callable[[], None]:
    """Return the function that a worker process runs until a signal ends it or the parent is gone."""
    from serving.runtime import opening

    opening.beside(options, imports)
    from serving.core.telemetry import observe
    from serving.pipeline import admission
    from serving.pipeline.handler import handle, prepare
    from serving.servers.standalone.loop import Loop

    observe.begin(options)
    prepare()
    loop = Loop(options, listener, parent, handle)
    signal.set_wakeup_fd(loop.waker, warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, lambda *_: admission.stop())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal: the parent gets it too, and sends SIGTERM
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD))
    phases.imported()
    gc.freeze()
    gc.enable()
    return loop.run


if __name__ == "__main__":
    main()
