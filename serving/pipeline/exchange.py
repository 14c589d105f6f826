"""The state of one request in the layers, and the type of a layer.

Answer      takes an exchange and returns its response
Layer       takes an Answer and returns an Answer that does something before it, after it or instead of it
stack(a, b, c)      a, inside of the layer b, inside of the layer c
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from serving.core.errors import RunError
from serving.core.http import Request, Response
from serving.pipeline.admission import Slots
from serving.protocols.named import Named
from serving.runtime.model import Model

if TYPE_CHECKING:
    from serving.protocols.call import Arrays, Call, Context
    from serving.protocols.codec import Codec


class Exchange:
    """A request, and what the layers add to it. One thread at a time uses it."""

    __slots__ = (
        "body", "call", "context", "failure", "inside", "labels", "model", "outputs", "protocol", "record", "request",
        "route", "routes", "slots", "until",
    )  # fmt: skip

    request: Request
    route: Any  # serving.pipeline.routes.Route: what is at the address
    routes: Sequence[Any]  # all of them
    labels: "dict[str, str | None]"  # what the address names: the model, its version or its label
    protocol: Named
    body: bytes  # read and unpacked
    slots: Slots  # for requests of its kind
    until: float  # time.monotonic: when the model must have begun
    model: Model
    context: "Context"
    call: "Call | None"  # once the body is decoded
    outputs: "Arrays"  # of the call, once the model has run
    failure: RunError | None  # of a run that the native codec has made already

    def __init__(self, request: Request, inside: "Answer") -> None:
        """Store the request and, if it is an event, the function that answers the requests in it."""
        self.request, self.record, self.inside = request, request.record, inside
        self.call = self.failure = None

    @property
    def codec(self) -> "Codec":
        """Return the codec of the protocol, imported with the first request that needs it."""
        return self.protocol.codec


Answer = Callable[[Exchange], Response]
Layer = Callable[[Answer], Answer]


def stack(answer: Answer, *layers: Layer) -> Answer:
    """Return an answer inside of layers, the innermost named first."""
    for layer in layers:
        answer = layer(answer)
    return answer
