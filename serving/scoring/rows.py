"""Rows in, predictions out: a batch is decoded, run in slices, and written as JSON lines or as typed columns.

A model may round a row differently in a batch (matrix-vector and matrix-matrix products are different kernels), and a
signature does not say whether its rows are independent. So there are three ways to run them, by SCORE_BATCH_ROWS:

    0, the default    up to 64 rows run together while each sampled row stays within TOLERANCE of the row alone; at the
                      first one that does not, `BatchDependent` is raised, and the work starts again, row by row
    1, --exact        each row runs alone: its prediction has the bytes of the online answer to that instance
    N                 N rows run together, unchecked

Which rows run together and which are sampled depends only on their positions: a repeated attempt gives the same bytes.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from serving.core.errors import CLIENTS_FAULT, InputError, LoadError, RunError, plain
from serving.core.http import BadRequest, to_line
from serving.core.settings import Settings
from serving.protocols import answers, tensorflow_serving
from serving.protocols.call import MISSING, Arrays, Call, Context, choose, option
from serving.protocols.options import from_query
from serving.protocols.raw.bodies import Form
from serving.protocols.tensorflow_serving.inputs import COLUMN
from serving.runtime.loading import cache
from serving.runtime.model import Model
from serving.savedmodel.signature import Signature
from serving.savedmodel.source import Source
from serving.scoring.faults import BadFile, TemporaryFailure
from serving.scoring.formats import Batch, Format

ROWS_TOGETHER = 64  # of a run, at most; more rows take no less time each
BYTES_TOGETHER = 4 << 20  # of the inputs of a run, at most
STRING_WEIGHT = 16  # a string may be a picture, which takes more memory when it is decoded
SAMPLED = 32  # rows of the first batch that are compared; of each later one, one row: alone it costs as much as ten
TOLERANCE = 1e-5  # relative to the largest number of a row's output


class BatchDependent(Exception):
    """The prediction of a row depends on the rows that it runs with."""


class Answered(NamedTuple):
    """A batch with the outputs of its rows: those of `parts`, and for the other rows the reasons in `failed`."""

    source: Format
    batch: Batch
    call: Call
    parts: list[tuple[Sequence[int], Call, Arrays]]  # rows of the batch, the call, and their outputs in this order
    failed: dict[int, str]

    def problem(self, row: int) -> str:
        """Return why a row failed, without its number: an engine that cuts files counts from an arbitrary place."""
        place = self.call.form.place(row)
        return self.failed[row].removeprefix(place).removeprefix(", ").removeprefix(": ")


def how_run(asked: int, *, alone: bool) -> str:
    """Say how rows are run for SCORE_BATCH_ROWS, as the record of the work does."""
    if asked == 1 or alone:
        return "each row alone"
    if asked:
        return f"{asked} rows together, unchecked"
    return f"up to {ROWS_TOGETHER} rows together, samples within {TOLERANCE:g} of each row alone"


class Target(NamedTuple):
    """What rows are for: a signature, and the options of the work as a context."""

    signature: Signature
    context: Context


def target(source: Source, options: Settings) -> Target:
    """Return what SCORE_OPTIONS chooses of a SavedModel, without loading it; raise BadFile where it is not there."""
    try:
        query = from_query(options.score_options, place="SCORE_OPTIONS", strict=True)
        if "instances" in query:
            raise BadFile("SCORE_OPTIONS: 'instances' is for requests; set SCORE_INSTANCES=1, or use score --instances")
        context = Context(
            {}, source.name, source.version, query, options.key_field, options.non_finite == "null", source.labels,
            options,
        )  # fmt: skip
        signature = choose(source.signatures, option(context, "signature_name"), "SCORE_OPTIONS, signature_name")
        tensorflow_serving.check_outputs(signature)
        answers.check(signature, context)
    except BadRequest as error:
        raise BadFile(str(error)) from None
    return Target(signature, context)


def found() -> Source:
    """Return the SavedModel of MODEL_DIR without loading it; raise TemporaryFailure where it cannot be read."""
    try:
        return cache().source()
    except LoadError as error:
        raise TemporaryFailure(f"the model cannot be loaded: {error}") from None


def opened(options: Settings, *, alone: bool) -> tuple["Scorer", Target]:
    """Return the scorer of this process, whose model is loaded once; raise BadFile or TemporaryFailure.

    `alone`: run each row alone, whatever SCORE_BATCH_ROWS says.
    """
    try:
        model = cache().get()
    except LoadError as error:
        raise TemporaryFailure(f"the model cannot be loaded: {error}") from None
    signature, context = target(model.source, options)
    signature = model.signatures[signature.name]  # its shapes are completed from the graph
    if signature.refusal:
        raise BadFile(f"SCORE_OPTIONS, signature_name: {signature.name!r} cannot be called: {signature.refusal}")
    rows = 1 if alone else options.score_batch_rows
    return Scorer(model, signature, rows, instances=options.score_instances), Target(signature, context)


class Scorer:
    """A model's signature, for batches of rows."""

    def __init__(self, model: Model, signature: Signature, rows: int, *, instances: bool = False) -> None:
        """Run rows as SCORE_BATCH_ROWS=`rows` says; raise BadFile if the inputs disagree in their number of rows.

        `instances`: write each row beside its prediction.
        """
        self._model, self._signature, self._instances = model, signature, instances
        self._fixed = fixed_rows(signature)
        self._rows = self._fixed or rows
        self._checked = not self._rows

    def lines(self, source: Format, batch: Batch) -> tuple[bytes, dict[int, str]]:
        """Return a JSON line for each row of a batch, and the errors by row; raise as `answer` does."""
        answered = self.answer(source, batch)
        return b"".join(as_lines(answered, instances=self._instances)), answered.failed

    def answer(self, source: Format, batch: Batch) -> Answered:
        """Return the outputs of a batch; raise BadFile, TemporaryFailure or BatchDependent."""
        call = source.decode(batch)
        answered = Answered(source, batch, call, [], dict(call.failed))
        if _is_whole(call):
            answered.parts.append(([0], call, self._whole(call)))
        elif good := [row for row in range(len(batch.rows)) if row not in call.failed]:
            rows = self._rows or _rows_together(call.inputs, len(good))
            for start in range(0, len(good), rows):
                part = good[start : start + rows]
                samples = 0 if start or not self._checked else 1 if batch.first else SAMPLED
                self._run(answered, call, _cut(call.inputs, start, start + len(part)), part, samples)
        if call.failed and len(batch.rows) > 1:
            self._retry_alone(answered)
        return answered

    def _retry_alone(self, answered: Answered) -> None:
        """Decode failed rows alone: some only differ from the other rows of the batch in form or shape."""
        for row in answered.call.failed:
            alone = answered.source.decode(answered.batch, row)
            if alone.failed:
                answered.failed[row] = alone.failed[0]
                continue
            del answered.failed[row]
            self._run(answered, alone, alone.inputs, [row], 0)

    def _run(self, answered: Answered, call: Call, inputs: Arrays, rows: Sequence[int], samples: int) -> None:
        """Run rows; where the model refuses them, bisect until single rows fail."""
        try:
            outputs = self._outputs(inputs, len(rows))
        except RunError as error:
            if error.code not in CLIENTS_FAULT:
                raise TemporaryFailure(f"the model failed: {error.code}: {plain(str(error))}") from None
            if len(rows) == 1:
                place = call.form.place(0 if call is not answered.call else rows[0])
                answered.failed[rows[0]] = f"{place}: the model refuses it: {plain(str(error))}"
                return
            half = len(rows) // 2
            self._run(answered, call, _cut(inputs, 0, half), rows[:half], samples)
            self._run(answered, call, _cut(inputs, half, len(rows)), rows[half:], samples)
            return
        if len(rows) > 1 and samples:
            self._compare(inputs, outputs, range(min(samples, len(rows))) if samples > 1 else [len(rows) // 2])
        answered.parts.append((rows, call, outputs))

    def _outputs(self, inputs: Arrays, rows: int) -> Arrays:
        """Run a batch; one of a fixed size is padded with its last row."""
        missing = (self._fixed or rows) - rows
        if missing:
            inputs = {name: np.concatenate([array, *[array[-1:]] * missing]) for name, array in inputs.items()}
        try:
            outputs = self._model.run(self._signature, inputs)
        except InputError as error:
            raise BadFile(f"the signature {self._signature.name!r} does not take rows: {error}") from None
        for name, array in outputs.items():
            if array.shape[:1] != (rows + missing,):
                shape = list(array.shape)
                raise BadFile(
                    f"the output {name!r} has the shape {shape} for {rows + missing} rows: it does not go by rows"
                )
        return _cut(outputs, 0, rows) if missing else outputs

    def _whole(self, call: Call) -> Arrays:
        try:
            return self._model.run(self._signature, call.inputs)
        except RunError as error:
            if error.code not in CLIENTS_FAULT:
                raise TemporaryFailure(f"the model failed: {error.code}: {plain(str(error))}") from None
            raise BadFile(f"the model refuses it: {plain(str(error))}") from None

    def _compare(self, inputs: Arrays, outputs: Arrays, rows: Sequence[int]) -> None:
        """Compare rows of a run with each of them alone; raise BatchDependent where one differs."""
        for row in rows:
            alone = self._outputs(_cut(inputs, row, row + 1), 1)
            if not all(near(array, outputs[name][row : row + 1]) for name, array in alone.items()):
                raise BatchDependent


def check_rows(signature: Signature) -> None:
    """Raise BadFile where a signature's inputs and outputs do not have rows."""
    if not (signature.inputs and answers.has_rows(signature)):
        raise BadFile(f"the signature {signature.name!r} does not go by rows, and the file does")


def fixed_rows(signature: Signature) -> int | None:
    """Return the declared number of rows, None where it is free; raise BadFile where the inputs disagree."""
    sizes = {spec.shape[0] for spec in signature.inputs.values() if spec.shape} - {None}
    if len(sizes) > 1:
        raise BadFile(f"the inputs of {signature.name!r} differ in their number of rows: it does not go by rows")
    return next(iter(sizes), None)


def _rows_together(inputs: Arrays, rows: int) -> int:
    """Return how many rows to run at once, by the bytes of a batch's inputs."""
    size = sum(
        STRING_WEIGHT * sum(map(len, array.ravel().tolist())) if array.dtype == object else array.nbytes
        for array in inputs.values()
    )
    return max(1, min(ROWS_TOGETHER, BYTES_TOGETHER * rows // max(size, 1)))


def _is_whole(call: Call) -> bool:
    """Return whether a call is one string without a batch dimension."""
    return isinstance(call.form, Form) and call.form.answer == COLUMN


def _cut(arrays: Arrays, start: int, stop: int) -> Arrays:
    return {name: array[start:stop] for name, array in arrays.items()}


def near(array: Any, other: Any) -> bool:
    """Compare one row's output with the same row of a batch: floats within TOLERANCE, everything else exactly."""
    if array.shape != other.shape:
        return False
    if array.dtype == object or array.dtype.kind in "biu":
        return bool(array.tolist() == other.tolist())
    if array.tobytes() == other.tobytes():
        return True
    wide = np.complex128 if array.dtype.kind == "c" else np.float64
    array, other = array.astype(wide), other.astype(wide)
    largest = float(np.abs(array[np.isfinite(array)]).max(initial=0))
    return bool(np.allclose(array, other, rtol=0, atol=TOLERANCE * largest, equal_nan=True))


def as_lines(answered: Answered, *, instances: bool = False, numbered: bool = True) -> list[bytes]:
    """Return a JSON line for each row of a batch, each with a line feed; raise BadFile where JSON cannot hold them.

    Without `numbered`, errors do not name the row.
    """
    call, batch = answered.call, answered.batch
    values: list[Any] = [None] * len(batch.rows)
    for rows, part, outputs in answered.parts:
        for row, value in zip(rows, _values(part, outputs)):
            values[row] = value
    lines = []
    for row, value in enumerate(values):
        line: dict[str, Any] = {}
        if instances and (instance := answered.source.instance(batch, row)) is not None:
            line["instance"] = instance
        if call.keys is not None and call.keys[row] is not MISSING:
            line["key"] = call.keys[row]
        if row in answered.failed:
            line["error"] = answered.failed[row] if numbered else answered.problem(row)
        else:
            line["prediction"] = value
        lines.append(to_line(line))
    return lines


def _values(call: Call, outputs: Arrays) -> Sequence[Any]:
    """Return the prediction of each row as a value for the JSON writer."""
    try:
        if _is_whole(call):
            values = answers.columns(call, outputs)
            return [next(iter(values.values())) if len(values) == 1 else values]
        if not call.context.null and not all(np.isfinite(array).all() for array in outputs.values() if _float(array)):
            # NaN and infinity in one row change how the writer formats the other rows.
            count = len(next(iter(outputs.values())))
            separate: list[Any] = [answers.rows(call, _cut(outputs, row, row + 1))[0] for row in range(count)]
            return separate
        rows: Sequence[Any] = answers.rows(call, outputs)
        return rows
    except BadRequest as error:
        raise BadFile(str(error)) from None


def _float(array: Any) -> bool:
    return array.dtype != object and array.dtype.kind not in "biu"
