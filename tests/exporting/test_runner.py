"""Running a model in the server's runtime: how often a call is repeated to be timed."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exporting import runner
from exporting.runner import Job
from tests.models.zoo.kinds import build

REPEATED = [
    # seconds after which no other call begins   calls
    (0.0,                                        runner.FEWEST),
    (1e9,                                        5),
]  # fmt: skip


@pytest.mark.parametrize(("seconds", "calls"), REPEATED)
def test_a_slow_call_is_repeated_a_few_times_only(monkeypatch: pytest.MonkeyPatch, seconds: float, calls: int) -> None:
    monkeypatch.setattr(runner, "ENOUGH", seconds)
    job = Job(build() / "keras3_layer", [("serving_default", {"x": np.ones((1, 3), np.float32)})], repeat=5)
    begun: list[int] = []
    sent: dict[str, Any] = {}
    runner._work(job, lambda name, value: sent.update({name: value}), lambda: begun.append(1))
    assert len(begun) == 2 + calls  # the load, the first call
    assert isinstance(sent["steady"], float)


def test_a_file_that_is_a_pointer_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(build() / "keras3_layer", folder)
    data = folder / "variables" / "variables.data-00000-of-00001"
    data.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    answers = runner.ask(Job(folder, []))
    assert "variables/variables.data-00000-of-00001 is a Git LFS pointer" in (answers.failure or "")
