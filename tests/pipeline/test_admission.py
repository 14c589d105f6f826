"""Admission control: what runs, what waits, what is refused, and the answers to that."""

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from serving.core import machine
from serving.core.errors import DeadlineError
from serving.core.http import Response, Unavailable
from serving.core.settings import read
from serving.pipeline import admission
from serving.pipeline.admission import Admission
from serving.runtime import model
from tests.conftest import Serve
from tests.models.zoo import build
from tests.server import Answer, Server, running

PREDICT, INFER = "/v1/models/model:predict", "/v2/models/model/infer"
HALF = build() / "versions" / "1"


@pytest.fixture(autouse=True)
def _many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cores", lambda: 64)


def test_no_more_run_than_there_are_cores_and_one_unless_they_share_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cores", lambda: 2)
    for environment, running_now, waiting in (({}, 3, 5), ({"THREADS": "1"}, 1, 0)):
        door = control(**environment)
        assert (door._free, door._may_wait) == (running_now, waiting)
        door.widen(32)
        assert (door._free, door._may_wait) == (32, 0)
        door.widen(8)
        assert door._free == 32


def test_requests_that_share_runs_get_more_slots_while_they_hold_them_briefly() -> None:
    for took, slots in ((0.001, admission.MOST_WAITING), (1.0, 2)):
        door = experienced(took, THREADS="2")
        entered = [door.try_enter(shares_run=True) for _ in range(2 * admission.MOST_WAITING)]
        assert sum(time is not None for time in entered) == slots


def test_requests_that_wait_run_when_more_may_run_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cores", lambda: 1)
    door = control(THREADS="8")
    waiting = queue(door, 6)
    door.widen(7)
    for thread in waiting:  # each leaves when it has run
        thread.join(30)
    assert (door._free, len(door._queue)) == (5, 0)
    door.leave(None)
    door.leave(None)
    assert door._free == 7


def control(**environment: str) -> Admission:
    return Admission(read(environment))


def later(seconds: float) -> float:
    return time.monotonic() + seconds


def ago(seconds: float) -> float:
    return time.monotonic() - seconds


def experienced(took: float, **environment: str) -> Admission:
    """Return an admission that has seen requests that held their places for so long."""
    door = control(**environment)
    for _ in range(admission.LEARNED):
        door.enter(later(60))
        door.leave(ago(took))
    return door


def queue(door: Admission, count: int) -> list[threading.Thread]:
    """Have so many requests wait, behind as many as run."""
    while door._free:
        door.enter(later(60))
    threads = [threading.Thread(target=lambda: door.leave(door.enter(later(60)))) for _ in range(count)]
    for number, thread in enumerate(threads):
        thread.start()
        while len(door._queue) <= number:
            time.sleep(0.0005)
    return threads


# fmt: off
WAITS = [
    # a request took   settings                                     requests that may wait
    (0.0001,           {"THREADS": "1"},                            admission.MOST_WAITING),
    (0.1,              {"THREADS": "1"},                            10),
    (0.1,              {"THREADS": "1", "MAX_WAIT": "0.5"},         5),
    (0.1,              {"THREADS": "4"},                            40),
    (60.0,             {"THREADS": "1"},                            0),
    (60.0,             {"THREADS": "1", "MAX_WAIT": "0"},           0),
]
# fmt: on


@pytest.mark.parametrize(("took", "environment", "count"), WAITS)
def test_as_many_wait_as_will_begin_in_time_and_the_next_is_refused(
    took: float, environment: dict[str, str], count: int
) -> None:
    door = experienced(took + 0.0005 if took > 0.001 else took, **environment)
    door._mean = took * 0.999  # the clock's own time is no part of this
    threads = queue(door, count)
    for refuse in (lambda: door.enter(later(60)), lambda: door.expect({})):
        with pytest.raises(Unavailable, match=rf"\(MAX_WAIT\), but {count} requests wait already.*try again"):
            refuse()
    for _ in range(door._running):
        door.leave(None)
    for thread in threads:
        thread.join()
    assert (door._free, len(door._queue)) == (door._running, 0)
    door.expect({})


def test_as_many_as_THREADS_are_taken_however_long_they_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cores", lambda: 1)
    door = experienced(60.0, THREADS="8")
    threads = queue(door, 6)
    with pytest.raises(Unavailable, match="6 requests wait already, which will take 210 s"):
        door.expect({})
    for _ in range(2):
        door.leave(None)
    for thread in threads:
        thread.join()


def test_one_stall_refuses_nothing_and_slower_requests_are_learned() -> None:
    door = experienced(0.001, THREADS="1")
    for _ in range(3):
        door.enter(later(60))
        door.leave(ago(5.0))  # the machine stood still
    assert door._mean < 0.005
    for _ in range(100):
        door.enter(later(60))
        door.leave(ago(0.1))
    assert 0.08 < door._mean < 0.12


def test_the_first_requests_and_loads_refuse_nothing() -> None:
    door = control(THREADS="1")
    for _ in range(admission.KNOWN - 1):
        door.enter(later(60))
        door.leave(ago(60))
    for _ in range(100):
        door.enter(later(60))
        door.leave(None)
    door.enter(later(60))
    door.expect({})


def test_waiting_requests_run_in_their_order() -> None:
    door, order = control(THREADS="1"), list[str]()
    door.enter(later(60))

    def come(name: str) -> None:
        began = door.enter(later(60))
        order.append(name)
        door.leave(began)

    threads = []
    for name in ("first", "second"):
        threads.append(threading.Thread(target=come, args=(name,)))
        threads[-1].start()
        while len(door._queue) < len(threads):
            time.sleep(0.001)
    door.leave(None)
    for thread in threads:
        thread.join()
    assert order == ["first", "second"]
    assert (door._free, len(door._queue)) == (1, 0)


def test_a_request_that_has_waited_too_long_does_not_begin_and_leaves_no_trace() -> None:
    door = control(THREADS="1")
    door.enter(later(60))
    with pytest.raises(DeadlineError):
        door.enter(later(0.02))
    with pytest.raises(DeadlineError):
        door.enter(later(-1))
    assert not door._queue
    door.leave(None)
    door.enter(later(1))
    assert door._free == 0


def test_many_threads_never_run_more_than_may_and_lose_no_place() -> None:
    door, running_now, most = control(THREADS="3"), [0], [0]
    lock = threading.Lock()

    def come(number: int) -> None:
        for turn in range(50):
            try:
                began = door.enter(later(0.001 if (number + turn) % 3 == 0 else 60))
            except DeadlineError:
                continue
            with lock:
                running_now[0] += 1
                most[0] = max(most[0], running_now[0])
            time.sleep(0.0002)
            with lock:
                running_now[0] -= 1
            door.leave(began)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(come, range(16)))
    assert most[0] == 3
    assert (door._free, len(door._queue)) == (3, 0)


def test_large_bodies_together_have_a_limit() -> None:
    door = control(MAX_BODY_BYTES=str(1 << 19))

    class Endless:
        def read(self, size: int) -> bytes:
            return bytes(size)

    one, other = (admission.Metered(Endless(), door) for _ in range(2))
    assert sum(len(one.read(4 << 20)) for _ in range(7)) == 7 << 20
    other.read(1 << 20)
    with pytest.raises(Unavailable, match="other large bodies"):
        other.read(1)
    one.close()
    other.read(1 << 20)
    other.close()
    assert door._bytes == 0


def test_a_process_whose_runs_never_end_says_so_and_ends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Ended(Exception): ...

    def end(status: int) -> None:
        raise Ended(status)

    monkeypatch.setattr(admission.os, "_exit", end)
    door = control(THREADS="1", REQUEST_TIMEOUT="1")
    door.enter(later(60))
    with pytest.raises(Ended, match="70"):
        door.enter(door.expect({}))
    assert "this worker cannot recover and ends: 1 requests run and none has ended in 1 s" in capsys.readouterr().out
    with pytest.raises(DeadlineError):
        door.enter(door.expect({"x-request-timeout": "0.05"}))  # it is the client who did not wait


# Through the handler


class Slow:
    """A model whose runs last until they are let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go, self.begun = threading.Event(), 0
        run = model.Model.run

        def wait(*arguments: Any) -> Any:
            self.begun += 1
            assert self.go.wait(30)
            return run(*arguments)

        monkeypatch.setattr(model.Model, "run", wait)


@pytest.fixture
def busy(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Callable[..., Response], Slow]]:
    """Serve with one request running; the others wait or are refused."""
    ask = serve(HALF, THREADS="1", MAX_WAIT="0.5")
    assert ask("POST", "/", {"instances": [1.0]}).status == ask("GET", "/readyz").status == 200
    slow = Slow(monkeypatch)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(ask, "POST", "/", {"instances": [1.0]})
        while not slow.begun:
            time.sleep(0.001)
        yield ask, slow
        slow.go.set()
        assert first.result().status == 200
    assert ask("POST", "/", {"instances": [1.0]}).status == 200


def test_a_deadline_that_passes_while_waiting_is_504_and_the_model_does_not_begin(busy: Any) -> None:
    ask, slow = busy
    answer = ask("POST", "/", {"instances": [1.0]}, x_request_timeout="0.05")
    assert (answer.status, slow.begun) == (504, 1)
    assert "the model did not begin" in json.loads(answer.body)["error"]


def test_a_request_above_the_limit_is_refused_unread_and_health_is_answered(busy: Any) -> None:
    ask, slow = busy

    class Unread:
        def read(self, size: int) -> bytes:
            raise AssertionError("a refused body is not read")

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(ask, "POST", "/", {"instances": [1.0]})
        while not admission.current()._queue:
            time.sleep(0.001)
        from serving.core.http import Request
        from serving.pipeline.handler import handle

        admission.current()._mean, admission.current()._known = 0.3, admission.KNOWN
        for path in ("/", PREDICT, INFER):
            answer = handle(Request("POST", path, body=Unread(), length=100))
            assert answer.status == 503
            assert ("Retry-After", "1") in answer.headers
            assert "(MAX_WAIT)" in json.loads(answer.body)["error"]
        assert ask("GET", "/readyz").status == ask("GET", "/healthz").status == 200
        slow.go.set()
        assert waiting.result().status == 200


@pytest.mark.parametrize("value", ["", "soon", "-1", "1e3", "nan", "9" * 30])
def test_a_deadline_that_is_no_number_is_refused(serve: Serve, value: str) -> None:
    answer = serve(HALF)("POST", "/", {"instances": [1.0]}, x_request_timeout=value)
    assert answer.status == 400
    assert json.loads(answer.body)["error"].startswith("X-Request-Timeout: expected seconds as a decimal number, got")


def test_the_platforms_timeout_stands_in_for_ours() -> None:
    assert read({"CLOUD_RUN_TIMEOUT_SECONDS": "60"}).request_timeout == 60
    assert read({"CLOUD_RUN_TIMEOUT_SECONDS": "60", "REQUEST_TIMEOUT": "5"}).request_timeout == 5
    assert read({"CLOUD_RUN_TIMEOUT_SECONDS": "0"}).request_timeout == 300


# Through both doors


@pytest.fixture(scope="module", params=["functions-framework", "standalone"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with running(request.param, THREADS="1", MAX_WAIT="0.3") as started:
        assert started.ask("GET", "/readyz").status == 200
        yield started


def test_more_than_can_begin_in_time_are_refused_while_good_ones_are_answered(
    server: Server, examples: dict[str, Any]
) -> None:
    rows = json.dumps({"signature_name": "pixels", "instances": examples["pixels"]["instances"] * 2_000}).encode()

    def ask(_: int) -> Answer:
        return server.ask("POST", "/", rows)

    assert [ask(0).status for _ in range(admission.KNOWN + 1)] == [200] * (admission.KNOWN + 1)
    with ThreadPoolExecutor(48) as pool:
        answers = list(pool.map(ask, range(48)))
    by_status = {status: [one for one in answers if one.status == status] for status in (200, 503)}
    assert len(by_status[200]) + len(by_status[503]) == 48
    assert by_status[200]
    assert by_status[503]
    for refused in by_status[503]:
        assert (refused.headers["retry-after"], refused.headers["content-type"]) == ("1", "application/json")
        assert "(MAX_WAIT)" in refused.json["error"]
    assert server.ask("POST", "/", examples["pixels"]).status == 200


@pytest.mark.parametrize("door", ["functions-framework", "standalone"])
@pytest.mark.parametrize(("count", "more"), [(64, {}), (256, {"MAX_WAIT": "60"})], ids=["64", "256"])
def test_many_connections_to_a_small_model_are_all_answered(door: str, count: int, more: dict[str, str]) -> None:
    body = b'{"instances": [1.0]}'

    def ask(_: int) -> list[int]:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        statuses = []
        for _ in range(10):
            connection.request("POST", "/", body)
            response = connection.getresponse()
            statuses.append(response.status if response.read() else 0)
        connection.close()
        return statuses

    with running(door, HALF, **more) as server, ThreadPoolExecutor(count) as pool:
        assert [status for statuses in pool.map(ask, range(count)) for status in statuses] == [200] * 10 * count


def test_a_large_refused_body_is_answered_and_not_reset(server: Server) -> None:
    for size in (9 << 20, 40 << 20):
        answer = server.ask("POST", "/", b" " * size)
        assert (answer.status, "(MAX_BODY_BYTES)" in answer.json["error"]) == (413, True)
    answer = server.ask("POST", "/nothing", b" " * (5 << 20))
    assert answer.status == 404
