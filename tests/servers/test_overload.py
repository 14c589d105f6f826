"""More requests than a server can answer in time, through both servers."""

import http.client
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from serving.pipeline import admission
from tests.models.zoo import build
from tests.server import Answer, Server, running

HALF = build() / "versions" / "1"


@pytest.fixture(scope="module", params=["functions-framework", "standalone"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with running(request.param, THREADS="1", MAX_WAIT="0.3") as started:
        assert started.ask("GET", "/readyz").status == 200
        yield started


def test_under_overload_the_excess_gets_503_and_the_rest_are_answered(server: Server, examples: dict[str, Any]) -> None:
    rows = json.dumps({"signature_name": "pixels", "instances": examples["pixels"]["instances"] * 2_000}).encode()

    def ask(_: int) -> Answer:
        return server.ask("POST", "/", rows)

    assert [ask(0).status for _ in range(admission.KNOWN + 1)] == [200] * (admission.KNOWN + 1)
    with ThreadPoolExecutor(48) as pool:
        answers = list(pool.map(ask, range(48)))
    by_status = {status: [answer for answer in answers if answer.status == status] for status in (200, 503)}
    assert len(by_status[200]) + len(by_status[503]) == 48
    assert by_status[200]
    assert by_status[503]
    for refused in by_status[503]:
        assert (refused.headers["retry-after"], refused.headers["content-type"]) == ("1", "application/json")
        assert "(MAX_WAIT)" in refused.json["error"]
    assert server.ask("POST", "/", examples["pixels"]).status == 200


@pytest.mark.parametrize("kind", ["functions-framework", "standalone"])
@pytest.mark.parametrize(("count", "more"), [(64, {}), (256, {"MAX_WAIT": "60"})], ids=["64", "256"])
def test_many_connections_to_a_small_model_are_all_answered(kind: str, count: int, more: dict[str, Any]) -> None:
    body = b'{"instances": [1.0]}'

    def ask(_: int) -> list[int]:
        connection = http.client.HTTPConnection("127.0.0.1", small.port, timeout=60)
        statuses = []
        for _ in range(10):
            connection.request("POST", "/", body)
            response = connection.getresponse()
            statuses.append(response.status if response.read() else 0)
        connection.close()
        return statuses

    with running(kind, HALF, **more) as small, ThreadPoolExecutor(count) as pool:
        assert [status for statuses in pool.map(ask, range(count)) for status in statuses] == [200] * 10 * count


def test_a_refused_large_body_gets_an_answer_and_not_a_reset(server: Server) -> None:
    for size in (9 << 20, 40 << 20):
        answer = server.ask("POST", "/", b" " * size)
        assert (answer.status, "(MAX_BODY_BYTES)" in answer.json["error"]) == (413, True)
    answer = server.ask("POST", "/nothing", b" " * (5 << 20))
    assert answer.status == 404
