"""Layers: their order, and one of the user's own in front of real servers."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from serving.core.http import Request, Response, Unauthorized
from serving.core.record import Record
from serving.pipeline import handler
from serving.pipeline.exchange import Answer, Exchange, stack
from tests.conftest import ROOT, Serve, plain_environment
from tests.server import COMMANDS, running
from tools.server import free_port

PIPELINE = ROOT / "serving" / "pipeline"
BODY = (ROOT / "examples" / "three.json").read_bytes()
EVENT: Any = {
    "ce-specversion": "1.0",
    "ce-id": "1",
    "ce-source": "/test",
    "ce-type": "test",
    "content-type": "application/json",
}
KEYS: Any = {"LAYER": "examples.api_key:with_api_key", "API_KEYS": "first, second"}
SERVERS = [kind for kind in COMMANDS if kind != "predict_event"]


def test_a_stack_names_the_innermost_layer_first() -> None:
    def named(name: str):  # type: ignore[no-untyped-def]
        def layer(answer: Answer) -> Answer:
            return lambda exchange: Response(200, name.encode() + answer(exchange).body)

        return layer

    answer = stack(lambda _: Response(200, b"."), named("inner "), named("outer "))
    exchange = Exchange(Request("GET", "/", record=Record()), answer)
    assert answer(exchange).body == b"outer inner ."


def test_a_layer_sees_every_request_and_its_errors_are_answered(serve: Serve) -> None:
    serve()
    seen: list[str] = []

    def watching(answer: Answer) -> Answer:
        def answer_or_refuse(exchange: Exchange) -> Response:
            seen.append(exchange.request.path)
            if exchange.request.path == "/refused":
                raise Unauthorized("no")
            return answer(exchange)

        return answer_or_refuse

    answer = handler.compose(watching)
    paths = ["/", "/nowhere", "/refused", "/v2"]
    statuses = [answer(Exchange(Request("GET", path, record=Record()), answer)).status for path in paths]
    assert (statuses, seen) == ([200, 404, 401, 200], paths)


@pytest.mark.parametrize("kind", SERVERS)
def test_the_example_requires_its_api_key(kind: str) -> None:
    with running(kind, **KEYS) as server:
        refused = server.ask("POST", "/", BODY)
        assert (refused.status, refused.json) == (401, {"error": "X-API-Key: expected a known key"})
        assert [server.ask("POST", "/", BODY, x_api_key=key).status for key in ("first", "second", "third", "")] == [
            200, 200, 401, 401,
        ]  # fmt: skip
        paths = ["/", "/healthz", "/readyz", "/nowhere", "/v1/models/model", "/openapi.json", "/metrics"]
        assert [server.ask("GET", path).status for path in paths] == [401, 200, 200, 401, 401, 401, 401]
        assert server.ask("POST", "/events", BODY, **EVENT).status == 401
        assert server.ask("POST", "/events", BODY, **EVENT, x_api_key="first").status == 200


@pytest.mark.parametrize(
    ("text", "problem"),
    [(" first \n\nsecond\n", ""), ("\n", "API_KEYS_FILE: expected keys, one per line, got nothing")],
)
def test_the_keys_of_the_example_may_be_in_a_file(tmp_path: Path, text: str, problem: str) -> None:
    file = tmp_path / "keys"
    file.write_text(text)
    code = "from examples import api_key; print(api_key.KEYS)"
    environment = plain_environment(API_KEYS_FILE=str(file), API_KEYS="third")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert problem in done.stderr
    assert done.stdout.strip() == ("" if problem else "[b'first', b'second']")


def test_the_page_needs_no_key_and_reveals_nothing_without_one() -> None:
    with running("standalone", **KEYS) as server:
        page = server.ask("GET", "/", accept="text/html")
        assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert server.ask("GET", "/", accept="text/html, application/json").status == 401


def test_the_event_function_requires_the_api_key() -> None:
    with running("predict_event", **KEYS) as server:
        assert server.ask("POST", "/", BODY, **EVENT).status == 401
        assert server.ask("POST", "/", BODY, **EVENT, x_api_key="second").status == 200


BAD = [
    # LAYER                          in the one line
    ("nowhere:function",             "LAYER: cannot import nowhere:function: ModuleNotFoundError"),
    ("examples.api_key:nothing",     "LAYER: cannot import examples.api_key:nothing: ValueError: API_KEYS"),
    ("serving.pipeline:nothing",     "LAYER: cannot import serving.pipeline:nothing: AttributeError"),
    ("not a name",                   "LAYER: expected module:function"),
]  # fmt: skip


@pytest.mark.parametrize("kind", SERVERS)
@pytest.mark.parametrize(("layer", "words"), BAD)
def test_a_layer_that_cannot_be_imported_stops_the_start(kind: str, layer: str, words: str) -> None:
    command = [part.format(port=1) for part in COMMANDS[kind]]
    environment = plain_environment(LAYER=layer, PORT=str(free_port()))
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert run.returncode != 0
    lines = [line for line in run.stderr.splitlines() if words in line]
    assert len(lines) == 1, run.stderr
    assert "Traceback" not in run.stderr


def test_the_documentation_shows_the_layer_of_the_example() -> None:
    text = (ROOT / "docs" / "own-checks.md").read_text()
    assert KEYS["LAYER"] in text
    assert json.dumps({"error": "X-API-Key: expected a known key"}, separators=(",", ":")) in text


def test_the_design_page_lists_the_layers_in_their_order() -> None:
    """The page goes from the outside in, the code from the inside out."""
    page = (ROOT / "docs" / "design.md").read_text()
    listed = [name for row in re.findall(r"^\| (.*?) \| ", page, re.M) for name in re.findall(r"`(\w+)`", row)]
    around = re.search(r"stack\(act, (.*?), \*layers, (\w+)\)", (PIPELINE / "handler.py").read_text())
    stacks = re.findall(r"stack\(in_python, (.*?)\)", (PIPELINE / "routes.py").read_text(), re.S)
    assert around is not None
    assert len(stacks) == 2
    assert "stack(compose(*own_layer()), *cross_origin(), observed)" in (PIPELINE / "handler.py").read_text()
    outside = ["observed", "cross_origin", around[2], *reversed(re.findall(r"(\w+)(?:\(.*?\))?(?:, |$)", around[1]))]
    for stack_ in stacks:
        order = [*outside, *reversed(re.findall(r"\w+", stack_))]
        places = [listed.index(name) for name in order]
        assert places == sorted(places), order
