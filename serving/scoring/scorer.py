"""Rows in, lines out: a batch is decoded, run in slices, and written as JSON lines, a line for each row.

A prediction has the bytes that an online answer has for the same instance alone. That is more than it seems: a model
may round a row differently in company (a matrix by a vector is another kernel than a matrix by a matrix), and a
signature does not say whether its rows touch each other. So rows run together only as long as the bytes prove to be
those of each row alone: on the first rows of the file for every size that is tried, and on one row of each slice
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
from serving.scoring.faults import BadFile, Passing
from serving.scoring.formats import Batch, Format

MOST_ROWS = 256  # of a slice, where the model decides
COMPARED = 32
TIMES = 3  # that a size is timed
GAIN = 0.9  # twice the rows must take less than this share of the time a row took, or they are not worth it
OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE


class Uneven(Exception):
    """A row was answered otherwise in company than alone."""


class Scorer:
    """A model's signature, for the rows of one file."""

    def __init__(self, model: Model, signature: Signature, rows: int, *, instances: bool = False) -> None:
        """Run `rows` rows at once; 0: as many as pay and change no byte. Raise BadFile where it does not go by rows."""
        self._model, self._signature, self._instances = model, signature, instances
        sizes = {spec.shape[0] for spec in signature.inputs.values() if spec.shape} - {None}
        self._fixed = sizes.pop() if len(sizes) == 1 else None
        if sizes:
            raise BadFile(f"the inputs of {signature.name!r} differ in their number of rows: it does not go by rows")
        self._asked = rows
        self._rows = self._fixed or rows

    @property
    def step(self) -> int:
        """Return the number of rows that a batch has to be a multiple of."""
        return self._fixed or 1

    def one_by_one(self) -> None:
        """Run each row alone from now on."""
        self._rows = self._asked = 1

    def answer(self, source: Format, batch: Batch) -> tuple[bytes, dict[int, str]]:
        """Return a line for each row of a batch, and what is wrong with some of them."""
        call = source.decode(batch)
        failed: dict[int, str] = dict(call.failed)
        values: dict[int, Any] = {}
        if isinstance(call.form, Form) and call.form.answer == COLUMN:  # one string without a batch dimension
            values[0] = self._whole(call)
        elif good := [row for row in range(len(batch.rows)) if row not in failed]:
            rows = self._rows or self._chosen(call, len(good))
            for start in range(0, len(good), rows):
                some = good[start : start + rows]
                self._run(call, _cut(call.inputs, start, start + len(some)), some, values, failed)
        if call.failed and len(batch.rows) > 1:
            self._others(source, batch, call, values, failed)
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

    def _others(self, source: Format, batch: Batch, call: Call, values: dict[int, Any], failed: dict[int, str]) -> None:
        """Look at those rows alone that were wrong in company: they may only be of another form or shape."""
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
        """Run some rows; where the model refuses them, in halves, until one fails alone."""
        try:
            outputs = self._outputs(inputs, len(rows))
        except RunError as error:
            if error.code not in CLIENTS_FAULT:
                raise Passing(f"the model failed: {error.code}: {plain(str(error))}") from None
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
        """Run; a batch of a fixed size is filled up with its last row."""
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
                raise Passing(f"the model failed: {error.code}: {plain(str(error))}") from None
            raise BadFile(f"the model refuses it: {plain(str(error))}") from None
        values = answers.columns(call, outputs)
        return next(iter(values.values())) if len(values) == 1 else values

    def _chosen(self, call: Call, rows: int) -> int:
        """Return how many rows to run at once, tried on the first of them."""
        try:
            with_one = self._alone(call.inputs, min(rows, COMPARED))
            best, size = self._seconds(call.inputs, 1), 1
            while size * 2 <= min(rows, MOST_ROWS):
                together = self._outputs(_cut(call.inputs, 0, size * 2), size * 2)
                if not all(
                    _same(alone, _cut(together, row, row + 1)) for row, alone in enumerate(with_one[: size * 2])
                ):
                    log("INFO", f"rows run one by one: {size * 2} together are answered with other bytes")
                    size = 1
                    break
                seconds = self._seconds(call.inputs, size * 2)
                if seconds > GAIN * best:
                    break
                best, size = seconds, size * 2
        except RunError:
            return 1  # a row that the model refuses; a later batch may do without
        if rows >= COMPARED:
            self._rows = size
        return size

    def _alone(self, inputs: Arrays, rows: int) -> list[Arrays]:
        return [self._outputs(_cut(inputs, row, row + 1), 1) for row in range(rows)]

    def _seconds(self, inputs: Arrays, rows: int) -> float:
        """Return how long a row takes in a slice of so many: the least of a few times, which others disturb least."""
        some, least = _cut(inputs, 0, rows), math.inf
        for _ in range(TIMES):
            begin = time.perf_counter()
            self._outputs(some, rows)
            least = min(least, time.perf_counter() - begin)
        return least / rows

    def _compare(self, inputs: Arrays, outputs: Arrays, row: int) -> None:
        if not _same(self._outputs(_cut(inputs, row, row + 1), 1), _cut(outputs, row, row + 1)):
            raise Uneven


def _cut(arrays: Arrays, start: int, stop: int) -> Arrays:
    return {name: array[start:stop] for name, array in arrays.items()}


def _same(one: Arrays, other: Arrays) -> bool:
    return all(
        array.shape == other[name].shape
        and (
            array.tolist() == other[name].tolist()
            if array.dtype == object
            else array.tobytes() == other[name].tobytes()
        )
        for name, array in one.items()
    )


def _values(call: Call, outputs: Arrays) -> Sequence[Any]:
    """Return what the JSON writer takes for the prediction of each row."""
    try:
        if not call.context.null and not all(np.isfinite(array).all() for array in outputs.values() if _float(array)):
            # The tokens of one row make the writer write the others otherwise than alone.
            count = len(next(iter(outputs.values())))
            found: list[Any] = [answers.rows(call, _cut(outputs, row, row + 1))[0] for row in range(count)]
            return found
        rows: Sequence[Any] = answers.rows(call, outputs)
        return rows
    except BadRequest as error:
        raise BadFile(str(error)) from None


def _float(array: Any) -> bool:
    return array.dtype != object and array.dtype.kind not in "biu"
