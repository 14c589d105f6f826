"""Instances are killed, stopped and started under load: every request is answered correctly or refused, none is lost."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.core.comparison import difference
from tests.conftest import EMBEDDED, plain_environment
from tests.harness.asked import cases
from tests.harness.balancer import NGINX, Balancer, Direct, Nginx
from tests.harness.fleet import STEPS, Fleet, chaos
from tests.harness.load import Load, ask_all
from tools.server import start
from tools.verify.client import Answer, Case

SIZE = 2  # instances


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> dict[Case, Answer]:
    """Return the answers of an undisturbed instance."""
    instance = start(EMBEDDED, tmp_path_factory.mktemp("right") / "log", plain_environment())
    try:
        instance.wait_until_ready()
        return ask_all(instance.port, cases(EMBEDDED))
    finally:
        instance.stop()


@pytest.fixture(params=["client", "nginx"])
def balancer(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Balancer]:
    if request.param == "nginx" and NGINX is None:
        pytest.skip("there is no nginx: apt-get install nginx-light")
    made: Balancer = Nginx(tmp_path) if request.param == "nginx" else Direct()
    yield made
    made.close()


def test_the_expected_answers_are_those_of_tensorflow(right: dict[Case, Answer]) -> None:
    answers = json.loads((EMBEDDED / "assets.extra" / "answers.json").read_bytes())
    by_name = {case.name: answer for case, answer in right.items()}
    for name, signature in (("picture", "serving_default"), ("event", "serving_default"), ("pixels", "pixels")):
        assert difference(answers[signature], json.loads(by_name[name].body)) is None
    assert [by_name[name].status for name in ("no JSON", "a wrong shape", "an unknown model")] == [400, 400, 404]
    assert {answer.status for answer in right.values()} == {200, 400, 404}
    good = [answer.body for case, answer in right.items() if case.name.startswith("pixels turned")]
    assert len(set(good)) == 8  # an answer to somebody else's request would be seen


def test_no_request_is_lost_while_instances_are_killed_ended_and_started(
    balancer: Balancer, right: dict[Case, Answer], tmp_path: Path
) -> None:
    proxied = isinstance(balancer, Nginx)
    steps = STEPS if proxied or NGINX is None else ("crash", "to_zero_and_back")
    fleet = Fleet(balancer, EMBEDDED, tmp_path, plain_environment())
    load = Load(balancer, right, clients=3, pause=0.02)
    try:
        fleet.start(SIZE)
        load.start()
        fleet.retire(after=1.0)
        orderly = (load.counts.broken, dict(load.counts.refused))
        chaos(fleet, SIZE, seconds=0, pause=0.3, steps=steps)
    finally:
        counts = load.stop()
        fleet.close()
    assert orderly == (0, {})  # an instance that leaves the list before it stops refuses no request
    assert not counts.wrong
    assert not counts.lost
    assert not counts.unclean
    assert counts.right == counts.sent > 100
    # A proxy answers for an instance that died; without one the client sees its connection end.
    assert counts.broken == 0 or not proxied
    assert sum(counts.refused.values()) > 0  # while there was no instance
    assert fleet.did["killed (SIGKILL)"] == fleet.did["scaled to zero"] == 1
    assert fleet.did["workers killed (SIGKILL)"] == int("crash_worker" in steps)
    assert fleet.did["not ended within 10 s"] == 0
    assert set(fleet.statuses) == {0}
