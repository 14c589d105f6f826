"""Requests to the standalone server that wait for a slot hold no thread, and those that are refused need none."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from serving.pipeline import admission
from serving.servers.standalone.loop import Loop
from tests.conftest import Serve
from tests.models.zoo import build
from tests.servers.standalone.wire import Wire, responses

HALF = build() / "versions" / "1"
BODY = b'{"instances": [1.0]}'
RIGHT = 200, b'{"predictions":[2.0]}'


def post(path: bytes = b"/", more: bytes = b"") -> bytes:
    return b"POST %s HTTP/1.1\r\nHost: x\r\n%sContent-Length: %d\r\n\r\n" % (path, more, len(BODY)) + BODY


@pytest.fixture
def taken(serve: Serve, loop: Loop) -> Iterator[list[admission.Slot]]:
    """The slots of the loop's process, all held; the model is loaded."""
    ask = serve(HALF, THREADS="1", REQUEST_TIMEOUT="60")
    assert ask("POST", "/", BODY).status == 200
    slots = admission.current().alone
    loop._answering._admission = admission.current()
    loop.answer = loop._answering.answer  # type: ignore[method-assign]
    held = []
    while (slot := slots.try_enter()) is not None:
        held.append(slot)
    yield held
    for slot in held:
        slot.leave(is_typical=False)


@pytest.fixture
def wire(loop: Loop) -> Iterator[Callable[[], Wire]]:
    made: list[Wire] = []

    def make() -> Wire:
        made.append(Wire(loop))
        return made[-1]

    yield make
    for each in made:
        each.close()


def threads() -> int:
    return sum(thread.name.startswith("answers-") for thread in threading.enumerate())


def resume(loop: Loop, wires: list[Wire]) -> None:
    """Take the loop's turns until no request is in another thread or waits."""
    until = time.monotonic() + 60
    while loop._posted or any(each.connection.busy for each in wires):
        assert time.monotonic() < until
        while loop._posted:
            loop._posted.popleft().resume()
        time.sleep(0.001)


def test_requests_that_wait_hold_no_thread_and_are_answered_in_their_order(
    loop: Loop, wire: Callable[[], Wire], taken: list[admission.Slot]
) -> None:
    before, wires = threads(), [wire() for _ in range(100)]
    for each in wires:
        each.send(post())
    assert (len(loop._answering._waiting), threads()) == (100, before)
    assert [each.connection.busy is not None for each in wires] == [True] * 100
    order = [turn.since for turn in admission.current().alone._queue]
    assert order == sorted(order)
    taken.pop().leave(is_typical=False)
    resume(loop, wires)
    assert [responses(each.answers()) for each in wires] == [[RIGHT]] * 100
    assert not loop._answering._waiting
    assert threads() - before <= 20  # one for each slot, and those that have left theirs and still send the answer


def test_a_request_that_would_wait_too_long_is_refused_without_a_thread(
    loop: Loop, wire: Callable[[], Wire], taken: list[admission.Slot], monkeypatch: pytest.MonkeyPatch
) -> None:
    slots, before = admission.current().alone, threads()
    monkeypatch.setattr(slots, "_known", admission.KNOWN)
    monkeypatch.setattr(slots, "_mean", 5.0)
    client = wire()
    client.send(post() + post(b"/v1/models/nothing:predict") + post(more=b"X-Request-Timeout: soon\r\n"))
    resume(loop, [client])
    statuses = [(status, b"MAX_WAIT" in body) for status, body in responses(client.answers())]
    assert statuses == [(503, True), (404, False), (503, True)]
    assert threads() == before
    monkeypatch.setattr(slots, "_mean", 0.0001)
    other = wire()
    other.send(post(more=b"X-Request-Timeout: soon\r\n"))
    assert [status for status, _ in responses(other.answers())] == [400]


def test_a_request_that_has_no_time_gets_504_beside_a_free_slot(
    loop: Loop, wire: Callable[[], Wire], taken: list[admission.Slot]
) -> None:
    taken.pop().leave(is_typical=False)
    client = wire()
    client.send(post() + post(more=b"X-Request-Timeout: 0\r\n") + post(more=b"X-Request-Timeout: 00.0\r\n") + post())
    resume(loop, [client])
    right, *late, again = responses(client.answers())
    assert (right, again) == (RIGHT, RIGHT)
    assert [(status, b"X-Request-Timeout: 0 leaves no time" in body) for status, body in late] == [(504, True)] * 2


def test_a_request_whose_time_passes_while_it_waits_gets_504_and_the_next_one_of_its_client_is_answered(
    loop: Loop, wire: Callable[[], Wire], taken: list[admission.Slot]
) -> None:
    late, patient = wire(), wire()
    patient.send(post())
    late.send(post(more=b"X-Request-Timeout: 5\r\n") + b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert loop.next_look <= time.monotonic() + 5
    loop._look(time.monotonic() + 0.1)
    assert (late.connection.busy is not None, loop.next_look <= time.monotonic() + 5) == (True, True)
    loop._look(time.monotonic() + 5)
    resume(loop, [late])
    (status, body), (alive, _) = responses(late.answers())
    assert (status, alive, b"the model did not begin" in body) == (504, 200, True)
    assert len(loop._answering._waiting) == 1
    taken.pop().leave(is_typical=False)
    resume(loop, [patient])
    assert responses(patient.answers()) == [RIGHT]


def test_without_another_thread_the_loop_answers_a_request_that_has_waited(
    loop: Loop, wire: Callable[[], Wire], taken: list[admission.Slot], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fail)
    client = wire()
    client.send(post())
    taken.pop().leave(is_typical=False)
    assert client.connection.busy is not None
    resume(loop, [client])
    assert responses(client.answers()) == [RIGHT]
    assert admission.current().alone.try_enter() is not None  # the slot came back


def test_a_slot_that_is_passed_on_while_the_request_takes_its_place_is_used_once(
    loop: Loop, wire: Callable[[], Wire], taken: list[admission.Slot], monkeypatch: pytest.MonkeyPatch
) -> None:
    slots, wait = admission.current().alone, admission.Slots.wait

    def passed_on_at_once(self: admission.Slots, go: object) -> admission.Slot | admission.Turn:
        turn = wait(self, go)  # type: ignore[arg-type]
        taken.pop().leave(is_typical=False)
        time.sleep(0.2)  # long enough for the other thread to answer
        return turn

    monkeypatch.setattr(slots, "wait", passed_on_at_once.__get__(slots))
    client = wire()
    client.send(post())
    resume(loop, [client])
    assert responses(client.answers()) == [RIGHT]
    assert (len(loop._answering._waiting), slots._free) == (0, 1)
