"""The answer made of a shared run is that of the handler: status, fields, body, line in the log, metrics."""

import json
import re
from collections import Counter
from typing import Any

import pytest

from serving.core.http import HttpError, Request, Response
from serving.core.record import Record
from serving.core.settings import current
from serving.core.telemetry import metrics, observe
from serving.pipeline import admission, handler, routes
from serving.pipeline.native import build as native
from serving.servers.standalone import sharing
from serving.servers.standalone.http1 import Fields
from tests.conftest import Serve
from tests.models.zoo import build
from tests.pipeline.native.conftest import built

HALF = build() / "versions" / "1"
V1, V2 = "/v1/models/model:predict", "/v2/models/model/infer"
PLAIN = b'{"instances": [1.0]}'
MANY = json.dumps({"instances": [number + 0.123 for number in range(16)] * 20}).encode()
INFER = b'{"id": "7", "inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [3]}]}'
BINARY = b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "parameters": {"binary_data_size": 4}}]}'
FINAL, HANDLED, APART = "from the run", "handled, with the result of the run", "by itself"

REQUESTS = [
    # settings                            path              fields                                        body       how it is answered
    ({},                                  V1,               {},                                           PLAIN,     FINAL),
    ({},                                  V1,               {"content-type": "application/json"},         PLAIN,     FINAL),
    ({},                                  V1,               {"content-type": "text/plain"},               PLAIN,     FINAL),
    ({"METRICS": "1"},                    V1,               {"traceparent": f"00-{'1' * 32}-{'2' * 16}-01"}, PLAIN,  FINAL),
    ({},                                  "/v1/models/model/versions/1:predict", {},                      PLAIN,     FINAL),
    ({},                                  "/",              {},                                           PLAIN,     FINAL),
    ({},                                  "/invocations",   {},                                           PLAIN,     FINAL),
    ({},                                  V2,               {},                                           INFER,     FINAL),
    ({"METRICS": "1"},                    V2,               {"inference-header-content-length": str(len(BINARY))},   BINARY + b"\0\0@@", FINAL),
    ({"AIP_PREDICT_ROUTE": "/vertex"},    "/vertex",        {},                                           INFER,     FINAL),
    ({"AIP_PREDICT_ROUTE": "/vertex"},    "/vertex",        {},                                           PLAIN,     FINAL),
    ({"MAX_ROWS": "1000"},                V1,               {},                                           MANY,      FINAL),
    ({"MAX_ROWS": "1000"},                V1,               {"accept-encoding": "gzip"},                  MANY,      FINAL),
    ({},                                  V1,               {"x-request-timeout": "5"},                   PLAIN,     FINAL),
    ({},                                  V1,               {"x-request-timeout": "soon"},                PLAIN,     APART),
    ({},                                  V1,               {"origin": "https://a.example"},              PLAIN,     HANDLED),
    ({"CORS_ORIGINS": "https://a.example"}, V1,             {"origin": "https://a.example"},              PLAIN,     HANDLED),
    ({"CORS_ORIGINS": "https://a.example"}, V1,             {},                                           PLAIN,     HANDLED),
    ({},                                  V1 + "?signature_name=serving_default", {},                     PLAIN,     FINAL),
    ({},                                  V1 + "?top_k=2",  {},                                           PLAIN,     HANDLED),
    ({},                                  V1 + "?unknown=2", {},                                          PLAIN,     FINAL),
    ({},                                  V1 + "?on_error=row", {},                                       PLAIN,     APART),
    ({"LOG_PREDICTIONS": "0.000001"},     V1,               {},                                           PLAIN,     FINAL),
    ({"LOG_PREDICTIONS": "1"},            V1,               {},                                           PLAIN,     APART),
    ({},                                  V1,               {},                                           b"{",      HANDLED),
    ({},                                  V1,               {},                                           b'{"instances": ["a"]}', HANDLED),
    ({},                                  V1,               {"content-type": "text/csv"},                 b"1.0\n",  APART),
    ({},                                  V1,               {"content-encoding": "gzip"},                 PLAIN,     APART),
    ({"MAX_BODY_BYTES": "10"},            V1,               {},                                           PLAIN,     APART),
    ({},                                  "/v1/models/other:predict", {},                                 PLAIN,     APART),
    ({},                                  "/v1/models/model/versions/7:predict", {},                      PLAIN,     APART),
    ({},                                  "/v1/models/model/labels/new:predict", {},                      PLAIN,     APART),
    ({},                                  "/nowhere",       {},                                           PLAIN,     APART),
]  # fmt: skip


def answered(request: Request, *, shares: bool) -> tuple[Response, str]:
    """Return the response of a request, answered as the loop does or by the handler alone, and how it was made."""
    request = request._replace(record=Record())
    control, shared = admission.current(), None
    if shares and routes.is_prediction(request.method, request.path):
        slots = control.slots(request)
        try:
            request.record.until = slots.expect(request.headers)
            shared = sharing.plan(request) if slots is control.sharing else None
        except HttpError as error:
            request.record.refused = error
    if shared is None:
        return handler.handle(request), APART
    slot = control.sharing.try_enter()
    assert slot
    request.record.entered = slot
    (result,) = shared.quick.together([shared.asks])
    sharing.keep(request, shared, result)
    is_final = request.record.prepared.is_final
    response = sharing.respond(request) if is_final else handler.handle(request)
    assert request.record.entered is None or not is_final
    return response, FINAL if is_final else HANDLED


def seen(response: Response, log: str) -> Any:
    """Return what of an answer and of its line in the log does not depend on the time."""
    lines = [entry for line in log.splitlines() if "httpRequest" in (entry := json.loads(line))]
    for entry in lines:
        entry["milliseconds"] = [*entry["milliseconds"]]
        del entry["time"], entry["httpRequest"]["latency"]
    assert len(lines) == 1
    return response.status, response.body, response.content_type, [name for name, _ in response.headers], lines


def counted() -> Counter[str]:
    """Return the metrics that do not depend on the time; none where they are off."""
    samples = metrics.expose("")[0].decode().splitlines() if metrics.on else []
    numbers = (line.rpartition(" ") for line in samples if re.match(r"serving_[a-z_]+_(total|count)\b", line))
    return Counter({name: int(float(number)) for name, _, number in numbers})


@pytest.mark.parametrize(("settings", "path", "fields", "body", "how"), REQUESTS)
def test_the_answer_of_a_shared_run_is_that_of_the_handler(
    serve: Serve, capfd: Any, settings: dict[str, str], path: str, fields: dict[str, str], body: bytes, how: str
) -> None:
    headers = Fields({name.encode(): value.encode() for name, value in fields.items()})
    address, _, query = path.partition("?")
    request = Request("POST", address, query, headers, body, len(body))
    answers, counts = [], []
    for shares in (False, True):
        options = {
            "MODEL_NAME": "model",
            "ACCELERATOR": str(built(native.cached)),
            "BATCH_ROWS": "512",
            "LOG_REQUESTS": "all",
        }
        serve(HALF, **options, **settings)("POST", V1, {"instances": [1]})
        observe.begin(current())
        before = counted()
        capfd.readouterr()
        response, made = answered(request, shares=shares)
        answers.append(seen(response, capfd.readouterr().out))
        counts.append(counted() - before)
    assert made == how
    assert answers[1] == answers[0]
    assert counts[1] == counts[0]
    assert bool(counts[0]) == ("METRICS" in settings)
