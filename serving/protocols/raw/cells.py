"""The cells of a table, text each, → elements of a dtype.

Numbers are as JSON writes them, or NaN, Infinity and -Infinity; a whole one may be written 3.0, as pandas writes a
column of integers that has gaps. Booleans are true or false, also True and TRUE, as pandas and spreadsheets write them.
White space is refused. Strings are the text of the cell, and alone may be empty.
"""

import math
import re
from collections.abc import Sequence

import numpy as np

from serving.core.dtypes import DType
from serving.core.http import BadRequest
from serving.protocols.json_tensors.document import Document
from serving.protocols.json_tensors.elements import limits
from serving.protocols.json_tensors.reader import nest_to_array
from serving.protocols.raw.bodies import Array, to_strings
from serving.protocols.sizes import DEFAULTS, MAX_NUMBER_LENGTH

NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|NaN|-?Infinity")
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]*)")
BOOLEANS = {text: value for value in (True, False) for text in (str(value), str(value).lower(), str(value).upper())}
_DIGITS = str.maketrans("", "", "0123456789+-.eE")


def to_elements(cells: Sequence[str], dtype: DType, *, every: bool) -> tuple[Array | None, dict[int, str]]:
    """Return cells as an array of shape [len(cells)]; or what is wrong with them, by their index.

    Without `every`, only the first wrong cell is returned.
    """
    if dtype.kind == "S":
        return to_strings([cell.encode() for cell in cells], ()), {}
    if dtype.kind != "b" and (array := _in_bulk(cells, dtype)) is not None:
        return array, {}
    with np.errstate(over="ignore"):
        wrong = {cell: problem for cell in set(cells) if (problem := _problem(cell, dtype))}
        if wrong:
            problems = ((index, wrong[cell]) for index, cell in enumerate(cells) if cell in wrong)
            return None, dict(problems if every else [next(problems)])
        if dtype.kind == "b":
            return np.array([BOOLEANS[cell] for cell in cells], bool), {}
        wide = [*map(float, cells)] if dtype.kind == "f" else [*map(_whole, cells)]
        return np.array(wide, np.float64 if dtype.kind == "f" else dtype.numpy).astype(dtype.numpy), {}


def _in_bulk(cells: Sequence[str], dtype: DType) -> Array | None:
    """Return cells as numbers through the JSON parser, in a fifth of the time; None where a cell is anything else."""
    text = ",".join(cells)
    if text.translate(_DIGITS) != "," * (len(cells) - 1):
        return None
    try:
        document = Document(b'{"column":[%b]}' % text.encode(), DEFAULTS)
        array = nest_to_array(document, document.root["column"], dtype, "column")
    except BadRequest:
        return None
    return array if len(array) == len(cells) else None  # a single empty cell is no number


_NOT_FINITE = frozenset({"nan", "na", "inf", "+inf", "-inf", "infinity", "+infinity", "-infinity"})


def _problem(cell: str, dtype: DType) -> str | None:
    """Return what is wrong with a cell, None where it is right."""
    if not cell:
        return f"expected {dtype.label}, got an empty cell"
    if dtype.kind == "b":
        return None if cell in BOOLEANS else f"expected true or false, got {_shown(cell)}"
    if not NUMBER.fullmatch(cell):
        hint = "; write NaN, Infinity or -Infinity" if dtype.kind == "f" and cell.lower() in _NOT_FINITE else ""
        return f"expected {dtype.label}, got {_shown(cell)}{hint}"
    if dtype.kind == "f":
        value = float(cell)
        if cell[-1] in "Ny" or (math.isfinite(value) and math.isfinite(float(dtype.numpy.type(value)))):
            return None
        return f"expected {dtype.label}, got {cell[:40]}, which is out of its range"
    whole, (least, most) = _whole(cell), limits(dtype)
    if whole is None:
        return f"expected {dtype.label}, got {cell[:40]}"
    if not least <= whole <= most:
        return f"expected {dtype.label}, from {least} to {most}, got {cell[:40]}"
    return None


def _whole(cell: str) -> int | None:
    """Return a number as an integer, None where it is none; of a long one its beginning, out of every range too."""
    if _INTEGER.fullmatch(cell):
        return int(cell[:MAX_NUMBER_LENGTH])
    value = float(cell)
    return int(value) if value.is_integer() else None


def _shown(cell: str) -> str:
    return repr(cell if len(cell) <= 40 else cell[:40] + "...")
