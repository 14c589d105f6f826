"""CORS: the header fields for pages of other origins, on every path, errors and the watchdog's answers included."""

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest

from serving.core.http import Request, Response, compress, varied
from serving.core.record import Record
from serving.pipeline import handler, watchdog
from tests.conftest import Serve

SHOP, EVIL = "https://shop.example", "https://evil.example"
ALLOWED = {"CORS_ORIGINS": f"{SHOP}, http://localhost:3000"}
JSON = "application/json"

Ask = Callable[..., Response]


@pytest.fixture
def ask(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ask]:
    """Serve as a server does, with all layers: `ask(CORS_ORIGINS="*")("GET", "/", origin="https://shop.example")`."""

    def start(**environment: str) -> Ask:
        serve(**environment)
        monkeypatch.setattr(handler, "_outside", None)

        def send(method: str, path: str, body: bytes = b"", **headers: str) -> Response:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            return handler.handle(Request(method, path, "", named, body, record=Record()))

        return send

    return start


def fields(answer: Response) -> dict[str, str]:
    assert len({name for name, _ in answer.headers}) == len(answer.headers)
    return {name.lower(): value for name, value in answer.headers}


PATHS = [
    # method    path                            body        type           status
    ("GET",     "/",                            b"",        "",            200),
    ("GET",     "/healthz",                     b"",        "",            200),
    ("GET",     "/openapi.json",                b"",        "",            200),
    ("GET",     "/nowhere",                     b"",        "",            404),
    ("DELETE",  "/",                            b"",        "",            405),
    ("OPTIONS", "/",                            b"",        "",            204),
    ("POST",    "/",                            b"{",       JSON,          400),
    ("POST",    "/v1/models/other:predict",     b"{}",      JSON,          404),
    ("POST",    "/v2/models/model/infer",       b"{}",      JSON,          400),
    ("POST",    "/events",                      b"{",       JSON,          200),
    ("POST",    "/",                            b"x" * 99,  "text/plain",  413),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "body", "kind", "status"), PATHS)
def test_every_answer_may_be_read_by_the_allowed_origins_and_by_no_other(
    ask: Callable[..., Ask], method: str, path: str, body: bytes, kind: str, status: int
) -> None:
    send = ask(MAX_BODY_BYTES="98", **ALLOWED)
    answer = send(method, path, body, origin=SHOP, content_type=kind)
    assert (answer.status, fields(answer)["access-control-allow-origin"]) == (status, SHOP)
    assert "Server-Timing" in fields(answer)["access-control-expose-headers"]
    for origin in ({"origin": EVIL}, {"origin": "null"}, {}):
        answer = send(method, path, body, content_type=kind, **origin)
        assert fields(answer).get("access-control-allow-origin") is None
        assert "Origin" in fields(answer)["vary"].split(", ")  # a cache keeps it apart from the others
    assert not [name for name in fields(answer) if "credentials" in name]


def test_without_the_setting_no_answer_has_a_field_of_cors(ask: Callable[..., Ask]) -> None:
    send = ask()
    for method, path in (("GET", "/"), ("OPTIONS", "/"), ("GET", "/nowhere")):
        answer = send(method, path, origin=SHOP, access_control_request_method="POST")
        assert not [name for name in fields(answer) if name.startswith("access-control")]
        assert "Origin" not in fields(answer).get("vary", "")


def test_all_origins_are_named_by_an_asterisk_and_nothing_depends_on_the_origin(ask: Callable[..., Ask]) -> None:
    send = ask(CORS_ORIGINS="*")
    answer = send("POST", "/", b"{", origin=EVIL)
    assert (answer.status, fields(answer)["access-control-allow-origin"], fields(answer).get("vary")) == (
        400,
        "*",
        None,
    )


PREFLIGHT = [
    # origin   asked for                       answered
    (SHOP,     "content-type,x-api-key",       "content-type,x-api-key"),
    (SHOP,     "authorization, traceparent",   "authorization, traceparent"),
    (SHOP,     None,                           None),
    (SHOP,     "x\r\nInjected: y",             None),
    (SHOP,     "a," * 2000 + "a",              None),
]  # fmt: skip


@pytest.mark.parametrize(("origin", "asked", "allowed"), PREFLIGHT)
@pytest.mark.parametrize("path", ["/v1/models/model:predict", "/nowhere"])
def test_a_preflight_request_is_answered_without_the_check_of_a_layer(
    ask: Callable[..., Ask],
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    origin: str,
    asked: str | None,
    allowed: str | None,
) -> None:
    """A browser sends no key with it."""
    monkeypatch.setenv("API_KEYS", "first")
    send = ask(LAYER="examples.api_key:with_api_key", **ALLOWED)
    headers = {} if asked is None else {"access_control_request_headers": asked}
    answer = send("OPTIONS", path, origin=origin, access_control_request_method="POST", **headers)
    answered = fields(answer)
    assert (answer.status, answer.body, answered["access-control-allow-origin"]) == (204, b"", origin)
    assert answered["access-control-allow-methods"] == "GET, HEAD, POST"
    assert answered.get("access-control-allow-headers") == allowed
    answer = send("POST", path, b"{}", origin=origin)
    assert (answer.status, fields(answer)["access-control-allow-origin"]) == (401, origin)


SIMPLE = [
    # CORS_ORIGINS  Origin  status
    ("",            SHOP,   403),
    (SHOP,          SHOP,   200),
    (SHOP,          EVIL,   403),
    ("*",           EVIL,   200),
]  # fmt: skip


@pytest.mark.parametrize(("setting", "origin", "status"), SIMPLE)
def test_a_post_without_a_preflight_request_needs_an_allowed_origin(
    ask: Callable[..., Ask], examples: dict[str, Any], setting: str, origin: str, status: int
) -> None:
    body = json.dumps(examples["pixels"]).encode()
    assert ask(CORS_ORIGINS=setting)("POST", "/", body, origin=origin, content_type="text/plain").status == status


ALLOW = [
    # path                          Allow
    ("/",                           "GET, HEAD, POST, OPTIONS"),
    ("/healthz",                    "GET, HEAD, OPTIONS"),
    ("/v1/models/model:predict",    "POST, OPTIONS"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "allow"), ALLOW)
def test_options_is_answered_with_the_methods_of_an_address(ask: Callable[..., Ask], path: str, allow: str) -> None:
    send = ask()
    answer = send("OPTIONS", path)
    assert (answer.status, answer.body, fields(answer)["allow"]) == (204, b"", allow)
    assert send("OPTIONS", "/nowhere").status == 404
    assert send("OPTIONS", path.replace("models/model", "models/other")).status == (404 if "models" in path else 204)


def test_a_response_has_one_field_for_all_that_it_depends_on() -> None:
    answer = varied(compress(Response(200, b" " * 2000), "gzip"), "Origin")
    assert [value for name, value in answer.headers if name == "Vary"] == ["Accept-Encoding, Origin"]


def test_the_answer_of_the_watchdog_may_be_read_too(ask: Callable[..., Ask], monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Response] = []
    send = ask(**ALLOWED)

    def hang(_exchange: Any) -> Response:
        watchdog._givers[threading.get_ident()](Response(504, b"{}"))
        return Response(200, b"{}")

    monkeypatch.setattr(handler, "compose", lambda: hang)
    watchdog.answers(given.append)
    send("GET", "/healthz", origin=SHOP)
    watchdog.answered()
    assert [(answer.status, fields(answer)["access-control-allow-origin"]) for answer in given] == [(504, SHOP)]
