"""Scores a file: from its bytes to its predictions, for events and for the command line."""

from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from serving.core.settings import Settings
from serving.core.storage import NotThere, StorageError
from serving.core.telemetry.log import log
from serving.savedmodel.folder import card
from serving.savedmodel.source import Source as SavedModel
from serving.scoring.faults import BadFile, Gone, TemporaryFailure
from serving.scoring.formats import Batch, Whole, gunzip
from serving.scoring.outputs import Output, identity_text
from serving.scoring.rows import BatchDependent, Target, check_rows, fixed_rows, found, how_run, target
from serving.scoring.workers import Job, answered, form_of

FORM = 2  # version of the output's format: raise it when the same file gives other bytes


class Source(NamedTuple):
    """One version of a file of instances."""

    address: str
    generation: str
    size: int  # bytes; 0 where it is unknown
    content_type: str
    packed: bool
    read: Callable[[], Iterator[bytes]]
    path: Path | None = None  # of a Parquet file


class Work(NamedTuple):
    """Everything that decides the bytes of a file's predictions."""

    source: Source
    model: SavedModel
    target: Target
    options: Settings
    keep: tuple[str, ...] | None = None  # write columns, these of the input among them; None: lines

    @property
    def identity(self) -> str:
        """Return a digest of this work: equal digests mean equal predictions."""
        options = self.options
        facts = (options.score_options, options.score_batch_rows, options.score_instances, options.score_part_bytes,
                 options.key_field, options.non_finite, options.max_body_bytes, options.intra_op_threads)  # fmt: skip
        return identity_text({
            "form": FORM, "source": self.source.address, "generation": self.source.generation,
            "type": self.source.content_type, "keep": self.keep, "options": facts,
            "model": digest(self.model.directory),
        })  # fmt: skip

    def summary(self, output: Output, *, alone: bool) -> dict[str, str]:
        """Return the metadata of the predictions."""
        return {
            "rows": str(output.rows), "errors": str(output.failed),
            "source": self.source.address, "generation": self.source.generation,
            "run": how_run(self.options.score_batch_rows, alone=alone), **facts(self.model, self.target),
        }  # fmt: skip


class Scored(NamedTuple):
    """The output of a work, whether it is new, and how its rows were run."""

    output: Output
    new: bool
    how: str


Progress = Callable[[int, int], None]


def facts(model: SavedModel, target: Target) -> dict[str, str]:
    """Return what a record says of the model."""
    return {
        "model": model.name, "model-version": model.version, "signature": target.signature.name,
        "model-digest": digest(model.directory),
    }  # fmt: skip


def prepare(source: Source, options: Settings, keep: tuple[str, ...] | None = None) -> Work:
    """Find the model and choose the signature, without loading it; raise BadFile or TemporaryFailure."""
    model = found()
    return Work(source, model, target(model, options), options, keep)


def score(work: Work, make_output: Callable[[str], Output], progress: Progress, workers: int = 1) -> Scored:
    """Write the predictions of a file, with up to so many processes.

    `make_output` opens the output of an identity, once the first batch is answered; `progress` is called after each
    batch with the bytes read and the rows done so far. Raise BadFile, Gone or TemporaryFailure.
    """
    try:
        try:
            return _score(work, lambda: make_output(work.identity), progress, workers, alone=False)
        except BatchDependent:
            log("INFO", f"{work.source.address}: started again, row by row: results depend on the batch size")
            return _score(work, lambda: make_output(f"{work.identity}-1"), progress, workers, alone=True)
    except StorageError as error:
        raise TemporaryFailure(str(error)) from None
    except MemoryError:
        raise TemporaryFailure("out of memory") from None


def _score(work: Work, make_output: Callable[[], Output], progress: Progress, workers: int, *, alone: bool) -> Scored:
    signature, context = work.target
    step = fixed_rows(signature) or 1
    form = form_of(work.source.content_type, signature, context, work.options, work.source.path)
    if not isinstance(form, Whole):
        check_rows(signature)
    stored = _Counted(work.source.read())
    chunks = _Counted(gunzip(stored)) if work.source.packed else stored
    output: Output | None = None
    done = 0  # bytes of the rows so far

    def missing(batches: Iterator[Batch]) -> Iterator[Batch]:
        """Leave out what an earlier attempt has written, but for the first batch, which shows how rows are run."""
        nonlocal done
        for batch in batches:
            if batch.first and output is not None and batch.first < output.rows:
                done += batch.size
            else:
                yield batch

    batches = missing(form.batches(iter(chunks), step))
    try:
        job = Job(work.options, work.source.content_type, alone, work.keep)
        for batch, lines, failed in answered(batches, job, workers):
            if failed and isinstance(form, Whole):
                raise BadFile(failed[0].removeprefix("body: "))
            output = output or make_output()
            done += batch.size
            if batch.first >= output.rows:
                output.write(lines, len(batch.rows), len(failed))
                position = stored.bytes * min(done, chunks.bytes) // chunks.bytes if chunks.bytes else done
                progress(position, output.rows)
        if output is None:
            raise BadFile("the file is empty")
        new = output.finish(work.summary(output, alone=alone))
        return Scored(output, new, how_run(work.options.score_batch_rows, alone=alone))
    finally:
        if output is not None:
            output.close()


class _Counted:
    """The chunks of a file, and how many bytes of them have been read."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self.bytes = 0

    def __iter__(self) -> Iterator[bytes]:
        try:
            for chunk in self._chunks:
                self.bytes += len(chunk)
                yield chunk
        except NotThere as error:
            raise Gone(str(error)) from None


@lru_cache(maxsize=4)
def digest(directory: Path) -> str:
    """Return the model's digest, see `folder.card`, computed once."""
    return card.digest(directory)
