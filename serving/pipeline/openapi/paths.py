"""The paths of an OpenAPI document: the requests, responses and errors of each route."""

import itertools
import re
from collections.abc import Collection, Iterable
from urllib.parse import quote

from serving.core.http import JSON
from serving.pipeline.openapi.bodies import parameter_schemas
from serving.pipeline.openapi.schemas import Schema, Subject, component_ref, schema_ref
from serving.pipeline.routes import Operation, Route
from serving.protocols import raw
from serving.protocols.kinds import BINARY, HEADER

OPTIONS = ("on_error", "arrays", "instances", "top_k", "scores")

# fmt: off
REFUSALS = {
    400: ("BadRequest",          "The body does not fit the signature, or the model refuses a value, such as bytes "
                                 "that are not a picture. The text names the place."),
    404: ("NotFound",            "There is no such path, model or version. The text lists the existing ones."),
    405: ("MethodNotAllowed",    "The method is not allowed at this path."),
    413: ("TooLarge",            "The body is too large, compressed or decompressed."),
    415: ("UnsupportedEncoding", "The body's Content-Encoding is neither gzip nor deflate."),
    500: ("Failed",              "The model failed. The log has the reason."),
    501: ("NotImplemented",      "The model uses an operation that TensorFlow's C library lacks."),
    503: ("Unavailable",         "The model cannot be loaded, or memory ran out. The next request tries again."),
}
HEADERS = {405: ("Allow", "string"), 415: ("Accept-Encoding", "string"), 503: ("Retry-After", "integer")}


# Paths


def described_paths(subject: Subject, routes: Iterable[Route]) -> Schema:
    """Return the path items of the routes, by path."""
    paths: Schema = {}
    names: set[str] = set()
    for route in routes:
        for template in templates(route.path):
            path = quote(template, safe="/{}:").replace("{name}", quote(subject.source.name, safe=""))
            methods = paths.setdefault(path, {})
            if route.method.lower() not in methods:  # an address that the settings add may be there already
                described = methods[route.method.lower()] = _operation(route, template, subject)
                described["operationId"] = unused_name(described["operationId"], names)
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
    operation = route.operation
    name = "infer" if operation.body and operation.body != "Event" else route.name
    described: Schema = {
        "operationId": re.sub(r"\W+", "_", f"{name}{template.replace('/{name}', '')}").strip("_"),
        "tags": [operation.tag],
        "summary": operation.summary,
        "responses": {
            "200": _answer(operation),
            **({"204": {"description": "Done, without a body."}} if operation.answer == "Replied" else {}),
            **{str(code): component_ref("responses", REFUSALS[code][0]) for code in sorted({*operation.refusals, 405})},
        },
    }
    names = [*(["version"] if "{version}" in template else []), *(OPTIONS if operation.body == "Predict" else [])]
    parameters = [component_ref("parameters", name) for name in names if name in parameter_schemas(subject)]
    if parameters:
        described["parameters"] = parameters
    if operation.body:
        described["requestBody"] = component_ref("requestBodies", operation.body)
    return described


def _answer(operation: Operation) -> Schema:
    content: Schema = {JSON: {"schema": schema_ref(operation.answer)}}
    if operation.answer == "Predicted":
        content[raw.NDJSON] = {"schema": {"description": "One prediction per line, for a body of lines."}}
    if operation.answer != "Inferred":
        return {"description": "The answer", "content": content}
    size = {"description": "In binary: the length of the JSON before the tensors.", "schema": {"type": "integer"}}
    content[BINARY] = {"schema": {"description": "As JSON, then the tensors' bytes."}}
    return {"description": "The answer", "headers": {HEADER: size}, "content": content}


def refusal_response(status: int) -> Schema:
    """Return the response of an error status."""
    refusal: Schema = {"description": REFUSALS[status][1], "content": {JSON: {"schema": schema_ref("Error")}}}
    if status in HEADERS:
        header, kind = HEADERS[status]
        refusal["headers"] = {header: {"required": True, "schema": {"type": kind}}}
    return refusal


def unused_name(name: str, taken: Collection[str]) -> str:
    """Return the name, or the first of name_2, name_3, ... that is free."""
    free = (name if number == 1 else f"{name}_{number}" for number in itertools.count(1))
    return next(name for name in free if name not in taken)
