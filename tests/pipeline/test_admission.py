"""Admission control: what runs, what waits, what is refused, and the answers to that."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from serving.core import machine
from serving.core.errors import DeadlineError
from serving.core.http import Request, Response, Unavailable
from serving.core.settings import read
from serving.pipeline import admission
from serving.pipeline.admission import Admission
from serving.runtime import batching, model
from tests.conftest import Serve
from tests.harness.waiting import until
from tests.models.zoo import build
from tests.pipeline.slots import ago, control, experienced, later, queue

PREDICT, INFER = "/v1/models/model:predict", "/v2/models/model/infer"
HALF = build() / "versions" / "1"


@pytest.fixture(autouse=True)
def _many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cores", lambda: 64)


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
def test_requests_queue_while_they_will_start_in_time_and_the_next_is_refused(
    took: float, environment: dict[str, str], count: int
) -> None:
    slots = experienced(took + 0.0005 if took > 0.001 else took, **environment)
    slots._mean, slots._variance = took * 0.999, 0.0  # the clock's own time is no part of this
    threads = queue(slots, count)
    for refuse in (lambda: slots.enter(later(60)), lambda: slots.expect({})):
        with pytest.raises(Unavailable, match=rf"\(MAX_WAIT\), but {count} requests wait already.*try again"):
            refuse()
    for _ in range(slots.count):
        slots.leave(None)
    for thread in threads:
        thread.join()
    assert (slots._free, len(slots._queue)) == (slots.count, 0)
    slots.expect({})


def test_up_to_THREADS_requests_are_admitted_however_long_they_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cores", lambda: 1)
    slots = experienced(60.0, THREADS="8")
    threads = queue(slots, 6)
    with pytest.raises(Unavailable, match="6 requests wait already, which may take 210 s"):
        slots.expect({})
    for _ in range(2):
        slots.leave(None)
    for thread in threads:
        thread.join()


def test_one_stall_refuses_no_request_and_the_estimate_follows_slower_requests() -> None:
    slots = experienced(0.001, THREADS="1")
    for _ in range(3):
        slots.enter(later(60))
        slots.leave(ago(5.0))  # the machine stood still
    assert slots._mean < 0.005
    for _ in range(4 * admission.LEARNED):
        slots.enter(later(60))
        slots.leave(ago(0.1))
    assert 0.08 < slots._mean < 0.12


def test_99_of_100_requests_begin_in_time_where_the_times_differ() -> None:
    """A queue that is always as long as it may be, of requests with lognormal times, against an oracle of sums."""
    random = np.random.default_rng(1)
    for deviation in (0.1, 0.5):
        slots, most = control(THREADS="1"), 1.0
        times, late, waits = random.lognormal(-4.5, deviation, 10_000), 0, []
        for index, took in enumerate(times[:-300]):
            slots._learn(took)
            if index >= 4 * admission.LEARNED:
                waiting = next(count for count in range(257) if slots._wait(count + 1) > most)
                waits.append(times[index + 1 : index + 1 + waiting].sum())
                late += waits[-1] > most
        assert late / len(waits) < 0.03
        assert np.mean(waits) > 0.8  # and no more are refused than need be


def test_first_requests_and_loads_do_not_enter_the_estimate() -> None:
    slots = control(THREADS="1")
    for _ in range(admission.KNOWN - 1):
        slots.enter(later(60))
        slots.leave(ago(60))
    for _ in range(100):
        slots.enter(later(60))
        slots.leave(None)
    slots.enter(later(60))
    slots.expect({})


def test_waiting_requests_run_in_the_order_of_arrival() -> None:
    slots, order = control(THREADS="1"), list[str]()
    slots.enter(later(60))

    def come(name: str) -> None:
        slot = slots.enter(later(60))
        order.append(name)
        slot.leave()

    threads = []
    for name in ("first", "second"):
        threads.append(threading.Thread(target=come, args=(name,)))
        threads[-1].start()
        until(lambda: len(slots._queue) == len(threads))
    slots.leave(None)
    for thread in threads:
        thread.join()
    assert order == ["first", "second"]
    assert (slots._free, len(slots._queue)) == (1, 0)


def test_a_request_that_has_waited_too_long_does_not_run_and_leaves_the_queue() -> None:
    slots = control(THREADS="1")
    slots.enter(later(60))
    with pytest.raises(DeadlineError):
        slots.enter(later(0.02))
    with pytest.raises(DeadlineError):
        slots.enter(later(-1))
    assert not slots._queue
    slots.leave(None)
    slots.enter(later(1))
    assert slots._free == 0


def test_many_threads_never_exceed_the_slots_and_lose_none() -> None:
    slots, running_now, most = control(THREADS="3"), [0], [0]
    lock = threading.Lock()

    def come(number: int) -> None:
        for turn in range(50):
            try:
                slot = slots.enter(later(0.001 if (number + turn) % 3 == 0 else 60))
            except DeadlineError:
                continue
            with lock:
                running_now[0] += 1
                most[0] = max(most[0], running_now[0])
            time.sleep(0.0002)
            with lock:
                running_now[0] -= 1
            slot.leave()

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(come, range(16)))
    assert most[0] == 3
    assert (slots._free, len(slots._queue)) == (3, 0)


def test_the_bodies_of_all_requests_together_have_a_limit() -> None:
    control = Admission(read({"MAX_BODY_BYTES": str(1 << 19)}))

    class Endless:
        def read(self, size: int) -> bytes:
            return bytes(size)

    first, second = (admission.Metered(Endless(), control) for _ in range(2))
    assert sum(len(first.read(4 << 20)) for _ in range(7)) == 7 << 20
    second.read(1 << 20)
    with pytest.raises(Unavailable, match="other large bodies"):
        second.read(1)
    first.close()
    second.read(1 << 20)
    second.close()
    assert control._bytes == 0


def test_a_process_whose_runs_never_end_says_so_and_ends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Ended(Exception): ...

    def end(status: int) -> None:
        raise Ended(status)

    monkeypatch.setattr(admission.os, "_exit", end)
    slots = control(THREADS="1", REQUEST_TIMEOUT="1")
    slots.enter(later(60))
    with pytest.raises(Ended, match="70"):
        slots.enter(slots.expect({}))
    assert "this worker cannot recover and ends: 1 requests run and none has ended in 1 s" in capsys.readouterr().out
    with pytest.raises(DeadlineError):
        slots.enter(slots.expect({"x-request-timeout": "0.05"}))  # it is the client who did not wait


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
        until(lambda: slow.begun)
        yield ask, slow
        slow.go.set()
        assert first.result().status == 200
    assert ask("POST", "/", {"instances": [1.0]}).status == 200


@pytest.mark.parametrize("rows", ["0", "16"])
def test_large_requests_are_decoded_and_run_a_few_at_once_where_small_ones_share_runs_too(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, rows: str
) -> None:
    monkeypatch.setattr(machine, "cores", lambda: 2)
    ask = serve(HALF, BATCH_ROWS=rows, MAX_WAIT="60", ACCELERATOR="off")
    assert ask("POST", "/", {"instances": [1.0]}).status == 200
    slow = Slow(monkeypatch)
    body = json.dumps({"instances": [1.0] * batching.Batching.largest_body}).encode()  # five times as large
    with ThreadPoolExecutor(16) as pool:
        answers = [pool.submit(ask, "POST", "/", body) for _ in range(16)]
        until(lambda: len(admission.current().alone._queue) >= 16 - 3)
        assert slow.begun <= 3
        slow.go.set()
        assert {answer.result().status for answer in answers} == {200}


def test_a_deadline_that_passes_in_the_queue_is_504_and_the_model_does_not_run(busy: Any) -> None:
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
        until(lambda: admission.current().alone._queue)
        from serving.pipeline.handler import handle

        admission.current().alone._mean, admission.current().alone._known = 0.3, admission.KNOWN
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
