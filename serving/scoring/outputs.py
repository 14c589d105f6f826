"""Outputs for predictions: written in pieces, visible only when complete, and continued after a crash.

An opened output says how many rows an earlier attempt has written, `rows`, and this attempt begins after them. The
bytes depend only on the file, the model and the options (`identity`), so every attempt writes the same.
"""

import fcntl
import json
import os
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import IO, Any, Protocol

from serving.core.storage import MOST_COMPOSED, NotThere, Storage, StorageError
from serving.core.telemetry.log import log
from serving.scoring.faults import TemporaryFailure

NDJSON = "application/x-ndjson"
MARK = "serving-output"  # the metadata key of every object written here: part, predictions or error
PARTS = ".partial"
SIDE_BY_SIDE = 8


class Output(Protocol):
    """An output for the predictions of one file."""

    rows: int  # written so far, from the beginning of the file
    failed: int  # errors among them

    def write(self, lines: Any, rows: int, failed: int) -> None:
        """Append the lines of `rows` rows, of which `failed` are errors; in a Parquet file, their columns."""

    def finish(self, summary: Mapping[str, str]) -> bool:
        """Publish the output; return False where another attempt already did."""

    def close(self) -> None:
        """Close the output; what is written stays for a later attempt."""


class LocalOutput:
    """A file. OUTPUT.part grows, OUTPUT.part.journal says how much of it is complete; at the end it is renamed.

    The journal holds the identity, and then a line for each write: rows, errors and bytes so far.
    """

    def __init__(self, path: Path, identity: str) -> None:
        """Continue an earlier attempt of the same identity; raise TemporaryFailure where another process writes it."""
        self._path, self._part = path, path.with_name(path.name + ".part")
        self._journal = path.with_name(path.name + ".part.journal").open("a+", encoding="ascii")
        try:
            fcntl.flock(self._journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._journal.close()
            raise TemporaryFailure(f"another process writes {self._part}") from None
        self.rows = self.failed = self._size = 0
        self._journal.seek(0)
        lines = self._journal.read().splitlines(keepends=True)
        self._file = self._part.open("ab")
        if lines[:1] == [identity + "\n"]:
            size = self._file.tell()
            for line in lines[1:]:
                numbers = re.fullmatch(r"([0-9]+) ([0-9]+) ([0-9]+)\n", line)
                if numbers and int(numbers[3]) <= size:
                    self.rows, self.failed, self._size = int(numbers[1]), int(numbers[2]), int(numbers[3])
        else:
            self._journal.truncate(0)
            self._journal.write(identity + "\n")
            self._journal.flush()
        self._file.truncate(self._size)

    def write(self, lines: bytes, rows: int, failed: int) -> None:
        self._file.write(lines)
        self._file.flush()
        self.rows, self.failed, self._size = self.rows + rows, self.failed + failed, self._size + len(lines)
        self._journal.write(f"{self.rows} {self.failed} {self._size}\n")
        self._journal.flush()

    def finish(self, summary: Mapping[str, str]) -> bool:
        os.fsync(self._file.fileno())
        self.close()
        try:
            os.link(self._part, self._path)  # unlike a rename, it never replaces a file
            new = True
        except FileExistsError:
            new = False
        except OSError:  # a file system without links
            new = not self._path.exists()
            if new:
                self._part.rename(self._path)
        self._part.unlink(missing_ok=True)
        Path(self._journal.name).unlink(missing_ok=True)
        return new

    def close(self) -> None:
        """Close the output; what is written stays for a later attempt."""
        if not self._file.closed and not self.rows:
            self._part.unlink(missing_ok=True)
            Path(self._journal.name).unlink(missing_ok=True)
        self._file.close()
        self._journal.close()


class StreamOutput:
    """A stream, such as standard output: nothing of it is kept, and no later attempt continues it."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.rows = self.failed = 0

    def write(self, lines: bytes, rows: int, failed: int) -> None:
        self._stream.write(lines)
        self._stream.flush()
        self.rows, self.failed = self.rows + rows, self.failed + failed

    def finish(self, summary: Mapping[str, str]) -> bool:
        return True

    def close(self) -> None:
        self._stream.flush()


class BucketOutput:
    """An object. A small one is written in one piece; a larger one in parts, which are composed at the end.

    The parts are objects with fixed names, FOLDER/.partial/NAME/IDENTITY/000000 and so on, each written only if it does
    not exist: an interrupted or concurrent attempt has written the same bytes. The attempt that finishes deletes them.
    """

    def __init__(self, storage: Storage, bucket: str, name: str, folder: str, identity: str, part_bytes: int) -> None:
        """Look up the existing parts; `folder` ends with a slash and holds them."""
        self._storage, self._bucket, self._name = storage, bucket, name
        self._folder = folder
        self._prefix = f"{_parts_of(folder, name)}{identity}/"
        self._part_bytes = part_bytes
        self._parts: list[str] = []
        self._held: list[bytes] = []
        self._size = self._held_rows = self._held_failed = 0
        self.rows = self.failed = 0
        metadata_by_name = {object_.name: object_.metadata for object_ in storage.list(bucket, self._prefix)}
        while (metadata := metadata_by_name.get(self._part_name())) is not None:
            self.rows += int(metadata["rows"])
            self.failed += int(metadata["errors"])
            self._parts.append(self._part_name())

    def _part_name(self) -> str:
        return f"{self._prefix}{len(self._parts):06d}"

    def write(self, lines: bytes, rows: int, failed: int) -> None:
        self._held.append(lines)
        self._size += len(lines)
        self._held_rows += rows
        self._held_failed += failed
        self.rows += rows
        self.failed += failed
        if self._size >= self._part_bytes:
            self._keep()

    def _keep(self) -> None:
        content, self._held, self._size = b"".join(self._held), [], 0
        metadata = {MARK: "part", "rows": str(self._held_rows), "errors": str(self._held_failed)}
        self._storage.write(self._bucket, self._part_name(), content, NDJSON, metadata)
        self._parts.append(self._part_name())
        self._held_rows = self._held_failed = 0

    def finish(self, summary: Mapping[str, str]) -> bool:
        metadata = {MARK: "predictions", **summary}
        if not self._parts:
            return self._storage.write(self._bucket, self._name, b"".join(self._held), NDJSON, metadata)
        if self._held:
            self._keep()
        new = self._compose(metadata)
        clean(self._storage, self._bucket, self._folder, self._name)
        return new

    def _compose(self, metadata: Mapping[str, str]) -> bool:
        parts, level = self._parts, 0
        try:
            while len(parts) > MOST_COMPOSED:
                level += 1
                groups = [parts[start : start + MOST_COMPOSED] for start in range(0, len(parts), MOST_COMPOSED)]
                parts = []
                for number, group in enumerate(groups):
                    parts.append(f"{self._prefix}{level}-{number:06d}")
                    self._storage.compose(self._bucket, parts[-1], group, NDJSON, {MARK: "part"})
            if self._exists():
                return False
            return self._storage.compose(self._bucket, self._name, parts, NDJSON, metadata)
        except StorageError:
            if self._exists():  # another attempt was faster, and has deleted the parts
                return False
            raise

    def _exists(self) -> bool:
        try:
            self._storage.stat(self._bucket, self._name)
        except NotThere:
            return False
        return True

    def close(self) -> None:
        """Close the output; what is written stays for a later attempt."""
        self._held.clear()


def _parts_of(folder: str, name: str) -> str:
    return f"{folder}{PARTS}/{name.removeprefix(folder)}/"


def clean(storage: Storage, bucket: str, folder: str, name: str) -> None:
    """Delete the parts of a complete output; a failure is only logged, since left parts do no harm."""
    prefix = _parts_of(folder, name)
    try:
        names = [object_.name for object_ in storage.list(bucket, prefix)]
        if names:
            with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
                list(pool.map(lambda part: storage.delete(bucket, part), names))
    except StorageError as error:
        log("WARNING", f"parts could not be deleted: {error}", place=f"gs://{bucket}/{prefix}")


def identity_text(facts: Mapping[str, object]) -> str:
    """Return a digest, 32 hexadecimal digits, of everything that decides the bytes of an output."""
    return sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:32]
