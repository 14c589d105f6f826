"""Serves `serving.pipeline.handler` over HTTP/1.1: `python -m serving.servers.standalone`.

The port is opened first, the library in a thread while the rest is imported; workers are forked after both. A worker's
first request opens the session, never before the fork. A worker that ends is replaced, however often: new connections
wait meanwhile in the queue of the port, which belongs to the parent.
"""

import select
import signal
import socket
import sys
import threading

from serving.core import settings
from serving.core.settings import Settings
from serving.core.telemetry import observe, phases
from serving.pipeline import admission
from serving.pipeline.handler import handle, prepare
from serving.runtime import sessions
from serving.servers.standalone.listening import listen

NAME = "serving.servers.standalone"


def main() -> None:
    """Serve until a signal ends it."""
    if not hasattr(select, "epoll"):
        sys.exit(f"{NAME}: expected Linux, got {sys.platform}; functions-framework serves here too (make serve)")
    try:
        options = settings.current()
        prepare()
        listeners = listen(options)
    except settings.SettingError as error:
        sys.exit(f"{NAME}: {error}")
    except OSError as error:
        address = f"{options.host}:{options.port}"
        sys.exit(f"{NAME}: cannot listen on {address} (HOST, PORT): {error.strerror or error}")
    opening = threading.Thread(target=sessions.open_library, args=(options,))
    opening.start()
    observe.start("the standalone server", options)
    import serving.servers.standalone.loop  # noqa: F401 - imported before the fork
    from serving.servers.standalone.workers import Workers

    opening.join()
    phases.imported()
    Workers(listeners, lambda listener, parent: work(options, listener, parent)).serve()


def work(options: Settings, listener: socket.socket, parent: int) -> None:
    """Serve as one worker, in a process of its own, until a signal ends it or the parent is gone."""
    from serving.servers.standalone.loop import Loop

    loop = Loop(options, listener, parent, handle)
    signal.set_wakeup_fd(loop.waker, warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, lambda *_: admission.stop())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # from a terminal: the parent gets it too, and sends SIGTERM
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD))
    loop.run()


if __name__ == "__main__":
    main()
