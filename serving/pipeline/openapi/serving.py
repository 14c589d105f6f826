"""The schemas of TensorFlow Serving's REST bodies."""

from collections.abc import Iterable

from serving.core.http import BadRequest, to_json
from serving.pipeline import shown
from serving.pipeline.openapi.options import query_options, score_outputs
from serving.pipeline.openapi.schemas import (
    BASE64,
    Schema,
    Subject,
    any_of,
    input_schema,
    object_with,
    output_number,
    output_schema,
    schema_ref,
)
from serving.protocols import classify, regress
from serving.protocols.answers import has_rows
from serving.protocols.call import Context
from serving.protocols.codec import Codec
from serving.savedmodel.signature import DEFAULT, Signature, TensorSpec

# TensorFlow Serving


def predict_schemas(subject: Subject) -> dict[str, Schema]:
    """Return what is sent and answered, by signature, in rows and in columns."""
    schemas: dict[str, Schema] = {}
    bodies, answers = [], []
    for signature in subject.signatures:
        identity, specs = subject.ids[signature.name], [*signature.inputs.values(), *signature.outputs.values()]
        if any(spec.dtype.kind == "c" for spec in specs):
            continue  # JSON has no complex numbers
        if has_rows(signature):
            schemas[f"{identity}.instances"] = _chosen(signature, subject, "instances", _instances(signature, subject))
            schemas[f"{identity}.predictions"] = _predictions(signature, subject)
            bodies.append(schema_ref(f"{identity}.instances"))
            answers.append(schema_ref(f"{identity}.predictions"))
        schemas[f"{identity}.inputs"] = _chosen(signature, subject, "inputs", _columns(signature, subject))
        schemas[f"{identity}.outputs"] = _answer("inputs", "outputs", _outputs(signature, subject))
        bodies.append(schema_ref(f"{identity}.inputs"))
        answers.append(schema_ref(f"{identity}.outputs"))
    return {"Predict": any_of(bodies), "Predicted": any_of(answers), **schemas} if bodies else {}


def _batch(specs: Iterable[TensorSpec]) -> set[int]:
    return {spec.shape[0] for spec in specs if spec.shape and spec.shape[0] is not None}


def _chosen(signature: Signature, subject: Subject, form: str, value: Schema) -> Schema:
    """Return a body that chooses the signature."""
    default = signature.name == DEFAULT
    name: Schema = {"enum": [DEFAULT, ""]} if default else {"const": signature.name}
    other = "inputs" if form == "instances" else "instances"
    options = {option: parameter["schema"] for option, parameter in query_options(subject).items()}
    # A number too, which an address has none of. Not an enum of both, which generators of clients cannot read.
    options["instances"] = {"type": ["string", "integer"], "pattern": "^[01]$", "minimum": 0, "maximum": 1}
    parameters = {"description": "As in the address. A value that is not an object is ignored.", "properties": options}
    properties = {"signature_name": name, form: value, "parameters": parameters}
    # Not {other: False}, which says the same: generators of clients cannot read a schema that is no object.
    return {**object_with(properties, (form,) if default else ("signature_name", form)), "not": {"required": [other]}}


def _instances(signature: Signature, subject: Subject) -> Schema:
    key = subject.options.key_field
    inputs = {name: spec for name, spec in signature.inputs.items() if spec.shape != ()}  # the others have defaults
    media = shown.media_type(subject.source, signature)
    rows = {name: _of_media(input_schema(spec, row=True), spec, media) for name, spec in inputs.items()}
    keys = {key: {"description": KEY}} if key not in (*rows, *signature.outputs) and _keeps_rows(signature) else {}
    named = object_with({**rows, **keys}, signature.required, closed=True)
    sizes = _sized(inputs.values())
    spec = signature.only
    if spec is None or spec.name not in rows:
        return {"type": "array", "items": named, **sizes}
    row = rows[spec.name]
    if keys and spec.dtype.kind == "S" and spec.shape is not None and len(spec.shape) == 1:
        named = any_of([named, object_with({"b64": BASE64, **keys}, closed=True)])
    # One list of either, and not two kinds of lists, which generated clients cannot tell apart.
    objects = {"contains": {"type": "object", "anyOf": [{"required": [name]} for name in (*inputs, *keys)]}}
    mixed = {"allOf": [objects, {"contains": {"not": {"type": "object"}}}]}
    return {"type": "array", "items": any_of([named, row]), **sizes, "not": mixed}


def _sized(specs: Iterable[TensorSpec]) -> Schema:
    """Return how many rows there may be."""
    for size in _batch(specs):
        return {"minItems": size, "maxItems": size}
    return {"minItems": 1}


def _keeps_rows(signature: Signature) -> bool:
    """Return whether there may be as many rows in the answer as in the request."""
    return len(_batch([*signature.inputs.values(), *signature.outputs.values()])) <= 1


KEY = "Comes back with the answer; the model does not see it."


def _of_media(schema: Schema, spec: TensorSpec, media: str | None) -> Schema:
    """Return the schema of one string with its media type, if it has one; other schemas as they are."""
    is_one = spec.dtype.kind == "S" and schema.get("type") != "array"
    return {**schema, "contentMediaType": media} if media and is_one else schema


def _columns(signature: Signature, subject: Subject) -> Schema:
    media = shown.media_type(subject.source, signature)
    columns = {name: _of_media(input_schema(spec), spec, media) for name, spec in signature.inputs.items()}
    form = object_with(columns, signature.required, closed=True)
    return any_of([form, columns[signature.only.name]]) if signature.only else form


def _predictions(signature: Signature, subject: Subject) -> Schema:
    key: Schema = {subject.options.key_field: {}}
    rows = {
        name: _packable(spec, output_schema(spec, None if spec.shape is None else spec.shape[1:], subject))
        for name, spec in signature.outputs.items()
    }
    forms = [object_with({**key, **rows}, rows, closed=True)]
    if len(rows) == 1:
        forms += rows.values()
    forms.append(object_with({**key, "error": {"type": "string"}}, ("error",), closed=True))
    if score_outputs(signature):
        forms.append(object_with({**key, "classes": schema_ref("Classes")}, ("classes",), closed=True))
    return _answer("instances", "predictions", {"type": "array", "items": any_of(forms)})


def _answer(sent: str, member: str, value: Schema) -> Schema:
    """Return an answer whose one member may have what was sent beside it."""
    repeated: Schema = {"description": "Of instances=1: as it was sent."}
    return object_with({sent: repeated, member: value}, (member,), closed=True)


def _outputs(signature: Signature, subject: Subject) -> Schema:
    key: Schema = {subject.options.key_field: {}}
    specs = signature.outputs
    outputs = {name: _packable(spec, output_schema(spec, spec.shape, subject)) for name, spec in specs.items()}
    forms = [object_with({**key, **outputs}, outputs, closed=True)]
    if len(outputs) == 1:
        forms += outputs.values()
    if score_outputs(signature):
        ranked = {"type": "array", "items": schema_ref("Classes")}
        forms += [object_with({**key, "classes": ranked}, ("classes",), closed=True), ranked]
    return any_of(forms)


def _packable(spec: TensorSpec, plain: Schema) -> Schema:
    return plain if spec.dtype.kind == "S" else {"anyOf": [plain, schema_ref("Packed")]}


def example_schemas(subject: Subject) -> dict[str, Schema]:
    """Return what classify and regress take and give, where a signature is of the kind."""
    number = output_number(subject)
    result = {"type": "array", "prefixItems": [schema_ref("Text"), number], "minItems": 2, "maxItems": 2}
    results = {"Classify": {"type": "array", "items": result}, "Regress": number}
    schemas: dict[str, Schema] = {}
    for name, answer, protocol in (("Classify", "Classified", classify), ("Regress", "Regressed", regress)):
        fit = [signature for signature in subject.signatures if _takes_examples(protocol, signature)]
        if not fit:
            continue
        features = schema_ref("Features")
        (size, *_) = [_sized(signature.inputs.values()) for signature in fit]
        names = {"enum": [signature.name for signature in fit]}
        required = [*([] if DEFAULT in names["enum"] else ["signature_name"]), "examples"]
        examples = {"type": "array", "items": features, **size}
        schemas[name] = object_with({"signature_name": names, "context": features, "examples": examples}, required)
        schemas[answer] = object_with({"results": {"type": "array", "items": results[name]}}, closed=True)
    if schemas:
        number = {"type": "number", "minimum": -(1 << 63), "maximum": (1 << 63) - 1}
        kinds = [{"anyOf": [{"type": "boolean"}, number]}, schema_ref("Text")]
        schemas["Features"] = {
            "description": "A value or a flat list for each. The first value decides the type of "
            "all: a decimal number means floats, an integer or a boolean int64s, text or base64 bytes. The model "
            "decides which features it needs.",
            "type": "object",
            "additionalProperties": any_of([*kinds, *({"type": "array", "items": kind} for kind in kinds)]),
        }
    return schemas


def _takes_examples(protocol: Codec, signature: Signature) -> bool:
    body = {"signature_name": signature.name, "examples": [{}] * min(_batch(signature.inputs.values()), default=1)}
    try:
        protocol.decode(to_json(body), {signature.name: signature}, Context())
    except BadRequest:
        return False
    return True
