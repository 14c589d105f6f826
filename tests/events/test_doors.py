"""Events through real servers of each kind: what functions-framework's conformance client checks, on our entry points.

<https://github.com/GoogleCloudPlatform/functions-framework-conformance/tree/main/client>
"""

import base64
import io
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any
from wsgiref.validate import validator

import pytest
from cloudevents.http import CloudEvent, from_http

from serving.servers import wsgi
from tests.conftest import ROOT, Serve
from tests.events.asked import CE, FORMS, NAME, push, sent_as
from tests.events.sink import Sink, sink
from tests.pipeline.test_handler import PREDICT
from tests.server import Answer, Server, running
from tests.servers.test_wsgi import call, environ, through_flask

SERVERS = ["functions-framework", "predict_event", "standalone"]


@pytest.fixture(scope="module")
def server() -> Iterator[Callable[[str], Server]]:
    started: dict[str, Server] = {}
    with ExitStack() as stack:

        def get(kind: str) -> Server:
            if kind not in started:
                started[kind] = stack.enter_context(running(kind))
            return started[kind]

        yield get


def path_of(kind: str) -> str:
    """Return the path at which a kind of server accepts events."""
    return "/" if kind == "predict_event" else "/events"


def event_in(answer: Answer) -> Any:
    return from_http(answer.headers, answer.body)


UNWRAPPED: Any = {"X-Goog-Pubsub-Message-Id": "m1", "X-Goog-Pubsub-Subscription-Name": NAME,
             "content-type": "application/x-www-form-urlencoded"}  # fmt: skip


@pytest.mark.parametrize("form", [*FORMS, "unwrapped"])
@pytest.mark.parametrize("kind", SERVERS)
def test_every_form_of_an_event_is_accepted(
    server: Callable[[str], Server], examples: dict[str, Any], answers: dict[str, Any], kind: str, form: str
) -> None:
    asked = server(kind)
    body, headers = (examples["pixels"], UNWRAPPED) if form == "unwrapped" else sent_as(form, examples["pixels"])
    answer = asked.ask("POST", path_of(kind), body, **headers)
    wanted = {"push": f"//pubsub.googleapis.com/{NAME}#m1", "unwrapped": f"//pubsub.googleapis.com/{NAME}#m1",
              "legacy": "//pubsub.googleapis.com/projects/p/topics/t#1"}.get(form, "/shop/1#1")  # fmt: skip
    assert (answer.status, answer.headers["ce-type"]) == (200, "savedmodel.predicted.v1")
    assert (answer.headers["ce-subject"], answer.headers["content-type"]) == (wanted, "application/json")
    assert event_in(answer)["source"] == "/v1/models/model"
    rows = json.loads(answer.body)["predictions"]
    assert [row["label"] for row in rows] == [row["label"] for row in answers["pixels"]["predictions"]]


@pytest.mark.parametrize("kind", ["functions-framework", "standalone"])
def test_events_and_requests_get_the_same_bytes(
    server: Callable[[str], Server], examples: dict[str, Any], kind: str
) -> None:
    over_http = server(kind).ask("POST", PREDICT, examples["pixels"])
    for other in SERVERS:
        assert server(other).ask("POST", path_of(other), examples["pixels"], **CE).body == over_http.body


# What functions-framework answers where a CloudEvent function is called: 500, 400 and 415, in HTML
OTHERWISE = [
    # body                                                       header fields                                          answer
    (b"plain text",                                              {"content_type": "text/plain"},                        "savedmodel.failed.v1"),
    ({"plain": "JSON"},                                          {},                                                    "savedmodel.failed.v1"),
    (b"{",                                                       CE,                                                    "savedmodel.failed.v1"),
    ({"message": {"messageId": "1", "attributes": {"a": "b"}}},  {},                                                    "savedmodel.failed.v1"),
    ({"message": {"messageId": "1", "data": "%"}},               {},                                                    "savedmodel.failed.v1"),
    (b"x" * (17 << 20),                                          CE,                                                    "savedmodel.failed.v1"),
    (b"\x89PNG\r\n\x00\xff",                                     {**CE, "content_type": "image/png"},                   "savedmodel.failed.v1"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "headers", "type_"), OTHERWISE)
@pytest.mark.parametrize("kind", SERVERS)
def test_a_permanently_bad_event_is_acknowledged_and_logged(
    server: Callable[[str], Server], kind: str, body: Any, headers: dict[str, Any], type_: str
) -> None:
    try:
        answer = server(kind).ask("POST", path_of(kind), body, **headers, x_secret="s3cr3t")
    except (BrokenPipeError, ConnectionResetError):
        assert len(body) > 1 << 20  # refused before it was read: closed on us while we were still sending
        return
    assert (answer.status, answer.headers["ce-type"], answer.headers["content-type"]) == (
        200,
        type_,
        "application/json",
    )
    assert answer.json["error"]
    assert b"s3cr3t" not in answer.body + json.dumps(answer.headers).encode()
    assert json.dumps(answer.json["error"])[1:-1] in server(kind).log


NO_CLOUDEVENT = [
    # body     header fields
    (b"{}",    {**CE, "ce_specversion": "0.3"}),
    (b"{",     {"content_type": "application/cloudevents+json"}),
    (b"[1]",   {"content_type": "application/cloudevents+json"}),
]  # fmt: skip


@pytest.mark.parametrize(("body", "headers"), NO_CLOUDEVENT)
@pytest.mark.parametrize("kind", SERVERS)
def test_a_sender_of_a_malformed_cloudevent_gets_an_error(
    server: Callable[[str], Server], kind: str, body: bytes, headers: dict[str, Any]
) -> None:
    answer = server(kind).ask("POST", path_of(kind), body, **headers, x_secret="s3cr3t")
    assert (answer.status, list(answer.json)) == (400, ["error"])
    assert b"s3cr3t" not in answer.body + json.dumps(answer.headers).encode()


@pytest.mark.parametrize("form", ["binary", "structured"])
@pytest.mark.parametrize("kind", ["functions-framework", "standalone"])
def test_the_sdk_reads_the_event_that_answers_one_at_a_models_address(
    server: Callable[[str], Server], examples: dict[str, Any], kind: str, form: str
) -> None:
    body, headers = sent_as(form, examples["pixels"])
    answer = server(kind).ask("POST", PREDICT, body, **headers)
    event = event_in(answer)
    assert (answer.status, event["type"], event["source"]) == (200, "io.kserve.inference.response", "io.kserve.inference.model")  # fmt: skip
    assert answer.headers["content-type"] == {"structured": "application/cloudevents+json"}.get(
        form, "application/json"
    )
    data = event.get_data()
    assert [row["label"] for row in (data if isinstance(data, dict) else json.loads(data))["predictions"]] == ["3"]


@pytest.mark.parametrize("kind", SERVERS)
def test_the_root_address_accepts_a_push(server: Callable[[str], Server], examples: dict[str, Any], kind: str) -> None:
    for form in ("push", "published", "legacy"):
        body, headers = sent_as(form, examples["pixels"])
        assert server(kind).ask("POST", "/", body, **headers).headers["ce-type"] == "savedmodel.predicted.v1"


@pytest.mark.parametrize("kind", SERVERS)
def test_an_acknowledgement_without_an_answer_has_no_body(server: Callable[[str], Server], kind: str) -> None:
    answer = server(kind).ask(
        "POST", path_of(kind), b"{}", **{**CE, "ce_type": "google.cloud.storage.object.v1.deleted"}
    )
    assert (answer.status, answer.body) == (204, b"")
    assert "content-type" not in answer.headers


def test_a_process_for_events_accepts_them_at_any_path_and_answers_health_checks(
    server: Callable[[str], Server], examples: dict[str, Any]
) -> None:
    asked = server("predict_event")
    for path in ("/", "/projects/p/topics/t", PREDICT, "/readyz"):
        assert asked.ask("POST", path, examples["pixels"], **CE).headers["ce-type"] == "savedmodel.predicted.v1"
    assert asked.ask("POST", PREDICT, examples["pixels"]).headers["ce-type"] == "savedmodel.failed.v1"
    assert [asked.ask("GET", path).status for path in ("/readyz", "/healthz", "/v2/health/ready")] == [200] * 3
    for method, path in (("GET", "/"), ("GET", "/openapi.json"), ("GET", "/v1/models/model/metadata"), ("PUT", "/")):
        answer = asked.ask(method, path)
        assert (answer.status, answer.headers["allow"]) == (405, "POST")


class Together(Sink):
    """Answers no request until ten wait."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Barrier(10)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        self.gate.wait(30)
        super().process_request_thread(request, client_address)


def test_wsgi_and_flask_answer_events_with_the_same_bytes(serve: Serve, examples: dict[str, Any]) -> None:
    serve()("GET", "/readyz")
    for kind in ("t", "google.cloud.storage.object.v1.deleted", "savedmodel.failed.v1"):
        sent = {"HTTP_CE_SPECVERSION": "1.0", "HTTP_CE_ID": "1", "HTTP_CE_SOURCE": "/s", "HTTP_CE_TYPE": kind}
        for data in (json.dumps(examples["pixels"]).encode(), b"{"):
            request = environ("POST", "/events", data, **sent)
            by_flask = through_flask({**request, "wsgi.input": io.BytesIO(data)})
            answer = call(validator(wsgi.app), request)
            if answer[0] == "204 No Content":
                assert by_flask[1].pop("content-length", "0") == "0"
            assert (*answer[:1], answer[2]) == (*by_flask[:1], by_flask[2])
            for headers in (answer[1], by_flask[1]):
                headers.pop("server-timing", None)  # only the first answer reports the start
            assert answer[1] == by_flask[1]


@pytest.mark.parametrize("kind", SERVERS[:2])
def test_ten_events_are_processed_at_once(examples: dict[str, Any], kind: str) -> None:
    with sink(Together()) as together, running(kind, THREADS="10", EVENT_REPLY=together.address) as asked:

        def send(n: int) -> int:
            return asked.ask("POST", path_of(kind), examples["pixels"], **{**CE, "ce_id": str(n)}, timeout=60).status

        with ThreadPoolExecutor(10) as pool:
            assert list(pool.map(send, range(10))) == [204] * 10
        ids = [from_http(headers, body)["subject"] for _, headers, body in together.received]
        assert sorted(ids) == sorted(f"/shop/1#{n}" for n in range(10))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # its own: utcnow
def test_functions_framework_calls_the_decorated_function(
    serve: Serve, examples: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """As on a platform that calls the framework's own parser, and not the adapter that main.py installs."""
    import flask
    import functions_framework

    with sink() as receiver:
        serve(EVENT_REPLY=receiver.address)
        app = functions_framework.create_app("predict_event", str(ROOT / "main.py"))
        client = app.test_client()
        assert client.post("/any/path", json=examples["pixels"], headers=headers_of(CE)).status_code == 204
        app.wsgi_app = flask.Flask.wsgi_app.__get__(app)
        assert client.post("/", json=examples["pixels"], headers=headers_of(CE)).status_code == 200
        data = base64.b64encode(json.dumps(examples["pixels"]).encode()).decode()
        pushed = push(b"")
        pushed["message"]["data"] = data
        assert client.post("/", json=pushed).status_code == 200
        first, second, third = [body for _, _, body in receiver.received]
        assert first == second == third
        receiver.status = 503
        assert client.post("/", json=examples["pixels"], headers=headers_of(CE)).status_code == 500
    assert "the sink answers 503" in capsys.readouterr().out


def headers_of(named: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in named.items()}


def test_a_platform_may_call_the_function_itself(serve: Serve, examples: dict[str, Any]) -> None:
    with sink() as receiver:
        serve(EVENT_REPLY=receiver.address)
        import main

        assert main.predict_event(CloudEvent({"source": "/s", "type": "t"}, examples["pixels"])).status == 204
        assert receiver.received[0][1]["ce-type"] == "savedmodel.predicted.v1"
