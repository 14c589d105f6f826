"""The layers around decode, run and encode. `serving.pipeline.routes` and `handler` define their order."""

import importlib
import time
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from serving.core import settings
from serving.core.errors import DeadlineError, LoadError, LoadingError, RunError, did_you_mean
from serving.core.http import (
    SMALLEST_COMPRESSED,
    BadRequest,
    DeadlinePassed,
    Headers,
    HttpError,
    ModelFault,
    NotFound,
    NotImplementedHere,
    Request,
    Response,
    StillLoading,
    TimedOut,
    Unavailable,
    UnsupportedMediaType,
    compress,
    to_json,
    unpack,
)
from serving.core.http import receive as receive_body
from serving.core.record import Record
from serving.core.telemetry import metrics, observe, phases
from serving.core.telemetry.log import log, log_exception
from serving.pipeline import accelerator, admission, grpc, watchdog
from serving.pipeline.exchange import Answer, Exchange, Layer
from serving.protocols.kinds import HEADER, is_open_inference, is_raw, json_size, with_binary
from serving.protocols.named import OPEN_INFERENCE, RAW, SAGEMAKER, TENSORFLOW_SERVING, Named
from serving.runtime import loading
from serving.runtime.tensorflow_c import run_error

if TYPE_CHECKING:
    from serving.pipeline.routes import Route

LARGEST_EVENT = 16 << 20  # bytes: a push of Pub/Sub's largest message, 10 MB in base64


# Around a prediction, the innermost first


def native(answer: Answer) -> Answer:
    """Answer plain bodies by the native codec, in one step, where it has been built: serving/pipeline/native/.

    With LOG_PREDICTIONS, a sampled request is answered in Python and logged.
    """

    def answer_in_one_step(exchange: Exchange) -> Response:
        if share := settings.current().log_predictions:
            from serving.pipeline import predictions  # it loads what most functions do without

            if predictions.is_sampled(exchange.body, share):
                return predictions.answered(answer, exchange)
        return natively(exchange) or answer(exchange)

    return answer_in_one_step


NATIVE = (TENSORFLOW_SERVING, SAGEMAKER, OPEN_INFERENCE)  # the protocols whose plain bodies the native codec reads


def request_size(protocol: "Named | None", headers: Headers, body: bytes) -> int:
    """Return the size of the JSON in an infer request's body, -1 for a predict request."""
    if protocol is not OPEN_INFERENCE:
        return -1
    size = json_size(headers, len(body))
    return len(body) if size is None else size


def options_of(request: Request, protocol: Named | None) -> accelerator.Options | None:
    """Return the options in the query of a request; None where Python is to read them."""
    if not request.query:
        return accelerator.NO_OPTIONS
    return accelerator.options_of(request.query, predicts=protocol is not OPEN_INFERENCE)


def natively(exchange: Exchange) -> Response | None:
    """Return the native codec's response; None for a request that it declines or whose run failed."""
    quick, protocol = accelerator.of(exchange.model), exchange.protocol
    options = options_of(exchange.request, protocol) if protocol in NATIVE else accelerator.NO_OPTIONS
    if quick.reason or protocol not in NATIVE or options is None:
        reason = quick.reason or (accelerator.QUERY if protocol in NATIVE else accelerator.PROTOCOL)
        accelerator.tally.add(reason, perf_counter_ns())
        return None
    body, record = exchange.body, exchange.record
    prepared, size = record.prepared, request_size(protocol, exchange.request.headers, body)
    if prepared is not None and prepared[:2] == (quick, (body, size, options)):
        result = prepared.result
    else:
        result = quick.answer(body, size, options)
    if isinstance(result, str):
        accelerator.tally.add(result, perf_counter_ns())
        return None
    if len(result) == 2:
        accelerator.tally.add(accelerator.REFUSED, perf_counter_ns())
        exchange.failure = run_error(result.code, result.message)
        return None
    return accelerated(quick, result, record)


def accelerated(quick: accelerator.Quick, answer: accelerator.Answer, record: Record) -> Response:
    """Return the response with an answer of the native codec, which is counted and recorded."""
    accelerator.tally.add(accelerator.ACCELERATED, answer.encoded)
    record.signature, record.rows = quick.names[answer.signature], answer.rows
    record.decoding, record.decoded, record.ran = answer.decoding, answer.decoded, answer.ran
    if phases.pending:
        phases.took("run", (record.ran - record.decoded) / 1e9)
    return with_binary(answer.body, answer.json_size) if answer.json_size else Response(200, answer.body)


def negotiated(answer: Answer) -> Answer:
    """Find the protocol of a body at an address with several protocols."""

    def answer_in_its_protocol(exchange: Exchange) -> Response:
        protocol = protocol_of(exchange.request, exchange.protocol, exchange.body)
        exchange.protocol = exchange.record.protocol = protocol
        return answer(exchange)

    return answer_in_its_protocol


def protocol_of(request: Request, protocol: Named, body: bytes) -> Named:
    """Return the protocol of a body, where `protocol` is that of its address."""
    if protocol is not TENSORFLOW_SERVING:
        return protocol
    if is_raw(request.headers.get("content-type") or "", body):
        return RAW
    if request.path == "/invocations":
        return SAGEMAKER
    # Vertex AI has one address for every protocol.
    options = settings.current()
    if request.path == options.aip_predict_route and (
        request.headers.get(HEADER) is not None or is_open_inference(body, options)
    ):
        return OPEN_INFERENCE
    return protocol


def compressed(answer: Answer) -> Answer:
    """Compress a large response where the client accepts that."""

    def answer_compressed(exchange: Exchange) -> Response:
        response = answer(exchange)
        if len(response.body) >= SMALLEST_COMPRESSED:
            response = compress(response, exchange.request.headers.get("accept-encoding"))
        exchange.record.encoded = perf_counter_ns()
        return response

    return answer_compressed


def loaded(answer: Answer) -> Answer:
    """Load the model if it is not loaded, and record how long the request waited for the load."""

    def answer_by_the_model(exchange: Exchange) -> Response:
        cache = loading.cache()
        if cache.loaded:
            exchange.model = cache.get(exchange.until)
        else:
            watchdog.watch(settings.current())
            began = perf_counter_ns()
            try:
                exchange.model = cache.get(exchange.until)
            finally:
                exchange.record.waited = perf_counter_ns() - began
            if time.monotonic() > exchange.until:  # as for those that waited for this load
                raise LoadingError(loading.TOO_LATE)
        return answer(exchange)

    return answer_by_the_model


def unpacked(answer: Answer) -> Answer:
    """Undo the Content-Encoding of a body."""

    def answer_unpacked(exchange: Exchange) -> Response:
        exchange.body = unpack(exchange.body, exchange.request.headers, _most(exchange))
        return answer(exchange)

    return answer_unpacked


def admitted(answer: Answer) -> Answer:
    """Run a request when a slot is free; refuse it if its deadline has passed by then."""

    def answer_in_turn(exchange: Exchange) -> Response:
        record = exchange.record
        slot, record.entered = record.entered, None
        if slot is None:
            slot = exchange.slots.enter(exchange.until)
        # The load and the first run take longer than those that come after them.
        is_typical = not phases.pending and loading.cache().loaded
        try:
            return answer(exchange)
        finally:
            slot.leave(is_typical=is_typical)

    return answer_in_turn


def received(answer: Answer) -> Answer:
    """Refuse a request that would wait too long for a slot; then read its body, limited and counted."""

    def answer_with_body(exchange: Exchange) -> Response:
        request, record, control = exchange.request, exchange.record, admission.current()
        if record.refused is not None:
            raise record.refused
        exchange.slots = control.slots(request) if record.entered is None else record.entered.slots
        exchange.until = record.until or exchange.slots.expect(request.headers)
        metered = control.metered(request)
        try:
            exchange.body = receive_body(metered or request.body, request.length, _most(exchange))
            return answer(exchange)
        except (BadRequest, TimedOut):
            if admission.stopping and not hasattr(exchange, "body"):  # clients that still send are cut off
                raise Unavailable("the server is stopping; try again") from None
            raise
        finally:
            if metered is not None:
                metered.close()

    return answer_with_body


def _most(exchange: Exchange) -> int:
    """Return the largest body to read: more at the root, where a body with a declared length may be an event."""
    request, most = exchange.request, settings.current().max_body_bytes
    return largest_body(request.path) if (request.length or 0) > most else most


def largest_body(path: str) -> int:
    """Return the largest body in bytes that is read at this path."""
    most = settings.current().max_body_bytes
    return max(LARGEST_EVENT, most) if path in ("/", "/events") else most


# Around every request, the innermost first


def for_this_model(answer: Answer) -> Answer:
    """Refuse an address that names another model, or another version of it."""

    def answer_for_this_model(exchange: Exchange) -> Response:
        if exchange.labels:
            check_labels(exchange.labels)
        return answer(exchange)

    return answer_for_this_model


def check_labels(labels: Mapping[str, str | None]) -> None:
    """Raise NotFound or BadRequest where an address names another model, or another version of it."""
    asked, label, version = labels["name"] or "", labels.get("label"), labels.get("version")
    name = settings.current().model_name
    if asked != name:
        raise NotFound(f"there is no model {asked[:200]!r}{did_you_mean(asked[:200], [name])}")
    if label is not None:
        raise BadRequest(f"there is no version labelled {label[:200]!r}; labels are not in use", example=False)
    if version is not None:
        served = loading.cache().source().version
        if version.lstrip("0") != served.lstrip("0"):
            raise NotFound(f"there is no version {version[:40]} of {name!r}; there is version {served}")


Find = Callable[[str, str], "tuple[Route, dict[str, str | None], Sequence[Route]]"]


def routed(find: Find) -> Layer:
    """Return the layer that finds the route and the protocol of an address."""

    def layer(answer: Answer) -> Answer:
        def answer_at_route(exchange: Exchange) -> Response:
            request = exchange.request
            try:
                exchange.route, exchange.labels, exchange.routes = find(request.method, request.path)
            except NotFound:
                if grpc.is_grpc(request.headers):
                    raise UnsupportedMediaType(grpc.refused()) from None
                raise
            exchange.protocol = exchange.route.protocol
            exchange.record.route = exchange.route
            return answer(exchange)

        return answer_at_route

    return layer


def own_layer() -> tuple[Layer, ...]:
    """Return the layer that LAYER names (module:function), none where it is unset; raise SettingError."""
    name = settings.current().layer
    if not name:
        return ()
    module, _, function = name.partition(":")
    try:
        return (getattr(importlib.import_module(module), function),)
    except Exception as error:
        raise settings.SettingError(f"LAYER: cannot import {name}: {type(error).__name__}: {error}") from error


FAULTS: dict[str, type[HttpError]] = {
    "UNAVAILABLE": Unavailable,
    "RESOURCE_EXHAUSTED": Unavailable,
    "UNIMPLEMENTED": NotImplementedHere,
}


def errors_answered(answer: Answer) -> Answer:
    """Answer every error in JSON, and log those that the client did not cause."""

    def answer_errors(exchange: Exchange) -> Response:
        try:
            return answer(exchange)
        except ModelFault as error:
            _log(exchange, f"a wrong answer of the model: {error}")
            return _refuse(error)
        except HttpError as error:
            return _refuse(error)
        except LoadError as error:
            return _refuse(Unavailable(f"the model cannot be loaded: {error}"))
        except LoadingError as error:
            return _refuse(StillLoading(str(error)))
        except DeadlineError as error:
            return _refuse(DeadlinePassed(str(error)))
        except RunError as error:
            _log(exchange, f"a run failed: {error.code}: {error}")
            return _refuse(FAULTS.get(error.code, HttpError)(f"the model failed: {error.code}"))
        except MemoryError:
            _log(exchange, "out of memory")
            return _refuse(Unavailable("out of memory; try again, or send less at once"))
        except Exception as error:
            log_exception(f"a request failed: {error!r}", **observe.about(exchange.request))
            return _refuse(HttpError("internal error; the log has the reason"))

    return answer_errors


def _log(exchange: Exchange, message: str, **fields: Any) -> None:
    log("ERROR", message, **observe.about(exchange.request), **fields)


LONGEST_MESSAGE = 1900  # characters: an error body stays below 2 kB


def _refuse(error: HttpError) -> Response:
    message = str(error)
    if len(message) > LONGEST_MESSAGE:
        message = message[:LONGEST_MESSAGE] + " ..."
    return Response(error.status, to_json({"error": message}), headers=error.headers)


def observed(answer: Answer) -> Answer:
    """Log, count and trace a request, and add the times of its steps to the response."""

    def answer_observed(exchange: Exchange) -> Response:
        if not metrics.on:
            return observe.finish(exchange.request, answer(exchange))
        metrics.began()
        try:
            return observe.finish(exchange.request, answer(exchange))
        finally:
            metrics.ended()

    return answer_observed
