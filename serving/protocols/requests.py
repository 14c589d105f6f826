"""Arrays → requests in TensorFlow Serving's JSON and the Open Inference Protocol's: the reverse of `decode`."""

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson

from serving.protocols.answers import has_rows
from serving.protocols.tensorflow_serving.inputs import COLUMN, ROW
from serving.savedmodel.signature import DEFAULT, Signature

Array = np.ndarray[Any, Any]


def named(signature: Signature) -> dict[str, Any]:
    """Return the member by which a body names its signature; none for the default one."""
    return {} if signature.name == DEFAULT else {"signature_name": signature.name}


def in_rows(signature: Signature, rows: list[Any]) -> bytes:
    """Return the predict request for some instances."""
    return orjson.dumps({**named(signature), ROW: rows})


def rows_of(signature: Signature, inputs: Mapping[str, Array]) -> list[Any] | None:
    """Return inputs as a list of instances, None where their first dimensions are not one batch."""
    sizes = {array.shape[:1] for array in inputs.values()}
    if not inputs or not has_rows(signature) or len(sizes) != 1 or sizes & {(), (0,)}:
        return None
    rows = [{name: as_json(values[row]) for name, values in inputs.items()} for row in range(sizes.pop()[0])]
    return [next(iter(row.values())) for row in rows] if len(inputs) == 1 else rows


def predict(signature: Signature, inputs: Mapping[str, Array]) -> bytes:
    """Return the predict request for inputs: in rows where they have them, else in columns."""
    rows = rows_of(signature, inputs)
    if rows is not None:
        return in_rows(signature, rows)
    return in_columns(signature, inputs)


def in_columns(signature: Signature, inputs: Mapping[str, Array]) -> bytes:
    """Return the predict request for inputs, each whole."""
    return orjson.dumps({**named(signature), COLUMN: {name: as_json(array) for name, array in inputs.items()}})


def infer(signature: Signature, inputs: Mapping[str, Array]) -> bytes:
    """Return the infer request for inputs, to be answered in binary."""
    tensors = [
        {"name": name, "shape": list(array.shape), "datatype": signature.inputs[name].dtype.v2_name,
         "data": as_json(array.reshape(-1))}
        for name, array in inputs.items()
    ]  # fmt: skip
    return orjson.dumps({"inputs": tensors, "parameters": {**named(signature), "binary_data_output": True}})


def as_json(values: Any) -> Any:
    """Return an array or an element as a JSON value: nested lists; strings that are not UTF-8 in base64."""
    if isinstance(values, bytes):
        try:
            return values.decode()
        except UnicodeDecodeError:
            return {"b64": base64.b64encode(values).decode()}
    array = np.asarray(values)
    if array.dtype == object:
        return [as_json(element) for element in array] if array.ndim else as_json(array.item())
    return array.tolist() if array.dtype.kind in "biu" else array.astype(np.float64).tolist()
