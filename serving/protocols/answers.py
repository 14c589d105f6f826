"""The outputs in a JSON response: nested lists, ranked classes or base64.

`top_k=3`: the classes of the highest scores, best first, in place of the outputs:
                                       {"classes": [{"name": "3", "index": 3, "score": 0.98}, ...]}
Scores are the one float output of rank 2, or the one that `scores=NAME` says; names come from a string output with a
name for each class, or from the labels that the exporter left beside the model.

`instances=1`: the request's rows or columns beside the predictions, with the same JSON values:
                                       {"instances": [1.0, 2.0], "predictions": [0.5, 1.0]}

`arrays=base64`: numbers as the bytes of the array, little-endian, row by row, a third of the size of their decimals:
                                       {"dtype": "float32", "shape": [10], "b64": "..."}
"""

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np

from serving.core.dtypes import is_extended
from serving.core.errors import did_you_mean
from serving.core.http import BadRequest, ModelFault
from serving.protocols.call import Arrays, Call, Context, option, row_errors
from serving.protocols.json_tensors.writer import to_values
from serving.savedmodel.signature import Signature

Array = np.ndarray[Any, Any]


def check(signature: Signature, context: Context) -> None:
    """Raise BadRequest for options that this signature cannot answer."""
    if context.query.get("arrays", "json") not in ("base64", "json"):
        raise BadRequest(f"arrays: expected base64 or json, got {option(context, 'arrays')[:40]!r}", example=False)
    row_errors(context)
    repeats(context)
    if top_k(context) or "scores" in context.query:
        scores(signature, context)


def check_fields(call: Call) -> Call:
    """Return the call; raise BadRequest where a key or a row's error has the name of an output."""
    if call.keys is None and not row_errors(call.context):
        return call
    fields = {"classes"} if top_k(call.context) else set(call.signature.outputs)
    if row_errors(call.context) and in_rows(call):
        ranked = scores(call.signature, call.context) if top_k(call.context) else None
        if not has_rows(call.signature, ranked):
            raise BadRequest(
                f"on_error: the signature {call.signature.name!r} does not go by rows; ask in columns, with 'inputs'",
                example=False,
            )
        if "error" in fields:
            raise BadRequest(
                "on_error: the model has an output 'error', which would look like a row that failed", example=False
            )
        fields.add("error")
    if call.keys is not None and call.context.key in fields:
        raise BadRequest(
            f"{call.context.key}: the answer has a field {call.context.key!r} of its own, whose place the key would "
            "take; send no keys, or let the server read them from another field (KEY_FIELD)",
            example=False,
        )
    return call


def has_rows(signature: Signature, output: str | None = None) -> bool:
    """Return whether inputs and outputs, or the one `output`, have a batch dimension, all of one size."""
    outputs = signature.outputs if output is None else {output: signature.outputs[output]}
    if any(spec.shape == () for specs in (signature.required, outputs) for spec in specs.values()):
        return False
    input_sizes, output_sizes = (
        {spec.shape[0] for spec in specs.values() if spec.shape} for specs in (signature.required, outputs)
    )
    return len(input_sizes - {None}) <= 1 and output_sizes - {None} <= input_sizes


def in_rows(call: Call) -> bool:
    """Return whether a predict request has rows, not columns."""
    return bool(getattr(call.form, "answer", call.form) != "inputs")


def check_rows(call: Call, outputs: Arrays, count: int) -> None:
    """Raise where an output does not have one value for each of the `count` rows.

    BadRequest where its declared shape says so, ModelFault where it does not.
    """
    if call.context.query and top_k(call.context):
        ranked = scores(call.signature, call.context)
        outputs = {ranked: outputs[ranked]}
    for name, array in outputs.items():
        if array.ndim and len(array) == count:
            continue
        rows_given = f"{len(array)} rows for the {count} rows of the request" if array.ndim else "no batch dimension"
        message = f"the output {name!r} has {rows_given}"
        spec = call.signature.outputs.get(name)
        if spec is not None and spec.shape is not None and spec.shape[:1] != (None,):
            raise BadRequest(f"{message}: ask in column form, with 'inputs'", example=False)
        raise ModelFault(f"{message}; if that is intended, use the column form, with 'inputs'")


def repeats(context: Context) -> bool:
    """Return whether the answer has the request's rows or columns beside the predictions; raise BadRequest."""
    value = context.query.get("instances", "0")
    if value not in ("0", "1"):
        raise BadRequest(f"instances: expected 0 or 1, got {value[:40]!r}", example=False)
    return value == "1"


def top_k(context: Context) -> int:
    """Return how many classes a request asks for; 0 where it asks for the outputs."""
    text = context.query.get("top_k")
    if text is None:
        return 0
    if not (text.isascii() and text.isdecimal() and 0 < len(text) < 10 and int(text)):
        raise BadRequest(f"top_k: expected a whole number of 1 or more, got {text[:40]!r}", example=False)
    return int(text)


def scores(signature: Signature, context: Context) -> str:
    """Return the name of the output that holds the scores of the classes."""
    named = context.query.get("scores")
    floats = [spec for spec in signature.outputs.values() if spec.dtype.kind == "f"]
    candidates = [spec.name for spec in floats if spec.shape is None or len(spec.shape) == 2]
    if named is not None:
        if named not in candidates:
            raise BadRequest(
                f"scores: there is no output {named[:200]!r} of scores{did_you_mean(named, candidates)}", example=False
            )
        return named
    if len(candidates) != 1:
        names = ", ".join(map(repr, candidates))
        there = f"there are {names}: choose one with scores=NAME" if candidates else "there is none"
        raise BadRequest(f"top_k: expected one float output of shape [batch, classes]; {there}", example=False)
    return candidates[0]


def rows(call: Call, outputs: Arrays, *, named: bool = False, apart: bool = True) -> Any:
    """Return an item for each index of the first dimension: a value, or an object of several outputs or if `named`.

    Without `apart` it may be one value for the JSON writer that holds all of them.
    """
    count = top_k(call.context)
    if count:
        return [{"classes": ranked} for ranked in _ranked(call, outputs, count)]
    packed = option(call.context, "arrays") == "base64"
    if len(outputs) == 1 and not named:
        ((name, array),) = outputs.items()
        return (
            [_packed(row) for row in array] if packed and array.dtype != object else _values(call, array, name, apart)
        )
    columns = [
        [_packed(row) for row in array] if packed and array.dtype != object else list(_values(call, array, name, True))
        for name, array in outputs.items()
    ]
    return [dict(zip(outputs, row)) for row in zip(*columns)]


def columns(call: Call, outputs: Arrays) -> dict[str, Any]:
    """Return each output whole, by name."""
    count = top_k(call.context)
    if count:
        return {"classes": _ranked(call, outputs, count)}
    if option(call.context, "arrays") == "base64":
        return {
            name: _values(call, array, name) if array.dtype == object else _packed(array)
            for name, array in outputs.items()
        }
    return {name: _values(call, array, name) for name, array in outputs.items()}


def _values(call: Call, array: Array, name: str, rows: bool = False) -> Any:
    return to_values(array, name, rows=rows, null=call.context.null)


def _packed(array: Array) -> dict[str, Any]:
    data = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
    return {"dtype": str(array.dtype), "shape": array.shape, "b64": data}


def _ranked(call: Call, outputs: Arrays, count: int) -> list[list[dict[str, Any]]]:
    values = outputs[scores(call.signature, call.context)]
    if values.ndim != 2:
        raise BadRequest(f"top_k: expected scores of shape [batch, classes], got rank {values.ndim}", example=False)
    if is_extended(values.dtype):
        values = values.astype(np.float32)  # bfloat16 and smaller: every value of theirs is a float32 too
    names = class_names(outputs, values.shape, call.context)
    return [
        [
            {**({"name": names[row][index]} if names else {}), "index": index, "score": values[row, index]}
            for index in indexes.tolist()
        ]
        for row, indexes in enumerate(order(values, count))
    ]


def order(values: Array, count: int) -> Array:
    """Return the indexes of the `count` highest values of each row, best first, NaN last, ties in order."""
    wide = values.astype(np.float64) if is_extended(values.dtype) else values
    ranked: Array = np.argsort(-np.where(np.isnan(wide), -np.inf, wide), axis=-1, kind="stable")
    return ranked[..., :count]


def class_names(outputs: Arrays, shape: tuple[int, ...], context: Context) -> Sequence[Sequence[str]] | None:
    """Return the names of the classes for each row of scores [batch, classes]; None where they are unknown."""
    for array in outputs.values():
        if array.dtype == object and array.shape in (shape, shape[1:]):
            names = [name.decode("utf-8", "replace") for name in array.ravel().tolist()]
            size = shape[1]
            return [names[row * size : (row + 1) * size] or names for row in range(shape[0])]
    return [context.labels] * shape[0] if len(context.labels) == shape[1] else None
