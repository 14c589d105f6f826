"""One request on its way through the layers, and the shape that every layer has.

Answer      takes an exchange and returns its response
Layer       takes an Answer and returns one that does something before it, after it or in its place
stack(a, b, c)      a, inside of the layer b, inside of the layer c
"""

from collections.abc import Callable, Sequence
from time import perf_counter_ns
from typing import Any

from serving.core import settings
from serving.core.errors import RunError
from serving.core.http import Request, Response, TooLarge
from serving.core.telemetry import phases
from serving.protocols.call import Arrays, Call, Context
from serving.protocols.codec import Codec
from serving.protocols.options import from_query
from serving.protocols.sizes import check_arrays, check_memory, check_pictures
from serving.runtime.model import Model


class Exchange:
    """A request, and what the layers add to it on its way. Each is used by one thread at a time."""

    __slots__ = (
        "body", "call", "codec", "context", "failure", "inside", "labels", "model", "outputs", "record", "request",
        "route", "routes", "until",
    )  # fmt: skip

    request: Request
    route: Any  # serving.pipeline.routes.Route: what is at the address
    routes: Sequence[Any]  # all of them
    labels: "dict[str, str | None]"  # what the address names: the model, its version or its label
    codec: Codec
    body: bytes  # read and unpacked
    until: float  # time.monotonic: when the model must have begun
    model: Model
    context: Context
    call: Call | None  # once the body is decoded
    outputs: Arrays  # of the call, once the model has run
    failure: RunError | None  # of a run that the native codec has made already

    def __init__(self, request: Request, inside: "Answer") -> None:
        """Take the request, and what answers the requests that it is made of if it is an event."""
        self.request, self.record, self.inside = request, request.record, inside
        self.call = self.failure = None

    def decode(self) -> Call:
        """Return the call that the body describes; raise BadRequest or TooLarge where it describes none."""
        record, options, model = self.record, settings.current(), self.model
        self.context = Context(
            self.request.headers, model.name, model.version, from_query(self.request.query), options.key_field,
            options.non_finite == "null", model.source.labels, options,
        )  # fmt: skip
        record.decoding = perf_counter_ns()
        self.call = call = self.codec.decode(self.body, model.signatures, self.context)
        record.signature, record.rows = call.signature.name, batch_size(call)
        record.decoded = perf_counter_ns()
        return call

    def run(self, call: Call) -> Arrays:
        """Return the model's outputs by name.

        Raise TooLarge where the inputs are beyond a limit, InputError and RunError as `Model.run` does.
        """
        if call.failed and not call.inputs:
            return {}  # no row is good
        check_memory(check_arrays(call.inputs, call.context.limits))
        if self.model.source.pictures:
            self._check_pictures(call)
        if self.failure is not None:
            raise self.failure
        if phases.pending:
            with phases.measured("run"):
                return self.model.run(call.signature, call.inputs)
        return self.model.run(call.signature, call.inputs)

    def encode(self, call: Call, outputs: Arrays) -> Response:
        """Return the response that holds the outputs."""
        self.record.ran = perf_counter_ns()
        self.call, self.outputs = call, outputs
        return self.codec.encode(call, outputs)

    def _check_pictures(self, call: Call) -> None:
        wrong = check_pictures(call.inputs, self.model.source.pictures, settings.current().max_pixels)
        if wrong:
            name, problem = wrong
            array = call.inputs[name]
            row = 0 if array.size == 1 and array.ndim else None
            raise TooLarge(f"{self.codec.place(call, row) if len(call.inputs) == 1 else name}: {problem}")


Answer = Callable[[Exchange], Response]
Layer = Callable[[Answer], Answer]


def stack(answer: Answer, *layers: Layer) -> Answer:
    """Return an answer inside of layers, the innermost named first."""
    for layer in layers:
        answer = layer(answer)
    return answer


def batch_size(call: Call) -> int:
    """Return the size of the batch, 1 where the signature has no free first dimension."""
    for name, array in call.inputs.items():
        shape = call.signature.inputs[name].shape
        free = array.ndim and (shape is None or shape[0] is None)
        return (len(array) if free else 1) + len(call.failed)
    return len(call.failed)
