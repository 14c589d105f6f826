"""A file of instances in, a file of predictions out: JSON lines, CSV with a header, or a picture.

    gs://B/in/a.jsonl, generation 7   →   EVENT_OUTPUT/in/a.jsonl.7.predictions.jsonl, a line for each row:

    {"key": 7, "x": 1.0}                  {"key":7,"prediction":0.5}
    {"key": 8, "x": "one"}                {"key":8,"error":"line 2, x: expected float32, got the string \"one\""}

The output is the record of the work: an existing output ends the work at once, and a new one never replaces another. So
a second delivery, a crash in the middle and two instances at once all end in the same single object. Its metadata hold
the rows, the errors, the model, the source, and how rows were run.
"""

import time
from collections.abc import Mapping
from hashlib import sha256
from typing import NamedTuple

from serving.core import settings
from serving.core.http import to_json
from serving.core.storage import NotThere, Object, Storage, StorageError, split
from serving.core.telemetry.log import log
from serving.scoring.faults import BadFile, Gone, TemporaryFailure
from serving.scoring.formats import GZIP, content_type_of
from serving.scoring.outputs import MARK, BucketOutput, clean
from serving.scoring.run import Source, Work, prepare, score

__all__ = ["BadFile", "Gone", "Scored", "TemporaryFailure", "ours", "record_error", "score_object"]

LONGEST_NAME = 1024  # bytes, of an object
MARGIN = 10  # seconds before the platform's limit
MEASURED = 2.0  # seconds of work before the rest is estimated
LOG_EVERY = 30.0  # seconds


class Scored(NamedTuple):
    """The result: the address of the predictions, their rows, and how many of those are errors."""

    output: str  # gs://BUCKET/NAME
    rows: int
    failed: int
    already: bool  # the output existed: from an earlier delivery, or from a faster instance


def score_object(source: str, generation: str | None, deadline: float | None = None) -> Scored:
    """Score the object `source`, gs://BUCKET/NAME, at `generation` (None: the current one).

    `deadline`, by time.monotonic(), is when the request ends; by default EVENT_TIMEOUT from now. Raise BadFile,
    Gone or TemporaryFailure.
    """
    begin = time.monotonic()
    options = settings.current()
    if deadline is None:
        deadline = begin + options.event_timeout
    folder = _output_folder(options)
    storage = _storage(options)
    try:
        object_ = None if generation else _stat(storage, source, None)
        bucket, name = _named(
            folder, source, generation or (object_.generation if object_ else ""), ".predictions.jsonl"
        )
        prefix = split(folder)[1]
        if (done := _done(storage, bucket, name)) is not None:
            clean(storage, bucket, prefix, name)  # the instance that wrote it may have died before this
            return done
        object_ = object_ or _stat(storage, source, generation)
        work = prepare(_source(storage, object_), options)
        output, new, _ = score(
            work,
            lambda identity: BucketOutput(storage, bucket, name, prefix, identity, options.score_part_bytes),
            _Clock(work, begin, deadline - min(MARGIN, (deadline - begin) / 2)),
        )
    except StorageError as error:
        raise TemporaryFailure(str(error)) from None
    return Scored(f"gs://{bucket}/{name}", output.rows, output.failed, not new)


def record_error(source: str, generation: str | None, message: str) -> str:
    """Write why a file is not scored as an object beside its predictions, once, and return the object's address.

    Raise TemporaryFailure where it cannot be written.
    """
    options = settings.current()
    bucket, name = _named(_output_folder(options), source, generation or "unknown", ".error.json")
    content = to_json({"error": message, "source": source, "generation": generation})
    metadata = {MARK: "error", "source": source, "generation": generation or ""}
    try:
        _storage(options).write(bucket, name, content, "application/json", metadata)
    except StorageError as error:
        raise TemporaryFailure(str(error)) from None
    return f"gs://{bucket}/{name}"


def ours(bucket: str, name: str, metadata: Mapping[str, str]) -> bool:
    """Return whether an object is an output of scoring, by its folder or its metadata."""
    folder = settings.current().event_output
    return MARK in metadata or bool(folder and f"gs://{bucket}/{name}".startswith(folder))


def _storage(options: settings.Settings) -> Storage:
    return Storage(options.storage_emulator_host, options.google_oauth_access_token)


def _output_folder(options: settings.Settings) -> str:
    if not options.event_output:
        raise TemporaryFailure("EVENT_OUTPUT is not set: there is no place for predictions")
    return options.event_output


def _named(folder: str, source: str, generation: str, end: str) -> tuple[str, str]:
    """Return the bucket and the name of the output for a source."""
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
        object_ = storage.stat(bucket, name)
    except NotThere:
        return None
    rows, errors = (int(object_.metadata.get(key, "0")) for key in ("rows", "errors"))
    return Scored(object_.address, rows, errors, True)


def _source(storage: Storage, object_: Object) -> Source:
    packed = object_.encoding == "gzip" or object_.name.endswith(GZIP)
    return Source(
        object_.address, object_.generation, object_.size, content_type_of(object_.name, object_.content_type), packed,
        lambda: storage.read(object_),
    )  # fmt: skip


class _Clock:
    """Logs the progress of the work, and ends it where it would miss the deadline."""

    def __init__(self, work: Work, begin: float, deadline: float) -> None:
        self._work, self._deadline = work, deadline
        self._begin = begin
        self._first: tuple[float, int, int] | None = None  # after the first batch, which loads, warms up and measures
        self._estimated = False
        self._logged = begin

    def __call__(self, read: int, rows: int) -> None:
        now = time.monotonic()
        source, options = self._work.source, self._work.options
        if self._first is None:
            self._first = (now, read, rows)
        since, read_before, rows_before = self._first
        if not self._estimated and now - since >= MEASURED and rows > rows_before:
            self._estimated = True
            needed = (source.size - read) * (now - since) / max(read - read_before, 1)
            if now + needed > self._deadline:
                raise BadFile(
                    f"{source.size} bytes would take about {needed + now - self._begin:.0f} s, and EVENT_TIMEOUT is "
                    f"{options.event_timeout} s; score it with: python -m serving score"
                )
        if now > self._deadline:
            raise TemporaryFailure(
                f"EVENT_TIMEOUT, {options.event_timeout} s, is over after {rows} rows; the next attempt continues"
            )
        if now - self._logged >= LOG_EVERY:
            self._logged = now
            done = 100 * read // max(source.size, 1)
            rate = round((rows - rows_before) / (now - since)) if now > since else 0
            log("INFO", f"{source.address}: {rows} rows, {done} %", rows_per_second=rate)
