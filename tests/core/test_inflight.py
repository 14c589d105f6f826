"""What a process was running when it died, read by its parent."""

import os
import signal
import time
from collections.abc import Callable

from serving.core import inflight


def child(act: Callable[[], object]) -> int:
    """Run something in a forked process until it is killed; return its process id, once it is dead."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            act()
            os.write(writer, b"x")
            time.sleep(60)
        finally:
            os._exit(1)
    os.close(writer)
    assert os.read(reader, 1) == b"x"
    os.close(reader)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return pid


def test_the_parent_reads_the_unfinished_runs_of_a_killed_child() -> None:
    def act() -> None:
        first, second = inflight.begin("f: x [3, 4]"), inflight.begin("g: ü [1]")
        inflight.begin("h" * 2000)
        inflight.end(first)
        assert second != first

    pid = child(act)
    assert sorted(inflight.left_by(pid)) == ["g: ü [1]", "h" * (inflight.SIZE - 2)]
    assert inflight.left_by(pid) == []  # it is freed


def test_each_child_has_a_table_of_its_own() -> None:
    pids = [child(lambda text=f"{number}": inflight.begin(text)) for number in range(3)]  # type: ignore[misc]
    assert [inflight.left_by(pid) for pid in pids] == [["0"], ["1"], ["2"]]
    assert inflight.left_by(os.getpid()) == []


def test_slots_are_reused_and_runs_beyond_the_slots_are_not_recorded() -> None:
    slots = [inflight.begin("x") for _ in range(inflight.SLOTS + 5)]
    assert sorted(slots)[:5] == [-1] * 5
    assert len(inflight.begun_before(time.monotonic() + 1)) == inflight.SLOTS
    for slot in slots:
        inflight.end(slot)
    assert inflight.begun_before(time.monotonic() + 1) == []
    slot = inflight.begin("y")
    assert [run.text for run in inflight.begun_before(time.monotonic() + 1)] == ["y"]
    assert inflight.begun_before(time.monotonic() - 60) == []
    inflight.end(slot)
