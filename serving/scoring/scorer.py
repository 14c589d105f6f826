"""Rows in, lines out: a batch is decoded, run in slices, and written as JSON lines, a line for each row.

A prediction has the same bytes as the online answer for that instance alone. That is not a matter of course: a model
may round a row differently in a batch (matrix-vector and matrix-matrix products are different kernels), and a signature
does not say whether its rows are independent. So rows run in batches only while the bytes equal those of each row
alone: compared on the first rows of the file for every batch size that is tried, and on one row of each slice
afterwards. At the first difference the file is started again, row by row.
"""

import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson

from serving.core.errors import CLIENTS_FAULT, InputError, RunError, plain
from serving.core.http import BadRequest
from serving.core.telemetry.log import log
from serving.protocols import answers
from serving.protocols.call import MISSING, Arrays, Call
from serving.protocols.raw.bodies import Form
from serving.protocols.tensorflow_serving.inputs import COLUMN
from serving.runtime.model import Model
from serving.savedmodel.signature import Signature
from serving.scoring.faults import BadFile, TemporaryFailure
from serving.scoring.formats import Batch, Format

MOST_ROWS = 256  # of a slice, if the batch size is measured
COMPARED = 32  # rows that are compared for each batch size
TIMES = 3  # timings of each batch size
GAIN = 0.9  # a doubled batch must take less than this share of the time per row
OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE


class BatchDependent(Exception):
    """The prediction of a row depends on the batch size."""


class Scorer:
    """A model's signature, for the rows of one file."""

    def __init__(self, model: Model, signature: Signature, rows: int, *, instances: bool = False) -> None:
        """Run `rows` rows at once; 0: the fastest number that changes no byte. Raise BadFile if the inputs disagree."""
        self._model, self._signature, self._instances = model, signature, instances
        sizes = {spec.shape[0] for spec in signature.inputs.values() if spec.shape} - {None}
        self._fixed = sizes.pop() if len(sizes) == 1 else None
        if sizes:
            raise BadFile(f"the inputs of {signature.name!r} differ in their number of rows: it does not go by rows")
        self._asked = rows
        self._rows = self._fixed or rows

    @property
    def step(self) -> int:
        """Return the number of rows of which a batch must be a multiple."""
        return self._fixed or 1

    def one_by_one(self) -> None:
        """Run each row alone from now on."""
        self._rows = self._asked = 1

    def answer(self, source: Format, batch: Batch) -> tuple[bytes, dict[int, str]]:
        """Return a JSON line for each row of a batch, and the errors by row; raise BadFile or TemporaryFailure."""
        call = source.decode(batch)
        failed: dict[int, str] = dict(call.failed)
        values: dict[int, Any] = {}
        if isinstance(call.form, Form) and call.form.answer == COLUMN:  # one string without a batch dimension
            values[0] = self._whole(call)
        elif good := [row for row in range(len(batch.rows)) if row not in failed]:
            rows = self._rows or self._chosen(call, len(good))
            for start in range(0, len(good), rows):
                slice_rows = good[start : start + rows]
                self._run(call, _cut(call.inputs, start, start + len(slice_rows)), slice_rows, values, failed)
        if call.failed and len(batch.rows) > 1:
            self._retry_alone(source, batch, call, values, failed)
        lines = []
        for row in range(len(batch.rows)):
            line: dict[str, Any] = {}
            if self._instances and (instance := source.instance(batch, row)) is not None:
                line["instance"] = instance
            if call.keys is not None and call.keys[row] is not MISSING:
                line["key"] = call.keys[row]
            if row in failed:
                line["error"] = failed[row]
            else:
                line["prediction"] = values[row]
            lines.append(orjson.dumps(line, option=OPTIONS))
        return b"".join(lines), failed

    def _retry_alone(
        self, source: Format, batch: Batch, call: Call, values: dict[int, Any], failed: dict[int, str]
    ) -> None:
        """Decode failed rows alone: some only differ from the other rows of the batch in form or shape."""
        for row in call.failed:
            alone = source.decode(batch, row)
            problem: dict[int, str] = dict(alone.failed)
            value: dict[int, Any] = {}
            if not problem:
                self._run(alone, alone.inputs, [0], value, problem)
            if problem:
                failed[row] = problem[0]
            else:
                del failed[row]
                values[row] = value[0]

    def _run(
        self, call: Call, inputs: Arrays, rows: Sequence[int], values: dict[int, Any], failed: dict[int, str]
    ) -> None:
        """Run rows; where the model refuses them, bisect until single rows fail."""
        try:
            outputs = self._outputs(inputs, len(rows))
        except RunError as error:
            if error.code not in CLIENTS_FAULT:
                raise TemporaryFailure(f"the model failed: {error.code}: {plain(str(error))}") from None
            if len(rows) == 1:
                failed[rows[0]] = f"{call.form.place(rows[0])}: the model refuses it: {plain(str(error))}"
                return
            half = len(rows) // 2
            self._run(call, _cut(inputs, 0, half), rows[:half], values, failed)
            self._run(call, _cut(inputs, half, len(rows)), rows[half:], values, failed)
        else:
            if len(rows) > 1 and not self._asked and not self._fixed:
                self._compare(inputs, outputs, len(rows) // 2)
            values.update(zip(rows, _values(call, outputs)))

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

    def _whole(self, call: Call) -> Any:
        try:
            outputs = self._model.run(self._signature, call.inputs)
        except RunError as error:
            if error.code not in CLIENTS_FAULT:
                raise TemporaryFailure(f"the model failed: {error.code}: {plain(str(error))}") from None
            raise BadFile(f"the model refuses it: {plain(str(error))}") from None
        values = answers.columns(call, outputs)
        return next(iter(values.values())) if len(values) == 1 else values

    def _chosen(self, call: Call, rows: int) -> int:
        """Return how many rows to run at once, measured on the first rows of the call."""
        try:
            singles = self._alone(call.inputs, min(rows, COMPARED))
            best, size = self._seconds(call.inputs, 1), 1
            while size * 2 <= min(rows, MOST_ROWS):
                together = self._outputs(_cut(call.inputs, 0, size * 2), size * 2)
                if not all(
                    _same(single, _cut(together, row, row + 1)) for row, single in enumerate(singles[: size * 2])
                ):
                    log("INFO", f"rows run one by one: predictions change in a batch of {size * 2} rows")
                    size = 1
                    break
                seconds = self._seconds(call.inputs, size * 2)
                if seconds > GAIN * best:
                    break
                best, size = seconds, size * 2
        except RunError:
            return 1  # the model refuses a row; a later batch is measured again
        if rows >= COMPARED:
            self._rows = size
        return size

    def _alone(self, inputs: Arrays, rows: int) -> list[Arrays]:
        return [self._outputs(_cut(inputs, row, row + 1), 1) for row in range(rows)]

    def _seconds(self, inputs: Arrays, rows: int) -> float:
        """Return the seconds per row in a slice of `rows` rows: the minimum of a few timings."""
        batch, minimum = _cut(inputs, 0, rows), math.inf
        for _ in range(TIMES):
            begin = time.perf_counter()
            self._outputs(batch, rows)
            minimum = min(minimum, time.perf_counter() - begin)
        return minimum / rows

    def _compare(self, inputs: Arrays, outputs: Arrays, row: int) -> None:
        if not _same(self._outputs(_cut(inputs, row, row + 1), 1), _cut(outputs, row, row + 1)):
            raise BatchDependent


def _cut(arrays: Arrays, start: int, stop: int) -> Arrays:
    return {name: array[start:stop] for name, array in arrays.items()}


def _same(first: Arrays, second: Arrays) -> bool:
    return all(
        array.shape == second[name].shape
        and (
            array.tolist() == second[name].tolist()
            if array.dtype == object
            else array.tobytes() == second[name].tobytes()
        )
        for name, array in first.items()
    )


def _values(call: Call, outputs: Arrays) -> Sequence[Any]:
    """Return the prediction of each row as a value for the JSON writer."""
    try:
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
