"""Files of instances, read as a stream: bytes → batches of rows → calls.

Rows are decoded by the protocols that take the same bodies online (`lines`, `table`, `raw`), under the same rules. In a
file, however, a bad row fails alone, and only one batch is held in memory, however long the file or a line is. Where
batches end depends only on the bytes and on the signature, so interrupted work continues at the end of a batch and
gives the same bytes.
"""

import csv
import io
import zlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple, Protocol

import orjson

from serving.core.http import BadRequest
from serving.protocols import kinds, raw
from serving.protocols.call import Call, Context
from serving.protocols.raw import lines, table
from serving.protocols.raw.bodies import BOM, CHARSETS, SPACE, json_problem, parameter
from serving.protocols.raw.columns import Header, read_header
from serving.protocols.sizes import Limits
from serving.savedmodel.signature import Signature
from serving.scoring.faults import BadFile

ROWS = 1024  # of a batch, at most,
BYTES = 2 << 20  # and about so much text
CHUNK = 1 << 20

JSON_LINES = "application/x-ndjson"
CSV = "text/csv"

# By the end of a name; BigQuery, among others, calls JSON lines .json.
TYPES = {
    ".jsonl": JSON_LINES, ".ndjson": JSON_LINES, ".jsonlines": JSON_LINES, ".json": JSON_LINES, ".csv": CSV,
    ".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".gif": "image/gif", ".bmp": "image/bmp",
    ".webp": "image/webp",
}  # fmt: skip
GZIP = ".gz"


class Batch(NamedTuple):
    """Consecutive rows of a file, not decoded."""

    first: int  # the number of rows before them
    rows: list[Any]
    size: int  # bytes of the file that they take up, approximately
    header: tuple[str, ...] = ()  # the first record of a CSV file


class Format(Protocol):
    """Splits a file into rows and decodes them."""

    def batches(self, chunks: Iterator[bytes], step: int) -> Iterator[Batch]:
        """Yield the rows of a file, all batches but the last with a multiple of `step`.

        Another object of the same format may decode them, in another process.
        """

    def decode(self, batch: Batch, row: int | None = None) -> Call:
        """Return the call of a batch, or of one row of it; `Call.failed` has the errors by row."""

    def instance(self, batch: Batch, row: int) -> Any:
        """Return a row's instance as a value for the JSON writer; None where it has no JSON form."""


def content_type_of(name: str, stated: str = "") -> str:
    """Return the content type by a name's suffix, else the stated one; raise BadFile where neither is supported."""
    bare = name.removesuffix(GZIP).lower()
    known = next((kind for end, kind in TYPES.items() if bare.endswith(end)), None)
    if known == CSV and stated.lower().startswith(CSV):
        return stated  # it may say header=absent, or a charset
    kind = known or stated
    if not kind or kind.lower().startswith("multipart/") or not kinds.is_raw(kind, b""):
        ends = ", ".join(TYPES)
        raise BadFile(f"expected a name that ends with one of {ends}, or a content type of those; got {name[-200:]!r}")
    return kind


def format_of(content_type: str, signature: Signature, context: Context, limit: int) -> Format:
    """Return the format of a content type; a line or a picture may have `limit` bytes."""
    context = context._replace(headers={"content-type": content_type}, query={**context.query, "on_error": "row"})
    media = content_type.partition(";")[0].strip().lower()
    if media == CSV:
        return Table(signature, context, limit)
    if kinds.KINDS.get(media) == kinds.JSON_LINES:
        return Lines(signature, context, limit)
    return Whole(signature, context, limit)


def gunzip(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Decompress gzip of one or more members in chunks; raise BadFile where it is malformed or truncated."""
    unpacker, whole = zlib.decompressobj(zlib.MAX_WBITS | 16), False
    try:
        for chunk in chunks:
            while chunk:
                if unpacker.eof:
                    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)
                if part := unpacker.decompress(chunk, CHUNK):
                    yield part
                chunk, whole = unpacker.unused_data if unpacker.eof else unpacker.unconsumed_tail, unpacker.eof
            while not unpacker.eof and (part := unpacker.decompress(b"", CHUNK)):
                yield part
                whole = unpacker.eof
    except zlib.error as error:
        raise BadFile(f"the file is not gzip, though its name or its Content-Encoding says so: {error}") from None
    if not whole:
        raise BadFile("the gzip data ends too early")


def lines_of(chunks: Iterable[bytes], limit: int) -> Iterator[bytes | None]:
    """Yield lines without their line feeds; None for a line of more than `limit` bytes, which is not kept in memory."""
    rest: bytes | None = b""
    for chunk in chunks:
        begin, *more = chunk.split(b"\n")
        rest = None if rest is None or len(rest) + len(begin) > limit else rest + begin
        if more:
            yield rest
            *whole, rest = more
            for line in whole:
                yield line if len(line) <= limit else None
    yield rest


def _batches(rows: Iterable[tuple[Any, int]], step: int) -> Iterator[Batch]:
    """Group (row, size in bytes) into batches."""
    held: list[Any] = []
    first = size = 0
    for row, weight in rows:
        held.append(row)
        size += weight
        if (len(held) >= ROWS or size >= BYTES) and len(held) % step == 0:
            yield Batch(first, held, size)
            first, held, size = first + len(held), [], 0
    if held:
        yield Batch(first, held, size)


class Lines:
    """JSON lines: a row is a line, or None where the line is too long."""

    def __init__(self, signature: Signature, context: Context, limit: int) -> None:
        self._signature, self._context, self._limit = signature, context, limit

    def batches(self, chunks: Iterator[bytes], step: int) -> Iterator[Batch]:
        for batch in _batches(self._rows(chunks), step):
            if not batch.first:
                _refuse_other_text(batch.rows, self._context.limits)
            yield batch

    def _rows(self, chunks: Iterator[bytes]) -> Iterator[tuple[bytes | None, int]]:
        empty = 0  # pending empty lines, which are dropped at the end of the file
        for number, line in enumerate(lines_of(chunks, self._limit)):
            if line is not None and not number:
                line = line.removeprefix(BOM)
            if line is not None and not line.strip(SPACE):
                empty += 1
                continue
            for _ in range(empty):
                yield b"", 1
            empty = 0
            yield line, len(line or b"") + 1

    def decode(self, batch: Batch, row: int | None = None) -> Call:
        rows, first = (batch.rows, batch.first) if row is None else ([batch.rows[row]], batch.first + row)
        call = lines.decode_lines([line or b"" for line in rows], self._signature, self._context, first + 1)
        long = {
            index: f"{call.form.place(index)}: expected at most {self._limit} bytes (MAX_BODY_BYTES), got more"
            for index, line in enumerate(rows) if line is None
        }  # fmt: skip
        return call._replace(failed={**call.failed, **long}) if long else call

    def instance(self, batch: Batch, row: int) -> Any:
        line = batch.rows[row]
        return None if not line or json_problem(line, self._context.limits) else orjson.Fragment(line.strip(SPACE))


def _refuse_other_text(rows: Sequence[bytes | None], limits: Limits) -> None:
    """Raise BadFile where none of a file's first rows is JSON: the file has another format."""
    problem = None
    for line in rows:
        if line is None:
            return
        line_problem = json_problem(line, limits)
        if not line_problem:
            return
        problem = problem or line_problem
    raise BadFile(f"line 1: {problem}; none of the first {len(rows)} lines is a JSON value")


class _Long(Exception):
    """A record has more bytes than the limit."""


class _Text:
    """The lines of a CSV file as text, for csv.reader, which reads as many as a record has."""

    def __init__(self, chunks: Iterator[bytes], content_type: str, limit: int) -> None:
        charset = parameter(content_type, "charset") or "utf-8"
        if charset.lower() not in CHARSETS:
            raise BadFile(f"expected the charset utf-8, us-ascii or iso-8859-1, got {charset[:40]!r}")
        self.charset, self._codec, self._limit = charset[:40], CHARSETS[charset.lower()], limit
        self._lines = lines_of(chunks, limit)
        self._pieces: Iterator[str] = iter(())
        self._first = True
        self.number = 0  # lines given so far
        self.size = 0  # characters since `begin`
        self.broken = False  # bytes since `begin` that are not in the charset

    def begin(self) -> int:
        """Begin a record, and return the number of its first line."""
        self.size, self.broken = 0, False
        return self.number + 1

    def __iter__(self) -> "_Text":
        return self

    def __next__(self) -> str:
        piece = next(self._pieces, None)
        if piece is None:
            self._pieces = io.StringIO(self._line() + "\n", newline="")  # a carriage return may end a line too
            piece = next(self._pieces)
        self.number += 1
        self.size += len(piece)
        if self.size > self._limit + 1:
            raise _Long
        return piece

    def _line(self) -> str:
        line = next(self._lines)
        if line is None:
            self.number += 1
            raise _Long
        first, self._first = self._first, False
        try:
            return (line.removeprefix(BOM) if first and self._codec == "utf-8" else line).decode(self._codec)
        except UnicodeDecodeError as error:
            if first:
                raise BadFile(f"line 1: not {self._codec} at byte {error.start}") from None
            self.broken = True
            return line.decode("ascii", "replace")


class _Record(NamedTuple):
    """A row of CSV: its cells, the number of its first line, and its error, if it cannot be split into cells."""

    cells: Sequence[str]
    line: int
    problem: str | None = None


class Table:
    """CSV: a row is a record."""

    def __init__(self, signature: Signature, context: Context, limit: int) -> None:
        self._signature, self._context, self._limit = signature, context, limit
        self._read: dict[tuple[str, ...], tuple[Header, int]] = {}

    def batches(self, chunks: Iterator[bytes], step: int) -> Iterator[Batch]:
        records = self._records(chunks)
        first = next(records, None)
        if first is None or not (first.cells or first.problem or any(record.cells for record in records)):
            return
        if first.problem:
            raise BadFile(first.problem)
        cells = tuple(first.cells)
        taken = self.header(cells)[1]
        count = 0
        for batch in _batches(self._rows(() if taken else (first,), records), step):
            count += len(batch.rows)
            yield batch._replace(header=cells)
        if not count:
            raise BadFile("line 2: expected a row, got only a header")

    def header(self, cells: tuple[str, ...]) -> tuple[Header, int]:
        """Return what the first record of a file says, and how many rows it takes; raise BadFile."""
        if cells not in self._read:
            try:
                self._read = {cells: read_header(cells, self._signature, self._context)}
            except BadRequest as error:
                raise BadFile(str(error)) from None
        return self._read[cells]

    def _rows(self, begin: Iterable[_Record], records: Iterator[_Record]) -> Iterator[tuple[_Record, int]]:
        empty: list[int] = []  # first and last of pending empty lines, which are dropped at the end of the file
        for record in chain(begin, records):
            if not record.cells and not record.problem:
                empty = [empty[0] if empty else record.line, record.line]
                continue
            if empty:
                for line in range(empty[0], empty[1] + 1):
                    yield _Record((), line), 1
                empty = []
            yield record, sum(map(len, record.cells)) + len(record.cells)

    def _records(self, chunks: Iterator[bytes]) -> Iterator[_Record]:
        text = _Text(chunks, self._context.headers.get("content-type") or "", self._limit)
        reader = csv.reader(text, strict=True)
        while True:
            line = text.begin()
            problem = None
            cells: Sequence[str] = ()
            try:
                cells = next(reader)
            except StopIteration:
                return
            except _Long:
                problem = f"expected at most {self._limit} bytes (MAX_BODY_BYTES), got more"
                if text.number > line:  # the rest of the file cannot be split reliably
                    raise BadFile(f"line {line}: {problem}; is a quotation mark not closed?") from None
            except csv.Error as error:
                if "end of data" in str(error):
                    raise BadFile(f"line {line}: not CSV: a quotation mark is not closed") from None
                problem = f"not CSV: {error}"
            if text.broken:
                cells, problem = (), f"not {text.charset}"
            yield _Record(cells, line, problem and f"line {line}: {problem}")

    def decode(self, batch: Batch, row: int | None = None) -> Call:
        records: list[_Record] = batch.rows if row is None else [batch.rows[row]]
        header, _ = self.header(batch.header)

        def place(index: int | None) -> str:
            return "lines" if index is None else f"line {records[index].line}"

        cells = [record.cells for record in records]
        call = table.decode_table(cells, header, place, self._signature, self._context)
        problems = {index: record.problem for index, record in enumerate(records) if record.problem}
        return call._replace(failed={**call.failed, **problems}) if problems else call

    def instance(self, batch: Batch, row: int) -> Any:
        cells, names = batch.rows[row].cells, self.header(batch.header)[0].names
        return dict(zip(names, cells)) if len(cells) == len(names) else None

    def one_a_line(self, lines: Sequence[bytes | None]) -> list[_Record]:
        """Return the records of lines that hold one each; None stands for a line that is too long."""
        rows = []
        for number, line in enumerate(lines, 1):
            cells: Sequence[str] = ()
            problem = None
            try:
                if line is None:
                    problem = f"expected at most {self._limit} bytes (MAX_BODY_BYTES), got more"
                else:
                    cells = next(csv.reader([line.decode()], strict=True))
            except UnicodeDecodeError:
                problem = "not utf-8"
            except csv.Error as error:
                problem = f"not CSV: {error}; a record is one line here"
            rows.append(_Record(cells, number, problem and f"line {number}: {problem}"))
        return rows


def header_of(line: str) -> tuple[str, ...]:
    """Return the cells of a CSV file's first line; raise BadFile where it is not CSV."""
    try:
        return tuple(next(csv.reader([line.removeprefix(BOM.decode())], strict=True)))
    except csv.Error as error:
        raise BadFile(f"line 1: not CSV: {error}") from None


class Whole:
    """A picture or another file that is one string: one row."""

    def __init__(self, signature: Signature, context: Context, limit: int) -> None:
        self._signature, self._context, self._limit = signature, context, limit

    def batches(self, chunks: Iterator[bytes], step: int) -> Iterator[Batch]:
        content = b""
        for chunk in chunks:
            content += chunk
            if len(content) > self._limit:
                raise BadFile(f"expected at most {self._limit} bytes (MAX_BODY_BYTES), got more")
        if content:
            yield Batch(0, [content], len(content))

    def decode(self, batch: Batch, row: int | None = None) -> Call:
        signature = self._signature
        context = self._context._replace(query={**self._context.query, "signature_name": signature.name})
        try:
            return raw.decode(batch.rows[0], {signature.name: signature}, context)
        except BadRequest as error:
            raise BadFile(str(error)) from None

    def instance(self, batch: Batch, row: int) -> Any:
        return None


def free(signature: Signature) -> Signature:
    """Return the signature with a free batch dimension, for decoding: `Scorer` pads batches to a fixed size."""

    def freed(spec: Any) -> Any:
        return spec._replace(shape=(None, *spec.shape[1:])) if spec.shape else spec

    inputs = {name: freed(spec) for name, spec in signature.inputs.items()}
    return signature._replace(inputs=inputs, outputs={name: freed(spec) for name, spec in signature.outputs.items()})
