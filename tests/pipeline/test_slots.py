"""Admission control by kind: the slots of requests that share runs, and of the others."""

from io import BytesIO

import pytest

from serving.core import machine
from serving.core.http import Request, Unavailable
from serving.core.settings import read
from serving.pipeline import admission
from serving.pipeline.admission import Admission, Slots
from serving.runtime import batching
from tests.conftest import Serve
from tests.models.zoo import build
from tests.pipeline.slots import ago, later, learn, queue

HALF = build() / "versions" / "1"


@pytest.fixture(autouse=True)
def _many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cores", lambda: 64)


SLOTS = [
    # settings                             alone   sharing
    ({},                                   3,      3),
    ({"THREADS": "1"},                     1,      1),
    ({"BATCH_ROWS": "16"},                 3,      32),
    ({"BATCH_ROWS": "auto"},               3,      32),
    ({"BATCH_ROWS": "1"},                  3,      3),
    ({"BATCH_ROWS": "4", "THREADS": "1"},  1,      8),
]  # fmt: skip


@pytest.mark.parametrize(("environment", "alone", "sharing"), SLOTS)
def test_one_more_run_than_there_are_cores_and_those_of_two_batches_where_they_share_runs(
    environment: dict[str, str], alone: int, sharing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "cores", lambda: 2)
    control = Admission(read(environment))
    assert (control.alone.count, control.sharing.count) == (alone, sharing)


SMALL, LARGE = batching.Batching.largest_body, batching.Batching.largest_body + 1
KINDS = [
    # request                                                                           shares runs
    (Request("POST", "/", body=bytes(SMALL)),                                           True),
    (Request("POST", "/", body=BytesIO(), length=SMALL),                                True),
    (Request("POST", "/", body=bytes(LARGE)),                                           False),
    (Request("POST", "/", body=BytesIO(), length=LARGE),                                False),
    (Request("POST", "/", body=BytesIO(), length=None),                                 False),  # in chunks
    (Request("POST", "/", headers={"content-encoding": "gzip"}, body=b"1", length=1),   False),
]  # fmt: skip


@pytest.mark.parametrize(("request_", "shares"), KINDS)
def test_requests_with_small_plain_bodies_share_runs_where_the_model_allows_it(
    serve: Serve, request_: Request, shares: bool
) -> None:
    for rows in ("0", "16"):
        ask = serve(HALF, BATCH_ROWS=rows)
        control = admission.current()
        assert control.slots(request_) is control.alone  # nothing is loaded
        assert ask("POST", "/", {"instances": [1.0]}).status == 200
        assert control.slots(request_) is (control.sharing if shares and rows == "16" else control.alone)


def test_requests_that_share_runs_get_more_slots_while_they_hold_them_briefly() -> None:
    for took, most in ((0.0005, admission.MOST_SHARING), (1.0, 2)):
        control = Admission(read({"THREADS": "2", "BATCH_ROWS": "2"}))
        for slots, count in ((control.sharing, most), (control.alone, 2)):
            learn(slots, took)
            entered = [slots.try_enter() for _ in range(2 * admission.MOST_SHARING)]
            assert sum(slot is not None for slot in entered) == count


def test_there_are_no_more_slots_than_requests_can_run_one_after_the_other_in_half_of_the_wait() -> None:
    sharing = Admission(read({"BATCH_ROWS": "16"})).sharing
    learn(sharing, 0.005)  # a request alone, of which 64 take a third of a second
    while sharing.try_enter() is not None:
        pass
    assert sharing.count == 64


def test_slots_that_were_added_go_when_requests_hold_them_for_long() -> None:
    sharing = Admission(read({"BATCH_ROWS": "16"})).sharing
    learn(sharing, 0.0005)
    entered = [slot for _ in range(admission.MOST_SHARING) if (slot := sharing.try_enter()) is not None]
    assert (len(entered), sharing.count) == (admission.MOST_SHARING, admission.MOST_SHARING)
    for _ in entered:
        sharing.leave(ago(2.0), 256)  # 8 ms each
    assert sharing.count == sharing._free
    assert 32 < sharing.count < 80


def test_the_wait_for_requests_with_a_slot_that_run_first_counts() -> None:
    for share, refused in ((0.4, False), (1.1, True)):
        slots = Slots(read({"MAX_WAIT": "10"}), 32, 32, run_by_turns=True)
        learn(slots, share * 10 / 32)  # 32 of them take this share of the longest wait
        while slots.try_enter() is not None:
            pass
        if refused:
            with pytest.raises(Unavailable, match=r"expected to begin within 10 s"):
                slots.expect({})
        else:
            slots.expect({})


def test_where_every_run_takes_long_no_more_requests_have_a_slot_than_without_batching() -> None:
    sharing = Admission(read({"BATCH_ROWS": "16"})).sharing
    for _ in range(admission.LEARNED):
        sharing.enter(later(60))
        sharing.leave(ago(1.0))
    assert (sharing.count, sharing._free) == (8, 8)  # THREADS


def test_a_request_that_was_one_of_many_counts_by_its_turn() -> None:
    sharing = Admission(read({"BATCH_ROWS": "16"})).sharing
    for _ in range(admission.LEARNED):
        slots = [sharing.enter(later(60)) for _ in range(8)]
        assert [slot.held for slot in slots] == list(range(1, 9))
        for slot in slots:
            slot._replace(began=ago(0.005 * slot.held)).leave()
    assert sharing._mean == pytest.approx(0.005, rel=0.1)


def test_requests_that_wait_run_when_there_are_more_slots() -> None:
    sharing = Admission(read({"THREADS": "1", "BATCH_ROWS": "1"})).sharing
    learn(sharing, 0.001)
    waiting = queue(sharing, 3)  # behind two
    assert sharing.try_enter() is None  # two more, for the first that wait
    for thread in waiting:  # each leaves when it has run
        thread.join(30)
    assert (sharing.count, sharing._free, len(sharing._queue)) == (4, 2, 0)
