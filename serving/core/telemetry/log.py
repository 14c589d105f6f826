"""The log: one JSON object a line on standard output, in the form that Cloud Logging reads.

A line has at most 4,096 bytes and is written by one call, which a pipe takes whole: lines of several threads and
workers do not mix.
"""

import os
import sys
from datetime import datetime, timezone
from typing import Any, TextIO

import orjson

LONGEST = 4096  # bytes, the line feed included: Linux's PIPE_BUF
OPTIONS = orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z

_stream: TextIO | None = None  # the standard output that `_descriptor` is of
_descriptor: int | None = None


def log(severity: str, message: str, **fields: Any) -> None:
    """Write one entry; `severity` is Cloud Logging's: INFO, WARNING, ERROR."""
    write(to_line({"severity": severity, "message": message, "time": datetime.now(timezone.utc), **fields}))


def write(line: bytes) -> None:
    """Write one line. Never raises: no request fails for its log."""
    stream = sys.stdout
    try:
        if stream is not _stream:
            _look_at(stream)
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
    except (OSError, ValueError):  # the reader of the log is gone, and there is no other place to say so
        return


def handler() -> Any:
    """Return a handler for those who log through Python's logging: their entries become ours."""
    import logging  # the servers and OpenTelemetry have it

    class Entry(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            severity = "WARNING" if record.levelno == logging.WARNING else "ERROR" if record.levelno > 30 else "INFO"
            told = {"traceback": logging.Formatter().formatException(record.exc_info)} if record.exc_info else {}
            log(severity, record.getMessage(), logger=record.name, **told)

    return Entry()


def to_line(entry: dict[str, Any]) -> bytes:
    """Return an entry as a line, which is never too long."""
    try:
        line = orjson.dumps(entry, default=str, option=OPTIONS)
    except TypeError:  # half of a surrogate pair, or too large a number
        line = orjson.dumps(_safe(entry), default=str, option=OPTIONS)
    return line if len(line) <= LONGEST else _shortened(entry)


def _look_at(stream: TextIO) -> None:
    """Keep the file descriptor of a standard output that has one; writing to it costs a third of what print does."""
    global _stream, _descriptor
    _stream, _descriptor = stream, None
    try:
        stream.flush()
        _descriptor = stream.fileno()
    except (OSError, ValueError, AttributeError):
        pass  # one that stands in for it: a test's, a notebook's, the execution ids' of functions-framework


def _safe(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _safe(inner) for name, inner in value.items()}
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    plain = isinstance(value, (float, datetime, type(None))) or (isinstance(value, int) and abs(value) < 1 << 63)
    return value if plain else str(value)


def _shortened(entry: dict[str, Any]) -> bytes:
    """Write an entry with each of its texts cut so that it fits."""
    for most in (3000, 1500, 500, 150, 50):
        cut = {name: _cut(name, value, most) for name, value in _safe(entry).items()}
        line = orjson.dumps(cut, default=str, option=OPTIONS)
        if len(line) <= LONGEST:
            return line
    kept = {name: cut[name] for name in ("severity", "message", "time")}
    return orjson.dumps(kept, default=str, option=OPTIONS)


def _cut(name: str, value: Any, most: int) -> Any:
    if not isinstance(value, str) or len(value) <= most:
        return value
    return f"... {value[-most:]}" if name == "traceback" else f"{value[:most]} ..."  # its end says what happened
