"""Answers batches in this process, or in several, each with its own copy of the model; the order is kept."""

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, NamedTuple

from serving.core.settings import Settings
from serving.protocols.call import Context
from serving.savedmodel.signature import Signature
from serving.scoring.faults import TemporaryFailure
from serving.scoring.formats import Batch, Format, format_of, free
from serving.scoring.rows import opened

FEW = 4  # batches, for which no other process is worth its start
AHEAD = 3  # batches for each process that are read before they are needed

PARQUET = "application/vnd.apache.parquet"

Result = tuple[Any, dict[int, str]]  # the lines of a batch, or its columns, and the errors by row


class Job(NamedTuple):
    """How the batches of a file are answered, for a process of its own too."""

    options: Settings
    content_type: str
    alone: bool
    keep: tuple[str, ...] | None = None  # write columns, these of the input among them; None: lines

    def answer(self) -> Callable[[Batch], Result]:
        """Return the function that answers a batch in this process; raise BadFile or TemporaryFailure."""
        scorer, (signature, context) = opened(self.options, alone=self.alone)
        form = form_of(self.content_type, signature, context, self.options)
        if self.keep is None:
            return lambda batch: scorer.lines(form, batch)
        from serving.scoring import arrow  # needs pyarrow

        keep = self.keep
        return lambda batch: arrow.answer(scorer, form, batch, keep)


def form_of(
    content_type: str, signature: Signature, context: Context, options: Settings, path: Path | None = None
) -> Format:
    """Return the format of a file; `path` is that of a Parquet file, which is read from its end."""
    if content_type != PARQUET:
        return format_of(content_type, free(signature), context, options.max_body_bytes)
    from serving.scoring import arrow  # needs pyarrow

    return arrow.Columns(free(signature), context, path)


def answered(batches: Iterator[Batch], job: Job, workers: int) -> Iterator[tuple[Batch, Any, dict[int, str]]]:
    """Yield each batch with its lines or columns and its errors by row, in order, with up to `workers` processes.

    Raise what `Scorer.lines` raises; TemporaryFailure where a process dies.
    """
    begin = list(islice(batches, FEW))
    batches = chain(begin, batches)
    if workers > 1 and len(begin) == FEW:
        yield from _side_by_side(batches, job, workers)
    elif begin:
        answer = job.answer()
        for batch in batches:
            lines, failed = answer(batch)
            yield batch, lines, failed


def _side_by_side(batches: Iterator[Batch], job: Job, workers: int) -> Iterator[tuple[Batch, Any, dict[int, str]]]:
    # Not forked: a session of this process would not survive it.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, _begin, (job,))
    try:
        waiting = deque((batch, pool.submit(_answer, batch)) for batch in islice(batches, workers * AHEAD))
        while waiting:
            batch, future = waiting.popleft()
            lines, failed = future.result()
            waiting.extend((another, pool.submit(_answer, another)) for another in islice(batches, 1))
            yield batch, lines, failed
    except BrokenProcessPool:
        _abandon(pool)
        raise TemporaryFailure("a process that scores rows died; out of memory?") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _abandon(pool: ProcessPoolExecutor) -> None:
    """Let a pool end whose process died: before 3.11.5 Python waits for ever to write a batch that no process reads.

    https://github.com/python/cpython/issues/94777
    """
    calls = getattr(pool, "_call_queue", None)
    reader = getattr(calls, "_reader", None)
    if reader is not None:
        reader.close()


_job: Job | None = None
_function: Callable[[Batch], Result] | None = None


def _begin(job: Job) -> None:
    """Begin a worker process."""
    global _job
    _job = job
    sys.stdout = sys.stderr  # the predictions may go to standard output
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to every process; the parent ends the work
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _answer(batch: Batch) -> Result:
    global _function
    if _function is None:
        assert _job is not None
        _function = _job.answer()
    return _function(batch)
