"""The table of routes: one row defines a route completely.

The index, the OpenAPI document and the log's names are made from these rows.
"""

import re
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import NamedTuple

from serving.core import settings
from serving.core.http import HttpError, MethodNotAllowed, NotFound, Response
from serving.pipeline import about
from serving.pipeline.arrivals import bodies_that_are_events, events_at_root, events_in_kind, receive
from serving.pipeline.exchange import Answer, Exchange, stack
from serving.pipeline.layers import (
    admitted,
    compressed,
    loaded,
    native,
    negotiated,
    received,
    unpacked,
)
from serving.protocols.named import CLASSIFY, OPEN_INFERENCE, REGRESS, TENSORFLOW_SERVING, Named


def in_python(exchange: Exchange) -> Response:
    """Decode, run and encode in Python; the code is imported by the first request that needs it."""
    from serving.pipeline.inference import predict

    return predict(exchange)


# The answers to requests for predictions, at a model's address and at the root. The innermost layer stands first: a
# request passes the last one first.
# fmt: off
predict = stack(in_python, native, negotiated, compressed, loaded,
                unpacked, admitted, received, events_in_kind)
predict_at_root = stack(in_python, native, negotiated, compressed, loaded,
                        bodies_that_are_events, unpacked, admitted, received, events_at_root)
# fmt: on


class Operation(NamedTuple):
    """The request and the response of a route for OpenAPI; `body` names a request body, `answer` a schema."""

    tag: str
    summary: str
    answer: str
    body: str | None = None
    refusals: Sequence[int] = ()


class Route(NamedTuple):
    """One address. The path is a regular expression."""

    method: str
    path: str
    action: Answer
    name: str  # of the action, in the log, the metrics and the traces
    protocol: Named | None  # None: the address belongs to no protocol
    operation: Operation
    quiet: bool = False  # requested every few seconds: its line in the log has severity DEBUG

    def address(self, model_name: str) -> str:
        """Return the method and the path as a client writes it, without a version."""
        path = self.path.replace(VERSION, "").replace(NUMBER, "").replace("\\", "")
        return f"{self.method} {path.removesuffix('/?').replace(NAME, model_name)}"


NAME = r"(?P<name>[^/:]+)"
VERSION = r"(?:/versions/(?P<version>[0-9]+)|/labels/(?P<label>[^/:]+))?"
NUMBER = r"(?:/versions/(?P<version>[0-9]+))?"

SERVING, INFERENCE, EVENTS = "TensorFlow Serving", "Open Inference Protocol", "Events"  # tags
HEALTH, ABOUT = "Health", "About"
TAGS = (SERVING, INFERENCE, EVENTS, HEALTH, ABOUT)
RUNS, LOADS, READS = (400, 404, 413, 415, 500, 501, 503), (404, 500, 503), (404, 503)  # refusals
V1, V2 = TENSORFLOW_SERVING, OPEN_INFERENCE
QUIET = True

# fmt: off
PREDICT  = Operation(SERVING,   "Predict",                     "Predicted", "Predict", RUNS)
LIVE     = Operation(HEALTH,    "Check that the server runs",  "Live")
READY    = Operation(HEALTH,    "Check that the model is ready", "Ready", None, LOADS)
LIVE_V2  = Operation(INFERENCE, "Check that the server runs",  "Live")
READY_V2 = Operation(INFERENCE, "Check that the model is ready", "ModelReady", None, LOADS)
OPTIONS  = Operation(ABOUT,     "List the methods of an address", "Any")

ROUTES = (
    Route("GET",  r"/",                                    about.index,       "index",       None,
          Operation(ABOUT,     "List what is served and where", "Index")),
    Route("POST", r"/",                                    predict_at_root,   "predict",     V1,       PREDICT),
    Route("GET",  r"/healthz",                             about.live,        "live",        None,     LIVE,     QUIET),
    Route("GET",  r"/readyz",                              about.ready,       "ready",       None,     READY,    QUIET),
    Route("GET",  r"/openapi\.json",                       about.describe,    "describe",    None,
          Operation(ABOUT,     "Describe the interface", "OpenAPI", None, READS)),
    Route("GET",  rf"/v1/models/{NAME}{VERSION}",          about.status,      "status",      V1,
          Operation(SERVING,   "Report the state of the model", "Status", None, LOADS)),
    Route("GET",  rf"/v1/models/{NAME}{VERSION}/metadata", about.metadata,    "metadata",    V1,
          Operation(SERVING,   "Describe the signatures", "Metadata", None, READS)),
    Route("POST", rf"/v1/models/{NAME}{VERSION}:predict",  predict,           "predict",     V1,       PREDICT),
    Route("POST", rf"/v1/models/{NAME}{VERSION}:classify", predict,           "classify",    CLASSIFY,
          Operation(SERVING,   "Classify tf.Examples", "Classified", "Classify", RUNS)),
    Route("POST", rf"/v1/models/{NAME}{VERSION}:regress",  predict,           "regress",     REGRESS,
          Operation(SERVING,   "Regress on tf.Examples", "Regressed", "Regress", RUNS)),
    Route("GET",  r"/v1/models",                           about.models,      "models",      V1,
          Operation(SERVING,   "List the model", "Models")),
    Route("GET",  r"/ping",                                about.ready,       "ready",       None,     READY,    QUIET),
    Route("POST", r"/invocations",                         predict,           "predict",     V1,       PREDICT),
    Route("POST", r"/events",                              receive,           "receive",     None,
          Operation(EVENTS,    "Accept an event", "Replied", "Event", (400, 503))),
    Route("GET",  r"/v2/?",                                about.server,      "server",      V2,
          Operation(INFERENCE, "Describe the server", "ServerMetadata")),
    Route("GET",  r"/v2/health/live",                      about.live,        "live",        None,     LIVE_V2,  QUIET),
    Route("GET",  r"/v2/health/ready",                     about.model_ready, "model_ready", V2,       READY_V2, QUIET),
    Route("GET",  rf"/v2/models/{NAME}{NUMBER}",           about.metadata,    "metadata",    V2,
          Operation(INFERENCE, "Describe the signatures", "ModelMetadata", None, READS)),
    Route("GET",  rf"/v2/models/{NAME}{NUMBER}/ready",     about.model_ready, "model_ready", V2,       READY_V2, QUIET),
    Route("POST", rf"/v2/models/{NAME}{NUMBER}/infer",     predict,           "infer",       V2,
          Operation(INFERENCE, "Infer", "Inferred", "Infer", RUNS)),
)
# fmt: on


def routes() -> tuple[Route, ...]:
    """Return every route, including those that settings add."""
    options = settings.current()
    metrics = Operation(ABOUT, "Render the metrics in the form that Prometheus reads.", "Any")
    added = (
        Route("POST", re.escape(options.aip_predict_route), predict, "predict", V1, PREDICT),
        Route("GET", re.escape(options.aip_health_route), about.ready, "ready", None, READY, QUIET),
        Route("GET", "/metrics" if options.metrics else "", about.expose, "expose", None, metrics, QUIET),
    )
    return (*ROUTES, *(route for route in added if route.path))


@lru_cache(maxsize=256)
def find(method: str, path: str) -> tuple[Route, dict[str, str | None], tuple[Route, ...]]:
    """Return the route of an address, what the address names, and all routes.

    Raise NotFound or MethodNotAllowed. The cache is bounded: clients choose the addresses.
    """
    table, wanted = routes(), "GET" if method == "HEAD" else method
    for route in table:
        if route.method == wanted and (match := re.fullmatch(route.path, path, re.DOTALL)):
            return route, match.groupdict(), table
    allowed = [
        (route.method, match.groupdict()) for route in table if (match := re.fullmatch(route.path, path, re.DOTALL))
    ]
    if allowed:
        methods = ", ".join(name for name, _ in allowed)
        allow = f"{methods.replace('GET', 'GET, HEAD')}, OPTIONS"
        if method == "OPTIONS":
            labels = allowed[0][1]
            return Route("OPTIONS", path, partial(about.options, allow), "options", None, OPTIONS), labels, table
        raise MethodNotAllowed(f"{path[:200]}: expected {methods}, got {method[:20]}", allow)
    if path == "/metrics":
        raise NotFound("there are no metrics: METRICS=1 turns them on")
    listed = ", ".join(addresses())
    raise NotFound(f"there is nothing at {path[:200]!r}; there is {listed}")


def is_prediction(method: str, path: str) -> bool:
    """Return whether requests at an address need the model to run, and so a slot of `admission`."""
    try:
        return find(method, path)[0].action in (predict, predict_at_root)
    except HttpError:
        return False


def addresses() -> list[str]:
    """Return every address, with this model's name in it."""
    name = settings.current().model_name
    return [route.address(name) for route in routes()]


def is_probe(method: str, path: str) -> bool:
    """Return whether an address is a health check of a platform."""
    try:
        return find(method, path)[0].quiet
    except HttpError:
        return False
