"""The fast door's server: `python -m serving.granian` serves `serving.wsgi:app` with Granian.

The library is opened before the workers are forked, and while Granian is still being imported: each worker then
finds it open. A session is opened by the worker's first request, never before the fork.
"""

import sys
import threading

from serving import limits, model, observe, phases, settings


def main() -> None:
    """Serve until a signal ends it."""
    try:
        options = settings.current()
    except settings.SettingError as error:
        sys.exit(f"serving.granian: {error}")
    opening = threading.Thread(target=model.open_library, args=(options,))
    opening.start()
    observe.start("Granian", options)

    from granian.constants import Interfaces
    from granian.http import HTTP1Settings, HTTP2Settings
    from granian.log import LogLevels, logger
    from granian.server import Server

    import serving.wsgi  # noqa: F401 - the workers find it imported

    opening.join()
    phases.imported()
    logger.addFilter(lambda record: "Python threads" not in str(record.msg))  # most of ours wait for slow clients
    Server(
        "serving.wsgi:app",
        address=options.host,
        port=options.port,
        interface=Interfaces.WSGI,
        workers=options.workers,
        blocking_threads=limits.server_threads(options),
        http1_settings=HTTP1Settings(options.read_timeout * 1000, max_buffer_size=options.max_header_bytes),
        http2_settings=HTTP2Settings(max_headers_size=options.max_header_bytes),
        backlog=1024,
        log_level=LogLevels.warning,
        log_dictconfig={"handlers": {name: {"()": "serving.log.handler"} for name in ("console", "access")}},
        respawn_failed_workers=True,
        workers_kill_timeout=7,
    ).serve()


if __name__ == "__main__":
    main()
