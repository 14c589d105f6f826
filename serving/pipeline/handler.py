"""The entry point of every server: `handle` answers a request inside of layers, listed with the innermost first.

`handle` raises nothing: each error becomes a JSON body with its status.
"""

from serving.core import settings
from serving.core.http import Request, Response
from serving.core.record import UNWATCHED, Record
from serving.pipeline import routes
from serving.pipeline.exchange import Answer, Exchange, Layer, stack
from serving.pipeline.layers import errors_answered, for_this_model, observed, own_layer, routed
from serving.pipeline.origins import cross_origin, same_origin
from serving.runtime import opening


def act(exchange: Exchange) -> Response:
    """Call the action of the route."""
    answer: Answer = exchange.route.action
    return answer(exchange)


def compose(*layers: Layer) -> Answer:
    """Return the Answer for every request: the routes, inside of these layers of the user, if any."""
    return stack(act, for_this_model, same_origin, routed(routes.find), *layers, errors_answered)


_inside = compose()  # answers requests that come from no server: those in an event, those of commands
_outside: Answer | None = None


def prepare() -> Answer:
    """Return the function that answers the requests of a server, and import what every request needs.

    Raise SettingError where LAYER cannot be imported.
    """
    global _outside
    options = settings.current()
    if not opening.is_native(options):
        from serving.pipeline import inference  # noqa: F401 - every prediction needs it
    _outside = stack(compose(*own_layer()), *cross_origin(), observed)
    return _outside


def handle(request: Request) -> Response:
    """Answer a request of a server: it has a record, passes the layer of LAYER, and is logged, counted and traced."""
    if request.record is UNWATCHED:
        return answer(request._replace(record=Record()))
    return (_outside or prepare())(Exchange(request, _inside))


def answer(request: Request) -> Response:
    """Answer a request that comes from no server: without the layer of LAYER, and without log, metrics and traces."""
    return _inside(Exchange(request, _inside))
