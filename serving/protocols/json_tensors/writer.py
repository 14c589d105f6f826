"""An array → a value for the JSON writer.

Strings are text, or {"b64": "..."} where the tensor's name ends with `_bytes` or the bytes are not UTF-8, as TensorFlow
Serving writes them <https://www.tensorflow.org/tfx/serving/api_rest#encoding_binary_values>. NaN and the infinities are
bare tokens, as there, or null for strict parsers.
"""

import base64
import json
import math
from typing import Any

import numpy as np
import orjson

from serving.core.dtypes import is_extended
from serving.core.http import to_json

Array = np.ndarray[Any, Any]


def to_values(array: Array, name: str, *, rows: bool = False, null: bool = False) -> Any:
    """Return an array of any shape as a value for the JSON writer: the array itself if possible, else nested lists.

    `null`: write null for NaN and the infinities. `rows`: return a sequence with one item for each index of the first
    dimension.
    """
    if array.dtype == object:
        as_bytes = name.endswith("_bytes")
        return _nest([text_of(value, as_bytes) for value in array.ravel().tolist()], array.shape)
    if is_extended(array.dtype):
        array = array.astype(np.float32)  # bfloat16 and smaller: every value of theirs is a float32 too
    if array.dtype.kind == "f" and not null and not np.isfinite(array).all():
        return _with_tokens(array, array.ndim - 1) if rows else _with_tokens(array, array.ndim)[0]
    return array if array.ndim else array[()]  # the writer takes a scalar, and no array of rank 0


def sole_rows(array: Array, name: str, *, null: bool) -> bytes | None:
    """Return {"name": array} in JSON; None for strings, scalars and non-finite numbers, which need `to_values`."""
    if array.dtype == object or is_extended(array.dtype) or not array.ndim:
        return None
    body = to_json({name: array})
    return body if null or array.dtype.kind != "f" or b"null" not in body else None


def text_of(value: bytes, as_bytes: bool) -> Any:
    """Return a string of a tensor in JSON: text where it is UTF-8 and not asked for `as_bytes`, else {"b64": "..."}."""
    if not as_bytes:
        try:
            return value.decode()
        except UnicodeDecodeError:
            pass
    return {"b64": base64.b64encode(value).decode()}


def _nest(flat: list[Any], shape: tuple[int, ...]) -> Any:
    if not shape:
        return flat[0]
    for size in reversed(shape[1:]):
        flat = [flat[start : start + size] for start in range(0, len(flat), size)] if size else flat
    if 0 in shape[1:]:
        return np.empty(shape, np.int8).tolist()
    return flat


_to_text = json.JSONEncoder(separators=(",", ":")).encode


def _with_tokens(array: Array, rank: int) -> list[orjson.Fragment]:
    """Return the JSON of each part of an array that has the last `rank` dimensions: the whole, or the rows."""
    # Through the writer for the shortest decimals of the array's own precision; it writes null for what is not finite.
    flat = np.ravel(array)
    finite = orjson.loads(orjson.dumps(flat, option=orjson.OPT_SERIALIZE_NUMPY))
    tokens = [float(number) if text is None else text for text, number in zip(finite, flat)]
    shape = array.shape[array.ndim - rank :]
    size = math.prod(shape)
    return [
        orjson.Fragment(_to_text(_nest(tokens[start : start + size], shape))) for start in range(0, flat.size, size)
    ]
