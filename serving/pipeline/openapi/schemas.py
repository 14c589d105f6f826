"""Parts of the schemas of every protocol: objects, arrays and the elements of tensors."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from serving.core.dtypes import EXTENDED, DType
from serving.core.settings import Settings
from serving.savedmodel.signature import Shape, Signature, TensorSpec, shape_text
from serving.savedmodel.source import Source

Schema = dict[str, Any]
# fmt: on


class Subject(NamedTuple):
    """What is described."""

    source: Source
    options: Settings
    signatures: tuple[Signature, ...]  # those that a request can name
    ids: Mapping[str, str]  # of the signatures, in names of components


def type_text(spec: TensorSpec, shape: Shape | None = None) -> str:
    """Return dtype and shape as text: `float32 [?, 28, 28]`."""
    return f"{spec.dtype.label} {shape_text(spec.shape if shape is None else shape)}"


def component_ref(kind: str, name: str) -> Schema:
    """Return a reference to a component of the document."""
    return {"$ref": f"#/components/{kind}/{name}"}


def schema_ref(name: str) -> Schema:
    """Return a reference to a schema of the document."""
    return component_ref("schemas", name)


# Schemas


def object_with(properties: Schema, required: Iterable[str] | None = None, *, closed: bool = False) -> Schema:
    """Return the schema of an object; all of its properties are required unless `required` says which."""
    names = list(properties if required is None else required)
    schema: Schema = {"type": "object", "properties": properties, **({"required": names} if names else {})}
    return {**schema, "additionalProperties": False} if closed else schema


def any_of(schemas: Sequence[Schema]) -> Schema:
    """Return the schema of a value that fits at least one of the schemas."""
    if not schemas:
        return {"not": {}}
    return schemas[0] if len(schemas) == 1 else {"anyOf": list(schemas)}


# White space may stand anywhere, and the padding may be missing, as TensorFlow Serving lets it.
_C = r"(?:[A-Za-z0-9+/][ \t\r\n]*)"
BASE64: Schema = {
    "type": "string",
    "contentEncoding": "base64",
    "pattern": rf"^[ \t\r\n]*(?:{_C}{{4}})*(?:{_C}{{2,3}})?(?:=[ \t\r\n]*)*$",
}


def element_schemas(subject: Subject) -> dict[str, Schema]:
    """Return one element of each dtype that the inputs have, and what strings and arrays are in answers."""
    ranked = object_with(
        {"name": {"type": "string"}, "index": {"type": "integer"}, "score": output_number(subject)}, ("index", "score")
    )
    schemas: dict[str, Schema] = {
        "Bytes": object_with({"b64": BASE64}, closed=True),
        "Text": {"description": "Text, or any bytes as base64.", "anyOf": [{"type": "string"}, schema_ref("Bytes")]},
        "Classes": {"description": "Of top_k: best first.", "type": "array", "items": ranked},
        "Packed": {
            "description": "With arrays=base64: the bytes of the array, little-endian, row by row.",
            **object_with({
                "dtype": {"type": "string"},
                "shape": {"type": "array", "items": {"type": "integer"}},
                "b64": BASE64,
            }),
        },
    }  # fmt: skip
    for spec in (spec for signature in subject.signatures for spec in signature.inputs.values()):
        label = spec.dtype.label
        schemas.setdefault(label, _element(spec.dtype))
        if spec.shape is None:
            nest = schema_ref(f"{label}.nest")
            schemas[f"{label}.nest"] = {"anyOf": [schema_ref(label), {"type": "array", "items": nest}]}
    return schemas


def _element(dtype: DType) -> Schema:
    if dtype.kind == "b":
        return {"type": "boolean"}
    if dtype.kind == "S":
        return schema_ref("Text")
    if dtype.kind in "iu":
        limits = np.iinfo(dtype.numpy)  # type: ignore[type-var]
        return {"type": "integer", "minimum": limits.min, "maximum": limits.max}
    if dtype.kind == "f":
        if dtype.numpy == np.float64:  # JSON has no numbers beyond
            largest = float(np.finfo(np.float64).max)
            return {"type": "number", "minimum": -largest, "maximum": largest}
        beyond = _beyond(dtype)
        return {"type": "number", "exclusiveMinimum": -beyond, "exclusiveMaximum": beyond}
    return {"not": {}}


def _beyond(dtype: DType) -> float:
    """Return the least number that rounds to infinity."""
    if dtype.name in EXTENDED:
        import ml_dtypes

        limits: Any = ml_dtypes.finfo(dtype.numpy)
    else:
        limits = np.finfo(dtype.numpy)  # type: ignore[arg-type]
    largest = float(limits.max)
    return largest + math.ldexp(0.5, math.frexp(largest)[1] - 1 - limits.nmant)


def input_schema(spec: TensorSpec, *, row: bool = False, empty: bool = False) -> Schema:
    """Return what a tensor is in a request: nested lists; `row` is one index of the first dimension of it.

    Only the innermost list may be empty unless `empty` says that the shape is given elsewhere: [] alone has one
    dimension.
    """
    if spec.shape is None:
        return schema_ref(f"{spec.dtype.label}.nest")
    shape = spec.shape[1:] if row else spec.shape
    return {"description": type_text(spec, shape), **_nested(schema_ref(spec.dtype.label), shape, 0 if empty else 1)}


def _nested(item: Schema, shape: Sequence[int | None], fewest: int) -> Schema:
    for axis in range(len(shape) - 1, -1, -1):
        size = shape[axis]
        item = {"type": "array", "items": item}
        if size is not None:
            item.update(minItems=size, maxItems=size)
        elif fewest and axis < len(shape) - 1:
            item["minItems"] = fewest
    return item


def output_schema(spec: TensorSpec, shape: Shape | None, subject: Subject) -> Schema:
    """Return what a tensor is in an answer, `shape` of it; None: of any."""
    kinds = {"f": output_number(subject), "b": {"type": "boolean"}, "S": schema_ref("Text")}
    item: Schema = kinds.get(spec.dtype.kind, {"type": "integer"})
    if spec.dtype.kind == "S" and spec.name.endswith("_bytes"):
        item = schema_ref("Bytes")
    return {} if shape is None else _nested(item, shape, 0)


def output_number(subject: Subject) -> Schema:
    """Return the schema of a float in an answer. It may also be a bare NaN, which JSON Schema cannot say."""
    return {"type": ["number", "null"] if subject.options.non_finite == "null" else "number"}
