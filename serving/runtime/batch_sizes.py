"""Find the batch sizes in which a signature may run: example rows, or generated ones, are run alone and together.

The rows of a batch must be independent, and a signature does not say whether they are: with padding to the longest row,
or a mean over the batch, the rows of one client would change the outputs of another. So the outputs of different rows
together are compared with those of each row alone. Signatures that keep state, draw random numbers or use an unknown
operation are not batched, nor are those of which no two rows with different outputs are known.

Kernels round one row (a matrix-vector product) differently from two or more rows, and some sizes differently from
others. The sizes allowed give each row the bytes that it gets alone in the smallest run, filled up with its copies.

`auto` does not choose the smallest run, since answers go out before the sizes are known: it is one row, or what the
exporter has written beside the model (`smallest_runs`). It batches only where many rows together take less time.
A number forces batching: the smallest run has two or four rows where one is rounded differently. Where no sizes round
alike, any size is allowed, and the last digits of a row depend on the size of its batch.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from serving.core import files
from serving.core.errors import InputError, LoadError, RunError, plain
from serving.runtime.batching import AUTO_ROWS, Sizes, batchable, row_count
from serving.runtime.model import Model
from serving.runtime.warmup import BYTES, PLACE
from serving.savedmodel.examples import made
from serving.savedmodel.folder import manifest
from serving.savedmodel.prediction_log import records, request
from serving.savedmodel.safety.purity import impurities
from serving.savedmodel.signature import Signature

Array = np.ndarray[Any, Any]
Arrays = Mapping[str, Array]

# Rows whose bytes are compared in each size: MANY for AUTO; FEW of a slow model, or while a start waits for them. Where
# one row in ten shows that a size rounds differently, MANY allow it once in 700,000 times, FEW once in 30.
MANY, FEW = 128, 32
FEWEST_ROWS = 8  # different ones among them
RECIPES = 8  # ways to generate a row that are tried
TIMES = 5  # that the sizes are run by which the gain is measured; of a slow model at least twice
SECONDS = 1.0  # of CPU time, after which no other size is tried
OF_A_SIZE = SECONDS / 10  # after which a size is run no more than it must be
FASTER = 0.8  # of a row's time alone: a row of a full batch takes no more than this, else `auto` does not batch
SLOWER, LATER = 1.25, 2e-5  # times its time alone, and seconds, that a row may take longer which runs as several
LARGEST_SMALLEST = 4  # rows
ROUNDED = "a row alone is rounded differently than with others", "each size is rounded differently"
OFTEN, SELDOM = 140, 7  # times that these runs are timed, those of a slow model


class Outcome(NamedTuple):
    """The sizes of shared runs, none where a signature is not batched; why not; the gain of the largest."""

    sizes: Sizes = ()
    reason: str = ""
    gain: float = 0.0  # how many times as many rows run in a time; 0 where it was not measured


def of_model(model: Model, most: int, *, exact: bool) -> dict[str, Outcome]:
    """Return the outcome for each signature that can be called; with `exact`, as AUTO wants it."""
    impure = _impure(model)
    called = {
        name: signature
        for name, signature in model.signatures.items()
        if signature.refusal is None and not name.startswith("__")
    }
    return {
        name: Outcome(reason="it is not a pure function")
        if name in impure or not model.source.may_try
        else of_signature(model, signature, most, exact=exact)
        for name, signature in called.items()
    }


def _impure(model: Model) -> set[str]:
    if model.source.light:
        return set()  # a twin is made of pure models only
    try:
        return {use.signature for use in impurities(model.source.directory)}
    except LoadError:
        return set(model.signatures)  # a graph of other tags, which impurities cannot read


def of_signature(model: Model, signature: Signature, most: int, *, exact: bool) -> Outcome:
    """Run different rows of a pure signature alone and in batches of up to `most` rows, for a second or so."""
    if signature.name in model.source.parts or not batchable(signature):
        return Outcome(reason="its shapes do not allow it")
    smallest = model.source.smallest_runs.get(signature.name, 1)
    try:
        trial = _Trial(model, signature, _different_rows(model, signature, MANY if exact else FEW))
        if exact:
            return _compare(trial, most, smallest, time.thread_time() + SECONDS, exact=True)
        return _forced(trial, most, smallest)
    except (InputError, RunError, ValueError) as error:
        return Outcome(reason=f"it cannot take several rows: {plain(str(error))[:200]}")


def smallest_runs(model: Model) -> dict[str, int]:
    """Return how many rows a single row had better run as, by signature: what an exporter writes beside the model.

    These are signatures that AUTO would not batch, because one row is rounded differently from several, and whose rows
    take little longer as several. Times are of this machine.
    """
    rows = {}
    for name, outcome in of_model(model, AUTO_ROWS, exact=False).items():
        smallest = min(outcome.sizes, default=1)
        if 1 < smallest <= LARGEST_SMALLEST:
            signature = model.signatures[name]
            trial = _Trial(model, signature, _different_rows(model, signature, FEW))
            until = time.thread_time() + SECONDS
            while len(trial.times.get(1, ())) < (OFTEN if time.thread_time() < until else SELDOM):
                for size in (1, smallest, max(outcome.sizes)):
                    for _ in range(SELDOM):
                        trial.run([index % len(trial.rows) for index in range(size)])
            is_cheap = trial.least(smallest) <= SLOWER * trial.least(1) + LATER
            if is_cheap and trial.pays(max(outcome.sizes), smallest):
                rows[name] = smallest
    return rows


def _different_rows(model: Model, signature: Signature, most: int) -> list[Arrays]:
    rows, began = list[Arrays](), 0.0
    for row in islice(example_rows(model, signature), most):
        rows.append(row)
        began = began or time.thread_time()  # the first run of a model takes longer
        if len(rows) >= FEWEST_ROWS and time.thread_time() - began > SECONDS / 10:
            break
    return rows


def _forced(trial: "_Trial", most: int, stated: int) -> Outcome:
    """Return the outcome with the first smallest run with which many sizes round alike, else with any size.

    The smallest run that the exporter has written is tried first. It may be of another CPU, whose kernels differ.
    """
    until = time.thread_time() + SECONDS
    for smallest in dict.fromkeys((stated, 1, 2, LARGEST_SMALLEST)):
        outcome = _compare(trial, most, smallest, until)
        if outcome.reason not in ("", *ROUNDED) or 2 * max(outcome.sizes, default=0) > max(trial.times):
            return outcome
    return _compare(trial, most, 1, until, alike=False)


def _compare(
    trial: "_Trial", most: int, smallest: int, until: float, *, exact: bool = False, alike: bool = True
) -> Outcome:
    """Return the sizes that give the bytes of each row alone in the smallest run; without `alike`, every size."""
    alone = [trial.run([index] * smallest)[0] for index in range(len(trial.rows))]
    if len({_bytes(row) for row in alone}) < 2:
        return Outcome(reason="no two rows with different outputs are known: export the model with examples=")
    sizes = [1] if smallest == 1 else []
    for tried, size in enumerate(_candidates(smallest, most)):
        if time.thread_time() > until and tried > 2:
            break
        times = TIMES if size in (4, most) else 1
        try:
            is_alike = _rounds_alike(trial, size, alone, times=times, most=MANY if exact else FEW)
        except _DependentError:
            return Outcome(reason="the output of a row depends on the other rows of its batch")
        if is_alike or not alike:
            sizes.append(size)
        elif size == max(smallest, 2):
            return Outcome(reason=ROUNDED[0])
        if exact and size in (4, most) and not trial.pays(size, smallest):
            return Outcome(reason="rows together take as long as alone", gain=trial.gain(size, smallest))
    gain = trial.gain(max(trial.times), smallest)
    if max(sizes, default=0) <= smallest < most:
        return Outcome(reason=ROUNDED[1], gain=gain)
    return Outcome(tuple(sorted(sizes)), gain=gain)


class _DependentError(Exception):
    """Rows of a batch depend on each other."""


def _rounds_alike(trial: "_Trial", size: int, alone: Sequence[Arrays], *, times: int, most: int) -> bool:
    """Run different rows in batches of a size; return whether each has the bytes that it has alone.

    A kernel may round only few rows differently, or rows at few positions: FEW to `most` are compared, in `times` runs
    or more, as long as there is time. Raise _DependentError where a row is not even near.
    """
    until, order = time.thread_time() + OF_A_SIZE, np.random.default_rng(size)
    indexes, compared, is_alike = list[int](), 0, True

    def goes_on() -> bool:
        fewest, wanted = (FEW, most) if is_alike else (0, 0)
        fewest, wanted = max(fewest, min(times, 2) * size), max(wanted, times * size)
        return compared < fewest or (compared < wanted and time.thread_time() < until)

    while goes_on():
        while len(indexes) < size:
            indexes += order.permutation(len(alone)).tolist()
        batch, indexes = indexes[:size], indexes[size:]
        for row, index in zip(trial.run(batch), batch):
            if not _near(row, alone[index]):
                raise _DependentError
            is_alike = is_alike and _bytes(row) == _bytes(alone[index])
        compared += size
    return is_alike


def _candidates(smallest: int, most: int) -> list[int]:
    """Return the sizes above 1 that are tried, those first that say most; the largest is `most`."""
    steps = [2, 4, most, 3, *range(5, 9), *(size * 2**power for power in range(1, 8) for size in (6, 8))]
    return list(dict.fromkeys(size for size in steps if max(smallest, 2) <= size <= most))


class _Trial:
    """Runs of different rows, and the CPU times of the runs of each size."""

    def __init__(self, model: Model, signature: Signature, rows: Sequence[Arrays]) -> None:
        self._model, self._signature, self.rows = model, signature, rows
        self.times: dict[int, list[float]] = {}

    def gain(self, size: int, smallest: int) -> float:
        """Return how many times as many rows run in a time in batches of this size than each in a smallest run."""
        # Medians: the least time of a row is that of one whose weights were in the cache.
        return size * median(self.times[smallest]) / median(self.times[size])

    def pays(self, size: int, smallest: int) -> bool:
        """Return whether a row of a batch takes at most FASTER of a row's time alone."""
        return self.least(size) <= FASTER * size * self.least(smallest)

    def least(self, size: int) -> float:
        """Return the least time of a run, which other work of the machine disturbs least: for decisions."""
        return min(self.times[size])

    def run(self, places: Sequence[int]) -> list[dict[str, Array]]:
        """Run the rows at these places together; return the outputs of each."""
        size = len(places)
        inputs = {name: np.concatenate([self.rows[index][name] for index in places]) for name in self._signature.inputs}
        began = time.thread_time()
        outputs = self._model.run(self._signature, inputs)
        self.times.setdefault(size, []).append(time.thread_time() - began)
        if any(array.shape[:1] != (size,) for array in outputs.values()):
            raise ValueError("an output does not have the rows of the inputs")
        return [{name: array[row : row + 1] for name, array in outputs.items()} for row in range(size)]


def example_rows(model: Model, signature: Signature) -> Iterator[Arrays]:
    """Yield rows that the signature answers: those of the warm-up requests, then generated ones, of the same shapes."""
    shapes: dict[str, tuple[int, ...]] = {}
    for row in _candidate_rows(model, signature):
        if shapes and any(row[name].shape != shape for name, shape in shapes.items()):
            continue
        with suppress(InputError, RunError, ValueError):
            model.run(signature, row)
            shapes = {name: row[name].shape for name in signature.inputs}
            yield row


def _candidate_rows(model: Model, signature: Signature) -> Iterator[Arrays]:
    if PLACE not in manifest.leftovers(model.source.directory):
        with suppress(FileNotFoundError, ValueError):
            for record in records(files.opened(model.source.directory, PLACE, files.ANY), BYTES):
                logged = request(record, model.signatures)
                if logged.signature == signature.name and logged.inputs.keys() == signature.inputs.keys():
                    for row in range(row_count(logged.inputs)):
                        yield {name: array[row : row + 1] for name, array in logged.inputs.items()}
    for recipe in islice(model.source.recipes(signature), RECIPES):
        for seed in range(1, 2 * MANY):
            made_row = made(signature, recipe, 1, np.random.default_rng(seed))
            if made_row is not None:
                yield made_row


def _bytes(outputs: Arrays) -> tuple[Any, ...]:
    return tuple(tuple(array.ravel()) if array.dtype == object else array.tobytes() for array in outputs.values())


def _near(outputs: Arrays, others: Arrays) -> bool:
    return outputs.keys() == others.keys() and all(_close(array, others[name]) for name, array in outputs.items())


def _close(array: Array, other: Array) -> bool:
    """Compare two arrays: numbers up to half of their digits, relative to the largest; everything else exactly."""
    if array.shape != other.shape or array.dtype.kind in "biuSO":
        return np.array_equal(array, other)
    if array.tobytes() == other.tobytes():
        return True
    within = 2.0 ** -(4 * array.real.dtype.itemsize - 4)  # float32: 2**-12, half of its bits
    wide = np.complex128 if array.dtype.kind == "c" else np.float64
    array, other = array.astype(wide), other.astype(wide)
    largest = float(np.abs(array[np.isfinite(array)]).max(initial=0))
    return bool(np.allclose(array, other, rtol=0, atol=within * largest, equal_nan=True))
