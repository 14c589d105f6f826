"""The schemas of the Open Inference Protocol."""

import math
from collections.abc import Collection, Sequence

from serving.pipeline.openapi.schemas import (
    Schema,
    Subject,
    any_of,
    input_schema,
    object_with,
    output_schema,
    schema_ref,
)
from serving.protocols import open_inference
from serving.savedmodel.signature import DEFAULT, Shape, Signature, TensorSpec

# Open Inference Protocol


def infer_schemas(subject: Subject) -> dict[str, Schema]:
    """Return what is sent and answered, by signature."""
    schemas: dict[str, Schema] = {}
    bodies, answers = [], []
    for signature in subject.signatures:
        identity = subject.ids[signature.name]
        if all(spec.dtype.v2_name is None for spec in signature.outputs.values()):
            continue
        answers.append(schema_ref(f"{identity}.inferred"))
        schemas[f"{identity}.inferred"] = _inferred(signature, subject)
        if not has_json(signature):
            continue
        bodies.append(schema_ref(f"{identity}.infer"))
        schemas[f"{identity}.infer"] = _asked(signature)
    return {"Infer": any_of(bodies), "Inferred": any_of(answers), **schemas} if answers else {}


def has_json(signature: Signature) -> bool:
    """Return whether the inputs can be sent in JSON, not in binary alone."""
    return all(spec.dtype.v2_name not in (None, *open_inference.BINARY_ONLY) for spec in signature.inputs.values())


def _asked(signature: Signature) -> Schema:
    default = signature.name == DEFAULT
    parameters: Schema = {
        "type": "object",
        "properties": {
            "signature_name": {"enum": [DEFAULT, ""]} if default else {"const": signature.name},
            "binary_data_output": MAYBE,
        },
    }
    outputs = {"type": ["array", "null"], **_each([_wanted(spec) for spec in signature.outputs.values()], ())}
    whole = all(spec.dtype.v2_name for spec in signature.outputs.values())
    binary = any(spec.dtype.v2_name in open_inference.BINARY_ONLY for spec in signature.outputs.values())
    if binary:
        parameters["properties"]["binary_data_output"] = {"const": True}
    if binary or not default:
        parameters["required"] = [*([] if default else ["signature_name"]), *(["binary_data_output"] if binary else [])]
    else:
        parameters["type"] = ["object", "null"]
    properties = {
        "id": {"type": ["string", "null"]},
        "parameters": parameters,
        "inputs": {"type": "array", **_each([_tensor(spec) for spec in signature.inputs.values()], signature.required)},
        "outputs": outputs if whole else {**outputs, "type": "array", "minItems": 1},
    }
    return object_with(
        properties, ["inputs", *(["parameters"] if "required" in parameters else []), *([] if whole else ["outputs"])]
    )


MAYBE: Schema = {"type": ["boolean", "null"]}
ALWAYS: Schema = {"type": "boolean", "not": {"const": False}}  # of an optional property, some generators read no const


def _each(schemas: Sequence[Schema], required: Collection[str]) -> Schema:
    """Return what a list says of its tensors: those required once, in any order, and the others at most once."""
    least = {"minItems": len(required)} if required else {}
    listed: Schema = {"items": any_of(schemas), "maxItems": len(schemas), **least}
    if len(schemas) > 1:
        names = [schema["properties"]["name"] for schema in schemas]
        listed["allOf"] = [
            {
                "contains": {"type": "object", "properties": {"name": name}},
                **({} if name["const"] in required else {"minContains": 0, "maxContains": 1}),
            }
            for name in names
        ]
    return listed


def _tensor(spec: TensorSpec) -> Schema:
    """Return an input: its data flat, or nested as its shape."""
    element = schema_ref(spec.dtype.label)
    flat: Schema = {"type": "array", "items": element}
    if spec.shape is None:
        data = schema_ref(f"{spec.dtype.label}.nest")
    else:
        if None not in spec.shape:
            count = math.prod(size or 0 for size in spec.shape)
            flat.update(minItems=count, maxItems=count)
        data = flat if len(spec.shape) == 1 else any_of([flat, input_schema(spec, empty=True)])
    size = {"binary_data_size": {"not": {"type": "null"}}}  # a property of the type null, some generators cannot read
    sized = {"type": "object", "properties": size, "required": [*size]}
    return object_with({
        "name": {"const": spec.name},
        "datatype": {"const": spec.dtype.v2_name},
        "shape": _sizes(spec.shape),
        "data": data,
        "parameters": {"type": ["object", "null"], "not": sized},
    }, ("name", "datatype", "shape", "data"))  # fmt: skip


def _sizes(shape: Shape | None) -> Schema:
    free = {"type": "integer", "minimum": 0}
    if shape is None:
        return {"type": "array", "items": free}
    listed: Schema = {"type": "array", "minItems": len(shape), "maxItems": len(shape)}
    if shape:
        # Not a const, which generated clients take for a type of its own.
        fixed = [free if size is None else {**free, "minimum": size, "maximum": size} for size in shape]
        listed["prefixItems"] = fixed
    return listed


def _wanted(spec: TensorSpec) -> Schema:
    ranked = spec.dtype.kind in "iuf" and spec.shape != ()
    parameters: Schema = {
        "binary_data": ALWAYS if spec.dtype.v2_name in open_inference.BINARY_ONLY else MAYBE,
        "classification": {
            "description": "How many of the highest values to return, as text: value:index:name.",
            "type": "integer", "minimum": 0, **({} if ranked else {"maximum": 0}),
        },
    }  # fmt: skip
    return object_with(
        {"name": {"const": spec.name}, "parameters": {"type": ["object", "null"], "properties": parameters}}, ("name",)
    )


def _inferred(signature: Signature, subject: Subject) -> Schema:
    sizes = {"type": "array", "items": {"type": "integer", "minimum": 0}}
    tensors = []
    for spec in signature.outputs.values():
        name: Schema = {"const": spec.name}
        flat = output_schema(spec, (None,), subject)
        if spec.dtype.kind == "S":
            flat = {"type": "array", "items": {"type": "string"}}
        if spec.dtype.v2_name:
            properties = {"name": name, "datatype": {"const": spec.dtype.v2_name}, "shape": sizes, "data": flat}
            tensors.append(object_with(properties))
        if spec.dtype.kind in "iuf" and spec.shape != ():
            texts = {"type": "array", "items": {"type": "string"}}
            tensors.append(object_with({"name": name, "datatype": {"const": "BYTES"}, "shape": sizes, "data": texts}))
    properties = {
        "model_name": {"const": subject.source.name},
        "model_version": {"const": subject.source.version},
        "id": {"type": "string"},
        "outputs": {"type": "array", "items": any_of(tensors)},
    }
    return object_with(properties, ("model_name", "model_version", "outputs"))
