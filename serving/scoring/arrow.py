"""Typed columns, as Arrow and Parquet hold them: a record batch → a call, and outputs → a record batch.

An input is a column of its name, an output becomes one; each row of a column is a value or nested lists:

    float32 [?]          float, double, or whole numbers; a finite number that the type cannot hold is an error
    int64 [?]            whole numbers that the type holds
    string [?]           string or binary; an output is a string, and binary where its name ends with `_bytes`
    float32 [?, 8, 8]    list<list<float>>, or list<float> of 64 numbers

Spark and most readers of Parquet have no half and no unsigned numbers, so an output of those has the next wider type.
This module alone imports pyarrow, which `requirements/spark.txt` installs; the serving image does not contain it.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute
from pyarrow import parquet

from serving.core.dtypes import is_extended
from serving.core.errors import did_you_mean
from serving.protocols.call import MISSING, Call, Context
from serving.protocols.raw.bodies import LINES, Form
from serving.savedmodel.signature import Signature, TensorSpec, check, shape_text
from serving.scoring.faults import BadFile
from serving.scoring.formats import ROWS, Batch, Format
from serving.scoring.rows import Answered, Scorer

ERROR = "error"  # the column of the reason why a row has no outputs
GROUP = 1 << 16  # rows of a row group of a written file

# fmt: off
TYPES: dict[str, pa.DataType] = {  # of outputs, by NumPy's name; others are refused
    "bool":    pa.bool_(),   "float16": pa.float32(), "bfloat16": pa.float32(), "float32": pa.float32(),
    "float64": pa.float64(), "int8":    pa.int8(),    "int16":    pa.int16(),   "int32":   pa.int32(),
    "int64":   pa.int64(),   "uint8":   pa.int16(),   "uint16":   pa.int32(),   "uint32":  pa.int64(),
}
# fmt: on


class _Unfit(Exception):
    """A column does not hold what its input takes; the text says so."""


class Columns:
    """Rows of typed columns: `Batch.rows` is a record batch. Satisfies `formats.Format`."""

    def __init__(self, signature: Signature, context: Context, path: Path | None = None) -> None:
        """Decode rows for a signature; `path` is the Parquet file of `batches`."""
        self._signature, self._context, self._path = signature, context, path

    def batches(self, chunks: Iterator[bytes], step: int) -> Iterator[Batch]:
        """Yield the rows of the Parquet file; `chunks` are not read."""
        assert self._path is not None
        try:
            with parquet.ParquetFile(self._path) as file:
                check_columns(file.schema_arrow, self._signature)
                size, total = self._path.stat().st_size, max(file.metadata.num_rows, 1)
                first = 0
                for batch in file.iter_batches(-(-ROWS // step) * step):
                    yield Batch(first, batch, size * len(batch) // total)
                    first += len(batch)
        except pa.ArrowInvalid as error:
            raise BadFile(f"the file is not Parquet, or only part of it: {error}") from None

    def decode(self, batch: Batch, row: int | None = None) -> Call:
        rows: Any = batch.rows
        if row is not None:
            rows = rows.slice(row, 1)
        first = batch.first + (row or 0)

        def place(index: int | None) -> str:
            return "rows" if index is None else f"row {first + index + 1}"

        keys = None
        if self._context.key in rows.schema.names and self._context.key not in self._signature.inputs:
            keys = [MISSING if key is None else key for key in rows.column(self._context.key).to_pylist()]
        inputs, failed = _inputs(rows, self._signature, place)
        return Call(self._signature, inputs, Form(LINES, place, len(rows)), self._context, keys, failed)

    def instance(self, batch: Batch, row: int) -> Any:
        return as_json(batch.rows, row, self._signature.inputs)


def check_columns(schema: pa.Schema, signature: Signature) -> None:
    """Raise BadFile where the columns lack an input, or where the type of one fits none of its values."""
    names = schema.names
    for name, spec in signature.inputs.items():
        if name in signature.required and name not in names:
            had = ", ".join(map(repr, names[:20])) or "none"
            raise BadFile(f"expected a column {name!r} ({spec.dtype.label} {shape_text(spec.shape)}), got {had}")
        if name in names:
            declared = leaf = schema.field(name).type
            while pa.types.is_list(leaf) or pa.types.is_large_list(leaf) or pa.types.is_fixed_size_list(leaf):
                leaf = leaf.value_type
            try:
                _leaf(_unpacked(pa.array([], leaf)), spec, declared)
            except _Unfit as error:
                raise BadFile(str(error)) from None


def as_json(rows: pa.RecordBatch, row: int, names: Sequence[str] | Any) -> dict[str, Any]:
    """Return some columns of a row as values for the JSON writer, bytes as text where they are UTF-8."""
    columns = [name for name in rows.schema.names if name in names]
    (values,) = rows.slice(row, 1).select(columns).to_pylist()
    return {name: _plain(value) for name, value in values.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return value if isinstance(value, (bool, int, float, str, type(None))) else str(value)


def _inputs(
    rows: pa.RecordBatch, signature: Signature, place: Callable[[int], str]
) -> tuple[dict[str, Any], dict[int, str]]:
    """Return the inputs of the rows that fit, and why others do not, by row.

    Rows of another shape than the first fail too; `Scorer` decodes them alone afterwards.
    """
    try:
        return _arrays(rows, signature), {}
    except _Unfit:
        failed: dict[int, str] = {}
    good: list[tuple[int, dict[str, Any]]] = []
    for row in range(len(rows)):
        try:
            arrays = _arrays(rows.slice(row, 1), signature)
            if good and any(array.shape != good[0][1][name].shape for name, array in arrays.items()):
                raise _Unfit("expected the shape of the other rows")
            good.append((row, arrays))
        except _Unfit as error:
            failed[row] = f"{place(row)}, {error}"
    names = good[0][1] if good else ()
    return {name: np.concatenate([arrays[name] for _, arrays in good]) for name in names}, failed


def _arrays(rows: pa.RecordBatch, signature: Signature) -> dict[str, Any]:
    return {
        name: _array(rows.column(name), spec)
        for name, spec in signature.inputs.items()
        if name in rows.schema.names
    }  # fmt: skip


def _array(column: pa.Array, spec: TensorSpec) -> Any:
    """Return the array of an input; raise _Unfit where the column holds something else."""
    shape = [len(column)]
    kind = column.type
    while True:
        column = _unpacked(column)
        if column.null_count:
            raise _Unfit(f"{spec.name}: expected {spec.dtype.label}, got null")
        if pa.types.is_fixed_size_list(column.type):
            size = column.type.list_size
        elif pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
            lengths = np.diff(column.offsets.to_numpy())
            size = int(lengths[0]) if len(lengths) else 0
            if (lengths != size).any():
                raise _Unfit(f"{spec.name}: expected lists of one length, got {sorted(set(lengths.tolist()))[:5]}")
        else:
            break
        shape.append(size)
        column = column.flatten()
    array = _leaf(column, spec, kind).reshape(shape)
    inner = (spec.shape or ())[1:]
    if array.ndim == 2 and len(inner) > 1 and None not in inner and prod(map(int, inner)) == shape[1]:  # type: ignore[arg-type]
        array = array.reshape(len(array), *inner)
    if problem := check(spec, array.shape):
        raise _Unfit(f"{spec.name}: {problem}")
    return array


def _unpacked(column: pa.Array) -> pa.Array:
    """Return a column without a dictionary, in which pandas writes categories, and strings as Arrow first had them."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    name = str(column.type)  # pyarrow before version 16 has no functions for these
    if name == "string_view":
        return column.cast(pa.large_string())
    return column.cast(pa.large_binary()) if name == "binary_view" else column


def _leaf(column: pa.Array, spec: TensorSpec, declared: pa.DataType) -> Any:
    """Return the numbers or strings of a column, flat, in the type of the input."""
    kind, type_ = spec.dtype.kind, column.type
    try:
        if kind == "S":
            if pa.types.is_string(type_) or pa.types.is_binary(type_) or pa.types.is_large_string(type_):
                return column.cast(pa.binary()).to_numpy(zero_copy_only=False)
            if pa.types.is_large_binary(type_):
                return column.to_numpy(zero_copy_only=False)
        elif kind == "b" and pa.types.is_boolean(type_):
            return column.to_numpy(zero_copy_only=False)
        elif kind in "iu" and pa.types.is_integer(type_):
            return column.cast(pa.from_numpy_dtype(spec.dtype.numpy)).to_numpy(zero_copy_only=False)
        elif kind == "f" and (pa.types.is_floating(type_) or pa.types.is_integer(type_)):
            numbers = column.to_numpy(zero_copy_only=False)
            with np.errstate(over="ignore"):
                array = numbers.astype(spec.dtype.numpy, copy=False)
            narrower = array.dtype.itemsize < numbers.dtype.itemsize or numbers.dtype.kind != "f"
            if narrower and (np.isinf(array) & ~np.isinf(numbers)).any():
                raise _Unfit(f"{spec.name}: expected {spec.dtype.label}, got a larger number")
            return array
    except pa.ArrowInvalid as error:
        raise _Unfit(f"{spec.name}: expected {spec.dtype.label}, got another number: {error}") from None
    raise _Unfit(f"{spec.name}: expected {spec.dtype.label} {shape_text(spec.shape)}, got a column of {declared}")


def output_fields(signature: Signature, context: Context, kept: Sequence[pa.Field] = ()) -> pa.Schema:
    """Return the columns: the kept ones, the outputs and `error`; raise BadFile where one has no type."""
    for option in ("top_k", "arrays", "scores"):
        if option in context.query:
            raise BadFile(f"{option}: expected no such option for columns, which hold the outputs as they are")
    fields = [*kept]
    for spec in signature.outputs.values():
        if spec.shape is None:
            raise BadFile(f"the output {spec.name!r} has no declared rank, so no type as a column: write JSON lines")
        fields.append(pa.field(spec.name, _type(spec)))
    fields.append(pa.field(ERROR, pa.string()))
    names = [field.name for field in fields]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise BadFile(f"the column {twice!r} would stand twice in the predictions: rename what is kept")
    return pa.schema(fields)


def _type(spec: TensorSpec) -> pa.DataType:
    if spec.dtype.kind == "S":
        type_ = pa.binary() if spec.name.endswith("_bytes") else pa.string()
    elif spec.dtype.label in TYPES:
        type_ = TYPES[spec.dtype.label]
    else:
        raise BadFile(f"the output {spec.name!r} is {spec.dtype.label}, which no column holds: write JSON lines")
    for _ in (spec.shape or ())[1:]:
        type_ = pa.list_(type_)
    return type_


def answer(scorer: Scorer, form: Format, batch: Batch, keep: Sequence[str]) -> tuple[pa.RecordBatch, dict[int, str]]:
    """Return a batch in columns, with those of the input that are kept, and its errors by row."""
    answered = scorer.answer(form, batch)
    signature, context = answered.call.signature, answered.call.context
    if isinstance(batch.rows, pa.RecordBatch):
        names = batch.rows.schema.names
        if missing := next((name for name in keep if name not in names), None):
            raise BadFile(f"--keep: the file has no column {missing!r}{did_you_mean(missing, names)}")
        key = [context.key] if context.key in names and context.key not in signature.inputs else []
        kept = [batch.rows.schema.field(name) for name in dict.fromkeys([*key, *keep])]
    else:
        kept = [pa.field(context.key, pa.string())]
    columns = as_columns(answered, output_fields(signature, context, kept))
    return columns, answered.failed


class ParquetOutput:
    """A Parquet file, OUTPUT.part until it is complete. No later attempt continues it. Satisfies `outputs.Output`."""

    def __init__(self, path: Path) -> None:
        self._path, self._part = path, path.with_name(f"{path.name}.part")
        self._writer: Any = None
        self._held: list[pa.RecordBatch] = []
        self.rows = self.failed = 0

    def write(self, lines: pa.RecordBatch, rows: int, failed: int) -> None:
        self._held.append(lines)
        self.rows, self.failed = self.rows + rows, self.failed + failed
        if sum(map(len, self._held)) >= GROUP:
            self._flush()

    def _flush(self) -> None:
        table = pa.Table.from_batches(self._held)
        if self._writer is None:
            self._writer = parquet.ParquetWriter(self._part, table.schema)
        self._writer.write_table(table)
        self._held = []

    def finish(self, summary: Mapping[str, str]) -> bool:
        if self._held:
            self._flush()
        self._writer.add_key_value_metadata(summary)
        self._writer.close()
        try:
            os.link(self._part, self._path)  # unlike a rename, it never replaces a file
        except FileExistsError:
            return False
        return True

    def close(self) -> None:
        """Close the output and delete what is not complete."""
        if self._writer is not None:
            self._writer.close()
            self._part.unlink(missing_ok=True)


def as_columns(answered: Answered, schema: pa.Schema) -> pa.RecordBatch:
    """Return the rows of a batch in the columns of `output_fields`: null in place of the outputs of a failed row."""
    rows: Any = answered.batch.rows
    keys, typed = answered.call.keys, isinstance(rows, pa.RecordBatch)
    numbers = [row for part, _, _ in answered.parts for row in part]
    columns: dict[str, pa.Array] = {}
    for field in schema:
        if field.name in answered.call.signature.outputs:
            arrays = [outputs[field.name] for _, _, outputs in answered.parts]
            columns[field.name] = _column(arrays, numbers, len(rows), field.type, answered.failed, field.name)
        elif field.name != ERROR:
            kept = rows.column(field.name) if typed else pa.array(_texts_of(keys, len(rows)), pa.string())
            columns[field.name] = kept
    columns[ERROR] = pa.array([answered.failed.get(row) for row in range(len(rows))], pa.string())
    if answered.failed:  # an output that is not UTF-8 fails its row after other outputs are written
        bad = pa.array([row in answered.failed for row in range(len(rows))])
        for name in answered.call.signature.outputs:
            columns[name] = pa.compute.if_else(bad, pa.scalar(None, columns[name].type), columns[name])
    return pa.RecordBatch.from_arrays([columns[field.name] for field in schema], schema=schema)


def _texts_of(keys: Sequence[Any] | None, count: int) -> list[str | None]:
    """Return keys from JSON as text."""
    values = keys or [MISSING] * count
    return [None if key is MISSING else key if isinstance(key, str) else orjson.dumps(key).decode() for key in values]


def _column(
    arrays: Sequence[Any], numbers: Sequence[int], count: int, type_: pa.DataType, failed: dict[int, str], name: str
) -> pa.Array:
    """Return the column of an output, whose arrays hold the rows `numbers` one after another."""
    parts = []
    for start, array in zip(np.cumsum([0, *map(len, arrays)]).tolist(), arrays):
        if array.dtype == object:
            array = _texts(array, type_, numbers[start : start + len(array)], failed, name)
        parts.append(_nested(array, type_))
    if not parts:
        return pa.nulls(count, type_)
    column = pa.concat_arrays(parts)
    if list(numbers) == list(range(count)):
        return column
    position = dict(zip(numbers, range(len(numbers))))
    return column.take(pa.array([position.get(row) for row in range(count)], pa.int64()))


def _nested(array: Any, type_: pa.DataType) -> pa.Array:
    """Return an array of rank n as n - 1 nested lists a row."""
    depth, leaf = array.ndim, type_
    while pa.types.is_list(leaf):
        leaf = leaf.value_type
    flat = np.ravel(array)
    if is_extended(flat.dtype):
        flat = flat.astype(np.float32)
    column = pa.array(flat, leaf)
    for axis in range(depth - 1, 0, -1):
        lists, size = prod(array.shape[:axis]), array.shape[axis]
        column = pa.ListArray.from_arrays(pa.array(np.arange(lists + 1, dtype=np.int32) * size), column)
    return column


def _texts(array: Any, type_: pa.DataType, rows: Sequence[int], failed: dict[int, str], name: str) -> Any:
    """Return strings of TensorFlow as text where the column holds text; a row that is not UTF-8 fails."""
    leaf = type_
    while pa.types.is_list(leaf):
        leaf = leaf.value_type
    if not pa.types.is_string(leaf):
        return array
    texts = np.empty((len(array), prod(array.shape[1:])), object)
    for row, (number, values) in enumerate(zip(rows, array.reshape(texts.shape))):
        try:
            texts[row] = [value.decode() for value in values]
        except UnicodeDecodeError:
            failed[number] = f"the output {name!r} is not UTF-8; write JSON lines, or name it with the end _bytes"
            texts[row] = ""
    return texts.reshape(array.shape)
