"""Scores rows on Apache Spark's executors: `predictions` for a data frame, and a program for whole folders.

    spark-submit serving/scoring/spark.py gs://B/in gs://B/out --signature pixels

    OUT/result=predictions/part-…    a JSON line for each row, as `python -m serving score` writes it; or typed columns
    OUT/result=errors/part-…         the rows that failed: error, row, file
    OUT/_record.json                 rows, errors, how rows were run, the model and its digest; before OUT/_SUCCESS

A bad row never fails a job. Both results are written in one pass and committed together. A task that is repeated gives
the same rows, since nothing but the rows and the model decides them. The package and the model are sent to the
executors; the packages of requirements.txt and pyarrow have to be there. This module alone imports pyspark.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

if __name__ == "__main__":  # spark-submit names this file, and its folder is no place to import from
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import orjson
import pyarrow as pa
from py4j.protocol import Py4JJavaError
from pyspark import SparkFiles
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, Observation, SparkSession
from pyspark.sql import functions as sql
from pyspark.sql.pandas.types import to_arrow_schema

from serving.core import settings
from serving.core.errors import did_you_mean
from serving.protocols.call import MISSING
from serving.protocols.json_tensors.writer import text_of
from serving.runtime import loading
from serving.scoring import arrow
from serving.scoring.faults import BadFile, TemporaryFailure
from serving.scoring.formats import JSON_LINES, ROWS, Batch, Table, format_of, free, header_of
from serving.scoring.rows import (
    Answered,
    BatchDependent,
    Scorer,
    Target,
    as_lines,
    check_rows,
    found,
    how_run,
    opened,
    target,
)  # fmt: skip
from serving.scoring.run import digest, facts
from serving.scoring.spark_files import ERRORS, PREDICTIONS, RECORD, RESULT, SUCCESS, Folder, pack, reason_of
from serving.scoring.strings import Strings, records

VALUE, ROW, FILE = "value", "row", "file"
LINES, PARQUET, CSV, IMAGES, TFRECORD = "lines", "parquet", "csv", "images", "tfrecord"
FORMATS = (LINES, PARQUET, CSV, IMAGES, TFRECORD)
ARROW_ROWS = "spark.sql.execution.arrow.maxRecordsPerBatch"
REPLACED = ("MODEL_DIR", "SCORE_OPTIONS", "SCORE_BATCH_ROWS")  # variables that a task says otherwise
FILES_AT_ONCE = 16
DONE, NOT_DONE, WRONG, WITH_ERRORS = 0, 1, 2, 3


class Task(NamedTuple):
    """All that a worker process needs to answer rows; plain values, since it is pickled for every task."""

    variables: tuple[tuple[str, str], ...]  # of the settings, but for the next two
    options: str  # SCORE_OPTIONS
    rows: int  # SCORE_BATCH_ROWS
    archive: str  # the folder of the model among Spark's files
    digest: str  # of the model
    alone: bool
    form: str  # what a row is: one of FORMATS
    column: str  # with the lines, or the bytes; unused for typed columns
    keep: tuple[str, ...]
    file: str | None  # the column with the name of the row's file
    header: tuple[str, ...] = ()  # of CSV


def predictions(
    frame: DataFrame, *, signature: str = "", options: str = "", exact: bool = False, lines: str | None = None,
    keep: Sequence[str] = (), file: str | None = None,
) -> DataFrame:  # fmt: skip
    """Return the predictions for the rows of a data frame, with the model of MODEL_DIR; lazy, as every data frame is.

    With `lines`, the name of a column of JSON lines, the columns are those of `keep`, `result` ("predictions" or
    "errors") and `value`, a JSON line. Without it the inputs are columns of their names, and so are the outputs; a
    failed row has nulls there, its error in `error`, itself as JSON in `row`, and its file in `file`. `options` are
    those in the query of an address; `exact` runs each row alone; `file` names a column with the file of a row.

    Raise BadFile where signature and columns do not fit, TemporaryFailure where the model cannot be read. An action on
    the result fails with BatchDependent where the rows of a run change each other and `exact` is not set.
    """
    form = PARQUET if lines is None else LINES
    return _predictions(frame, signature, options, exact, form, lines or "", keep, file)[0]


def _predictions(
    frame: DataFrame, signature: str, options: str, exact: bool, form: str, column: str, keep: Sequence[str],
    file: str | None, header: tuple[str, ...] = (),
) -> tuple[DataFrame, Target, settings.Settings]:  # fmt: skip
    current = settings.current()
    query = "&".join(filter(None, [options or current.score_options, signature and f"signature_name={signature}"]))
    current = current._replace(score_options=query, score_batch_rows=1 if exact else current.score_batch_rows)
    model = found()
    chosen = target(model, current)
    check_rows(chosen.signature)
    _form(form, header, chosen, current)  # raises where it takes no such rows
    for name in [*keep, *filter(None, [column, file])]:
        if name not in frame.columns:
            raise BadFile(f"the input has no column {name!r}{did_you_mean(name, frame.columns)}")
    archive = pack(frame.sparkSession, model.directory, digest(model.directory))
    others = {name: value for name, value in settings.given().items() if name not in REPLACED}
    task = Task(tuple(sorted(others.items())), query, current.score_batch_rows, archive, digest(model.directory), exact,
                form, column, tuple(keep), file, header)  # fmt: skip
    inputs = [column] if column else [name for name in chosen.signature.inputs if name in frame.columns]
    needed = dict.fromkeys([*keep, *inputs, *([file] if file else [])])
    frame = frame.select(*(sql.col(f"`{name}`") for name in needed))
    kept = [f"`{name}` {frame.schema[name].dataType.simpleString()}" for name in keep]
    if form == PARQUET:
        arrow.check_columns(to_arrow_schema(frame.select(inputs).schema), chosen.signature)
        names = [*keep, *chosen.signature.outputs, arrow.ERROR, ROW, FILE, RESULT]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise BadFile(f"the column {twice!r} would stand twice in the predictions: rename what is kept")
        fields = arrow.output_fields(chosen.signature, chosen.context)
        typed = [f"`{field.name}` {_ddl(field.type)}" for field in fields]
        schema = [*kept, *typed, f"{ROW} string", f"{FILE} string"]
    else:
        schema = [*kept, f"{VALUE} string"]
    answered = frame.mapInArrow(partial(_answer, task), ", ".join([*schema, f"{RESULT} string"]))
    return answered, chosen, current


_DDL = {
    "bool": "boolean", "int8": "tinyint", "int16": "smallint", "int32": "int", "int64": "bigint", "float": "float",
    "double": "double", "string": "string", "binary": "binary",
}  # fmt: skip


def _ddl(type_: Any) -> str:
    return f"array<{_ddl(type_.value_type)}>" if pa.types.is_list(type_) else _DDL[str(type_)]


@lru_cache(maxsize=1)
def _adopt(variables: tuple[tuple[str, str], ...], archive: str) -> None:
    """Take over the driver's settings; the model is loaded again only where these or the model are others."""
    settings.adopt({**dict(variables), "MODEL_DIR": str(Path(SparkFiles.getRootDirectory()) / archive)})
    loading.forget()


@lru_cache(maxsize=1)  # a worker process serves one task after another
def _opened(task: Task) -> tuple[Scorer, Target, settings.Settings]:
    """Load the model in this process, once; raise BadFile or TemporaryFailure."""
    _adopt(task.variables, task.archive)
    options = settings.current()._replace(score_options=task.options, score_batch_rows=task.rows)
    scorer, chosen = opened(options, alone=task.alone)
    if (own := digest(found().directory)) != task.digest:
        raise TemporaryFailure(f"expected the model with the digest {task.digest}, got {own}")
    return scorer, chosen, options


def _answer(task: Task, batches: Iterator[Any]) -> Iterator[Any]:
    """Answer the record batches of a partition."""
    first = 0
    for batch in batches:
        scorer, chosen, options = _opened(task)
        form = _form(task.form, task.header, chosen, options)
        for rows, beside, texts in _rows(task, batch, form, options):
            answered = scorer.answer(form, Batch(first, rows, 0, task.header))
            first += len(rows)
            yield (
                _typed(task, beside, answered, chosen)
                if task.form == PARQUET
                else _lined(task, beside, texts, answered)
            )


def _form(kind: str, header: tuple[str, ...], chosen: Target, options: settings.Settings) -> Any:
    """Return the format of the rows; raise BadFile where the signature takes no such rows."""
    signature, limit = free(chosen.signature), options.max_body_bytes
    context = chosen.context._replace(query={**chosen.context.query, "on_error": "row"})
    if kind == PARQUET:
        return arrow.Columns(signature, context)
    if kind == CSV:
        table = Table(signature, context, limit)
        table.header(header)
        return table
    if kind in (IMAGES, TFRECORD):
        return Strings(signature, context, limit)
    return format_of(JSON_LINES, signature, chosen.context, limit)


def _rows(task: Task, batch: Any, form: Any, options: settings.Settings) -> Iterator[tuple[Any, Any, list[bytes]]]:
    """Yield the rows of a record batch in parts, as the format takes them, the columns beside them, and their text."""
    beside = batch.select([*task.keep, *([task.file] if task.file and task.file not in task.keep else [])])
    if task.form == TFRECORD:
        for row, content in enumerate(batch.column(task.column)):
            framed = records(content.as_buffer())
            while part := list(islice(framed, ROWS)):
                yield part, beside.take(pa.array([row] * len(part))), []
        return
    for start in range(0, len(batch), ROWS):
        part = batch.slice(start, ROWS)
        if task.form == PARQUET:
            yield part, part, []
            continue
        # A third of the time of to_pylist, which makes a scalar of each value.
        column = part.column(task.column).cast(pa.binary()).fill_null(b"")
        texts = column.to_numpy(zero_copy_only=False).tolist()
        rows = [None if len(text) > options.max_body_bytes else text for text in texts]
        yield form.one_a_line(rows) if task.form == CSV else rows, beside.slice(start, ROWS), texts


def _lined(task: Task, beside: Any, texts: list[bytes], answered: Answered) -> Any:
    """Return a JSON line for each row: its prediction, or its error with the row itself."""
    lines = [line[:-1] for line in as_lines(answered)]
    results = [PREDICTIONS] * len(lines)
    for row in answered.failed:
        keys = answered.call.keys
        record: dict[str, Any] = {} if keys is None or keys[row] is MISSING else {"key": keys[row]}
        record["error"] = answered.problem(row)
        if texts:
            record[ROW] = text_of(texts[row], as_bytes=False)
        if task.file:
            record[FILE] = beside.column(task.file)[row].as_py()
        lines[row], results[row] = orjson.dumps(record), ERRORS
    value = pa.array(lines, pa.binary()).cast(pa.string())
    arrays = [*(beside.column(name) for name in task.keep), value, pa.array(results, pa.string())]
    return pa.RecordBatch.from_arrays(arrays, names=[*task.keep, VALUE, RESULT])


def _typed(task: Task, rows: Any, answered: Answered, chosen: Target) -> Any:
    """Return the outputs of each row in columns, or its error with the row itself."""
    predicted = arrow.as_columns(answered, arrow.output_fields(chosen.signature, chosen.context))
    count, failed = len(rows), answered.failed
    errors: dict[str, list[str | None]] = {name: [None] * count for name in (arrow.ERROR, ROW, FILE)}
    for row in failed:
        errors[arrow.ERROR][row] = answered.problem(row)
        content = arrow.as_json(rows, row, [name for name in rows.schema.names if name != task.file])
        errors[ROW][row] = json.dumps(content, ensure_ascii=False)
        errors[FILE][row] = rows.column(task.file)[row].as_py() if task.file else None
    results = [ERRORS if row in failed else PREDICTIONS for row in range(count)] if failed else [PREDICTIONS] * count
    outputs = {name: predicted.column(name) for name in chosen.signature.outputs}
    texts = {name: pa.array(values, pa.string()) for name, values in {**errors, RESULT: results}.items()}
    arrays = {**{name: rows.column(name) for name in task.keep}, **outputs, **texts}
    return pa.RecordBatch.from_arrays(list(arrays.values()), names=list(arrays))


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the arguments of the program."""
    parser = argparse.ArgumentParser(
        prog="spark-submit serving/scoring/spark.py", formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Predict every row of a folder with the model of MODEL_DIR, on Spark.\n\n"
        "Exit status 0: every row is answered; 3: done, and some rows are errors; 1: not done; 2: wrong arguments.",
    )  # fmt: skip
    parser.add_argument("input", metavar="IN", help="a file or a folder, of any file system that Spark reads")
    parser.add_argument("output", metavar="OUT", help="a folder; a new one, or what an interrupted run left")
    parser.add_argument("--format", choices=FORMATS, default=LINES, help="of the input (default: lines, of JSON)")
    parser.add_argument("--signature", default="", metavar="NAME", help="a signature other than serving_default")
    parser.add_argument("--options", default="", metavar="QUERY", help="as in the query of an address: top_k=3")
    parser.add_argument("--exact", action="store_true", help="run each row alone: the bytes of online answers")
    parser.add_argument("--keep", default="", metavar="NAMES", help="columns of Parquet to keep, with commas between")
    given = parser.parse_args(arguments)
    if given.keep and given.format != PARQUET:
        parser.error("--keep: expected --format parquet; a line has its own key")
    return given


def main(arguments: list[str] | None = None) -> int:
    """Score one folder; return the exit status."""
    given = parse(arguments)
    try:
        settings.current()
    except settings.SettingError as error:
        print(f"serving: {error}", file=sys.stderr)
        return WRONG
    spark = SparkSession.builder.appName(f"predictions of {given.input}").getOrCreate()
    begin = time.monotonic()
    try:
        record = score(spark, given)
    except (BadFile, TemporaryFailure, PySparkException, Py4JJavaError) as error:
        print(f"serving: {given.input}: {reason_of(error)}", file=sys.stderr)  # Spark's log has the rest
        return NOT_DONE
    finally:
        spark.stop()
    seconds = time.monotonic() - begin
    rows, errors = record["rows"], record["errors"]
    print(
        f"{given.output}: {rows} rows, {errors} errors, {seconds:.1f} s, {rows / seconds:.0f} rows/s, {record['run']}"
    )
    return WITH_ERRORS if errors else DONE


def score(spark: SparkSession, given: argparse.Namespace) -> dict[str, Any]:
    """Write the predictions and the record of what `parse` returns; return the record.

    Raise BadFile or TemporaryFailure.
    """
    folder = Folder(spark, given.output)
    folder.clear()
    try:
        return _write(spark, given, folder, exact=given.exact)
    except Exception as error:
        if BatchDependent.__name__ not in str(error) or given.exact:
            raise
        print(f"serving: {given.input}: started again, row by row: results depend on the batch size", file=sys.stderr)
    folder.clear()
    return _write(spark, given, folder, exact=True)


def _write(spark: SparkSession, given: argparse.Namespace, folder: "Folder", *, exact: bool) -> dict[str, Any]:
    frame, column, header = _read(spark, given.input, given.format)
    keep = [name for name in given.keep.split(",") if name]
    answered, chosen, options = _predictions(
        frame, given.signature, given.options, exact, given.format, column, keep, FILE, header
    )
    counts = Observation()
    is_error = sql.when(sql.col(RESULT) == ERRORS, 1).otherwise(0)
    answered = answered.observe(counts, sql.count(sql.lit(1)).alias("rows"), sql.sum(is_error).alias("errors"))
    writer = answered.write.partitionBy(RESULT).option("mapreduce.fileoutputcommitter.marksuccessfuljobs", "false")
    (writer.parquet if given.format == PARQUET else writer.text)(given.output)
    rows, errors = counts.get["rows"], counts.get["errors"] or 0
    record = {
        "rows": rows, "errors": errors, "input": given.input, "format": given.format,
        "run": how_run(options.score_batch_rows, alone=exact), **facts(found(), chosen), "spark": spark.version,
    }  # fmt: skip
    if not rows:
        raise BadFile("expected rows, found none")
    folder.write(RECORD, orjson.dumps(record))
    folder.write(SUCCESS, b"")
    return record


def _read(spark: SparkSession, source: str, form: str) -> tuple[DataFrame, str, tuple[str, ...]]:
    """Return the rows of a folder, the name of the column that holds them, and the header of CSV."""
    if form in (IMAGES, TFRECORD):  # a file a row: Spark bounds the rows of a batch, not their bytes
        spark.conf.set(ARROW_ROWS, FILES_AT_ONCE)
        frame = spark.read.format("binaryFile").option("recursiveFileLookup", "true").load(source)
        return frame.select("content", sql.col("path").alias(FILE)), "content", ()
    file = sql.col("_metadata.file_path").alias(FILE)
    if form == PARQUET:
        return spark.read.parquet(source).select("*", file), "", ()
    # Without lineSep a carriage return ends a line too.
    frame = spark.read.option("lineSep", "\n").text(source).select("value", file)
    if form == LINES:
        return frame, "value", ()
    head = frame.first()
    if head is None:
        raise BadFile("expected a header, found no line")
    return frame.filter(sql.col("value") != head["value"]), "value", header_of(head["value"])


if __name__ == "__main__":
    from serving.scoring import spark  # workers find its functions by this name

    sys.exit(spark.main())
