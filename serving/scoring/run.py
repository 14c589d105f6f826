"""From the bytes of a file to its predictions: what the events and the command line share."""

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
from serving.scoring.faults import BadFile, Gone, Passing
from serving.scoring.formats import Whole, format_of, free, gunzip
from serving.scoring.outputs import Output, identity_text
from serving.scoring.scorer import Scorer, Uneven

FORM = 1  # of the lines; another one when the same file would be written otherwise


class Source(NamedTuple):
    """A file of instances, one version of it."""

    address: str
    generation: str
    size: int  # bytes
    content_type: str
    packed: bool
    read: Callable[[], Iterator[bytes]]


class Work(NamedTuple):
    """What is to be done with a file: everything that decides the bytes of its predictions."""

    source: Source
    model: Model
    signature: Signature
    context: Context
    options: Settings

    @property
    def identity(self) -> str:
        """Return a name for this work, the same whenever the same bytes come out of it."""
        options = self.options
        facts = (options.score_options, options.score_batch_rows, options.score_instances, options.score_part_bytes,
                 options.key_field, options.non_finite, options.max_body_bytes, options.intra_op_threads)  # fmt: skip
        return identity_text({
            "form": FORM, "source": self.source.address, "generation": self.source.generation,
            "type": self.source.content_type, "model": digest(self.model.source.directory), "options": facts,
        })  # fmt: skip

    def summary(self, output: Output) -> dict[str, str]:
        """Return what is told of the predictions beside them."""
        return {
            "rows": str(output.rows), "errors": str(output.failed),
            "source": self.source.address, "generation": self.source.generation,
            "model": self.model.name, "model-version": self.model.version, "signature": self.signature.name,
            "model-digest": digest(self.model.source.directory),
        }  # fmt: skip


Progress = Callable[[int, int], None]


def prepare(source: Source, options: Settings) -> Work:
    """Load the model if nothing has yet, and choose the signature; raise BadFile where that cannot score the file."""
    try:
        served = cache().get()
    except LoadError as error:
        raise Passing(f"the model cannot be loaded: {error}") from None
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
    """Write the predictions of a file; return where they are, and whether they are new.

    `make_output` opens the output of an identity; `progress` is told after each batch how many bytes have been read and
    how many rows are done. Raise BadFile, Gone or Passing.
    """
    try:
        try:
            return _score(work, make_output(work.identity), progress, one_by_one=False)
        except Uneven:
            log("INFO", f"{work.source.address}: started again, row by row: results depend on the batch size")
            return _score(work, make_output(f"{work.identity}-1"), progress, one_by_one=True)
    except StorageError as error:
        raise Passing(str(error)) from None
    except MemoryError:
        raise Passing("out of memory") from None


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
    """The bytes of a file, and how many of them have been asked for."""

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
    """Return the digest of what decides a model's answers."""
    return card.digest(directory)
