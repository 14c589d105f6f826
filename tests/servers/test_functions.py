"""A user's edits of the functions in main.py take effect: edited copies in the real functions-framework.

The first test of each function starts the server; the others call the application that functions-framework makes.
"""

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import functions_framework
import pytest

from serving.core import settings
from serving.core.http import Request
from serving.core.record import Record
from serving.servers.functions import application_of
from serving.servers.standalone.http1 import Fields
from tests.conftest import EMBEDDED, ROOT, Serve
from tests.pipeline.test_handler import PREDICT
from tests.server import Answer, Server, running

MAIN = (ROOT / "main.py").read_text()
INFER = "/v2/models/model/infer"
CE: Any = {"ce_specversion": "1.0", "ce_id": "1", "ce_source": "/s", "ce_type": "t", "content_type": "application/json"}


def write(folder: Path, edits: Iterable[tuple[str, str]]) -> Path:
    text = MAIN
    for old, new in edits:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    (folder / "main.py").write_text(text)
    (folder / "serving").symlink_to(ROOT / "serving")
    return folder / "main.py"


@pytest.fixture
def made(tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Callable[..., Answer]]:
    """Return what makes the application of a copy, and asks it: as gunicorn's worker does, and by WSGI."""

    def make(*edits: tuple[str, str], target: str = "predict") -> Callable[..., Answer]:
        serve()
        monkeypatch.syspath_prepend(str(ROOT))
        monkeypatch.setattr(sys, "path", sys.path[:])
        app = functions_framework.create_app(target, str(write(tmp_path, edits)))
        client, application = app.test_client(use_cookies=False), application_of(app)

        def ask(method: str, path: str, body: Any = b"", **headers: str) -> Answer:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            by_wsgi = client.open(path, method=method, data=data, headers=named)
            fields = Fields({name.encode(): value.encode() for name, value in named.items()} | {b"host": b"localhost"})
            answer = application.answer(Request(method, unquote(path), "", fields, data, len(data), Record()))
            given = {name.lower(): value for name, value in answer.headers}
            given |= {"content-type": answer.content_type, "content-length": str(len(answer.body))}
            other = {name.lower(): value for name, value in by_wsgi.headers.items() if name != "Server-Timing"}
            assert (answer.status, answer.body) == (by_wsgi.status_code, by_wsgi.data)
            assert other.items() <= given.items()
            return Answer(answer.status, given, answer.body)

        return ask

    return make


@contextmanager
def edited(
    folder: Path, *edits: tuple[str, str], target: str = "functions-framework", **environment: str
) -> Iterator[Server]:
    """Serve a copy of main.py in which each first text is replaced by the second."""
    write(folder, edits)
    with running(target, EMBEDDED, folder, **environment) as server:
        yield server


BODY = "    return to_flask(handle(from_flask(request)))\n"
EVENT = "    return receive_object(event, handle)\n"

KEY = """    if request.headers.get("X-Key") != "right":
        flask.abort(401, "the key is wrong")
"""

# Requests that a server might answer without calling the function.
ASKED = [
    ("GET", "/"), ("GET", "/healthz"), ("GET", "/readyz"), ("GET", "/openapi.json"), ("GET", "/v1/models/model"),
    ("GET", "/v1/models/model/metadata"), ("GET", "/v2"), ("GET", "/v2/models/model"), ("GET", "/favicon.ico"),
    ("GET", "/robots.txt"), ("GET", "/v1/models/a%0d%0aX:y"), ("GET", "//"), ("GET", "/nothing"), ("GET", "/metrics"),
    ("POST", "/"), ("POST", PREDICT), ("POST", INFER), ("POST", "/events"), ("POST", "/invocations"),
    ("PUT", PREDICT), ("DELETE", "/"), ("PATCH", "/"), ("HEAD", "/"), ("OPTIONS", "/"), ("TRACE", "/"), ("PROPFIND", "/"),
]  # fmt: skip


def test_a_check_in_predict_refuses_every_path_and_method(tmp_path: Path, examples: dict[str, Any]) -> None:
    with edited(tmp_path, (BODY, KEY + BODY), METRICS="1") as server:
        for method, path in ASKED:
            answer = server.ask(method, path, examples["pixels"] if method == "POST" else b"")
            assert answer.status == 401, (method, path)
            if method != "HEAD":
                assert answer.json == {"error": "the key is wrong"}
        assert server.ask("POST", "/", b" " * (5 << 20)).status == 401  # no reset
        assert server.ask("POST", "/", examples["pixels"], x_key="right").status == 200
        assert server.ask("GET", "/nothing", x_key="right").status == 404


def test_the_documented_check_refuses_requests_without_the_key_but_not_the_platforms_probe(
    made: Callable[..., Callable[..., Answer]], monkeypatch: pytest.MonkeyPatch, examples: dict[str, Any]
) -> None:
    page = (ROOT / "docs" / "own-checks.md").read_text()
    _, _, check = page[: page.index(BODY)].rpartition("flask.Response:\n")
    monkeypatch.setenv("API_KEY", "right")
    ask = made((BODY, check + BODY))
    assert ask("GET", "/readyz").status == 200
    assert ask("POST", "/", examples["pixels"]).status == ask("GET", "/").status == 401
    assert ask("POST", "/", examples["pixels"], x_api_key="right").status == 200


def test_a_refusal_of_predict_may_be_read_by_the_pages_of_cors_origins(
    made: Callable[..., Callable[..., Answer]], monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = made((BODY, KEY + BODY))
    monkeypatch.setenv("CORS_ORIGINS", "https://shop.example")
    settings.current.cache_clear()
    for origin, allowed in (("https://shop.example", "https://shop.example"), ("https://evil.example", None)):
        answer = ask("POST", "/", b"{}", origin=origin)
        assert (answer.status, answer.headers.get("access-control-allow-origin")) == (401, allowed)
        assert answer.headers["vary"] == "Origin"


def good(answer: Answer) -> None:
    assert (answer.status, answer.json["predictions"][0]["label"]) == (200, "3")


WRAPPED = """import functools


def stamped(function):
    @functools.wraps(function)
    def inner(request):
        answer = function(request)
        answer.headers["X-Stamp"] = request.path
        return answer

    return inner


@stamped
@functions_framework.http"""
LATER = """

_whole = predict


def predict(request):
    answer = flask.make_response(_whole(request))
    answer.set_cookie("seen", "1")
    answer.status_code += 1
    return answer
"""

EDITS = [
    # what                                   edit                                                                            status, headers, body
    ("a header is added",                    (BODY, "    answer = to_flask(handle(from_flask(request)))\n    answer.headers['X-Mine'] = 'yes'\n    return answer\n"),
                                                                                                                              (200, {"x-mine": "yes"}, None)),
    ("a decorator wraps it",                 ("@functions_framework.http", WRAPPED),                                          (200, {"x-stamp": "/"}, None)),
    ("it is replaced at the end of the file", ("    take_over(flask.current_app, globals())\n", "    take_over(flask.current_app, globals())\n" + LATER),
                                                                                                                              (201, {"set-cookie": "seen=1; Path=/"}, None)),
    ("the body is replaced",                 (BODY, "    answer = to_flask(handle(from_flask(request)))\n    answer.data = b'{}'\n    return answer\n"),
                                                                                                                              (200, {"content-length": "2"}, {})),
    ("text, a status and headers",           (BODY, "    return 'short', 418, {'X-A': 'b'}\n"),                             (418, {"x-a": "b"}, None)),
    ("a dictionary",                         (BODY, "    return {'a': 1}\n"),                                                (200, {"content-type": "application/json"}, {"a": 1})),
    ("parts",                                (BODY, "    return flask.Response(flask.stream_with_context(part + flask.request.path for part in ('[', '1]')), 200) if 0 else flask.Response(iter(['[', '1]']))\n"),
                                                                                                                              (200, {}, [1])),
    ("flask.request and flask.g are there",  (BODY, "    assert flask.url_for('run', path='a') == '/a'\n    assert flask.has_app_context() and flask.has_request_context() and flask.current_app.logger\n    flask.g.x = flask.request.method + flask.request.path + flask.current_app.name\n    return {'x': flask.g.x}\n"),
                                                                                                                              (200, {}, {"x": "POST/predict"})),
    ("something is done after it",           (BODY, "    @flask.after_this_request\n    def add(answer):\n        answer.headers['X-After'] = '1'\n        return answer\n\n" + BODY),
                                                                                                                              (200, {"x-after": "1"}, None)),
    ("a session",                            (BODY, "    flask.current_app.secret_key = 'x'\n    flask.session['a'] = 1\n    return {}\n"),
                                                                                                                              (200, {"vary": "Cookie"}, {})),
    ("an exception",                         (BODY, "    raise KeyError('secret')\n"),                                       (500, {"content-type": "application/json"}, {"error": "internal error; the log has the reason"})),
    ("abort(500)",                           (BODY, "    flask.abort(500, 'mine')\n"),                                       (500, {}, {"error": "mine"})),
    ("abort with a response",                (BODY, "    flask.abort(flask.Response('[]', 402))\n"),                         (402, {}, [])),
    ("an error handler of the application",  (BODY, "    raise KeyError('secret')\n\n\n@functions_framework.errorhandler(KeyError)\ndef missing(error):\n    return {'missing': True}, 404\n"),
                                                                                                                              (404, {}, {"missing": True})),
    ("a hook of the application",            ("@functions_framework.http", "@flask.current_app.before_request\ndef check():\n    return {'hook': flask.request.path}, 403\n\n\n@functions_framework.http"),
                                                                                                                              (403, {}, {"hook": "/"})),
    ("middleware before it",                 ("@functions_framework.http", "_before = flask.current_app.wsgi_app\n\n\ndef refuse(environ, start_response):\n    start_response('403 Forbidden', [('X-Ware', '1')])\n    return [b'[]']\n\n\nflask.current_app.wsgi_app = refuse\n\n\n@functions_framework.http"),
                                                                                                                              (403, {"x-ware": "1"}, [])),
    ("a hook after the answer",              ("@functions_framework.http", "@flask.current_app.after_request\ndef add(answer):\n    answer.headers['X-Hook'] = '1'\n    return answer\n\n\n@functions_framework.http"),
                                                                                                                              (200, {"x-hook": "1"}, None)),
]  # fmt: skip


@pytest.mark.parametrize(("what", "edit", "expected"), EDITS, ids=[edit[0] for edit in EDITS])
def test_an_edit_of_predict_takes_effect(
    what: str, edit: tuple[str, str], expected: tuple[int, dict[str, str], Any],
    made: Callable[..., Callable[..., Answer]], examples: dict[str, Any], capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    status, headers, body = expected
    answer = made(edit)("POST", "/", examples["pixels"])
    assert answer.status == status, answer.body
    assert {name: answer.headers.get(name) for name in headers} == headers
    if body is not None:
        assert answer.json == body
    elif status < 300:
        assert answer.json["predictions"][0]["label"] == "3"
    assert ("secret" in capsys.readouterr().out) == (what == "an exception")


SEEN = """    return {
        "client": request.remote_addr, "path": request.path, "query": request.args.to_dict(), "host": request.host,
        "field": request.headers["X-Field"], "json": request.get_json(), "method": request.method,
        "underscore": request.headers.get("X-Other"), "length": request.content_length,
    }
"""


def test_predict_sees_the_whole_request(tmp_path: Path) -> None:
    with edited(tmp_path, (BODY, SEEN)) as server:
        head = b"POST /a%20b?c=d HTTP/1.1\r\nHost: h\r\nX-Field: f\r\nX_Other: o\r\nContent-Type: application/json\r\n"
        chunks = b"Transfer-Encoding: chunked\r\n\r\n3\r\n[1,\r\n2\r\n2]\r\n0\r\n\r\n"
        for rest in (b"Content-Length: 5\r\n\r\n[1,2]", chunks):
            seen = json.loads(server.raw(head + rest).partition(b"\r\n\r\n")[2])
            assert seen == {
                "client": "127.0.0.1", "path": "/a b", "query": {"c": "d"}, "host": "h", "field": "f", "json": [1, 2],
                "method": "POST", "underscore": None, "length": 5,
            }  # fmt: skip


SIGNED = "@functions_framework.http  # type: ignore[untyped-decorator]\ndef predict(request: flask.Request) -> flask.Response:\n"
CHECKING = "class Check:\n    def __bool__(self):\n        flask.abort(401)\n\n\n"
SIGNED_BY = "@functions_framework.http\ndef predict(request, check=Check()):\n    if check:\n        pass\n"


STAMPED = BODY.replace("return", "answer =") + "    answer.headers['X-Stamp'] = '1'\n    return answer\n"
HOOK = """@flask.current_app.after_request
def stamp(answer):
    answer.headers['X-Stamp'] = '1'
    return answer


@functions_framework.http"""


@pytest.mark.parametrize("edit", [(BODY, STAMPED), ("@functions_framework.http", HOOK)], ids=["predict", "a hook"])
def test_head_has_the_length_of_what_get_is_answered_with(tmp_path: Path, edit: tuple[str, str]) -> None:
    with edited(tmp_path, edit) as server:
        head, got = (
            server.raw(b"%b /v2 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n" % method)
            for method in (b"HEAD", b"GET")
        )
    fields, _, body = got.partition(b"\r\n\r\n")
    length = b"Content-Length: %d\r\n" % len(body)
    assert body
    assert head.endswith(b"\r\n\r\n")
    assert (length in head, length in fields + b"\r\n", b"X-Stamp" in head) == (True, True, True)


ALONE = [
    # what                           edit                                                  calls the handler and nothing else
    ("nothing",                      (BODY, BODY),                                         True),
    ("a check",                      (BODY, KEY + BODY),                                   False),
    ("a decorator",                  ("@functions_framework.http", WRAPPED),               False),
    ("another function's name",      (BODY, "    return to_flask(open(from_flask(request)))\n"), False),
    ("a handler of its own",         (BODY, BODY + "\n\ndef handle(request):\n    return None\n"), False),
    ("a check in a default",         (SIGNED, CHECKING + SIGNED_BY),                       False),
    ("middleware",                   EDITS[15][1],                                         False),
]  # fmt: skip


@pytest.mark.parametrize(("what", "edit", "alone"), ALONE, ids=[case[0] for case in ALONE])
def test_a_predict_that_calls_other_code_is_not_answered_by_the_receiving_thread(
    what: str, edit: tuple[str, str], alone: bool, tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", sys.path[:])
    app = functions_framework.create_app("predict", str(write(tmp_path, [edit])))
    assert application_of(app).may_block is not alone


def test_an_error_with_a_status_is_answered_with_it(made: Callable[..., Callable[..., Answer]]) -> None:
    edit = "    from serving.core.http import Unauthorized\n    raise Unauthorized('no key')\n"
    answer = made((BODY, edit))("POST", "/", b"{}")
    assert (answer.status, answer.json) == (401, {"error": "no key"})


def test_a_body_that_predict_reads_is_still_there(
    made: Callable[..., Callable[..., Answer]], examples: dict[str, Any]
) -> None:
    check = "    if request.get_json()['token'] != 'x':\n        flask.abort(403)\n"
    ask = made((BODY, check + BODY))
    good(ask("POST", "/", {**examples["pixels"], "token": "x"}, content_type="application/json"))
    refused = ask("POST", "/", {**examples["pixels"], "token": "y"}, content_type="application/json")
    assert refused.status == 403
    assert ask("POST", "/", b"{", content_type="application/json").json["error"].startswith("The browser")


EVENTS = [
    # what                       edit                                                                              status, words
    ("a check refuses",          "    if flask.request.headers.get('X-Key') != 'right':\n        flask.abort(401, 'no')\n", 401, "no"),
    ("it raises",                "    raise KeyError('secret')\n",                                                  500, "the log has the reason"),
    ("it leaves some alone",     "    if event['type'] == 't' and event.data['instances']:\n        return None\n", 204, ""),
]  # fmt: skip


@pytest.mark.parametrize(("what", "code", "status", "words"), EVENTS, ids=[edit[0] for edit in EVENTS])
def test_an_edit_of_predict_event_takes_effect_for_every_event(
    what: str, code: str, status: int, words: str, made: Callable[..., Callable[..., Answer]], examples: dict[str, Any]
) -> None:
    structured = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t", "data": examples["pixels"]}
    ask = made((EVENT, code + EVENT), target="predict_event")
    for path in ("/", "/events", PREDICT, "/a%0ab"):
        for body, headers in (
            (examples["pixels"], CE),
            (structured, {"content_type": "application/cloudevents+json"}),
            ([structured, structured], {"content_type": "application/cloudevents-batch+json"}),
        ):
            answer = ask("POST", path, body, **headers)
            assert (answer.status, words in answer.body.decode()) == (status, True), (path, answer.body)


def test_a_check_in_predict_event_refuses_events_without_the_key(tmp_path: Path, examples: dict[str, Any]) -> None:
    with edited(tmp_path, (EVENT, KEY.replace("request.", "flask.request.") + EVENT), target="predict_event") as server:
        for path in ("/", "/events", PREDICT):
            assert server.ask("POST", path, examples["pixels"], **CE).json == {"error": "the key is wrong"}
            assert server.ask("POST", path, examples["pixels"], **CE, x_key="right").status == 200


def test_predict_event_may_change_an_event(
    made: Callable[..., Callable[..., Answer]], examples: dict[str, Any]
) -> None:
    change = "    event['subject'] = 'mine'\n    event.data = event.data['wrapped']\n"
    answer = made((EVENT, change + EVENT), target="predict_event")("POST", "/", {"wrapped": examples["pixels"]}, **CE)
    assert answer.headers["ce-type"] == "savedmodel.predicted.v1"
    good(answer)


def test_another_function_of_main_is_served_unchanged(made: Callable[..., Callable[..., Answer]]) -> None:
    more = "\n\n@functions_framework.http\ndef other(request):\n    return {'other': request.path}\n"
    take = "    take_over(flask.current_app, globals())\n"
    ask = made((take, take + more), target="other")
    for path in ("/", PREDICT):
        assert ask("POST", path, b"{}").json == {"other": path}
