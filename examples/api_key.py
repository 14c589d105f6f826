"""A layer that asks every request for an API key: `LAYER=examples.api_key:with_api_key API_KEYS=first,second`.

A client sends `X-API-Key: first`. In production the keys come from a secret: `gcloud run deploy … --set-secrets
API_KEYS=my-keys:latest`. Several keys at once let clients change from one to the next.
"""

import hmac
import os

from serving.core.http import Response, Unauthorized
from serving.pipeline.exchange import Answer, Exchange

KEYS = [key.strip().encode() for key in os.environ.get("API_KEYS", "").split(",") if key.strip()]
OPEN = ("/healthz", "/readyz")  # platforms probe these and have no key
if not KEYS:
    raise ValueError("API_KEYS: expected keys separated by commas, got nothing")


def with_api_key(answer: Answer) -> Answer:
    """Return an answer that refuses requests without a known key with 401."""

    def answer_with_key(exchange: Exchange) -> Response:
        request = exchange.request
        sent = (request.headers.get("x-api-key") or "").encode("utf-8", "replace")
        # Every key is compared, each in constant time: how long this takes says nothing about the keys.
        matches = [hmac.compare_digest(sent, key) for key in KEYS]
        if not any(matches) and request.path not in OPEN:
            raise Unauthorized("X-API-Key: expected a known key")
        return answer(exchange)

    return answer_with_key
