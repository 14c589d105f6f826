"""A file of instances in, a file of predictions out: JSON lines, CSV with a header, or a picture.

    gs://B/in/a.jsonl, generation 7   →   EVENT_OUTPUT/in/a.jsonl.7.predictions.jsonl, a line for each row:

    {"key": 7, "x": 1.0}                  {"key":7,"prediction":0.5}
    {"key": 8, "x": "one"}                {"key":8,"error":"line 2, x: expected float32, got the string \"one\""}

The output is the record of the work: it is looked for before, and written after, only where it is not there. So a
second delivery, a crash in the middle and two instances at once all end in the same one object. Its metadata tell the
rows, the errors, the model and the source.
"""

import time
from collections.abc import Mapping
from hashlib import sha256
from typing import NamedTuple

from serving.core import settings
from serving.core.http import to_json
from serving.core.storage import NotThere, Object, Storage, StorageError, split
from serving.core.telemetry.log import log
from serving.scoring.faults import BadFile, Gone, Passing
from serving.scoring.formats import GZIP, content_type_of
from serving.scoring.outputs import MARK, BucketOutput, clean
from serving.scoring.run import Source, Work, prepare, score

__all__ = ["BadFile", "Gone", "Passing", "Scored", "ours", "record_error", "score_object"]

LONGEST_NAME = 1024  # bytes, of an object
MARGIN = 10  # seconds before the platform's limit
BELIEVED = 2.0  # seconds of work from which the rest is estimated
TELL_EVERY = 30.0  # seconds


class Scored(NamedTuple):
    """What has been written: the address of the predictions, their rows, and how many of those are errors."""

    output: str  # gs://BUCKET/NAME
    rows: int
    failed: int
    already: bool  # it was there before: an earlier delivery's, or somebody's who was quicker


def score_object(source: str, generation: str | None, deadline: float | None = None) -> Scored:
    """Score the object `source`, gs://BUCKET/NAME, pinned to `generation` (None: the one that is there now).

    `deadline` is when the caller will not be heard any more, by time.monotonic(); EVENT_TIMEOUT from now by default.
    """
    begin = time.monotonic()
    options = settings.current()
    if deadline is None:
        deadline = begin + options.event_timeout
    folder = _output_place(options)
    storage = _storage(options)
    try:
        found = None if generation else _stat(storage, source, None)
        place, name = _named(folder, source, generation or (found.generation if found else ""), ".predictions.jsonl")
        prefix = split(folder)[1]
        if (done := _done(storage, place, name)) is not None:
            clean(storage, place, prefix, name)  # who wrote it may have died before this
            return done
        found = found or _stat(storage, source, generation)
        work = prepare(_source(storage, found), options)
        output, new = score(
            work,
            lambda identity: BucketOutput(storage, place, name, prefix, identity, options.score_part_bytes),
            _Clock(work, begin, deadline - min(MARGIN, (deadline - begin) / 2)),
        )
    except StorageError as error:
        raise Passing(str(error)) from None
    return Scored(f"gs://{place}/{name}", output.rows, output.failed, not new)


def record_error(source: str, generation: str | None, message: str) -> str:
    """Write why a file is not scored beside where its predictions would be, unless that is there; return where.

    Raise Passing where it cannot be written.
    """
    options = settings.current()
    bucket, name = _named(_output_place(options), source, generation or "unknown", ".error.json")
    content = to_json({"error": message, "source": source, "generation": generation})
    metadata = {MARK: "error", "source": source, "generation": generation or ""}
    try:
        _storage(options).write(bucket, name, content, "application/json", metadata)
    except StorageError as error:
        raise Passing(str(error)) from None
    return f"gs://{bucket}/{name}"


def ours(bucket: str, name: str, metadata: Mapping[str, str]) -> bool:
    """Say whether an object is one of our own outputs, by its place or by its mark."""
    folder = settings.current().event_output
    return MARK in metadata or bool(folder and f"gs://{bucket}/{name}".startswith(folder))


def _storage(options: settings.Settings) -> Storage:
    return Storage(options.storage_emulator_host, options.google_oauth_access_token)


def _output_place(options: settings.Settings) -> str:
    if not options.event_output:
        raise Passing("EVENT_OUTPUT is not set: there is no place for predictions")
    return options.event_output


def _named(folder: str, source: str, generation: str, end: str) -> tuple[str, str]:
    """Return the bucket and the name of what is written about a source."""
    bucket, prefix = split(folder)
    name = f"{prefix}{split(source)[1]}.{generation}{end}"
    if len(name.encode()) > LONGEST_NAME:
        name = f"{prefix}{sha256(source.encode()).hexdigest()}.{generation}{end}"
    return bucket, name


def _stat(storage: Storage, source: str, generation: str | None) -> Object:
    if source.endswith("/"):
        raise Gone(f"{source} is a folder's placeholder, not a file")
    try:
        return storage.stat(*split(source), generation)
    except NotThere as error:
        raise Gone(str(error)) from None


def _done(storage: Storage, bucket: str, name: str) -> Scored | None:
    try:
        found = storage.stat(bucket, name)
    except NotThere:
        return None
    rows, errors = (int(found.metadata.get(what, "0")) for what in ("rows", "errors"))
    return Scored(found.address, rows, errors, True)


def _source(storage: Storage, found: Object) -> Source:
    packed = found.encoding == "gzip" or found.name.endswith(GZIP)
    return Source(
        found.address, found.generation, found.size, content_type_of(found.name, found.content_type), packed,
        lambda: storage.read(found),
    )  # fmt: skip


class _Clock:
    """Tells the log how far the work is, and ends it where it would not be done in time."""

    def __init__(self, work: Work, begin: float, deadline: float) -> None:
        self._work, self._deadline = work, deadline
        self._begin = begin
        self._first: tuple[float, int, int] | None = None  # after the first batch: it loads, warms up and tries
        self._estimated = False
        self._told = begin

    def __call__(self, read: int, rows: int) -> None:
        now = time.monotonic()
        source, options = self._work.source, self._work.options
        if self._first is None:
            self._first = (now, read, rows)
        since, read_before, rows_before = self._first
        if not self._estimated and now - since >= BELIEVED and rows > rows_before:
            self._estimated = True
            needed = (source.size - read) * (now - since) / max(read - read_before, 1)
            if now + needed > self._deadline:
                raise BadFile(
                    f"{source.size} bytes would take about {needed + now - self._begin:.0f} s, and EVENT_TIMEOUT is "
                    f"{options.event_timeout} s; score it with: python -m serving score"
                )
        if now > self._deadline:
            raise Passing(
                f"EVENT_TIMEOUT, {options.event_timeout} s, is over after {rows} rows; the next attempt continues"
            )
        if now - self._told >= TELL_EVERY:
            self._told = now
            done = 100 * read // max(source.size, 1)
            rate = round((rows - rows_before) / (now - since)) if now > since else 0
            log("INFO", f"{source.address}: {rows} rows, {done} %", rows_per_second=rate)
