"""The interface of this server for this model as an OpenAPI 3.1 document <https://spec.openapis.org/oas/v3.1.1>.

    paths                  the handler's routes, with this model's name in them
    components/schemas     the inputs and outputs of each signature, as each protocol writes them
    examples               the exporter's, as each protocol writes them

It follows from saved_model.pb alone; the model need not be loaded. A body that fits its schema is answered 200, but
for what JSON Schema cannot say: that lists which belong to one array are of one length, that a tensor of the Open
Inference Protocol has as many elements as its shape says, and what the model itself refuses.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache

from serving.core.http import to_json
from serving.core.settings import Settings
from serving.pipeline.openapi.bodies import parameter_schemas, request_body
from serving.pipeline.openapi.fixed import fixed_schemas
from serving.pipeline.openapi.inference import infer_schemas
from serving.pipeline.openapi.paths import REFUSALS, described_paths, refusal_response, unused_name
from serving.pipeline.openapi.schemas import Subject, element_schemas, type_text
from serving.pipeline.openapi.serving import example_schemas, predict_schemas
from serving.pipeline.routes import TAGS, Route
from serving.protocols.named import TENSORFLOW_SERVING
from serving.savedmodel.signature import TensorSpec
from serving.savedmodel.source import Source


@lru_cache(maxsize=1)
def document(source: Source, options: Settings, routes: tuple[Route, ...]) -> bytes:
    """Return the document as JSON."""
    signatures = tuple(entry for entry in source.signatures.values() if entry.refusal is None and entry.name)
    subject = Subject(source, options, signatures, _ids([signature.name for signature in signatures]))
    schemas = {**predict_schemas(subject), **example_schemas(subject), **infer_schemas(subject)}
    routes = tuple(route for route in routes if route.operation.body in (None, "Event", *schemas))
    bodies = {body: (route.protocol or TENSORFLOW_SERVING).codec for route in routes if (body := route.operation.body)}
    listed = "".join(
        f"\n- `{signature.name}`: {_described(signature.inputs, signature.defaults)} → {_described(signature.outputs)}"
        for signature in signatures
    )
    return to_json({
        "openapi": "3.1.0",
        "info": {
            "title": source.name,
            "version": source.version,
            "description": f"A TensorFlow SavedModel, with the signatures\n{listed}",
            **({"x-class-names": source.labels} if source.labels else {}),  # the page shows scores by them
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": tag} for tag in TAGS],
        "paths": described_paths(subject, routes),
        "components": {
            "schemas": {**fixed_schemas(source), **element_schemas(subject), **schemas},
            "parameters": parameter_schemas(subject),
            "requestBodies": {name: request_body(name, protocol, subject) for name, protocol in bodies.items()},
            "responses": {name: refusal_response(status) for status, (name, _) in REFUSALS.items()},
        },
    })  # fmt: skip


def _described(specs: Mapping[str, TensorSpec], defaults: Collection[str] = ()) -> str:
    optional = dict.fromkeys(defaults, "; may be left out")
    return ", ".join(f"{name} ({type_text(spec)}{optional.get(name, '')})" for name, spec in specs.items()) or "nothing"


def _ids(names: Iterable[str]) -> dict[str, str]:
    """Return a name of a component for each signature: they may hold letters, digits, '.', '-' and '_' alone."""
    ids: dict[str, str] = {}
    for name in names:
        ids[name] = unused_name(re.sub(r"[^A-Za-z0-9.-]", "_", name), ids.values())
    return ids
