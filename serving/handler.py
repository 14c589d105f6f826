"""The way of a request: route, decode, run, encode. Whatever comes, an answer goes out."""

import re
import traceback
from collections.abc import Callable
from functools import lru_cache
from types import ModuleType
from typing import NamedTuple

import numpy as np

from serving import model, phases, settings
from serving.errors import CLIENTS_FAULT, InputError, LoadError, RunError, did_you_mean, plain
from serving.http import (
    SMALLEST_COMPRESSED,
    BadRequest,
    Headers,
    HttpError,
    MethodNotAllowed,
    NotFound,
    NotImplementedHere,
    Request,
    Response,
    Unavailable,
    compress,
    parameters,
    read_body,
    to_json,
)
from serving.log import log
from serving.model import Model
from serving.protocols import classify, open_inference, raw, regress, tensorflow_serving
from serving.protocols.call import Arrays, Call, Context, row_errors
from serving.signature import DEFAULT


class Target(NamedTuple):
    """What an address says: the model, and the version or label of it."""

    name: str | None = None
    version: str | None = None
    label: str | None = None


Action = Callable[[Request, Target, ModuleType], Response]


class Route(NamedTuple):
    method: str
    path: str
    action: Action
    protocol: ModuleType


def infer(request: Request, _target: Target, protocol: ModuleType) -> Response:
    """Answer with the outputs of one signature."""
    if request.path == "/" and _is_event(request.headers):
        return receive(request, _target, protocol)
    options = settings.current()
    body = read_body(request, options.max_body_bytes)
    served = model.cache().get()
    if protocol is tensorflow_serving and raw.takes(request.headers.get("content-type") or "", body):
        protocol = raw
    context = Context(
        request.headers, served.name, served.version, parameters(request.query), options.key_field,
        options.non_finite == "null", served.source.labels,
    )  # fmt: skip
    try:
        call = protocol.decode(body, served.signatures, context)
        answer: Response = protocol.encode(*_run(served, call, protocol))
        if len(answer.body) >= SMALLEST_COMPRESSED:
            answer = compress(answer, request.headers.get("accept-encoding"))
        return _first(answer) if phases.pending else answer
    except BadRequest as error:
        if error.example:
            raise BadRequest(f"{error}{_example(error.signature, protocol)}") from None
        raise


def _is_event(headers: Headers) -> bool:
    """Say whether the headers of a request to the root say CloudEvent, however incomplete."""
    get = headers.get
    if get("ce-specversion") is not None or get("ce-id") is not None or get("ce-type") is not None:
        return True
    return (get("content-type") or "")[:23].lower() == "application/cloudevents"


def receive(request: Request, _target: Target, _protocol: ModuleType) -> Response:
    """Take events, and do what they ask for."""
    from serving import events  # most requests are none

    return events.receive(request, handle)


def _first(answer: Response) -> Response:
    """Tell with the first answer what the start was made of."""
    if not (told := phases.first()):
        return answer
    total = round(sum(told.values()), 1)
    log("INFO", f"first answer after {total:g} ms of starting", milliseconds=told)
    timing = ", ".join(f"{phase};dur={milliseconds}" for phase, milliseconds in {**told, "start": total}.items())
    return answer._replace(headers=(*answer.headers, ("Server-Timing", timing)))


MOST_ROWS_TRIED = 256
LONGEST_EXAMPLE = 600


def _run(served: Model, call: Call, protocol: ModuleType) -> tuple[Call, Arrays]:
    """Return the outputs, and the call with the rows that the model refused, where the caller wants those told."""
    if call.failed and not call.inputs:
        return call, {}  # no row is good
    try:
        if phases.pending:
            with phases.measured("run"):
                return call, served.run(call.signature, call.inputs)
        return call, served.run(call.signature, call.inputs)
    except InputError as error:  # of parts of one tensor, the example would be no better
        told = call.signature.name not in served.source.parts
        raise BadRequest(str(error), call.signature.name, example=told) from None
    except RunError as error:
        if error.code not in CLIENTS_FAULT:
            raise
        if row_errors(call.context) and (rows := _rows(call)):
            return _run_each(served, call, protocol, rows)
        place = protocol.place(call, _bad_row(served, call))
        raise BadRequest(f"{place}: the model refuses it: {plain(str(error))}", call.signature.name) from None


def _rows(call: Call) -> int:
    """Return the size of the batch, 0 where the inputs do not agree on one."""
    sizes = {len(array) if array.ndim else 0 for array in call.inputs.values()}
    return sizes.pop() if len(sizes) == 1 else 0


def _alone(call: Call, row: int) -> Arrays:
    return {name: array[row : row + 1] for name, array in call.inputs.items()}


def _run_each(served: Model, call: Call, protocol: ModuleType, rows: int) -> tuple[Call, Arrays]:
    """Run row by row, so that one that the model refuses fails alone."""
    failed = dict(call.failed)
    places = [place for place in range(rows + len(failed)) if place not in failed]  # of the rows, in the request
    answers = []
    for row, place in enumerate(places):
        try:
            answers.append(served.run(call.signature, _alone(call, row)))
        except InputError as error:  # the batch has a fixed size
            raise BadRequest(f"on_error: the model takes no row alone: {error}", example=False) from None
        except RunError as error:
            if error.code not in CLIENTS_FAULT:
                raise
            failed[place] = f"{protocol.place(call, place)}: the model refuses it: {plain(str(error))}"
    outputs = {name: np.concatenate([one[name] for one in answers]) for name in answers[0]} if answers else {}
    return call._replace(failed=failed), outputs


def _bad_row(served: Model, call: Call) -> int | None:
    """Return the first row that fails alone: TensorFlow says what is wrong with a batch, and not where."""
    if (rows := _rows(call)) > MOST_ROWS_TRIED:
        return None
    for row in range(rows):
        try:
            served.run(call.signature, _alone(call, row))
        except RunError:
            return row
        except InputError:
            return None  # the batch has a fixed size
    return None


def _example(name: str | None, protocol: ModuleType) -> str:
    source = model.cache().source()
    callable_ = [signature for signature in source.signatures.values() if signature.refusal is None]
    signature = next((one for one in callable_ if one.name == (name or DEFAULT)), callable_[0])
    body = protocol.example(signature, source.examples.get(signature.name)).decode()
    return f"; a body that works: {body}" if 0 < len(body) <= LONGEST_EXAMPLE else ""


def status(_request: Request, _target: Target, _protocol: ModuleType) -> Response:
    """Say that the model answers; load it if nothing has yet, so that it is true."""
    served = model.cache().ready()
    return Response(200, to_json({
        "model_version_status": tensorflow_serving.status(served.version), "name": served.name, "ready": True,
    }))  # fmt: skip


def models(_request: Request, _target: Target, _protocol: ModuleType) -> Response:
    """List the one model."""
    return Response(200, to_json({"models": [settings.current().model_name]}))


def metadata(_request: Request, _target: Target, protocol: ModuleType) -> Response:
    """Describe every signature; reads saved_model.pb alone."""
    source = model.cache().source()
    return Response(200, protocol.metadata(source.name, source.version, source.contents))


def server(_request: Request, _target: Target, _protocol: ModuleType) -> Response:
    """Say what this server is, whatever the model does."""
    return Response(200, open_inference.server())


def ready(_request: Request, _target: Target, _protocol: ModuleType) -> Response:
    """Load the model if nothing has yet, warm it up, and say that it is there."""
    model.cache().ready()
    return Response(200, b'{"ready":true}')


def model_ready(_request: Request, target: Target, _protocol: ModuleType) -> Response:
    """Do as `ready` does, and answer in the Open Inference Protocol's form."""
    model.cache().ready()
    return Response(200, open_inference.ready(target.name))


def live(_request: Request, _target: Target, _protocol: ModuleType) -> Response:
    """Say that the process answers, whatever the model does."""
    return Response(200, b'{"live":true}')


def index(_request: Request, _target: Target, _protocol: ModuleType) -> Response:
    """Say what is served and where."""
    return Response(200, to_json({
        "status": "alive", "model": settings.current().model_name, "addresses": addresses(),
    }))  # fmt: skip


def describe(request: Request, _target: Target, _protocol: ModuleType) -> Response:
    """Describe every address and what this model takes there, as OpenAPI; reads saved_model.pb alone."""
    from serving import openapi  # not needed for an answer

    answer = Response(200, openapi.document(model.cache().source(), settings.current(), routes()))
    return compress(answer, request.headers.get("accept-encoding"))


NAME = r"(?P<name>[^/:]+)"
VERSION = r"(?:/versions/(?P<version>[0-9]+)|/labels/(?P<label>[^/:]+))?"
NUMBER = r"(?:/versions/(?P<version>[0-9]+))?"

# fmt: off
ROUTES = (
    Route("GET",  r"/",                                    index,       tensorflow_serving),
    Route("POST", r"/",                                    infer,       tensorflow_serving),
    Route("GET",  r"/healthz",                             live,        tensorflow_serving),
    Route("GET",  r"/readyz",                              ready,       tensorflow_serving),
    Route("GET",  r"/openapi\.json",                       describe,    tensorflow_serving),
    Route("GET",  rf"/v1/models/{NAME}{VERSION}",          status,      tensorflow_serving),
    Route("GET",  rf"/v1/models/{NAME}{VERSION}/metadata", metadata,    tensorflow_serving),
    Route("POST", rf"/v1/models/{NAME}{VERSION}:predict",  infer,       tensorflow_serving),
    Route("POST", rf"/v1/models/{NAME}{VERSION}:classify", infer,       classify),
    Route("POST", rf"/v1/models/{NAME}{VERSION}:regress",  infer,       regress),
    Route("GET",  r"/v1/models",                           models,      tensorflow_serving),
    Route("GET",  r"/ping",                                ready,       tensorflow_serving),
    Route("POST", r"/invocations",                         infer,       tensorflow_serving),
    Route("POST", r"/events",                              receive,     tensorflow_serving),
    Route("GET",  r"/v2/?",                                server,      open_inference),
    Route("GET",  r"/v2/health/live",                      live,        open_inference),
    Route("GET",  r"/v2/health/ready",                     model_ready, open_inference),
    Route("GET",  rf"/v2/models/{NAME}{NUMBER}",           metadata,    open_inference),
    Route("GET",  rf"/v2/models/{NAME}{NUMBER}/ready",     model_ready, open_inference),
    Route("POST", rf"/v2/models/{NAME}{NUMBER}/infer",     infer,       open_inference),
)
# fmt: on


def routes() -> tuple[Route, ...]:
    """Return every route, those that the settings add included."""
    options = settings.current()
    added = (
        Route("POST", re.escape(options.aip_predict_route), infer, tensorflow_serving),
        Route("GET", re.escape(options.aip_health_route), ready, tensorflow_serving),
    )
    return (*ROUTES, *(route for route in added if route.path))


def addresses() -> list[str]:
    """Return every address, with this model's name in it."""
    name = settings.current().model_name
    paths = [route.path.replace(VERSION, "").replace(NUMBER, "").replace("\\", "") for route in routes()]
    paths = [path.removesuffix("/?").replace(NAME, name) for path in paths]
    return [f"{route.method} {path}" for route, path in zip(routes(), paths)]


def handle(request: Request) -> Response:
    """Answer a request. Nothing escapes: every error becomes a JSON body with its status."""
    try:
        route, target = _route(request.method, request.path)
        _check_target(target)
        return route.action(request, target, route.protocol)
    except HttpError as error:
        return _refuse(error)
    except LoadError as error:
        return _refuse(Unavailable(f"the model cannot be loaded: {error}"))
    except RunError as error:
        log("ERROR", f"a run failed: {error.code}: {error}", path=request.path)
        return _refuse(FAULTS.get(error.code, HttpError)(f"the model failed: {error.code}"))
    except MemoryError:
        log("ERROR", "out of memory", path=request.path)
        return _refuse(Unavailable("out of memory; try again, or send less at once"))
    except Exception as error:
        log("ERROR", f"a request failed: {error!r}", path=request.path, traceback=traceback.format_exc())
        return _refuse(HttpError("internal error; the log has the reason"))


FAULTS: dict[str, type[HttpError]] = {
    "UNAVAILABLE": Unavailable,
    "RESOURCE_EXHAUSTED": Unavailable,
    "UNIMPLEMENTED": NotImplementedHere,
}
LONGEST_MESSAGE = 1900  # characters: an error body stays below 2 kB


def _refuse(error: HttpError) -> Response:
    message = str(error)
    if len(message) > LONGEST_MESSAGE:
        message = message[:LONGEST_MESSAGE] + " ..."
    body = to_json({"error": message})
    return Response(error.status, body, headers=error.headers)


@lru_cache(maxsize=256)
def _route(method: str, path: str) -> tuple[Route, Target]:
    """Find the route of an address; bounded, for a client may ask for any number of them."""
    allowed = []
    for route in routes():
        if found := re.fullmatch(route.path, path, re.DOTALL):
            if route.method == method or (method == "HEAD" and route.method == "GET"):
                return route, Target(**found.groupdict())
            allowed.append(route.method)
    if allowed:
        methods = ", ".join(allowed)
        raise MethodNotAllowed(f"{path[:200]}: expected {methods}, got {method[:20]}", methods)
    raise NotFound(f"there is nothing at {path[:200]!r}; there is {', '.join(addresses())}")


def _check_target(target: Target) -> None:
    if target.name is None:
        return
    name = settings.current().model_name
    if target.name != name:
        raise NotFound(f"there is no model {target.name[:200]!r}{did_you_mean(target.name[:200], [name])}")
    if target.label is not None:
        raise BadRequest(f"there is no version labelled {target.label[:200]!r}; labels are not in use", example=False)
    if target.version is not None:
        served = model.cache().source().version
        if int(target.version[:40]) != int(served):
            raise NotFound(f"there is no version {target.version[:40]} of {name!r}; there is version {served}")
