"""The way of a request: route, decode, run, encode. Whatever comes, an answer goes out."""

import re
import time
import traceback
from collections.abc import Callable
from functools import lru_cache
from time import perf_counter_ns
from typing import NamedTuple

import numpy as np

from serving.core import inflight, settings
from serving.core.errors import CLIENTS_FAULT, DeadlineError, InputError, LoadError, RunError, did_you_mean, plain
from serving.core.http import (
    JSON,
    SMALLEST_COMPRESSED,
    BadRequest,
    Changed,
    DeadlinePassed,
    HttpError,
    MethodNotAllowed,
    ModelFault,
    NotFound,
    NotImplementedHere,
    Request,
    Response,
    TimedOut,
    TooLarge,
    Unavailable,
    check_origin,
    compress,
    to_json,
    unpack,
)
from serving.core.http import receive as receive_body
from serving.core.record import UNWATCHED, Record
from serving.core.telemetry import metrics, observe, phases
from serving.core.telemetry.log import begin, log
from serving.pipeline import accelerator, limits, watchdog
from serving.protocols import answers, classify, open_inference, raw, regress, sagemaker, tensorflow_serving
from serving.protocols.call import Arrays, Call, Context, option, row_errors
from serving.protocols.codec import Codec
from serving.protocols.options import from_query
from serving.protocols.sizes import check_arrays
from serving.runtime import model
from serving.runtime.model import Model
from serving.runtime.tensorflow_c import run_error
from serving.savedmodel.signature import DEFAULT


class Target(NamedTuple):
    """What an address says: the model, and the version or label of it."""

    name: str | None = None
    version: str | None = None
    label: str | None = None


Action = Callable[[Request, Target, Codec], Response]


class Route(NamedTuple):
    method: str
    path: str
    action: Action
    protocol: Codec


def infer(request: Request, _target: Target, protocol: Codec) -> Response:
    """Answer with the outputs of one signature."""
    if _is_event(request):
        if request.path == "/":
            return receive(request, _target, protocol)
        return _answer_event(request, protocol)
    return _infer_here(request, protocol)


def _infer_here(request: Request, protocol: Codec) -> Response:
    admission = limits.admission()
    watchdog.watch(settings.current())
    until = admission.expect(request.headers)
    metered = admission.metered(request)
    if metered is None:
        return _infer_in_turn(request, admission, until, protocol)
    try:
        return _infer_in_turn(request._replace(body=metered), admission, until, protocol)
    finally:
        metered.close()


def _infer_in_turn(request: Request, admission: limits.Admission, until: float, protocol: Codec) -> Response:
    """Read the body, which may take its client long, and answer when the request may run."""
    most = settings.current().max_body_bytes
    pushed = request.path == "/" and most < (request.length or 0) <= LARGEST_EVENT  # it may be
    room = LARGEST_EVENT if pushed else most
    try:
        body = receive_body(request.body, request.length, room)
    except (BadRequest, TimedOut):
        if limits.stopping:  # whoever is still sending then is cut off
            raise Unavailable("the server is stopping; try again") from None
        raise
    began: float | None = admission.enter(until)
    if phases.pending or not model.cache().loaded:
        began = None  # the load and the first run take longer than what comes after them
    try:
        body = unpack(body, request.headers, room)
        if request.path != "/" or not _is_event_body(request, body):
            return _infer(request, receive_body(body, None, most), until, protocol)
    finally:
        admission.leave(began)
    headers = Changed(request.headers, {"content-encoding": None})
    return _receive(request._replace(headers=headers, body=body))


PREDICT = re.compile(
    rb'[ \t\r\n]*\{[ \t\r\n]*"(?:instances|inputs|signature_name)"'
)  # how most bodies at the root begin
LARGEST_EVENT = 16 << 20  # bytes: a push of Pub/Sub's largest message, 10 MB in base64


def _infer(request: Request, body: bytes, until: float, protocol: Codec) -> Response:
    """Answer a request that may run; the model must have begun by the time `until`."""
    options, record, failure = settings.current(), request.record, None
    served = _loaded(record, until)
    if protocol is tensorflow_serving and (other := _other_protocol(request, body, options)):
        protocol = record.protocol = other
    if protocol is not raw and not request.query:
        found = _quickly(served, body, request, protocol)
        if isinstance(found, Response):
            return found
        failure = found
    context = Context(
        request.headers, served.name, served.version, from_query(request.query), options.key_field,
        options.non_finite == "null", served.source.labels, options,
    )  # fmt: skip
    try:
        record.decoding = perf_counter_ns()
        call = protocol.decode(body, served.signatures, context)
        record.signature, record.rows = call.signature.name, _size(call)
        record.decoded = perf_counter_ns()
        call, outputs = _run(served, call, protocol, failure)
        record.ran = perf_counter_ns()
        return _packed(request, protocol.encode(call, outputs))
    except BadRequest as error:
        if error.example:
            raise BadRequest(f"{error}{_example(served, error, context, protocol)}") from None
        raise


def _loaded(record: Record, until: float) -> Model:
    """Return the model, and note in the record for how long the request has waited for its load."""
    cache = model.cache()
    if not cache.loaded:
        began = perf_counter_ns()
        served = cache.get(until)
        record.waited = perf_counter_ns() - began
        return served
    return cache.get(until)


def _quickly(served: Model, body: bytes, request: Request, protocol: Codec) -> Response | RunError | None:
    """Answer a plain request in one step, or say why TensorFlow refuses it; else None, for the whole way."""
    quick = accelerator.of(served)
    if not quick.names or protocol not in (tensorflow_serving, sagemaker, open_inference):
        return None
    slot = inflight.begin(f"accelerated, {len(body)} bytes")
    note = inflight.address(slot)
    try:
        if protocol is not open_inference:
            found = quick.predict(body, note)
        else:
            size = open_inference.json_size(request.headers, len(body))
            found = quick.infer(body, len(body) if size is None else size, note)
    finally:
        inflight.end(slot)
    if found is None:
        return None
    if len(found) == 2:
        return run_error(*found)
    record = request.record
    answer, head, place, record.rows, record.decoding, record.decoded, record.ran, _ = found
    record.signature = quick.names[place]
    if phases.pending:
        phases.took("run", (record.ran - record.decoded) / 1e9)
    return _packed(request, open_inference.with_binary(answer, head) if head else Response(200, answer))


def _packed(request: Request, response: Response) -> Response:
    """Return an answer as its client takes it."""
    if len(response.body) >= SMALLEST_COMPRESSED:
        response = compress(response, request.headers.get("accept-encoding"))
    request.record.encoded = perf_counter_ns()
    return response


def _size(call: Call) -> int:
    """Return the size of the batch, 1 where the signature has no free first dimension."""
    for name, array in call.inputs.items():
        shape = call.signature.inputs[name].shape
        free = array.ndim and (shape is None or shape[0] is None)
        return (len(array) if free else 1) + len(call.failed)
    return len(call.failed)


def _other_protocol(request: Request, body: bytes, options: settings.Settings) -> Codec | None:
    """Return what a body on an address of predict is instead of one JSON document of that."""
    if raw.takes(request.headers.get("content-type") or "", body):
        return raw
    if request.path == "/invocations":
        return sagemaker
    # Vertex AI has one address for whatever protocol its model speaks.
    if request.path == options.aip_predict_route and open_inference.takes(body):
        return open_inference
    return None


def largest_body(path: str) -> int:
    """Return the most bytes that are read of a body sent to this path."""
    most = settings.current().max_body_bytes
    return max(LARGEST_EVENT, most) if path in ("/", "/events") else most


def _is_event(request: Request) -> bool:
    """Say whether the header fields of a request say CloudEvent; at the root, be it not all of them, or a push."""
    get = request.headers.get
    if get("ce-specversion") is not None or (get("content-type") or "")[:23].lower() == "application/cloudevents":
        return True
    if request.path != "/":
        return False
    return get("ce-id") is not None or get("ce-type") is not None or get("x-goog-pubsub-message-id") is not None


def _is_event_body(request: Request, body: bytes) -> bool:
    """Say whether a body is an event by its shape; most are not read for it."""
    if PREDICT.match(body):
        return False
    # One of these names stands in any event's body.
    if not (b'"message"' in body or b'"context"' in body or b'"eventId"' in body or b'"specversion"' in body):
        return False
    if raw.takes(request.headers.get("content-type") or "", body):
        return False
    from serving.events import cloud_events  # most requests are none

    return cloud_events.body_is_event(body)


def receive(request: Request, _target: Target, _protocol: Codec) -> Response:
    """Take events, and do what they ask for."""
    return _with_counted_body(request, _receive)


def _receive(request: Request) -> Response:
    from serving.events import delivery  # most requests are none

    return delivery.receive(request, _answer_inside(request.record))


def _answer_event(request: Request, protocol: Codec) -> Response:
    """Answer an event at a model's address."""
    from serving.events import delivery

    def infer_inside(inner: Request) -> Response:
        return _infer_here(inner, protocol)

    return _with_counted_body(request, lambda counted: delivery.answer_in_kind(counted, infer_inside))


def _with_counted_body(request: Request, act: Callable[[Request], Response]) -> Response:
    metered = limits.admission().metered(request)
    if metered is None:
        return act(request)
    try:
        return act(request._replace(body=metered))
    finally:
        metered.close()


def _answer_inside(outer: Record) -> Callable[[Request], Response]:
    """Return what answers the requests that an event is, which are seen as parts of the event's own."""

    def inner(request: Request) -> Response:
        record = Record()
        outer.children += (record,)
        return answer(request._replace(record=record))

    return inner


def expose(request: Request, _target: Target, _protocol: Codec) -> Response:
    """Tell the metrics, in the form that Prometheus reads."""
    try:
        body, content_type = metrics.expose(request.headers.get("accept") or "")
    except LookupError as error:
        raise NotFound(str(error)) from None
    return Response(200, body, content_type)


MOST_ROWS_TRIED = 256


def _run(served: Model, call: Call, protocol: Codec, failure: RunError | None) -> tuple[Call, Arrays]:
    """Return the outputs, and the call with the rows that the model refused, where the caller wants those told.

    With a `failure`, the model has run already, and failed.
    """
    if call.failed and not call.inputs:
        return call, {}  # no row is good
    limits.check_memory(check_arrays(call.inputs, call.context.limits))
    if served.source.pictures:
        _check_pictures(served, call, protocol)
    try:
        if failure is not None:
            raise failure
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
        if row_errors(call.context) and answers.in_rows(call) and (rows := _rows(call)):
            return _run_each(served, call, protocol, rows)
        place = protocol.place(call, _bad_row(served, call))
        raise BadRequest(f"{place}: the model refuses it: {plain(str(error))}", call.signature.name) from None


def _check_pictures(served: Model, call: Call, protocol: Codec) -> None:
    wrong = limits.check_pictures(call.inputs, served.source.pictures, settings.current())
    if wrong:
        name, problem = wrong
        array = call.inputs[name]
        row = 0 if array.size == 1 and array.ndim else None
        raise TooLarge(f"{protocol.place(call, row) if len(call.inputs) == 1 else name}: {problem}")


def _rows(call: Call) -> int:
    """Return the size of the batch, 0 where the inputs do not agree on one."""
    sizes = {len(array) if array.ndim else 0 for array in call.inputs.values()}
    return sizes.pop() if len(sizes) == 1 else 0


def _alone(call: Call, row: int) -> Arrays:
    return {name: array[row : row + 1] for name, array in call.inputs.items()}


def _run_each(served: Model, call: Call, protocol: Codec, rows: int) -> tuple[Call, Arrays]:
    """Run row by row, so that one that the model refuses fails alone."""
    failed = dict(call.failed)
    places = [place for place in range(rows + len(failed)) if place not in failed]  # of the rows, in the request
    answered: list[Arrays] = []
    for row, place in enumerate(places):
        try:
            outputs = served.run(call.signature, _alone(call, row))
            answers.check_rows(call, outputs, 1)
            answered.append(outputs)
        except InputError as error:  # the batch has a fixed size
            raise BadRequest(f"on_error: the model takes no row alone: {error}", example=False) from None
        except RunError as error:
            if error.code not in CLIENTS_FAULT:
                raise
            failed[place] = f"{protocol.place(call, place)}: the model refuses it: {plain(str(error))}"
    good = [row for row, place in enumerate(places) if place not in failed]
    inputs = {name: array[good] for name, array in call.inputs.items()}
    try:
        outputs = {name: np.concatenate([one[name] for one in answered]) for name in answered[0]} if answered else {}
    except ValueError:
        raise BadRequest("on_error: the rows are answered in different shapes; ask without it", example=False) from None
    return call._replace(failed=failed, inputs=inputs), outputs


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


def _example(served: Model, error: BadRequest, context: Context, protocol: Codec) -> str:
    """Return what an error says of bodies that are right: one that works, and the form where the model parses it."""
    from serving.pipeline import shown  # of errors alone

    callable_ = {name: one for name, one in served.signatures.items() if one.refusal is None}
    name = error.signature or option(context, "signature_name")
    signature = callable_.get(name or DEFAULT) or (None if name else next(iter(callable_.values())))
    if signature is None:
        return ""
    label = f", as {JSON}" if protocol is raw else ""  # under the request's content type it would not
    if protocol in (raw, sagemaker):
        protocol = tensorflow_serving
    told = ""
    if protocol not in (classify, regress) and not shown.exported(served.source, signature, protocol):
        text = shown.form(served.source, signature, protocol)
        told = f"; the form of a body{label}: {text}" if text else ""
    body = shown.working(served, signature, protocol).decode()
    return told + (f"; a body that works{label}: {body}" if body else "")


def status(request: Request, _target: Target, _protocol: Codec) -> Response:
    """Say that the model answers; load it if nothing has yet, so that it is true."""
    served = _ready(request.record)
    return Response(200, to_json({
        "model_version_status": tensorflow_serving.status(served.version), "name": served.name, "ready": True,
    }))  # fmt: skip


def models(_request: Request, _target: Target, _protocol: Codec) -> Response:
    """List the one model."""
    return Response(200, to_json({"models": [settings.current().model_name]}))


def metadata(_request: Request, _target: Target, protocol: Codec) -> Response:
    """Describe every signature; reads saved_model.pb, and the model's card where there is one."""
    source = model.cache().source()
    return Response(200, protocol.metadata(source.name, source.version, source.contents, source.card))


def server(_request: Request, _target: Target, _protocol: Codec) -> Response:
    """Say what this server is, whatever the model does."""
    return Response(200, open_inference.server())


def ready(request: Request, _target: Target, _protocol: Codec) -> Response:
    """Load the model if nothing has yet, warm it up, and say that it is there."""
    _ready(request.record)
    return Response(200, b'{"ready":true}')


def model_ready(request: Request, target: Target, _protocol: Codec) -> Response:
    """Do as `ready` does, and answer in the Open Inference Protocol's form."""
    _ready(request.record)
    return Response(200, open_inference.ready(target.name))


PATIENCE = 5.0  # seconds that a probe waits for a load that another has begun; one comes every second


def _ready(record: Record) -> Model:
    if limits.stopping:
        raise Unavailable("the server is stopping")
    cache, began = model.cache(), perf_counter_ns()
    waits = not cache.warm
    try:
        served = cache.ready(time.monotonic() + PATIENCE)
    except DeadlineError:
        raise Unavailable("the model is being loaded") from None
    if waits:
        record.waited = perf_counter_ns() - began
    return served


def live(_request: Request, _target: Target, _protocol: Codec) -> Response:
    """Say that the process answers, whatever the model does."""
    return Response(200, b'{"live":true}')


def index(_request: Request, _target: Target, _protocol: Codec) -> Response:
    """Say what is served and where."""
    return Response(200, to_json({
        "status": "alive", "model": settings.current().model_name, "addresses": addresses(),
    }))  # fmt: skip


def describe(request: Request, _target: Target, _protocol: Codec) -> Response:
    """Describe every address and what this model takes there, as OpenAPI; reads saved_model.pb alone."""
    from serving.pipeline import openapi  # not needed for an answer

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
        Route("GET", "/metrics" if options.metrics else "", expose, tensorflow_serving),
    )
    return (*ROUTES, *(route for route in added if route.path))


def addresses() -> list[str]:
    """Return every address, with this model's name in it."""
    name = settings.current().model_name
    paths = [route.path.replace(VERSION, "").replace(NUMBER, "").replace("\\", "") for route in routes()]
    paths = [path.removesuffix("/?").replace(NAME, name) for path in paths]
    return [f"{route.method} {path}" for route, path in zip(routes(), paths)]


def handle(request: Request) -> Response:
    """Answer a request, and tell of one that came through a door.

    Nothing escapes: every error becomes a JSON body with its status.
    """
    if request.record is UNWATCHED:
        return answer(request._replace(record=Record()))
    begin(None)
    if not metrics.on:
        return observe.finish(request, answer(request))
    metrics.began()
    try:
        return observe.finish(request, answer(request))
    finally:
        metrics.ended()


def is_probe(method: str, path: str) -> bool:
    """Say whether an address is one that platforms ask for to see how the process does."""
    try:
        return _route(method, path)[0].action.__name__ in observe.QUIET
    except HttpError:
        return False


def answer(request: Request) -> Response:
    """Answer a request that is seen as a part of another, or by nobody."""
    try:
        route, target = _route(request.method, request.path)
        request.record.route = route
        if route.method == "POST":
            check_origin(request.headers)
        _check_target(target)
        return route.action(request, target, route.protocol)
    except ModelFault as error:
        log("ERROR", f"a wrong answer of the model: {error}", **observe.about(request))
        return _refuse(error)
    except HttpError as error:
        return _refuse(error)
    except LoadError as error:
        return _refuse(Unavailable(f"the model cannot be loaded: {error}"))
    except DeadlineError as error:
        return _refuse(DeadlinePassed(str(error)))
    except RunError as error:
        log("ERROR", f"a run failed: {error.code}: {error}", **observe.about(request))
        return _refuse(FAULTS.get(error.code, HttpError)(f"the model failed: {error.code}"))
    except MemoryError:
        log("ERROR", "out of memory", **observe.about(request))
        return _refuse(Unavailable("out of memory; try again, or send less at once"))
    except Exception as error:
        log("ERROR", f"a request failed: {error!r}", **observe.about(request), traceback=traceback.format_exc())
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
    if path == "/metrics":
        raise NotFound("there are no metrics: METRICS=1 turns them on")
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
