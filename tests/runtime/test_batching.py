"""Calls that meet run together: when they do, when they do not, and that each gets its own rows."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporting import compare
from serving.core import settings
from serving.core.dtypes import by_code
from serving.core.errors import RunError
from serving.runtime import loading
from serving.runtime.batch_sizes import decide
from serving.runtime.batching import Batching, Queue, batchable
from serving.runtime.model import Model
from serving.runtime.sessions import open_session
from serving.savedmodel.signature import Signature, TensorSpec
from serving.savedmodel.source import Source
from tests.conftest import EMBEDDED, ROOT, Serve, plain_environment
from tests.models.zoo import build, cases

PATIENCE = 30.0


class Fake:
    """A model that doubles numbers, refuses negative ones, and tells what was asked of it."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.free = threading.Event()  # a run lasts until this is set
        self.free.set()
        self._busy, self.most = 0, 0
        self._lock = threading.Lock()

    def __call__(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        x = inputs["x"]
        with self._lock:
            self.sizes.append(len(x))
            self._busy += 1
            self.most = max(self.most, self._busy)
        try:
            assert self.free.wait(PATIENCE)
            if (x < 0).any():
                raise RunError("INVALID_ARGUMENT", f"{x[x < 0][0]} is negative")
            return {"y": x * 2, "first": x[(slice(None), *[0] * (x.ndim - 1))]}
        finally:
            with self._lock:
                self._busy -= 1

    @contextmanager
    def held(self) -> Any:
        self.free.clear()
        try:
            yield
        finally:
            self.free.set()


def two(*values: float) -> dict[str, Any]:
    """Return rows, two of each value."""
    return {"x": np.repeat(np.array(values, np.float32), 2)}


def batching_of(function: Any, runs: int = 1, sizes: Iterable[int] = range(1, 65)) -> Batching:
    batching = Batching({"fake": function}, 64)
    batching.queue = Queue(runs, 64)
    batching.allow({"fake": tuple(sizes)})
    return batching


def caller(batching: Batching) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return partial(batching.run, "fake")


def together(batching: Batching, fake: Fake, *inputs: dict[str, Any]) -> list[Future[dict[str, Any]]]:
    """Call with the first inputs, and, while that runs, with the others, which come in their order."""
    pool = ThreadPoolExecutor(len(inputs))
    with fake.held():
        futures = []
        for number, one in enumerate(inputs):
            futures.append(pool.submit(caller(batching), one))
            until(lambda number=number: fake.sizes and len(batching.queue._waiting) == number)  # type: ignore[misc]
    pool.shutdown()
    return futures


def until(true: Callable[[], Any]) -> None:
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end
        time.sleep(0.0005)


# ---- When calls meet


def test_a_call_that_finds_the_model_free_runs_at_once_and_as_it_came() -> None:
    fake = Fake()
    batching, inputs = batching_of(fake), two(1, 2, 3)
    for _ in range(3):
        assert caller(batching)(inputs)["y"].tolist() == [2, 2, 4, 4, 6, 6]
    assert fake.sizes == [6, 6, 6]
    assert batching.queue._free == 1


def test_what_comes_while_the_model_is_busy_runs_together_next() -> None:
    fake = Fake()
    batching = batching_of(fake)
    futures = together(batching, fake, *[two(number) for number in range(10)])
    assert [future.result()["y"].tolist() for future in futures] == [[2 * n, 2 * n] for n in range(10)]
    assert fake.sizes == [2, 18]
    assert (batching.queue._free, fake.most) == (1, 1)


def test_as_many_runs_go_on_at_once_as_are_allowed() -> None:
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
    for future, one in zip(
        together(batching_of(fake, sizes=range(1, most_rows + 1)), fake, two(0), *inputs)[1:], inputs
    ):
        assert future.result()["y"].tolist() == (one["x"] * 2).tolist()
    assert fake.sizes[1:] == runs


def test_a_call_larger_than_that_runs_by_itself_and_does_not_wait() -> None:
    fake = Fake()
    batching = batching_of(fake, sizes=range(1, 5))
    with ThreadPoolExecutor(2) as pool, fake.held():
        pool.submit(caller(batching), two(1))
        until(lambda: fake.sizes == [2])
        large = pool.submit(caller(batching), {"x": np.zeros(5, np.float32)})
        until(lambda: fake.sizes == [2, 5])
        fake.free.set()
        assert large.result()["y"].tolist() == [0] * 5


def test_rows_of_different_shapes_never_meet_and_nobody_is_passed_over() -> None:
    fake = Fake()
    shapes = [(2,), (2, 3), (2, 1), (2, 3), (2,), (2, 1)]
    inputs = [{"x": np.full(shape, number, np.float32)} for number, shape in enumerate(shapes)]
    futures = together(batching_of(fake), fake, two(0), *inputs)
    for future, one in zip(futures[1:], inputs):
        assert np.array_equal(future.result()["y"], one["x"] * 2)
    assert fake.sizes == [2, 4, 4, 4]


NOT_ROWS = [
    {"x": np.zeros((0,), np.float32)},
    {"x": np.zeros((2,), np.float32), "z": np.zeros((3,), np.float32)},
]


@pytest.mark.parametrize("inputs", NOT_ROWS)
def test_a_call_without_rows_of_its_own_runs_as_it_came(inputs: dict[str, Any]) -> None:
    fake = Fake()
    assert batching_of(fake).run("fake", inputs)["y"].shape == inputs["x"].shape
    assert fake.sizes == [len(inputs["x"])]


SIZES = [
    # sizes     rows    rows of the run
    ((2, 4),    1,      2),
    ((2, 4),    2,      2),
    ((2, 4),    3,      4),
    ((2, 4),    5,      5),
    ((1, 8),    1,      1),
    ((1, 8),    2,      8),
]  # fmt: skip


@pytest.mark.parametrize(("sizes", "rows", "run"), SIZES)
def test_a_run_has_one_of_the_sizes_and_the_outputs_have_the_rows_of_the_call(
    sizes: tuple[int, ...], rows: int, run: int
) -> None:
    fake = Fake()
    outputs = batching_of(fake, sizes=sizes).run("fake", {"x": np.arange(rows, dtype=np.float32)})
    assert outputs["y"].tolist() == [2 * row for row in range(rows)]
    assert fake.sizes == [run]


def test_signatures_do_not_share_a_run_and_those_without_sizes_run_as_they_come() -> None:
    fake = Fake()
    batching = Batching({"fake": fake, "other": fake, "apart": fake}, 8)
    batching.allow({"fake": (1, 2, 4), "other": (4,)})
    calls = [(name, two(number)) for number, name in enumerate(("fake", "other", "fake", "other", "apart"))]
    answers = batching.together(calls)
    assert [one["first"].tolist() for one in answers if isinstance(one, dict)] == [[n, n] for n in range(5)]
    assert fake.sizes == [4, 4, 2]


# ---- Failures


def test_a_bad_call_fails_alone() -> None:
    fake = Fake()
    batching = batching_of(fake)
    futures = together(batching, fake, two(0), two(1), two(-7), two(2), two(-8))
    assert [futures[place].result()["y"].tolist() for place in (0, 1, 3)] == [[0, 0], [2, 2], [4, 4]]
    for place, words in ((2, "-7.0 is negative"), (4, "-8.0 is negative")):
        with pytest.raises(RunError, match=words):
            futures[place].result()
    assert sorted(fake.sizes) == [2, 2, 2, 2, 2, 8]
    assert batching.queue._free == 1


def test_a_bad_row_alone_is_told_as_the_model_tells_it_and_the_next_call_runs() -> None:
    fake = Fake()
    batching = batching_of(fake)
    for inputs in (two(-1), {"x": np.array([-1], np.float32)}):
        with pytest.raises(RunError, match=r"-1\.0 is negative"):
            batching.run("fake", inputs)
    assert batching.run("fake", two(4))["y"].tolist() == [8, 8]
    assert batching.queue._free == 1


def test_a_lack_of_memory_for_the_whole_is_no_lack_for_each() -> None:
    fake = Fake()

    def narrow(inputs: Mapping[str, Any]) -> dict[str, Any]:
        outputs = fake(inputs)
        if len(inputs["x"]) > 2:
            raise MemoryError
        return outputs

    futures = together(batching_of(narrow), fake, two(0), two(1), two(2))
    assert [future.result()["y"].tolist() for future in futures] == [[0, 0], [2, 2], [4, 4]]


def test_a_leader_that_is_interrupted_leaves_nobody_behind() -> None:
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


def test_one_who_gives_up_waiting_does_not_take_the_turn_along() -> None:
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


def test_what_was_under_way_before_a_fork_holds_nobody_up_after_it() -> None:
    run = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK],
        cwd=ROOT, env=plain_environment(), capture_output=True, text=True, timeout=90,
    )  # fmt: skip
    assert run.stdout == "[2, 4]\n", run.stderr


def test_a_signature_whose_outputs_have_other_rows_is_not_batched_again(capsys: pytest.CaptureFixture[str]) -> None:
    fake = Fake()

    def distinct(inputs: Mapping[str, Any]) -> dict[str, Any]:
        fake(inputs)
        return {"y": np.unique(inputs["x"])}

    batching = batching_of(distinct)
    futures = together(batching, fake, two(0), two(1), two(2))
    assert [future.result()["y"].tolist() for future in futures] == [[0], [1], [2]]
    assert batching.sizes == {}
    assert "'fake' is not batched" in capsys.readouterr().out


# ---- Everything at once


class Rows(Fake):
    """The same, quickly, for inputs of several shapes; it never mixes them up."""

    def __call__(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        x, text = inputs["x"], inputs["text"]
        with self._lock:
            self._busy += 1
            self.most = max(self.most, self._busy)
            self.sizes.append(len(x))
        time.sleep(0)
        try:
            if (x < 0).any():
                raise RunError("INVALID_ARGUMENT", "negative")
            return {"sum": x.sum(axis=tuple(range(1, x.ndim))), "text": text + b"!"}
        finally:
            with self._lock:
                self._busy -= 1


@pytest.mark.parametrize("runs", [1, 2])
@pytest.mark.parametrize("sizes", [range(1, 41), (2, 10, 40)])
def test_each_of_6400_calls_gets_its_own_rows(runs: int, sizes: Iterable[int]) -> None:
    rows = Rows()
    batching = batching_of(rows, runs, sizes)

    def work(caller: int) -> list[str]:
        random, wrong = np.random.default_rng(caller), []
        for number in range(100):
            size, wide = int(random.integers(1, 9)), int(random.integers(1, 3))
            bad = random.random() < 0.02
            value = caller * 100 + number
            x = np.full((size, wide), value, np.float64)
            text = np.array([b"%d/%d" % (value, row) for row in range(size)], object)
            x[-1] = -1 if bad else value
            try:
                outputs = batching.run("fake", {"x": x, "text": text} if number % 2 else {"text": text, "x": x})
            except RunError:
                wrong += [] if bad else [f"{value}: refused"]
                continue
            if (
                bad
                or outputs["sum"].tolist() != [value * wide] * size
                or outputs["text"].tolist() != (text + b"!").tolist()
            ):
                wrong.append(f"{value}: {outputs}")
        return wrong

    with ThreadPoolExecutor(64) as pool:
        assert [wrong for one in pool.map(work, range(64)) for wrong in one] == []
    assert max(rows.sizes) <= 40
    assert len(rows.sizes) < 6400
    assert (batching.queue._free, len(batching.queue._waiting)) == (runs, 0)


@given(
    st.lists(st.lists(st.integers(-1, 5), min_size=1, max_size=4), min_size=2, max_size=12),
    st.integers(1, 8), st.integers(1, 3),
)  # fmt: skip
def test_any_calls_are_answered_as_they_are_alone(calls: list[list[int]], most_rows: int, runs: int) -> None:
    fake = Fake()
    batching = batching_of(fake, runs, range(1, most_rows + 1))
    with ThreadPoolExecutor(len(calls)) as pool:
        futures = [pool.submit(caller(batching), {"x": np.array(values)}) for values in calls]
        for future, values in zip(futures, calls):
            if min(values) < 0:
                with pytest.raises(RunError):
                    future.result(PATIENCE)
            else:
                assert future.result(PATIENCE)["y"].tolist() == [2 * value for value in values]
    assert batching.queue._free == runs


# ---- Which signatures


def signature(inputs: dict[str, Any], outputs: dict[str, Any]) -> Signature:
    sides = (
        {name: TensorSpec(name, by_code(1), shape, f"{name}:0") for name, shape in side.items()}
        for side in (inputs, outputs)
    )
    return Signature("s", *sides, "")


SHAPES = [
    # inputs                              outputs                               can meet
    ({"x": (None, 4)},                    {"y": (None, 2)},                     True),
    ({"x": (None,), "z": (None, None)},   {"y": (None,), "w": (None, 3, 3)},    True),
    ({"x": (None, 4)},                    {"y": (None, None)},                  False),  # padded to the longest row?
    ({"x": (None, 4)},                    {"y": None},                          False),
    ({"x": None},                         {"y": (None, 2)},                     False),
    ({"x": (2, 4)},                       {"y": (None, 2)},                     False),
    ({"x": (None, 4)},                    {"y": (2, 2)},                        False),
    ({"x": (None, 4)},                    {"y": ()},                            False),
    ({"x": (None, 4), "scale": ()},       {"y": (None, 4)},                     False),
    ({},                                  {"y": (None, 4)},                     False),
]  # fmt: skip


@pytest.mark.parametrize(("inputs", "outputs", "can"), SHAPES)
def test_a_signature_says_whether_its_calls_can_meet(inputs: Any, outputs: Any, can: bool) -> None:
    assert batchable(signature(inputs, outputs)) is can


def test_a_model_batches_where_the_setting_says_so_and_its_operations_allow_it(serve: Serve) -> None:
    ask = serve(EMBEDDED, BATCH_ROWS="32")
    assert ask("GET", "/readyz").status == 200
    assert (batching := loading.cache().get().batching)
    assert batching.sizes.keys() == loading.cache().get().functions.keys()
    ask = serve(build() / "random_stateful", BATCH_ROWS="32")
    assert ask("POST", "/", {"instances": [1.0]}).status == 200
    assert (batching := loading.cache().get().batching)
    assert batching.sizes == {}
    serve(EMBEDDED)
    assert loading.cache().get().batching is None


def test_requests_that_meet_are_answered_as_they_are_alone(serve: Serve, examples: dict[str, Any]) -> None:
    pictures = examples["pixels"]["instances"]
    bodies = [{"signature_name": "pixels", "instances": [picture]} for picture in pictures]
    bodies += [
        {"signature_name": "pixels", "instances": [[[1, 2]]]},
        {"signature_name": "pixels", "instances": pictures},
    ]
    ask = serve(EMBEDDED, BATCH_ROWS="32", THREADS="16")
    alone = [ask("POST", "/", body) for body in bodies]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda body: ask("POST", "/", body), bodies * 20))
    for number, answer in enumerate(answers):
        one = alone[number % len(alone)]
        assert (answer.status, len(answer.body) > 20) == (one.status, True)
        if one.status == 200:
            labels = [[row["label"] for row in json.loads(body)["predictions"]] for body in (answer.body, one.body)]
            assert labels[0] == labels[1]


# ---- Real models


def load(directory: Path, **environment: str) -> Model:
    options = settings.read(environment)
    source = Source(directory, "model")
    return Model(source, open_session(source, options))


def pictures() -> tuple[str, list[dict[str, Any]]]:
    random = np.random.default_rng(0)
    return "pixels", [{"pixels": random.uniform(0, 16, (1 + n % 5, 8, 8)).astype(np.float32)} for n in range(64)]


def of_zoo(name: str) -> tuple[str, list[dict[str, Any]]]:
    rows: list[dict[str, Any]] = []
    for case in cases(name):
        if case["signature"] == "serving_default" and not case["error"]:
            size = len(next(iter(case["inputs"].values())))
            rows += [{key: array[n : n + 1] for key, array in case["inputs"].items()} for n in range(size)]
    return "serving_default", (rows * 16)[:64]


REAL = ["model", "dense_512", "keras_sequential", "keras_functional"]


@pytest.mark.parametrize("name", REAL)
def test_real_models_answer_sixteen_callers_as_they_answer_one(name: str) -> None:
    model = load(EMBEDDED if name == "model" else build() / name)
    chosen, inputs = pictures() if name == "model" else of_zoo(name)
    alone = [model.run(model.signatures[chosen], one) for one in inputs]
    decide(model, 16)
    assert model.batching
    assert chosen in model.batching.sizes
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda one: model.run(model.signatures[chosen], one), inputs * 4))
    for number, outputs in enumerate(answers):
        assert compare.difference(alone[number % len(alone)], outputs, 1e-5)[1] is None
    model.close()
