"""A predict body's rows ("instances") or columns ("inputs") → the inputs of a signature.

A row is an object with an input's value by each name, {"x": 1.0}, or the value alone for a signature of one input. With
`on_error=row` a row that is wrong fails alone: it is not among the inputs, and the call says why.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from serving.core.errors import did_you_mean
from serving.core.http import BadRequest
from serving.protocols.call import MISSING, Arrays, Call, Context, check_rows_apart, row_errors
from serving.protocols.json_tensors.document import LISTS, OBJECTS, Document, b64, kind, members, native
from serving.protocols.json_tensors.reader import rows_to_array, to_array
from serving.protocols.sizes import check_rows
from serving.savedmodel.signature import Signature, TensorSpec, shape_text

ROW, COLUMN = "instances", "inputs"
MOST_HINTS = 20  # rows of a request whose errors list names: each takes more time than the row itself

ReadRows = Callable[[Sequence[Any]], Arrays]  # some rows → their inputs; raises BadRequest


class Rows(NamedTuple):
    """The rows of a request, apart from their keys."""

    rows: list[Any]  # each the inputs by name, or the one input's value alone
    keys: list[Any] | None  # one for each row, MISSING where it has none; None where no row has one
    failed: dict[int, str]  # what is wrong with the names of a row


def decode_rows(document: Document, instances: Any, signature: Signature, context: Context) -> Call:
    """Return the call of a list of instances; raise BadRequest naming what is wrong, TooLarge for too many rows."""
    if not isinstance(instances, LISTS):
        raise BadRequest(f"{ROW}: expected a list of rows, got {kind(instances)}")
    count = len(instances)
    check_rows(count, ROW, context.limits)
    apart = bool(context.query) and row_errors(context)
    if apart:
        check_rows_apart(context, count, ROW)
    if not count:
        raise BadRequest(f"{ROW}: expected at least one row, got an empty list")
    if not signature.inputs:
        raise BadRequest(f'{ROW}: the signature has no inputs, so it has no rows; send {{"inputs": {{}}}}')
    named = (isinstance(instances[0], OBJECTS) or apart) and any(map(_is_named, instances))
    if named:
        rows, keys, failed = _named_rows(instances, signature, context)
        given = {name for index, row in enumerate(rows) if index not in failed for name in row}
        specs = [spec for name, spec in signature.inputs.items() if name in given]
        read: ReadRows = partial(_read_named, document, specs)
    else:
        spec = _only_input(signature, ROW)
        if not apart:
            return Call(signature, {spec.name: rows_to_array(document, instances, spec, ROW)}, ROW, context)
        rows, keys, failed = Rows(list(instances), None, {})
        read = partial(_read_bare, document, spec)
    if not failed:
        try:
            return Call(signature, read(rows), ROW, context, keys)
        except BadRequest:
            if not apart:
                raise
    inputs, failed = _good_rows(rows, read, failed)
    return Call(signature, inputs, ROW, context, keys, failed)


def _read_bare(document: Document, spec: TensorSpec, rows: Sequence[Any]) -> Arrays:
    return {spec.name: rows_to_array(document, rows, spec, ROW)}


def _read_named(document: Document, specs: Sequence[TensorSpec], rows: Sequence[Mapping[str, Any]]) -> Arrays:
    return {
        spec.name: rows_to_array(document, [row[spec.name] for row in rows], spec, ROW, f".{spec.name}")
        for spec in specs
    }


def _is_named(instance: Any) -> bool:
    return isinstance(instance, OBJECTS) and b64(instance) is None


def _named_rows(instances: Any, signature: Signature, context: Context) -> Rows:
    apart = row_errors(context)
    key = None if context.key in signature.inputs else context.key
    rows: list[dict[str, Any]] = []
    keys: list[Any] = []
    failed: dict[int, str] = {}
    for index, instance in enumerate(instances):
        own_key: Any = MISSING
        row: dict[str, Any] = {}
        try:
            place = f"{ROW}[{index}]"
            if isinstance(instance, OBJECTS):
                row = members(instance, place)
                own_key = MISSING if key is None else native(row.pop(key, MISSING))
            row = _inputs_of(row, instance, signature, place, brief=len(failed) >= MOST_HINTS)
        except BadRequest as error:
            if not apart:
                raise
            failed[index] = str(error)
        rows.append(row)
        keys.append(own_key)
    if signature.defaults:
        _check_alike(rows, failed, apart)
    return Rows(rows, keys if any(own_key is not MISSING for own_key in keys) else None, failed)


def _check_alike(rows: Sequence[Mapping[str, Any]], failed: dict[int, str], apart: bool) -> None:
    """Refuse rows that leave out an input which others give: the model takes it for all of them or for none."""
    given = dict.fromkeys(name for index, row in enumerate(rows) if index not in failed for name in row)
    for index, row in enumerate(rows):
        missing = [name for name in given if name not in row]
        if index in failed or (given and not missing):
            continue
        problem = f"the input {missing[0]!r} is missing, which other rows give" if given else "expected an input"
        failed[index] = f"{ROW}[{index}]: {problem}"
        if not apart:
            raise BadRequest(failed[index])


def _inputs_of(row: dict[str, Any], instance: Any, signature: Signature, place: str, *, brief: bool) -> dict[str, Any]:
    if _complete(row, signature):
        return row
    if signature.only and b64(row) is not None:  # {"b64": "..."}, a key beside it or not
        return {signature.only.name: row}
    if not isinstance(instance, OBJECTS):
        raise BadRequest(f"{place}: expected an object as the other instances are, got {kind(instance)}")
    raise BadRequest(_name_problem(place, row, signature, brief=brief))


def _complete(given: Mapping[str, Any], signature: Signature) -> bool:
    wanted = signature.inputs.keys()
    return given.keys() == wanted or (bool(signature.defaults) and signature.required.keys() <= given.keys() <= wanted)


def _good_rows(rows: Sequence[Any], read: ReadRows, failed: Mapping[int, str]) -> tuple[Arrays, dict[int, str]]:
    """Return the good rows together, and why the others are not among them.

    Rows are read in halves, and halves of those that fail: a few bad ones among many cost little.
    """
    failed = dict(failed)
    good: list[tuple[list[int], Arrays]] = []

    def read_part(indexes: list[int]) -> None:
        try:
            good.append((indexes, read([rows[index] for index in indexes])))
        except BadRequest as error:
            if len(indexes) == 1:
                failed[indexes[0]] = str(error).replace(f"{ROW}[0]", f"{ROW}[{indexes[0]}]", 1)
            else:
                read_part(indexes[: len(indexes) // 2])
                read_part(indexes[len(indexes) // 2 :])

    if rest := [index for index in range(len(rows)) if index not in failed]:
        read_part(rest)
    alike: list[Arrays] = []
    for indexes, arrays in good:
        if problem := _other_shape(arrays, good[0][1]):
            failed.update({index: f"{ROW}[{index}]{problem}" for index in indexes})
        else:
            alike.append(arrays)
    return {name: np.concatenate([arrays[name] for arrays in alike]) for name in good[0][1]} if good else {}, failed


def _other_shape(arrays: Arrays, first: Arrays) -> str | None:
    for name, array in arrays.items():
        if array.shape[1:] != first[name].shape[1:]:
            first_shape, shape = shape_text(first[name].shape[1:]), shape_text(array.shape[1:])
            return f".{name}: expected shape {first_shape} as in the rows before, got {shape}"
    return None


def decode_columns(document: Document, columns: Any, signature: Signature, context: Context) -> Call:
    """Return the call of an object with an array for each input, or of the one input's array alone."""
    if not isinstance(columns, OBJECTS) or b64(columns) is not None:
        spec = _only_input(signature, COLUMN)
        return Call(signature, {spec.name: to_array(document, columns, spec, COLUMN)}, COLUMN, context)
    named = members(columns, COLUMN)
    keys = None if context.key in signature.inputs else named.pop(context.key, None)
    if not _complete(named, signature):
        raise BadRequest(_name_problem(COLUMN, named, signature))
    inputs = {
        name: to_array(document, named[name], spec, f"{COLUMN}.{name}")
        for name, spec in signature.inputs.items()
        if name in named
    }
    if keys is not None:
        sizes = {len(array) if array.ndim else None for array in inputs.values()}
        if not isinstance(keys, LISTS) or sizes != {len(keys)}:
            raise BadRequest(f"{COLUMN}.{context.key}: expected a list of one key for each row, got {kind(keys)}")
        keys = native(keys)
    return Call(signature, inputs, COLUMN, context, keys)


def _only_input(signature: Signature, place: str) -> TensorSpec:
    if signature.only is None:
        wanted = ", ".join(map(repr, signature.inputs)) or "none"
        raise BadRequest(f"{place}: expected objects with the inputs {wanted}, got values without names")
    return signature.only


def _name_problem(place: str, given: Mapping[str, Any], signature: Signature, *, brief: bool = False) -> str:
    """Return how the names that are given differ from the signature's; `brief`: without a hint."""
    wanted = signature.inputs
    missing = [name for name in signature.required if name not in given]
    surplus = next((name for name in given if name not in wanted), None)
    if surplus is not None:
        hint = "" if brief else did_you_mean(surplus, missing or wanted)
        return f"{place}: the signature has no input {surplus[:200]!r}{hint}"
    hint = "" if brief else f"; expected {', '.join(map(repr, wanted))}"
    return f"{place}: the input {missing[0]!r} is missing{hint}"
