"""The log: one JSON object a line on standard output, in the form that Cloud Logging reads.

A line has at most 4,096 bytes and is written by one call, which is atomic on a pipe: lines of threads and workers do
not mix.
"""

import atexit
import math
import os
import sys
import time
from functools import lru_cache
from typing import Any, TextIO

from serving import __version__
from serving.core.plain_json import to_text
from serving.core.settings import Settings

LONGEST = 4096  # bytes, the line feed included: Linux's PIPE_BUF

_stream: TextIO | None = None  # the standard output of `_descriptor`
_descriptor: int | None = None


def log(severity: str, message: str, **fields: Any) -> None:
    """Write one entry; `severity` is Cloud Logging's: INFO, WARNING, ERROR."""
    write(to_line({"severity": severity, "message": message, "time": timestamp(time.time_ns()), **fields}))


def log_exception(message: str, **fields: Any) -> None:
    """Write an entry of severity ERROR with the traceback of the exception that is being handled."""
    import traceback  # not needed for an answer

    log("ERROR", message, traceback=traceback.format_exc(), **fields)


def starting(server: str, options: Settings) -> None:
    """Log that a server starts, and at exit that it ended; called in the process that outlives its workers."""
    began, process = time.monotonic(), os.getpid()
    log("INFO", f"starting behind {server}", version=__version__, model=str(options.model_dir), workers=options.workers,
        threads=options.threads, native_codec=str(options.accelerator or "off"), metrics=options.metrics,
        traces=options.traced)  # fmt: skip

    def ended() -> None:
        if os.getpid() == process:  # a forked worker inherits this handler, and exits earlier
            log("INFO", "ended", seconds=round(time.monotonic() - began, 1))

    atexit.register(ended)


def timestamp(nanoseconds: int) -> str:
    """Return a time since the epoch in UTC, to a microsecond: 2026-11-30T12:00:00.000001Z."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return f"{_second(seconds)}.{rest // 1000:06d}Z"


@lru_cache(maxsize=8)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def write(line: bytes) -> None:
    """Write one line. Never raises: a broken log fails no request."""
    stream = sys.stdout
    try:
        if stream is not _stream:
            _use(stream)
        if _descriptor is None:
            stream.write(line.decode())
            stream.flush()
            return
        while line:
            try:
                line = line[os.write(_descriptor, line) :]
            except BlockingIOError:  # another process made the pipe non-blocking, and it is full
                import select

                select.select([], [_descriptor], [])
    except (OSError, ValueError):  # the reader of the log is gone, and there is nowhere else to report it
        return


def handler() -> Any:
    """Return a handler for Python's logging that writes each record as an entry of this log."""
    import logging  # the servers and OpenTelemetry import it anyway

    class Entry(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            severity = "WARNING" if record.levelno == logging.WARNING else "ERROR" if record.levelno > 30 else "INFO"
            fields = {"traceback": logging.Formatter().formatException(record.exc_info)} if record.exc_info else {}
            log(severity, record.getMessage(), logger=record.name, **fields)

    return Entry()


def to_line(entry: dict[str, Any]) -> bytes:
    """Return an entry as a line of at most LONGEST bytes."""
    try:
        line = _line(entry)
    except (TypeError, ValueError):  # half of a surrogate pair, no number, a key that is no text
        line = _line(_safe(entry))
    return line if len(line) <= LONGEST else _shortened(entry)


def _use(stream: TextIO) -> None:
    """Keep the file descriptor of standard output, if it has one: writing to it costs a third of what print costs."""
    global _stream, _descriptor
    _stream, _descriptor = stream, None
    try:
        stream.flush()
        _descriptor = stream.fileno()
    except (OSError, ValueError, AttributeError):
        pass  # a replacement without a descriptor: in a test, a notebook, functions-framework's execution ids


def _safe(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _safe(inner) for name, inner in value.items()}
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    plain = value is None or isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
    return value if plain else str(value)


def _shortened(entry: dict[str, Any]) -> bytes:
    """Return an entry as a line, with its texts cut to the largest size that fits."""
    for most in (3000, 1500, 500, 150, 50):
        cut = {name: _cut(name, value, most) for name, value in _safe(entry).items()}
        line = _line(cut)
        if len(line) <= LONGEST:
            return line
    kept = {name: cut[name] for name in ("severity", "message", "time")}
    return _line(kept)


def _line(entry: dict[str, Any]) -> bytes:
    return f"{to_text(entry)}\n".encode()


def _cut(name: str, value: Any, most: int) -> Any:
    if not isinstance(value, str) or len(value) <= most:
        return value
    return f"... {value[-most:]}" if name == "traceback" else f"{value[:most]} ..."  # its end says what happened
