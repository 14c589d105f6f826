"""Log lines for a folder or a bucket: collected in memory, and written together every few seconds."""

import os
import threading
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

from serving.core.storage import Storage, split
from serving.core.telemetry.background import Periodic

NDJSON = "application/x-ndjson"
Write = Callable[[bytes], object]  # some whole lines; raises where it fails
Count = Callable[[int], object]  # so many lines
Lost = Callable[[int, str], object]  # so many lines, 0 where they are tried again, and the reason


class Lines:
    """Keeps lines until they are written. Several threads may add at once.

    Where a write fails, the lines are kept for the next one. Lines beyond the bound, and those that cannot be written
    when the process ends, are lost.
    """

    def __init__(self, write: Write, written: Count, lost: Lost, seconds: float, most: int) -> None:
        """Write every `seconds`, keep `most` bytes, and report what is written and what is lost, from one thread."""
        self._write, self._written, self._lost, self._most = write, written, lost, most
        self._lock = threading.Lock()
        self._held: list[bytes] = []
        self._size = self._refused = 0  # bytes that are not written yet; lines that were too many
        self._fails = False  # the last write failed: the next one waits for its time, also with a full buffer
        self._periodic = Periodic(self._flush, seconds)

    def add(self, line: bytes) -> bool:
        """Take a line, with its line feed; return False where it is lost, because too many wait."""
        with self._lock:
            if self._size + len(line) > self._most:
                self._refused += 1
                return False
            self._held.append(line)
            self._size += len(line)
            urgent = self._size > self._most // 2 and not self._fails
        if urgent:
            self._periodic.wake()
        return True

    def refuse(self, count: int) -> None:
        """Count lines that were not added as lost."""
        with self._lock:
            self._refused += count

    def _flush(self, last: bool) -> None:
        with self._lock:
            held, self._held = self._held, []
            refused, self._refused = self._refused, 0
        if refused:
            self._lost(refused, f"more than {self._most} bytes waited to be written")
        if not held:
            return
        try:
            self._write(b"".join(held))
        except Exception as error:  # of a file system, of the network, of the service
            self._lost(len(held) if last else 0, f"{error}" if last else f"{error}; they are kept and tried again")
            with self._lock:
                self._held, self._fails = held + self._held, True
            return
        with self._lock:
            self._fails = False
            self._size -= sum(map(len, held))
        self._written(len(held))


def to_folder(folder: Path) -> Write:
    """Return what appends lines to the file of this process and of the day, FOLDER/2026-11-30/NAME.jsonl."""
    name = os.urandom(8).hex()

    def write(lines: bytes) -> None:
        file = folder / f"{datetime.now(timezone.utc):%Y-%m-%d}" / f"{name}.jsonl"
        file.parent.mkdir(exist_ok=True)
        with file.open("ab", buffering=0) as output:
            start, rest = output.tell(), memoryview(lines)
            try:
                while rest:
                    rest = rest[output.write(rest) :]
            except OSError:  # the disk is full: half a line would spoil the next one, and whole ones come again
                output.truncate(start)
                raise

    return write


def to_bucket(storage: Storage, folder: str) -> Write:
    """Return what writes an object for each batch of lines, gs://BUCKET/FOLDER/2026-11-30/TIME-NAME.jsonl."""
    bucket, prefix = split(folder)

    def write(lines: bytes) -> None:
        now = datetime.now(timezone.utc)
        name = f"{prefix}{now:%Y-%m-%d}/{now:%H%M%S}-{os.urandom(8).hex()}.jsonl"
        storage.write(bucket, name, lines, NDJSON, {})

    return write
