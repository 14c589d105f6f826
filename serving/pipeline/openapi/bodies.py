"""Request bodies and their examples, and the options of a request."""

import json
from collections.abc import Mapping

from serving.core.http import JSON, BadRequest
from serving.pipeline import shown
from serving.pipeline.openapi.inference import has_json
from serving.pipeline.openapi.options import query_options
from serving.pipeline.openapi.schemas import Schema, Subject, schema_ref
from serving.protocols import raw
from serving.protocols.call import Context
from serving.protocols.codec import Codec
from serving.protocols.kinds import BINARY
from serving.savedmodel.signature import Signature

LONGEST_EXAMPLE = 8000  # bytes; larger inputs are described by the schema alone


# Bodies and options


def request_body(name: str, protocol: Codec, subject: Subject) -> Schema:
    """Return a request body, with an example of each signature that has a short one."""
    if name == "Event":
        forms = (JSON, "application/cloudevents+json", "application/cloudevents-batch+json")
        return {"description": BODIES[name], "content": {form: {"schema": schema_ref(name)} for form in forms}}
    examples = {}
    for signature in subject.signatures:
        body = shown.exported(subject.source, signature, protocol)
        if 0 < len(body) <= LONGEST_EXAMPLE:
            examples[subject.ids[signature.name]] = {"summary": signature.name, "value": json.loads(body)}
    content = {"schema": schema_ref(name), **({"examples": examples} if examples else {})}
    in_json = name != "Infer" or any(has_json(signature) for signature in subject.signatures)
    kinds: Schema = {JSON: content} if in_json else {BINARY: {}}
    if name == "Predict":
        kinds.update(_raw(subject))
    return {"description": BODIES[name], "required": True, "content": kinds}


# Each schema has a type, without which generators of clients cannot tell the kinds of bodies apart.
FILE, TEXT, PARTS = {"type": "string", "format": "binary"}, {"type": "string"}, {"type": "object"}
RAW: Mapping[str, tuple[bytes | None, Schema, str]] = {
    # media type                what stands for the type of a body; its schema; what the body is
    "image/*":                  (b"x", FILE,  "The bytes of the one row of a string input; sound and video too."),
    "application/octet-stream": (b"x", FILE,  "The bytes of the one row of a string input."),
    "text/plain":               (b"x", TEXT,  "The text that is the one row of a string input."),
    "multipart/form-data":      (None, PARTS, "Each part is an input, by its name; parts of the same name are rows."),
    raw.NDJSON:                 (None, TEXT,  "One instance per line, as JSON; answered line by line."),
    "text/csv":                 (None, TEXT,  "A header of input names, then rows, one per line; answered in JSON."),
}  # fmt: skip


def _raw(subject: Subject) -> Schema:
    """Return the bodies that are not one JSON document, of those that a signature takes."""
    taken = {}
    for media, (body, schema, description) in RAW.items():
        if body is None or any(_takes_raw(signature, media, body) for signature in subject.signatures):
            taken[media] = {
                "schema": {**schema, "description": f"{description} For another signature: ?signature_name=NAME."}
            }
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


def parameter_schemas(subject: Subject) -> dict[str, Schema]:
    """Return the parameters of paths and queries, by name."""
    version = {"name": "version", "in": "path", "required": True, "schema": {"const": int(subject.source.version)}}
    return {"version": version, **query_options(subject)}
