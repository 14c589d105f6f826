"""Which thread answers: the event loop's thread runs nothing that may take long or wait."""

import threading
import time
from collections.abc import Sequence
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import pytest

from serving.core import settings
from serving.core.http import Request, Response
from serving.core.telemetry import phases
from serving.pipeline import accelerator, admission, watchdog
from serving.pipeline.arrivals import is_self_contained
from serving.runtime import loading
from serving.runtime.batching import Batching, Queue
from serving.servers.standalone import answering, sharing
from serving.servers.standalone.answering import AGAIN, LONG, SHORT, Answering, Sharing, Short
from serving.servers.standalone.loop import Loop
from serving.servers.standalone.pool import Pool
from tests.conftest import Serve
from tests.harness.waiting import until
from tests.models.zoo import build

HALF = build() / "versions" / "1"
KIND = ("/", 5)
PREDICT = b'{"instances": [1]}'
CE = {"ce-specversion": "1.0"}

CONTAINED = [
    # request                                                                   answered by this process alone
    (Request("GET", "/readyz"),                                                 True),
    (Request("POST", "/", body=PREDICT),                                        True),
    (Request("POST", "/", body=b' {"signature_name": "a"}'),                    True),
    (Request("POST", "/v1/models/model:predict", body=b"{}"),                   True),
    (Request("POST", "/", body=b"{}"),                                          False),
    (Request("POST", "/", body=b'{"message": {"data": ""}}'),                   False),
    (Request("POST", "/", headers=CE, body=PREDICT),                            False),
    (Request("POST", "/", headers={"ce-id": "1"}, body=PREDICT),                False),
    (Request("POST", "/v1/models/model:predict", headers=CE, body=b"{}"),       False),
    (Request("POST", "/events", body=PREDICT),                                  False),
    (Request("POST", "/", headers={"content-encoding": "gzip"}, body=PREDICT),  False),
]  # fmt: skip


@pytest.mark.parametrize(("request_", "contained"), CONTAINED)
def test_an_event_or_a_packed_body_is_not_answered_by_the_loops_thread(request_: Request, contained: bool) -> None:
    assert is_self_contained(request_) == contained


def short(monkeypatch: pytest.MonkeyPatch, **environment: str) -> Short:
    monkeypatch.setattr(phases, "pending", False)
    return Short(settings.read(environment))


def test_requests_like_a_short_one_are_treated_as_short_until_one_takes_long(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(HALF)("POST", "/", {"instances": [1.0]})
    kinds = short(monkeypatch)
    assert not kinds.holds(KIND)
    kinds.learn(KIND, SHORT + 1)
    assert not kinds.holds(KIND)
    kinds.learn(KIND, SHORT)
    assert kinds.holds(KIND)
    assert not kinds.holds(("/", 6))
    kinds.stalled(KIND, 0.01)  # the machine, maybe: the next one is measured
    assert not kinds.holds(KIND)
    kinds.learn(KIND, SHORT)
    assert kinds.holds(KIND)
    for what in (lambda: kinds.learn(KIND, LONG + 1), lambda: kinds.stalled(KIND, 1.0)):
        what()
        kinds.learn(KIND, SHORT)
        assert not kinds.holds(KIND)
    until, pause = kinds._barred[KIND]
    assert pause == 2 * AGAIN
    now = time.monotonic() + pause + 0.1
    monkeypatch.setattr(answering.time, "monotonic", lambda: now)
    kinds.learn(KIND, SHORT)
    assert until < now
    assert kinds.holds(KIND)


@pytest.mark.parametrize("environment", [{"INTER_OP_THREADS": "2"}, {"LAYER": "main:layer"}])
def test_with_runs_that_wait_for_other_threads_no_request_is_short(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    serve(HALF)("POST", "/", {"instances": [1.0]})
    kinds = short(monkeypatch, **environment)
    kinds.learn(KIND, SHORT)
    assert not kinds.holds(KIND)


def test_no_request_is_short_for_a_model_with_loops_or_before_the_load(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(build() / "control_flow")("POST", "/", {"signature_name": "loop", "inputs": {"n": 3}})
    assert loading.cache().loaded
    kinds = short(monkeypatch)
    kinds.learn(KIND, SHORT)
    assert not kinds.holds(KIND)
    serve(HALF)
    kinds = short(monkeypatch)
    kinds.learn(KIND, SHORT)
    assert not kinds.holds(KIND)


@pytest.mark.parametrize(("bits", "is_short"), [(10, True), (11, False)])
def test_a_request_that_may_have_large_pictures_is_not_short(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, bits: int, is_short: bool
) -> None:
    serve(HALF)("POST", "/", {"instances": [1.0]})
    loading.cache().source().__dict__["pictures"] = frozenset({"image"})
    kinds = short(monkeypatch)
    kinds.learn(("/", bits), SHORT)
    assert kinds.holds(("/", bits)) == is_short


def test_try_enter_does_not_wait_and_expect_refuses_above_the_limit() -> None:
    slots = admission.Admission(settings.read({"THREADS": "1", "MAX_WAIT": "0"})).alone
    for _ in range(admission.KNOWN + 1):
        slots.leave(slots.enter(time.monotonic() + 1).began - 1)  # each took a second
    slot = slots.try_enter()
    assert slot is not None
    assert slots.try_enter() is None
    with pytest.raises(admission.Unavailable):
        slots.expect({})
    slot.leave()
    assert slots.try_enter() is not None


def test_the_pool_grows_with_busy_threads_up_to_its_limit() -> None:
    pool, go, ended = Pool(3), threading.Event(), threading.Semaphore(0)

    def work() -> None:
        go.wait(30)
        ended.release()

    for _ in range(5):
        pool.submit(work)
    assert pool._count == 3
    go.set()
    for _ in range(5):
        assert ended.acquire(timeout=30)
    few = Pool(3)
    for _ in range(4):
        few.submit(ended.release)
        assert ended.acquire(timeout=30)
        until(lambda: few._idle)
    assert few._count == 1


def test_without_new_threads_the_existing_ones_do_the_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool, go, ended = Pool(3), threading.Event(), threading.Semaphore(0)
    pool.submit(go.wait, 30)

    def fail(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fail)
    pool.submit(ended.release)
    go.set()
    assert ended.acquire(timeout=30)
    with pytest.raises(RuntimeError):
        Pool(3).submit(ended.release)


@pytest.mark.parametrize("rows", ["0", "auto", "16", "1024"])
def test_a_thread_stays_free_to_refuse_when_all_slots_and_the_queue_are_full(rows: str) -> None:
    options = settings.read({"THREADS": "8", "BATCH_ROWS": rows})
    control, needed = admission.Admission(options), admission.SPARE
    for slots in (control.alone, control.sharing) if options.batch_rows else (control.alone,):
        slots._known, slots._mean = admission.KNOWN, 0.0001
        entered = 0
        while slots.try_enter() is not None:
            entered += 1
        needed += max(entered, options.threads) + admission.MOST_WAITING
    assert admission.server_threads(options) >= needed


class Doubling:
    """Stands for the native codec: runs double what calls ask."""

    def together(self, asks: Sequence[Any]) -> list[Any]:
        return [2 * ask for ask in asks]


def test_a_shared_run_begins_although_every_thread_of_the_pool_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "server_threads", lambda _: 1)
    posted: SimpleQueue[Any] = SimpleQueue()
    loop: Any = SimpleNamespace(post=posted.put)
    answers = Answering(settings.read({}), loop, lambda _: Response(200, b""), may_block=False)
    queue, quick, got = Queue(1, 16), Doubling(), SimpleQueue[Any]()
    shared: Any = SimpleNamespace(queue=queue, quick=quick, asks=21)
    nothing: Any = None
    call = Sharing(answers, nothing, nothing, KIND, shared, False)
    assert queue.enter([])  # a run is in progress
    assert not queue.enter([call])
    answers._pool.submit(lambda: got.put(queue.run(quick.together, 1)))
    until(lambda: len(queue._waiting) == 2)
    queue.leave()
    assert posted.get(timeout=10).calls == [call]
    assert (call.gets, got.get(timeout=10)) == (42, 2)


class Counting:
    """Stands for the native codec: lists how each call was run; a body of b"bad" cannot be run alone."""

    def __init__(self) -> None:
        self.runs: list[str] = []

    def alone(self, body: bytes, *_: Any) -> Any:
        self.runs.append("alone")
        if body == b"bad":
            raise MemoryError
        return accelerator.Answer(body, 0, 0, 1, 0, 0, 0, 0)

    def together(self, asks: Sequence[Any]) -> list[Any]:
        self.runs.append(f"{len(asks)} together")
        return [accelerator.Answer(body, 0, 0, 1, 0, 0, 0, 0) for body, *_ in asks]


def shared(queue: Queue, quick: Any, body: Any) -> sharing.Shared:
    nothing: Any = None
    return sharing.Shared(queue, quick, (body, -1, accelerator.NO_OPTIONS), nothing, nothing, is_plain=False)


TURNS = [
    # bodies of a turn       a run can begin    short    how they are run
    ([b"1"],                 True,              True,    ["alone"]),
    ([b"1"],                 False,             True,    []),  # it waits for the run in progress
    ([b"1"],                 True,              False,   ["in the pool"]),
    ([b"1", b"2"],           True,              True,    ["2 together"]),
    ([b"bad"],               True,              True,    ["alone", "in the pool"]),
]  # fmt: skip


@pytest.mark.parametrize(("bodies", "is_free", "is_short", "runs"), TURNS)
def test_a_request_that_is_alone_in_its_turn_is_run_at_once_as_without_batching(
    monkeypatch: pytest.MonkeyPatch, bodies: list[bytes], is_free: bool, is_short: bool, runs: list[str]
) -> None:
    quick, queue = Counting(), Queue(1, 16)
    loop: Any = SimpleNamespace(post=None, is_alone=len(bodies) == 1)
    answers = Answering(settings.read({"BATCH_ROWS": "16"}), loop, lambda _: Response(200, b""), may_block=False)
    monkeypatch.setattr(answering.loading, "batching", lambda: Batching({}, 16))
    monkeypatch.setattr(answering.sharing, "plan", lambda request: shared(queue, quick, request.body))
    monkeypatch.setattr(answers._short, "holds", lambda kind: is_short)
    monkeypatch.setattr(answers, "_admission", admission.Admission(settings.read({"BATCH_ROWS": "16"})))
    monkeypatch.setattr(answers, "_answer_here", lambda *_: 200)
    monkeypatch.setattr(answers._pool, "submit", lambda *_: quick.runs.append("in the pool"))
    assert is_free or queue.enter(())
    for body in bodies:
        request = Request("POST", "/v1/models/model:predict", body=body)
        connection = SimpleNamespace(busy=None, resume=lambda: None)
        exchange: Any = SimpleNamespace(
            with_body=lambda _, request=request: request, record=request.record, connection=connection
        )
        answers.answer(exchange, body)
    answers.end_turn()
    assert quick.runs == runs
    assert (queue._free, len(queue._waiting)) == (int(is_free), int(not is_free))


LEARNT = [
    # nanoseconds of the run      whether the kind is short so far    what is learnt of it
    (SHORT - 1,                   True,                               "nothing"),
    (LONG + 1,                    True,                               "long"),
    (SHORT // 2,                  False,                              "short"),
    (LONG + 1,                    False,                              "long"),
]  # fmt: skip


@pytest.mark.parametrize(("took", "is_short", "learnt"), LEARNT)
def test_a_kind_is_short_where_the_whole_run_is_that_its_requests_share(
    monkeypatch: pytest.MonkeyPatch, took: int, is_short: bool, learnt: str
) -> None:
    loop: Any = SimpleNamespace(post=None, is_alone=False)
    answers = Answering(settings.read({"BATCH_ROWS": "16"}), loop, lambda _: Response(200, b""), may_block=False)
    times: list[int] = []
    monkeypatch.setattr(answers, "_answer_here", lambda *_: 200)
    monkeypatch.setattr(answers._short, "learn", lambda _, time: times.append(time))
    exchange: Any = SimpleNamespace(connection=SimpleNamespace(busy=None, resume=lambda: None))
    plan = shared(Queue(1, 16), Counting(), b"1")
    calls = [Sharing(answers, exchange, Request("POST", "/", body=b"1"), KIND, plan, is_short) for _ in range(16)]
    for call in calls:
        (call.gets,) = call.together([call.asks])
    answers.finish(calls, took)
    assert {"long" if time > LONG else "short" for time in times} == ({learnt} - {"nothing"})


def test_without_another_thread_the_one_that_ends_a_run_leads_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    posted: list[Any] = []
    loop: Any = SimpleNamespace(post=posted.append, is_alone=False)
    answers = Answering(settings.read({}), loop, lambda _: Response(200, b""), may_block=False)
    queue, nothing = Queue(1, 16), Any
    shared: Any = SimpleNamespace(queue=queue, quick=Doubling(), asks=21)
    call = Sharing(answers, nothing, nothing, KIND, shared, False)  # type: ignore[arg-type]
    assert queue.enter([])
    assert not queue.enter([call])

    def fail(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fail)
    queue.leave()
    assert (call.gets, queue._free, answers._leads._work.qsize()) == (42, 1, 0)
    assert posted[0].calls == [call]


def gone(_response: Response) -> None:
    raise BrokenPipeError


def test_the_last_answer_of_a_process_carries_the_cors_fields_of_each_client(serve: Serve, loop: Loop) -> None:
    serve(HALF, CORS_ORIGINS="https://shop.example")
    given: list[Response] = []
    for number, give in enumerate((gone, given.append)):
        exchange: Any = SimpleNamespace(give=give, fields={"origin": "https://shop.example"})
        loop._connections[-number] = SimpleNamespace(busy=exchange)  # type: ignore[assignment]
    loop._connections[1] = SimpleNamespace(busy=None)  # type: ignore[assignment]
    assert watchdog._give_rest == loop.answer_rest
    loop.answer_rest(Response(504, b"{}"))
    (answer,) = given
    assert (answer.status, dict(answer.headers)["Access-Control-Allow-Origin"]) == (504, "https://shop.example")
