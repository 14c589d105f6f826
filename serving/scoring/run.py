"""Scores a file: from its bytes to its predictions, for events and for the command line."""

from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from serving.core.errors import LoadError
from serving.core.http import BadRequest
from serving.core.settings import Settings
from serving.core.storage import NotThere, StorageError
from serving.core.telemetry.log import log
from serving.protocols import answers, tensorflow_serving
from serving.protocols.call import Context, choose, option
from serving.protocols.options import from_query
from serving.runtime.loading import cache
from serving.runtime.model import Model
from serving.savedmodel.folder import card
from serving.savedmodel.signature import Signature
from serving.scoring.faults import BadFile, Gone, TemporaryFailure
from serving.scoring.formats import Whole, format_of, free, gunzip
from serving.scoring.outputs import Output, identity_text
from serving.scoring.scorer import BatchDependent, Scorer

FORM = 1  # version of the output's format: raise it when the same file gives other bytes


class Source(NamedTuple):
    """One version of a file of instances."""

    address: str
    generation: str
    size: int  # bytes
    content_type: str
    packed: bool
    read: Callable[[], Iterator[bytes]]


class Work(NamedTuple):
    """Everything that decides the bytes of a file's predictions."""

    source: Source
    model: Model
    signature: Signature
    context: Context
    options: Settings

    @property
    def identity(self) -> str:
        """Return a digest of this work: equal digests mean equal predictions."""
        options = self.options
        facts = (options.score_options, options.score_batch_rows, options.score_instances, options.score_part_bytes,
                 options.key_field, options.non_finite, options.max_body_bytes, options.intra_op_threads)  # fmt: skip
        return identity_text({
            "form": FORM, "source": self.source.address, "generation": self.source.generation,
            "type": self.source.content_type, "model": digest(self.model.source.directory), "options": facts,
        })  # fmt: skip

    def summary(self, output: Output) -> dict[str, str]:
        """Return the metadata of the predictions."""
        return {
            "rows": str(output.rows), "errors": str(output.failed),
            "source": self.source.address, "generation": self.source.generation,
            "model": self.model.name, "model-version": self.model.version, "signature": self.signature.name,
            "model-digest": digest(self.model.source.directory),
        }  # fmt: skip


Progress = Callable[[int, int], None]


def prepare(source: Source, options: Settings) -> Work:
    """Load the model if needed, and choose the signature; raise BadFile or TemporaryFailure where that fails."""
    try:
        served = cache().get()
    except LoadError as error:
        raise TemporaryFailure(f"the model cannot be loaded: {error}") from None
    try:
        query = from_query(options.score_options, place="SCORE_OPTIONS", strict=True)
        context = Context(
            {}, served.name, served.version, query, options.key_field, options.non_finite == "null",
            served.source.labels, options,
        )  # fmt: skip
        signature = choose(served.signatures, option(context, "signature_name"), "SCORE_OPTIONS, signature_name")
        tensorflow_serving.check_outputs(signature)
        answers.check(signature, context)
    except BadRequest as error:
        raise BadFile(str(error)) from None
    return Work(source, served, signature, context, options)


def score(work: Work, make_output: Callable[[str], Output], progress: Progress) -> tuple[Output, bool]:
    """Write the predictions of a file; return the output, and whether it is new.

    `make_output` opens the output of an identity; `progress` is called after each batch with the bytes read and the
    rows done so far. Raise BadFile, Gone or TemporaryFailure.
    """
    try:
        try:
            return _score(work, make_output(work.identity), progress, one_by_one=False)
        except BatchDependent:
            log("INFO", f"{work.source.address}: started again, row by row: results depend on the batch size")
            return _score(work, make_output(f"{work.identity}-1"), progress, one_by_one=True)
    except StorageError as error:
        raise TemporaryFailure(str(error)) from None
    except MemoryError:
        raise TemporaryFailure("out of memory") from None


def _score(work: Work, output: Output, progress: Progress, *, one_by_one: bool) -> tuple[Output, bool]:
    try:
        scorer = Scorer(
            work.model, work.signature, work.options.score_batch_rows, instances=work.options.score_instances
        )
        if one_by_one:
            scorer.one_by_one()
        form = format_of(work.source.content_type, free(work.signature), work.context, work.options.max_body_bytes)
        if not isinstance(form, Whole) and not (work.signature.inputs and answers.has_rows(work.signature)):
            raise BadFile(f"the signature {work.signature.name!r} does not go by rows, and the file does")
        stored = _Counted(work.source.read())
        chunks = _Counted(gunzip(stored)) if work.source.packed else stored
        done = 0  # bytes of the rows so far
        for batch in form.batches(iter(chunks), scorer.step):
            done += batch.size
            if batch.first < output.rows:
                continue
            lines, failed = scorer.answer(form, batch)
            if failed and isinstance(form, Whole):
                raise BadFile(failed[0].removeprefix("body: "))
            output.write(lines, len(batch.rows), len(failed))
            progress(stored.bytes * min(done, chunks.bytes) // max(chunks.bytes, 1), output.rows)
        if not output.rows:
            raise BadFile("the file is empty")
        return output, output.finish(work.summary(output))
    finally:
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
