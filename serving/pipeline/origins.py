"""Requests of browsers for pages of other origins: refused, or allowed by CORS_ORIGINS.

A browser adds `Origin` to a request. It hides the answer from the page unless `Access-Control-Allow-Origin` names that
origin, and sends a preflight request (OPTIONS) before a request that an HTML form could not send <https://fetch.spec.whatwg.org/#http-cors-protocol>:

    OPTIONS /v1/models/model:predict             204
    Origin: https://shop.example                 Access-Control-Allow-Origin: https://shop.example
    Access-Control-Request-Method: POST          Access-Control-Allow-Methods: GET, HEAD, POST
    Access-Control-Request-Headers: x-api-key    Access-Control-Allow-Headers: x-api-key

`Access-Control-Allow-Credentials` is never sent: no answer depends on a cookie. An Authorization field needs none.
"""

import re

from serving.core import settings
from serving.core.http import Forbidden, Headers, Request, Response, media_type, varied
from serving.pipeline import watchdog
from serving.pipeline.exchange import Answer, Exchange, Layer

ANY = "*"
METHODS = "GET, HEAD, POST"
EXPOSED = "Allow, Inference-Header-Content-Length, Retry-After, Server-Timing"  # beside those that any page may read
MAX_AGE = "7200"  # seconds that a browser keeps the answer to a preflight request: the most that Chromium does
LONGEST = 2000  # characters of a list of header names
NAMES = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+(?:[ \t]*,[ \t]*[!#$%&'*+.^_`|~0-9A-Za-z-]+)*")

# Content types that a browser sends to any host without a preflight request <https://fetch.spec.whatwg.org/#cors-safelisted-request-header>
UNASKED = ("", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data")


def cross_origin() -> tuple[Layer, ...]:
    """Return the layer for the pages of CORS_ORIGINS; none where it is unset."""
    return (shared,) if settings.current().cors_origins else ()


def shared(answer: Answer) -> Answer:
    """Answer preflight requests, and let pages of the origins in CORS_ORIGINS read every answer."""

    def answer_shared(exchange: Exchange) -> Response:
        request = exchange.request

        def share(response: Response) -> Response:
            return with_fields(response, request.headers)

        watchdog.change(share)
        return share(_preflight(request) if _is_preflight(request) else answer(exchange))

    return answer_shared


def with_fields(response: Response, headers: Headers) -> Response:
    """Return the response with the fields that let the requesting page read it, if its origin is allowed."""
    response = response._replace(headers=(*response.headers, *fields(headers)))
    return varied(response, "Origin") if depends() else response


def fields(headers: Headers) -> tuple[tuple[str, str], ...]:
    """Return the fields that let the requesting page read the response; none if its origin is not allowed."""
    origin, allowed = headers.get("origin"), settings.current().cors_origins
    if origin is None or not is_allowed(origin, allowed):
        return ()
    named = ANY if ANY in allowed else origin
    return (("Access-Control-Allow-Origin", named), ("Access-Control-Expose-Headers", EXPOSED))


def depends() -> bool:
    """Return whether responses depend on the Origin field, even an absent one, so that caches must keep them apart."""
    allowed = settings.current().cors_origins
    return bool(allowed) and ANY not in allowed


def is_allowed(origin: str, allowed: frozenset[str]) -> bool:
    """Return whether CORS_ORIGINS allows an origin, as a browser writes it."""
    return ANY in allowed or origin in allowed


def _is_preflight(request: Request) -> bool:
    get = request.headers.get
    return (
        request.method == "OPTIONS" and get("origin") is not None and get("access-control-request-method") is not None
    )


def _preflight(request: Request) -> Response:
    """Allow any method and header of ours, also at addresses that do not exist: the page may then read the error."""
    asked = request.headers.get("access-control-request-headers") or ""
    fields = [("Allow", f"{METHODS}, OPTIONS"), ("Access-Control-Allow-Methods", METHODS)]
    if len(asked) <= LONGEST and NAMES.fullmatch(asked):
        fields.append(("Access-Control-Allow-Headers", asked))
    return Response(204, b"", headers=(*fields, ("Access-Control-Max-Age", MAX_AGE)))


def same_origin(answer: Answer) -> Answer:
    """Refuse requests of other origins' pages without a preflight request, unless CORS_ORIGINS allows the origin."""

    def answer_same_origin(exchange: Exchange) -> Response:
        if exchange.request.method == "POST":
            _check_origin(exchange.request.headers)
        return answer(exchange)

    return answer_same_origin


def _check_origin(headers: Headers) -> None:
    """Raise Forbidden for a browser's request from a page of another origin, unless it needed a preflight request.

    Otherwise an instance on a user's own machine would answer every page that the user opens.
    """
    origin = headers.get("origin")
    if origin is None or media_type(headers) not in UNASKED:
        return
    site = origin.partition("://")[2].lower()
    hosts = (headers.get("host") or "", (headers.get("x-forwarded-host") or "").partition(",")[0].strip())
    if site and site in (host.lower() for host in hosts):
        return
    if not is_allowed(origin, settings.current().cors_origins):
        expected = "the host of this server, an origin of CORS_ORIGINS, or a Content-Type such as application/json"
        raise Forbidden(f"Origin: expected {expected}, got {origin[:100]!r}")
