"""Log lines are buffered, written in order, and retried when a write fails."""

import resource
import threading
from pathlib import Path

import pytest

from serving.core.telemetry.lines import Lines, to_folder
from tests.harness.waiting import until

LINE = b"0123456789abcde\n"


def test_after_a_failed_write_the_next_one_waits_for_its_delay_however_full_the_buffer_is() -> None:
    tried = threading.Semaphore(0)
    lost: list[tuple[int, str]] = []

    def write(_lines: bytes) -> None:
        tried.release()
        raise OSError("refused")

    lines = Lines(write, lambda _: None, lambda *loss: lost.append(loss), seconds=3600, most=10 * len(LINE))
    kept = [lines.add(LINE) for _ in range(6)]
    assert tried.acquire(timeout=10)  # half is full, which is urgent
    until(lambda: lost)
    kept += [lines.add(LINE) for _ in range(6)]
    assert not tried.acquire(timeout=0.1)
    assert kept == [True] * 10 + [False] * 2
    assert lost == [(0, "refused; they are kept and tried again")]


def test_an_incomplete_write_is_removed_from_the_file(tmp_path: Path) -> None:
    write = to_folder(tmp_path)
    write(2 * LINE)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3 * len(LINE) + 1, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            write(4 * LINE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    write(4 * LINE)
    (file,) = tmp_path.rglob("*.jsonl")
    assert file.read_bytes() == 6 * LINE
