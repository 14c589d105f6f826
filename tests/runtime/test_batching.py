"""Dynamic batching: which calls run together, and what happens when one fails."""

import signal
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from serving.core import machine
from serving.core.errors import RunError
from serving.runtime.batching import Batching, row_count
from tests.conftest import ROOT, plain_environment
from tests.harness.waiting import until
from tests.runtime.calls import Fake, batching_of, caller, together, two

ROWS = [
    # shapes              rows
    ([(3, 2)],            3),
    ([(3,), (3, 1)],      3),
    ([(3,), (2,)],        0),
    ([()],                0),
    ([(1,), ()],          0),
    ([],                  0),
]  # fmt: skip


@pytest.mark.parametrize(("shapes", "rows"), ROWS)
def test_inputs_have_rows_where_each_has_the_same_first_dimension(shapes: list[tuple[int, ...]], rows: int) -> None:
    inputs = {str(position): np.zeros(shape, np.float32) for position, shape in enumerate(shapes)}
    assert row_count(inputs) == rows


# ---- When calls meet
def test_a_call_to_an_idle_model_runs_at_once_and_unchanged() -> None:
    fake = Fake()
    batching, inputs = batching_of(fake), two(1, 2, 3)
    for _ in range(3):
        assert caller(batching)(inputs)["y"].tolist() == [2, 2, 4, 4, 6, 6]
    assert fake.sizes == [6, 6, 6]
    assert batching.queue._free == 1


def test_calls_that_arrive_while_the_model_is_busy_share_the_next_run() -> None:
    fake = Fake()
    batching = batching_of(fake)
    futures = together(batching, fake, *[two(number) for number in range(10)])
    assert [future.result()["y"].tolist() for future in futures] == [[2 * n, 2 * n] for n in range(10)]
    assert fake.sizes == [2, 18]
    assert (batching.queue._free, fake.most) == (1, 1)


def test_no_more_runs_are_concurrent_than_allowed() -> None:
    fake = Fake()
    batching = batching_of(fake, runs=3)
    with ThreadPoolExecutor(12) as pool, fake.held():
        futures = [pool.submit(caller(batching), two(number)) for number in range(12)]
        until(lambda: len(batching.queue._waiting) == 9)
        assert fake.sizes == [2, 2, 2]
        fake.free.set()
    assert [future.result()["first"].tolist() for future in futures] == [[n, n] for n in range(12)]
    assert fake.most <= 3
    assert batching.queue._free == 3


def test_calls_that_share_no_run_are_few_at_once_and_hold_up_none_that_do() -> None:
    fake = Fake()
    batching, many = batching_of(fake, sizes=(1, 2)), {"x": np.zeros(3, np.float32)}
    limit = machine.cores() + 1
    with ThreadPoolExecutor(limit + 5) as pool, fake.held():
        futures = [pool.submit(caller(batching), many) for _ in range(limit + 4)]
        until(lambda: len(batching._apart._waiting) == 4)
        assert fake.sizes == [3] * limit
        futures.append(pool.submit(caller(batching), two(1)))
        until(lambda: fake.sizes == [3] * limit + [2])
        fake.free.set()
        assert [len(future.result()["y"]) for future in futures] == [3] * (limit + 4) + [2]


LARGEST = [
    # most_rows  rows of the calls that wait    rows of the runs
    (4,          [2, 2, 2, 2, 2],               [4, 4, 2]),
    (5,          [2, 2, 2],                     [4, 2]),
    (6,          [4, 4, 2],                     [6, 4]),  # a small one fills the place that a larger one has not
    (2,          [2, 2],                        [2, 2]),
]  # fmt: skip


@pytest.mark.parametrize(("most_rows", "waiting", "runs"), LARGEST)
def test_no_run_has_more_rows_than_allowed(most_rows: int, waiting: list[int], runs: list[int]) -> None:
    fake = Fake()
    inputs = [{"x": np.full(rows, rows, np.float32)} for rows in waiting]
    for future, call in zip(
        together(batching_of(fake, sizes=range(1, most_rows + 1)), fake, two(0), *inputs)[1:], inputs
    ):
        assert future.result()["y"].tolist() == (call["x"] * 2).tolist()
    assert fake.sizes[1:] == runs


def test_a_call_larger_than_the_limit_runs_by_itself_and_does_not_wait() -> None:
    fake = Fake()
    batching = batching_of(fake, sizes=range(1, 5))
    with ThreadPoolExecutor(2) as pool, fake.held():
        pool.submit(caller(batching), two(1))
        until(lambda: fake.sizes == [2])
        large = pool.submit(caller(batching), {"x": np.zeros(5, np.float32)})
        until(lambda: fake.sizes == [2, 5])
        fake.free.set()
        assert large.result()["y"].tolist() == [0] * 5


def test_rows_of_different_shapes_are_never_batched_and_no_call_starves() -> None:
    fake = Fake()
    shapes = [(2,), (2, 3), (2, 1), (2, 3), (2,), (2, 1)]
    inputs = [{"x": np.full(shape, number, np.float32)} for number, shape in enumerate(shapes)]
    futures = together(batching_of(fake), fake, two(0), *inputs)
    for future, call in zip(futures[1:], inputs):
        assert np.array_equal(future.result()["y"], call["x"] * 2)
    assert fake.sizes == [2, 4, 4, 4]


NOT_ROWS = [
    {"x": np.zeros((0,), np.float32)},
    {"x": np.zeros((2,), np.float32), "z": np.zeros((3,), np.float32)},
]


@pytest.mark.parametrize("inputs", NOT_ROWS)
def test_a_call_without_rows_runs_unchanged(inputs: dict[str, Any]) -> None:
    fake = Fake()
    assert batching_of(fake).run("fake", inputs)["y"].shape == inputs["x"].shape
    assert fake.sizes == [len(inputs["x"])]


SIZES = [
    # sizes     rows    rows of the run
    ((2, 4),    1,      2),
    ((2, 4),    2,      2),
    ((2, 4),    3,      3),  # those of three rows may be rounded differently
    ((2, 4),    5,      5),
    ((1, 8),    1,      1),
    ((1, 8),    2,      2),
]  # fmt: skip


@pytest.mark.parametrize(("sizes", "rows", "run"), SIZES)
def test_a_call_alone_runs_with_its_own_rows_or_as_the_smallest_run(
    sizes: tuple[int, ...], rows: int, run: int
) -> None:
    fake = Fake()
    outputs = batching_of(fake, sizes=sizes).run("fake", {"x": np.arange(rows, dtype=np.float32)})
    assert outputs["y"].tolist() == [2 * row for row in range(rows)]
    assert fake.sizes == [run]


def rounded(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return outputs whose last digit is another one for 1, 3 and 5 rows."""
    x = inputs["x"]
    return {"y": x * (1.5 if len(x) in (1, 3, 5) else 1.25)}


def test_a_call_gets_the_same_bytes_whether_batching_was_allowed_before_it_or_after_it_and_in_any_batch() -> None:
    calls = [{"x": np.arange(1, rows + 1)} for rows in (1, 2, 1, 3, 4, 5, 6, 1, 1, 3)]
    batching = Batching({"fake": rounded}, 8, {"fake": 2})
    before = [batching.run("fake", inputs)["y"].tolist() for inputs in calls]
    assert before[0] == [1.25]
    batching.allow({"fake": (2, 4, 6, 8)})
    assert [batching.run("fake", inputs)["y"].tolist() for inputs in calls] == before
    together = batching.together([("fake", inputs) for inputs in calls])
    assert [outputs["y"].tolist() for outputs in together if isinstance(outputs, dict)] == before


def test_signatures_do_not_share_a_run_and_those_without_sizes_run_as_they_come() -> None:
    fake = Fake()
    batching = Batching({"fake": fake, "other": fake, "apart": fake}, 8)
    batching.smallest = {"other": 4}
    batching.allow({"fake": (1, 2, 4), "other": (4,)})
    calls = [(name, two(number)) for number, name in enumerate(("fake", "other", "fake", "other", "apart"))]
    answers = batching.together(calls)
    assert [answer["first"].tolist() for answer in answers if isinstance(answer, dict)] == [[n, n] for n in range(5)]
    assert fake.sizes == [4, 4, 2]


# ---- Failures
def test_a_bad_call_fails_alone() -> None:
    fake = Fake()
    batching = batching_of(fake)
    futures = together(batching, fake, two(0), two(1), two(-7), two(2), two(-8))
    assert [futures[index].result()["y"].tolist() for index in (0, 1, 3)] == [[0, 0], [2, 2], [4, 4]]
    for index, words in ((2, "-7.0 is negative"), (4, "-8.0 is negative")):
        with pytest.raises(RunError, match=words):
            futures[index].result()
    assert sorted(fake.sizes) == [2, 2, 2, 2, 2, 8]
    assert batching.queue._free == 1


def test_a_bad_row_alone_gets_the_models_error_and_the_next_call_runs() -> None:
    fake = Fake()
    batching = batching_of(fake)
    for inputs in (two(-1), {"x": np.array([-1], np.float32)}):
        with pytest.raises(RunError, match=r"-1\.0 is negative"):
            batching.run("fake", inputs)
    assert batching.run("fake", two(4))["y"].tolist() == [8, 8]
    assert batching.queue._free == 1


def test_calls_run_one_by_one_where_memory_lacks_for_the_batch() -> None:
    fake = Fake()

    def narrow(inputs: Mapping[str, Any]) -> dict[str, Any]:
        outputs = fake(inputs)
        if len(inputs["x"]) > 2:
            raise MemoryError
        return outputs

    futures = together(batching_of(narrow), fake, two(0), two(1), two(2))
    assert [future.result()["y"].tolist() for future in futures] == [[0, 0], [2, 2], [4, 4]]


def test_an_interrupted_leader_leaves_no_call_waiting() -> None:
    fake = Fake()

    def interrupted(inputs: Mapping[str, Any]) -> dict[str, Any]:
        outputs = fake(inputs)
        if len(inputs["x"]) > 2:
            raise KeyboardInterrupt
        return outputs

    batching = batching_of(interrupted)
    _, leader, follower = together(batching, fake, two(0), two(1), two(2))
    with pytest.raises(KeyboardInterrupt):
        leader.result()
    assert follower.result()["y"].tolist() == [4, 4]
    assert (batching.queue._free, len(batching.queue._waiting)) == (1, 0)


def test_a_call_that_stops_waiting_releases_its_turn() -> None:
    fake = Fake()
    batching = batching_of(fake)

    def give_up(*_: Any) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, give_up)
    try:
        with ThreadPoolExecutor(1) as pool, fake.held():
            first = pool.submit(caller(batching), two(1))
            until(lambda: fake.sizes)
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            with pytest.raises(TimeoutError):
                batching.run("fake", two(2))  # signals come to the main thread
            assert not batching.queue._waiting
        assert first.result()["y"].tolist() == [2, 2]
    finally:
        signal.signal(signal.SIGALRM, before)
    assert batching.run("fake", two(3))["y"].tolist() == [6, 6]
    assert (batching.queue._free, fake.sizes) == (1, [2, 2])


FORK = """
import os, sys, threading, faulthandler
import numpy as np
from serving.runtime.batching import Batching
faulthandler.dump_traceback_later(60, exit=True)
busy, free = threading.Event(), threading.Event()
def double(inputs):
    if not forked:
        busy.set()
        free.wait()
    return {"y": inputs["x"] * 2}
forked = False
batching = Batching({"fake": double}, 64)
batching.allow({"fake": (2,)})
inputs = {"x": np.array([1, 2])}
threading.Thread(target=batching.run, args=("fake", inputs)).start()
busy.wait()
batching.queue._lock.acquire()  # as a thread might that the child does not have
if os.fork() == 0:
    forked = True
    print(batching.run("fake", inputs)["y"].tolist(), flush=True)
    os._exit(0)
batching.queue._lock.release()
os.wait()
free.set()
"""


def test_a_call_that_runs_before_a_fork_blocks_no_call_after_it() -> None:
    run = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK],
        cwd=ROOT, env=plain_environment(), capture_output=True, text=True, timeout=90,
    )  # fmt: skip
    assert run.stdout == "[2, 4]\n", run.stderr


def test_a_signature_with_unexpected_output_rows_is_no_longer_batched(capsys: pytest.CaptureFixture[str]) -> None:
    fake = Fake()

    def distinct(inputs: Mapping[str, Any]) -> dict[str, Any]:
        fake(inputs)
        return {"y": np.unique(inputs["x"])}

    batching = batching_of(distinct)
    futures = together(batching, fake, two(0), two(1), two(2))
    assert [future.result()["y"].tolist() for future in futures] == [[0], [1], [2]]
    assert batching.sizes == {}
    assert "'fake' is not batched" in capsys.readouterr().out
