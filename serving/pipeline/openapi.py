"""What this server takes and gives, as an OpenAPI 3.1 document <https://spec.openapis.org/oas/v3.1.1>.

    paths                  the handler's routes, with this model's name in them
    components/schemas     the inputs and outputs of each signature, as each protocol writes them
    examples               the exporter's, as each protocol writes them

It follows from saved_model.pb alone; the model need not be loaded. A body that fits its schema is answered 200, but
for what JSON Schema cannot say: that lists which belong to one array are of one length, that a tensor of the Open
Inference Protocol has as many elements as its shape says, and what the model itself refuses.
"""

import itertools
import json
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np

from serving.core.dtypes import EXTENDED, DType
from serving.core.http import JSON, BadRequest, to_json
from serving.core.settings import Settings
from serving.pipeline import shown
from serving.pipeline.routes import TAGS, Operation, Route
from serving.protocols import classify, open_inference, raw, regress, tensorflow_serving
from serving.protocols.answers import has_rows
from serving.protocols.call import Context
from serving.protocols.codec import Codec
from serving.runtime.model import Source
from serving.savedmodel.folder import card
from serving.savedmodel.signature import DEFAULT, Shape, Signature, TensorSpec, shape_text

Schema = dict[str, Any]

LONGEST_EXAMPLE = 8000  # bytes; of larger inputs the schema alone tells the form


OPTIONS = ("on_error", "arrays", "top_k", "scores")

# fmt: off
REFUSALS = {
    400: ("BadRequest",          "The body is not what the signature takes, or the model itself refuses what it says, "
                                 "as it does bytes that are no picture. The text names the place."),
    404: ("NotFound",            "There is no such path, model or version. The text lists what there is."),
    405: ("MethodNotAllowed",    "Another method is meant."),
    413: ("TooLarge",            "The body is too large, packed or unpacked."),
    415: ("UnsupportedEncoding", "The body's Content-Encoding is neither gzip nor deflate."),
    500: ("Failed",              "The model failed. The log has the reason."),
    501: ("NotImplemented",      "The model uses an operation that TensorFlow's C library lacks."),
    503: ("Unavailable",         "The model cannot be loaded, or memory ran out. The next request tries again."),
}
HEADERS = {405: ("Allow", "string"), 415: ("Accept-Encoding", "string"), 503: ("Retry-After", "integer")}
# fmt: on


class Subject(NamedTuple):
    """What is described."""

    source: Source
    options: Settings
    signatures: tuple[Signature, ...]  # those that a request can name
    ids: Mapping[str, str]  # of the signatures, in names of components


@lru_cache(maxsize=1)
def document(source: Source, options: Settings, routes: tuple[Route, ...]) -> bytes:
    """Return the document as JSON."""
    signatures = tuple(one for one in source.signatures.values() if one.refusal is None and one.name)
    subject = Subject(source, options, signatures, _ids([one.name for one in signatures]))
    schemas = {**_predict(subject), **_examples(subject), **_infer(subject)}
    routes = tuple(route for route in routes if route.operation.body in (None, "Event", *schemas))
    bodies = {body: route.codec or tensorflow_serving for route in routes if (body := route.operation.body)}
    told = "".join(f"\n- `{one.name}`: {_told(one.inputs, one.defaults)} → {_told(one.outputs)}" for one in signatures)
    return to_json({
        "openapi": "3.1.0",
        "info": {
            "title": source.name,
            "version": source.version,
            "description": f"A TensorFlow SavedModel, with the signatures\n{told}",
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": tag} for tag in TAGS],
        "paths": _paths(subject, routes),
        "components": {
            "schemas": {**_fixed(source), **_elements(subject), **schemas},
            "parameters": _parameters(subject),
            "requestBodies": {name: _body(name, protocol, subject) for name, protocol in bodies.items()},
            "responses": {name: _refusal(status) for status, (name, _) in REFUSALS.items()},
        },
    })  # fmt: skip


def _told(specs: Mapping[str, TensorSpec], defaults: Collection[str] = ()) -> str:
    optional = dict.fromkeys(defaults, "; may be left out")
    return ", ".join(f"{name} ({_type(spec)}{optional.get(name, '')})" for name, spec in specs.items()) or "nothing"


def _type(spec: TensorSpec, shape: Shape | None = None) -> str:
    return f"{spec.dtype.label} {shape_text(spec.shape if shape is None else shape)}"


# Paths


def _paths(subject: Subject, routes: Iterable[Route]) -> Schema:
    paths: Schema = {}
    names: set[str] = set()
    for route in routes:
        for template in templates(route.path):
            path = quote(template, safe="/{}:").replace("{name}", quote(subject.source.name, safe=""))
            methods = paths.setdefault(path, {})
            if route.method.lower() not in methods:  # an address that the settings add may be there already
                described = methods[route.method.lower()] = _operation(route, template, subject)
                described["operationId"] = _other(described["operationId"], names)
                names.add(described["operationId"])
    return paths


def templates(pattern: str) -> list[str]:
    """Return the paths that a route's pattern stands for: /v1/models/{name}, /v1/models/{name}/versions/{version}.

    Labels of versions are left out, for none is in use.
    """
    path = re.sub(r"\(\?P<(\w+)>[^()]*\)", r"{\1}", pattern.replace("/?", "").replace("\\", ""))
    optional = re.search(r"\(\?:([^()]*)\)\?", path)
    if not optional:
        return [path or "/"]
    choices = ["", *(choice for choice in optional[1].split("|") if "{label}" not in choice)]
    return [path.replace(optional[0], choice) for choice in choices]


def _operation(route: Route, template: str, subject: Subject) -> Schema:
    told = route.operation
    name = "infer" if told.body and told.body != "Event" else route.name
    described: Schema = {
        "operationId": re.sub(r"\W+", "_", f"{name}{template.replace('/{name}', '')}").strip("_"),
        "tags": [told.tag],
        "summary": told.summary,
        "responses": {
            "200": _answer(told),
            **({"204": {"description": "Done, and nothing to say."}} if told.answer == "Replied" else {}),
            **{str(status): _ref("responses", REFUSALS[status][0]) for status in sorted({*told.refusals, 405})},
        },
    }
    names = [*(["version"] if "{version}" in template else []), *(OPTIONS if told.body == "Predict" else [])]
    parameters = [_ref("parameters", name) for name in names if name in _parameters(subject)]
    if parameters:
        described["parameters"] = parameters
    if told.body:
        described["requestBody"] = _ref("requestBodies", told.body)
    return described


def _answer(told: Operation) -> Schema:
    content: Schema = {JSON: {"schema": _schema(told.answer)}}
    if told.answer == "Predicted":
        content[raw.NDJSON] = {"schema": {"description": "A prediction a line, for a body of lines."}}
    if told.answer != "Inferred":
        return {"description": "The answer", "content": content}
    size = {"description": "In binary: the length of the JSON before the tensors.", "schema": {"type": "integer"}}
    content[open_inference.BINARY] = {"schema": {"description": "As JSON, then the tensors' bytes."}}
    return {"description": "The answer", "headers": {open_inference.HEADER: size}, "content": content}


def _refusal(status: int) -> Schema:
    refusal: Schema = {"description": REFUSALS[status][1], "content": {JSON: {"schema": _schema("Error")}}}
    if status in HEADERS:
        header, kind = HEADERS[status]
        refusal["headers"] = {header: {"required": True, "schema": {"type": kind}}}
    return refusal


def _ref(kind: str, name: str) -> Schema:
    return {"$ref": f"#/components/{kind}/{name}"}


def _schema(name: str) -> Schema:
    return _ref("schemas", name)


def _ids(names: Iterable[str]) -> dict[str, str]:
    """Return a name of a component for each signature: they may hold letters, digits, '.', '-' and '_' alone."""
    ids: dict[str, str] = {}
    for name in names:
        ids[name] = _other(re.sub(r"[^A-Za-z0-9.-]", "_", name), ids.values())
    return ids


def _other(name: str, taken: Collection[str]) -> str:
    """Return the name, or the first of name_2, name_3, ... that is free."""
    free = (name if number == 1 else f"{name}_{number}" for number in itertools.count(1))
    return next(one for one in free if one not in taken)


# Schemas


def _object(properties: Schema, required: Iterable[str] | None = None, *, closed: bool = False) -> Schema:
    """Return the schema of an object; all of its properties are required unless `required` says which."""
    names = list(properties if required is None else required)
    schema: Schema = {"type": "object", "properties": properties, **({"required": names} if names else {})}
    return {**schema, "additionalProperties": False} if closed else schema


def _any(schemas: Sequence[Schema]) -> Schema:
    if not schemas:
        return {"not": {}}
    return schemas[0] if len(schemas) == 1 else {"anyOf": list(schemas)}


def _fixed(source: Source) -> dict[str, Schema]:
    """Return what does not depend on the signatures."""
    text: Schema = {"type": "string"}
    name, version = {"const": source.name}, {"const": source.version}
    tensors = {"type": "array", "items": _schema("TensorMetadata")}
    side = {"type": "object", "additionalProperties": _schema("TensorInfo")}
    signature = _object({"inputs": side, "outputs": side, "method_name": text, "defaults": {"type": "object"}})
    signatures = {"type": "object", "additionalProperties": signature}
    state = _object({
        "version": version,
        "state": {"const": "AVAILABLE"},
        "status": _object({"error_code": {"const": "OK"}, "error_message": text}),
    })  # fmt: skip
    return {
        "Any": {},
        "Event": {"description": "A CloudEvent, a push of Pub/Sub or a legacy event; what is none is told so."},
        "Replied": {"description": "The data of the CloudEvent that answers; its attributes are ce- header fields."},
        "OpenAPI": _object({"openapi": text, "info": {"type": "object"}, "paths": {"type": "object"}}),
        "Error": _object({"error": text}, closed=True),
        "Live": _object({"live": {"const": True}}),
        "Ready": _object({"ready": {"const": True}}),
        "Models": _object({"models": {"type": "array", "items": name}}),
        "Index": _object({"status": text, "model": name, "addresses": {"type": "array", "items": text}}),
        "Status": _object({
            "model_version_status": {"type": "array", "items": state}, "name": name, "ready": {"const": True},
        }),
        "Metadata": _object({
            "model_spec": _object({"name": name, "signature_name": text, "version": version}),
            "metadata": _object({
                "signature_def": _object({"signature_def": signatures}),
                "card": _object(dict.fromkeys(card.FIELDS, text), card.REQUIRED),
            }, ("signature_def",)),
        }),
        "TensorInfo": _object({
            "dtype": text,
            "tensor_shape": _object({
                "dim": {"type": "array", "items": _object({"size": text, "name": text})},
                "unknown_rank": {"type": "boolean"},
            }),
            "name": text,
        }),
        "ServerMetadata": _object({
            "name": text, "version": text, "extensions": {"type": "array", "items": text},
        }),
        "ModelReady": _object({"name": text, "live": {"type": "boolean"}, "ready": {"const": True}}, ("ready",)),
        "ModelMetadata": _object({
            "name": name,
            "versions": {"type": "array", "items": text},
            "platform": text,
            "inputs": tensors,
            "outputs": tensors,
            "signatures": {
                "type": "object", "additionalProperties": _object({"inputs": tensors, "outputs": tensors}),
            },
        }, ("name", "versions", "platform", "inputs", "outputs")),
        "TensorMetadata": _object({
            "name": text, "datatype": text, "shape": {"type": "array", "items": {"type": "integer"}},
            "optional": {"type": "boolean"},
        }, ("name", "datatype", "shape")),
    }  # fmt: skip


# White space may stand anywhere, and the padding may be missing, as TensorFlow Serving lets it.
_C = r"(?:[A-Za-z0-9+/][ \t\r\n]*)"
BASE64: Schema = {
    "type": "string",
    "contentEncoding": "base64",
    "pattern": rf"^[ \t\r\n]*(?:{_C}{{4}})*(?:{_C}{{2,3}})?(?:=[ \t\r\n]*)*$",
}


def _elements(subject: Subject) -> dict[str, Schema]:
    """Return one element of each dtype that the inputs have, and what strings and arrays are in answers."""
    ranked = _object(
        {"name": {"type": "string"}, "index": {"type": "integer"}, "score": _number(subject)}, ("index", "score")
    )
    schemas: dict[str, Schema] = {
        "Bytes": _object({"b64": BASE64}, closed=True),
        "Text": {"description": "Text, or any bytes as base64.", "anyOf": [{"type": "string"}, _schema("Bytes")]},
        "Classes": {"description": "Of top_k: best first.", "type": "array", "items": ranked},
        "Packed": {
            "description": "With arrays=base64: the bytes of the array, little-endian, row by row.",
            **_object({
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
            nest = _schema(f"{label}.nest")
            schemas[f"{label}.nest"] = {"anyOf": [_schema(label), {"type": "array", "items": nest}]}
    return schemas


def _element(dtype: DType) -> Schema:
    if dtype.kind == "b":
        return {"type": "boolean"}
    if dtype.kind == "S":
        return _schema("Text")
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


def _given(spec: TensorSpec, *, row: bool = False, empty: bool = False) -> Schema:
    """Return what a tensor is in a request: nested lists; `row` is one index of the first dimension of it.

    Only the innermost list may be empty unless `empty` says that the shape is told elsewhere: [] alone has one
    dimension.
    """
    if spec.shape is None:
        return _schema(f"{spec.dtype.label}.nest")
    shape = spec.shape[1:] if row else spec.shape
    return {"description": _type(spec, shape), **_nested(_schema(spec.dtype.label), shape, 0 if empty else 1)}


def _nested(item: Schema, shape: Sequence[int | None], fewest: int) -> Schema:
    for axis in range(len(shape) - 1, -1, -1):
        size = shape[axis]
        item = {"type": "array", "items": item}
        if size is not None:
            item.update(minItems=size, maxItems=size)
        elif fewest and axis < len(shape) - 1:
            item["minItems"] = fewest
    return item


def _gives(spec: TensorSpec, shape: Shape | None, subject: Subject) -> Schema:
    """Return what a tensor is in an answer, `shape` of it; None: of any."""
    kinds = {"f": _number(subject), "b": {"type": "boolean"}, "S": _schema("Text")}
    item: Schema = kinds.get(spec.dtype.kind, {"type": "integer"})
    if spec.dtype.kind == "S" and spec.name.endswith("_bytes"):
        item = _schema("Bytes")
    return {} if shape is None else _nested(item, shape, 0)


def _number(subject: Subject) -> Schema:
    """Return what a float is in an answer; that a bare NaN may stand there too, JSON has no word for."""
    return {"type": ["number", "null"] if subject.options.non_finite == "null" else "number"}


# TensorFlow Serving


def _predict(subject: Subject) -> dict[str, Schema]:
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
            bodies.append(_schema(f"{identity}.instances"))
            answers.append(_schema(f"{identity}.predictions"))
        schemas[f"{identity}.inputs"] = _chosen(signature, subject, "inputs", _columns(signature))
        schemas[f"{identity}.outputs"] = _object({"outputs": _outputs(signature, subject)}, closed=True)
        bodies.append(_schema(f"{identity}.inputs"))
        answers.append(_schema(f"{identity}.outputs"))
    return {"Predict": _any(bodies), "Predicted": _any(answers), **schemas} if bodies else {}


def _batch(specs: Iterable[TensorSpec]) -> set[int]:
    return {spec.shape[0] for spec in specs if spec.shape and spec.shape[0] is not None}


def _chosen(signature: Signature, subject: Subject, form: str, value: Schema) -> Schema:
    """Return a body that chooses the signature."""
    default = signature.name == DEFAULT
    name: Schema = {"enum": [DEFAULT, ""]} if default else {"const": signature.name}
    other = "inputs" if form == "instances" else "instances"
    options = {option: parameter["schema"] for option, parameter in _options(subject).items()}
    parameters = {"description": "As in the address. What is no object is not looked at.", "properties": options}
    properties = {"signature_name": name, form: value, "parameters": parameters}
    # Not {other: False}, which says the same: generators of clients cannot read a schema that is no object.
    return {**_object(properties, (form,) if default else ("signature_name", form)), "not": {"required": [other]}}


def _instances(signature: Signature, subject: Subject) -> Schema:
    key = subject.options.key_field
    inputs = {name: spec for name, spec in signature.inputs.items() if spec.shape != ()}  # the others have defaults
    rows = {name: _given(spec, row=True) for name, spec in inputs.items()}
    keys = {key: {"description": KEY}} if key not in (*rows, *signature.outputs) and _keeps_rows(signature) else {}
    named = _object({**rows, **keys}, signature.required, closed=True)
    sizes = _sized(inputs.values())
    spec = signature.only
    if spec is None or spec.name not in rows:
        return {"type": "array", "items": named, **sizes}
    row = rows[spec.name]
    if keys and spec.dtype.kind == "S" and spec.shape is not None and len(spec.shape) == 1:
        named = _any([named, _object({"b64": BASE64, **keys}, closed=True)])
    # One list of either, and not two kinds of lists, which generated clients cannot tell apart.
    objects = {"contains": {"type": "object", "anyOf": [{"required": [name]} for name in (*inputs, *keys)]}}
    mixed = {"allOf": [objects, {"contains": {"not": {"type": "object"}}}]}
    return {"type": "array", "items": _any([named, row]), **sizes, "not": mixed}


def _sized(specs: Iterable[TensorSpec]) -> Schema:
    """Return how many rows there may be."""
    for size in _batch(specs):
        return {"minItems": size, "maxItems": size}
    return {"minItems": 1}


def _keeps_rows(signature: Signature) -> bool:
    """Say whether there may be as many rows in the answer as in the request."""
    return len(_batch([*signature.inputs.values(), *signature.outputs.values()])) <= 1


KEY = "Comes back with the answer; the model does not see it."


def _columns(signature: Signature) -> Schema:
    columns = {name: _given(spec) for name, spec in signature.inputs.items()}
    form = _object(columns, signature.required, closed=True)
    return _any([form, columns[signature.only.name]]) if signature.only else form


def _predictions(signature: Signature, subject: Subject) -> Schema:
    key: Schema = {subject.options.key_field: {}}
    rows = {
        name: _packable(spec, _gives(spec, None if spec.shape is None else spec.shape[1:], subject))
        for name, spec in signature.outputs.items()
    }
    forms = [_object({**key, **rows}, rows, closed=True)]
    if len(rows) == 1:
        forms += rows.values()
    forms.append(_object({**key, "error": {"type": "string"}}, ("error",), closed=True))
    if _scores(signature):
        forms.append(_object({**key, "classes": _schema("Classes")}, ("classes",), closed=True))
    return _object({"predictions": {"type": "array", "items": _any(forms)}}, closed=True)


def _outputs(signature: Signature, subject: Subject) -> Schema:
    key: Schema = {subject.options.key_field: {}}
    outputs = {name: _packable(spec, _gives(spec, spec.shape, subject)) for name, spec in signature.outputs.items()}
    forms = [_object({**key, **outputs}, outputs, closed=True)]
    if len(outputs) == 1:
        forms += outputs.values()
    if _scores(signature):
        ranked = {"type": "array", "items": _schema("Classes")}
        forms += [_object({**key, "classes": ranked}, ("classes",), closed=True), ranked]
    return _any(forms)


def _packable(spec: TensorSpec, plain: Schema) -> Schema:
    return plain if spec.dtype.kind == "S" else {"anyOf": [plain, _schema("Packed")]}


def _scores(signature: Signature) -> list[str]:
    """Return the outputs that may hold the scores of classes."""
    floats = [spec for spec in signature.outputs.values() if spec.dtype.kind == "f"]
    return [spec.name for spec in floats if spec.shape is None or len(spec.shape) == 2]


def _examples(subject: Subject) -> dict[str, Schema]:
    """Return what classify and regress take and give, where a signature is of the kind."""
    number = _number(subject)
    result = {"type": "array", "prefixItems": [_schema("Text"), number], "minItems": 2, "maxItems": 2}
    results = {"Classify": {"type": "array", "items": result}, "Regress": number}
    schemas: dict[str, Schema] = {}
    for name, answer, protocol in (("Classify", "Classified", classify), ("Regress", "Regressed", regress)):
        fit = [signature for signature in subject.signatures if _takes_examples(protocol, signature)]
        if not fit:
            continue
        features = _schema("Features")
        (size, *_) = [_sized(signature.inputs.values()) for signature in fit]
        names = {"enum": [signature.name for signature in fit]}
        required = [*([] if DEFAULT in names["enum"] else ["signature_name"]), "examples"]
        examples = {"type": "array", "items": features, **size}
        schemas[name] = _object({"signature_name": names, "context": features, "examples": examples}, required)
        schemas[answer] = _object({"results": {"type": "array", "items": results[name]}}, closed=True)
    if schemas:
        number = {"type": "number", "minimum": -(1 << 63), "maximum": (1 << 63) - 1}
        kinds = [{"anyOf": [{"type": "boolean"}, number]}, _schema("Text")]
        schemas["Features"] = {
            "description": "A value or a flat list for each. The first value tells the kind of all: a decimal makes "
            "floats, an integer or a boolean int64s, text or base64 bytes. The model tells what it wants.",
            "type": "object",
            "additionalProperties": _any([*kinds, *({"type": "array", "items": kind} for kind in kinds)]),
        }
    return schemas


def _takes_examples(protocol: Codec, signature: Signature) -> bool:
    body = {"signature_name": signature.name, "examples": [{}] * min(_batch(signature.inputs.values()), default=1)}
    try:
        protocol.decode(to_json(body), {signature.name: signature}, Context())
    except BadRequest:
        return False
    return True


# Open Inference Protocol


def _infer(subject: Subject) -> dict[str, Schema]:
    """Return what is sent and answered, by signature."""
    schemas: dict[str, Schema] = {}
    bodies, answers = [], []
    for signature in subject.signatures:
        identity = subject.ids[signature.name]
        if all(spec.dtype.v2_name is None for spec in signature.outputs.values()):
            continue
        answers.append(_schema(f"{identity}.inferred"))
        schemas[f"{identity}.inferred"] = _inferred(signature, subject)
        if not _has_json(signature):
            continue
        bodies.append(_schema(f"{identity}.infer"))
        schemas[f"{identity}.infer"] = _asked(signature)
    return {"Infer": _any(bodies), "Inferred": _any(answers), **schemas} if answers else {}


def _has_json(signature: Signature) -> bool:
    """Say whether the inputs can be sent in JSON, not in binary alone."""
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
    return _object(
        properties, ["inputs", *(["parameters"] if "required" in parameters else []), *([] if whole else ["outputs"])]
    )


MAYBE: Schema = {"type": ["boolean", "null"]}
ALWAYS: Schema = {"type": "boolean", "not": {"const": False}}  # of an optional property, some generators read no const


def _each(schemas: Sequence[Schema], required: Collection[str]) -> Schema:
    """Return what a list says of its tensors: those required once, in any order, and the others at most once."""
    least = {"minItems": len(required)} if required else {}
    listed: Schema = {"items": _any(schemas), "maxItems": len(schemas), **least}
    if len(schemas) > 1:
        names = [one["properties"]["name"] for one in schemas]
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
    element = _schema(spec.dtype.label)
    flat: Schema = {"type": "array", "items": element}
    if spec.shape is None:
        data = _schema(f"{spec.dtype.label}.nest")
    else:
        if None not in spec.shape:
            count = math.prod(size or 0 for size in spec.shape)
            flat.update(minItems=count, maxItems=count)
        data = flat if len(spec.shape) == 1 else _any([flat, _given(spec, empty=True)])
    size = {"binary_data_size": {"not": {"type": "null"}}}  # a property of the type null, some generators cannot read
    sized = {"type": "object", "properties": size, "required": [*size]}
    return _object({
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
            "description": "How many of the highest values to tell, as text: value:index:name.",
            "type": "integer", "minimum": 0, **({} if ranked else {"maximum": 0}),
        },
    }  # fmt: skip
    return _object(
        {"name": {"const": spec.name}, "parameters": {"type": ["object", "null"], "properties": parameters}}, ("name",)
    )


def _inferred(signature: Signature, subject: Subject) -> Schema:
    sizes = {"type": "array", "items": {"type": "integer", "minimum": 0}}
    tensors = []
    for spec in signature.outputs.values():
        name: Schema = {"const": spec.name}
        flat = _gives(spec, (None,), subject)
        if spec.dtype.kind == "S":
            flat = {"type": "array", "items": {"type": "string"}}
        if spec.dtype.v2_name:
            properties = {"name": name, "datatype": {"const": spec.dtype.v2_name}, "shape": sizes, "data": flat}
            tensors.append(_object(properties))
        if spec.dtype.kind in "iuf" and spec.shape != ():
            texts = {"type": "array", "items": {"type": "string"}}
            tensors.append(_object({"name": name, "datatype": {"const": "BYTES"}, "shape": sizes, "data": texts}))
    properties = {
        "model_name": {"const": subject.source.name},
        "model_version": {"const": subject.source.version},
        "id": {"type": "string"},
        "outputs": {"type": "array", "items": _any(tensors)},
    }
    return _object(properties, ("model_name", "model_version", "outputs"))


# Bodies and options


def _body(name: str, protocol: Codec, subject: Subject) -> Schema:
    """Return a request body, with an example of each signature that has a short one."""
    if name == "Event":
        forms = (JSON, "application/cloudevents+json", "application/cloudevents-batch+json")
        return {"description": BODIES[name], "content": {form: {"schema": _schema(name)} for form in forms}}
    found = {}
    for signature in subject.signatures:
        body = shown.exported(subject.source, signature, protocol)
        if 0 < len(body) <= LONGEST_EXAMPLE:
            found[subject.ids[signature.name]] = {"summary": signature.name, "value": json.loads(body)}
    content = {"schema": _schema(name), **({"examples": found} if found else {})}
    in_json = name != "Infer" or any(_has_json(signature) for signature in subject.signatures)
    kinds: Schema = {JSON: content} if in_json else {open_inference.BINARY: {}}
    if name == "Predict":
        kinds.update(_raw(subject))
    return {"description": BODIES[name], "required": True, "content": kinds}


# Each schema has a type, without which generators of clients make a body of them that nothing can be told apart from.
FILE, TEXT, PARTS = {"type": "string", "format": "binary"}, {"type": "string"}, {"type": "object"}
RAW: Mapping[str, tuple[bytes | None, Schema, str]] = {
    # media type                what stands for the type of a body; its schema; what the body is
    "image/*":                  (b"x", FILE,  "The bytes of the one row of a string input; sound and video too."),
    "application/octet-stream": (b"x", FILE,  "The bytes of the one row of a string input."),
    "text/plain":               (b"x", TEXT,  "The text that is the one row of a string input."),
    "multipart/form-data":      (None, PARTS, "A part is an input, by its name; parts of one name are rows."),
    raw.NDJSON:                 (None, TEXT,  "An instance a line, as JSON; answered line by line."),
    "text/csv":                 (None, TEXT,  "A line is a row, the first names the inputs; answered in JSON lines."),
}  # fmt: skip


def _raw(subject: Subject) -> Schema:
    """Return the bodies that are not one JSON document, of those that a signature takes."""
    taken = {}
    for media, (body, schema, told) in RAW.items():
        if body is None or any(_takes_raw(signature, media, body) for signature in subject.signatures):
            taken[media] = {"schema": {**schema, "description": f"{told} For another signature: ?signature_name=NAME."}}
    return taken


def _takes_raw(signature: Signature, media: str, body: bytes) -> bool:
    context = Context({"content-type": media}, query={"signature_name": signature.name})
    try:
        raw.decode(body, {signature.name: signature}, context)
    except BadRequest:
        return False
    return True


BODIES = {
    "Predict": "The signature's inputs as rows (instances) or as columns (inputs). Integers are written without a "
    "decimal point.",
    "Classify": "tf.Examples by their features, for a signature that parses them.",
    "Regress": "tf.Examples by their features, for a signature that parses them.",
    "Infer": "The signature's inputs as tensors, in any order. With the header Inference-Header-Content-Length, their "
    "bytes may follow the JSON (the binary tensor data extension).",
    "Event": "Binary, structured or batched CloudEvents 1.0; wrapped and unwrapped pushes of Pub/Sub; legacy bodies.",
}


def _parameters(subject: Subject) -> dict[str, Schema]:
    version = {"name": "version", "in": "path", "required": True, "schema": {"const": int(subject.source.version)}}
    return {"version": version, **_options(subject)}


COUNT: Schema = {"type": "integer", "minimum": 1, "maximum": 10**9 - 1}


def _options(subject: Subject) -> dict[str, Schema]:
    """Return what may stand in the address of a prediction."""
    scores = sorted({name for signature in subject.signatures for name in _scores(signature)})
    told: list[tuple[str, str, Schema]] = [
        ("on_error", "row: a wrong row is answered by an error in its place.", {"enum": ["row", "request"]}),
        ("arrays", "base64: numbers as the bytes of their array.", {"enum": ["base64", "json"]}),
    ]
    if scores:
        told += [
            (
                "top_k",
                "How many of the best classes to tell, in place of the outputs.",
                {"type": "integer", "minimum": 1, "maximum": 10**9 - 1},
            ),
            ("scores", "The output that holds the scores, for top_k.", {"enum": scores}),
        ]
    return {name: {"name": name, "in": "query", "description": why, "schema": schema} for name, why, schema in told}
