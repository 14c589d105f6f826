"""A layer that asks every request for an API key: `LAYER=examples.api_key:with_api_key API_KEYS=first,second`.

A client sends `X-API-Key: first`. In production the keys come from a secret: as a variable, `gcloud run deploy …
--set-secrets API_KEYS=my-keys:latest`, or as a mounted file with a key a line, `API_KEYS_FILE=/secrets/keys`. Several
keys at once let clients change from one to the next. The page to try the model says nothing by itself: it is sent
without a key, and asks for one.
"""

import hmac
import os
from pathlib import Path

from serving.core.http import Response, Unauthorized
from serving.pipeline.exchange import Answer, Exchange
from serving.pipeline.page import is_preferred

FILE = os.environ.get("API_KEYS_FILE")
TEXT = Path(FILE).read_text() if FILE else os.environ.get("API_KEYS", "").replace(",", "\n")
KEYS = [line.strip().encode() for line in TEXT.splitlines() if line.strip()]
OPEN = ("/healthz", "/readyz")  # platforms probe these and have no key
if not KEYS:
    expected = "API_KEYS_FILE: expected keys, one per line" if FILE else "API_KEYS: expected keys separated by commas"
    raise ValueError(f"{expected}, got nothing")


def with_api_key(answer: Answer) -> Answer:
    """Return an answer that refuses requests without a known key with 401."""

    def answer_with_key(exchange: Exchange) -> Response:
        request = exchange.request
        sent = (request.headers.get("x-api-key") or "").encode("utf-8", "replace")
        # Every key is compared, each in constant time: how long this takes says nothing about the keys.
        matches = [hmac.compare_digest(sent, key) for key in KEYS]
        is_page = (request.method, request.path) == ("GET", "/") and is_preferred(request.headers.get("accept"))
        if not any(matches) and not is_page and request.path not in OPEN:
            raise Unauthorized("X-API-Key: expected a known key")
        return answer(exchange)

    return answer_with_key
