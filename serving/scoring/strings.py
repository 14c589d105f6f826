"""Rows that are strings: pictures, one a file, or the records of TFRecord files."""

from collections.abc import Iterator, Sequence
from typing import Any

from serving.protocols.call import Call, Context
from serving.protocols.raw.bodies import LINES, Form, bytes_shape, to_strings
from serving.protocols.unclear import cut
from serving.savedmodel.signature import Signature
from serving.scoring.faults import BadFile
from serving.scoring.formats import Batch


class Strings:
    """A string a row: pictures, or the records of TFRecord files, for the one input of a signature."""

    def __init__(self, signature: Signature, context: Context, limit: int) -> None:
        """Raise BadFile where the signature does not take one string a row."""
        spec = signature.only
        shape = bytes_shape(spec) if spec else None
        if spec is None or shape is None or not spec.shape:
            raise BadFile(f"expected a signature with one input, of strings; {signature.name!r} has another")
        self._signature, self._context, self._limit, self._name, self._shape = (
            signature,
            context,
            limit,
            spec.name,
            shape,
        )

    def decode(self, batch: Batch, row: int | None = None) -> Call:
        rows: Sequence[bytes | None] = batch.rows if row is None else [batch.rows[row]]
        first = batch.first + (row or 0)

        def place(index: int | None) -> str:
            return "records" if index is None else f"record {first + index + 1}"

        failed = {
            index: f"{place(index)}: {problem}"
            for index, content in enumerate(rows)
            if (problem := self._problem(content))
        }
        good = [content or b"" for index, content in enumerate(rows) if index not in failed]
        inputs = {self._name: to_strings(good, self._shape)} if good else {}
        return Call(self._signature, inputs, Form(LINES, place, len(rows)), self._context, failed=failed)

    def _problem(self, content: bytes | None) -> str | None:
        if content is None or len(content) > self._limit:
            return f"expected at most {self._limit} bytes (MAX_BODY_BYTES), got more"
        return cut(content) if content else "expected the content of a file, got nothing"

    def instance(self, batch: Batch, row: int) -> Any:
        return None


def records(content: Any) -> Iterator[bytes]:
    """Yield the records of a TFRecord file; raise BadFile where it ends in the middle of one.

    The checksums are not read.
    """
    view, start = memoryview(content), 0
    while start < len(view):
        length = int.from_bytes(view[start : start + 8], "little")
        end = start + 12 + length
        if end + 4 > len(view):
            raise BadFile("the file ends in the middle of a record, or is not a TFRecord")
        yield bytes(view[start + 12 : end])
        start = end + 4
