"""The log: one JSON object a line on standard output, in the form that Cloud Logging reads.

Whoever has a line appends it and writes what has gathered, unless another thread is writing: that one takes it along.
No line is cut in two by another: one has at most 4,096 bytes, which a pipe takes in one piece, whichever worker it
comes from. The line of a request may wait for those of the requests beside it: the last one in flight writes, or the
one that finds enough of them or an old one. A write wakes whoever reads the log, and code that has just run runs three
times as fast: sixteen lines made and written together cost what five of them cost one by one.
"""

import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timezone
from typing import Any, TextIO

import orjson

LONGEST = 4096  # bytes, the line feed included: Linux's PIPE_BUF
OPTIONS = orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z
MOST_GATHERED = 4096  # lines: beyond, a thread waits for whoever reads the log
ENOUGH, OLD = 16, 20_000_000  # lines of requests, and nanoseconds, that may gather while others are in flight
PATIENCE = 1.0  # seconds; a signal may have interrupted the very thread that is writing

Told = tuple[Any, ...]  # what a line is made of, when it is written

_lines: deque[bytes | Told] = deque()
_make: Callable[..., bytes]  # makes a line of that
_flying: deque[None] = deque()  # one for each request in flight; appending and popping need no lock
_oldest = 0  # perf_counter_ns, when the first of the lines came
_writing = threading.Lock()
_stream: TextIO | None = None  # the standard output that `_descriptor` is of
_descriptor: int | None = None


def log(severity: str, message: str, **fields: Any) -> None:
    """Write one entry; `severity` is Cloud Logging's: INFO, WARNING, ERROR."""
    write({"severity": severity, "message": message, "time": datetime.now(timezone.utc), **fields}, PATIENCE)


begin: Callable[[None], None] = _flying.append  # begin(None) when a request comes: its line will follow


def made_by(make: Callable[..., bytes]) -> None:
    """Say what makes the lines of requests."""
    global _make
    _make = make


def end(told: Told | None, now: int) -> None:
    """Take what is told of a request that has been answered, None for nothing; `now` is of perf_counter_ns."""
    global _oldest
    if told is not None:
        if not _lines:
            _oldest = now
        _lines.append(told)
    with suppress(IndexError):  # it began before a fork
        _flying.pop()
    # Whoever takes himself out last sees nobody, and the lines of all who were out before: none is left behind.
    if _lines and (not _flying or len(_lines) >= ENOUGH or now - _oldest > OLD):
        flush()


def write(entry: dict[str, Any], patience: float = 0) -> None:
    """Write an entry that holds its severity, message and time. Nothing escapes: no request fails for its log.

    Where another thread is writing, wait `patience` seconds for that, for the process may end at the next line.
    """
    _lines.append(to_line(entry))
    flush(patience)


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


def flush(patience: float = 0) -> None:
    """Write what has gathered, or leave it to the thread that is writing."""
    # A thread that appends while another writes is seen by that one, which looks again after it has let go.
    while _lines and _acquire(-1 if len(_lines) > MOST_GATHERED else patience):
        try:
            _write_gathered()
        finally:
            _writing.release()


def _acquire(patience: float) -> bool:
    return _writing.acquire(timeout=patience) if patience else _writing.acquire(blocking=False)


def _write_gathered() -> None:
    part = b""
    while _lines or part:
        line = b""
        if _lines:  # nobody else takes them out
            told = _lines.popleft()
            line = told if isinstance(told, bytes) else _make(*told)
            if len(part) + len(line) <= LONGEST:
                part += line
                continue
        try:
            _emit(part)
        except (OSError, ValueError):  # nobody reads the log any more, and there is nowhere else to say so
            return
        part = line


def _emit(part: bytes) -> None:
    stream = sys.stdout
    if stream is not _stream:
        _look_at(stream)
    if _descriptor is None:
        stream.write(part.decode())
        stream.flush()
        return
    while part:
        try:
            part = part[os.write(_descriptor, part) :]
        except BlockingIOError:  # somebody else made the pipe so, and it is full
            import select

            select.select([], [_descriptor], [])


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


def _begin_anew() -> None:
    """Leave the parent's lines to the parent, and a lock that a thread of its may hold."""
    global _writing
    _lines.clear()
    _flying.clear()
    _writing = threading.Lock()


os.register_at_fork(after_in_child=_begin_anew)
