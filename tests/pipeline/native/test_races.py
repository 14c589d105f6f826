"""The native code from several threads under ThreadSanitizer, with real models and TensorFlow's own library."""

from pathlib import Path

import pytest

from tests.exporting import twins
from tests.pipeline.native import races
from tests.pipeline.native.conftest import built


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the extension, compiled with ThreadSanitizer."""
    folder = tmp_path_factory.mktemp("races")
    return built(lambda: races.extension(folder))


def test_concurrent_callers_have_no_data_race(watched: Path) -> None:
    twins.build()
    ran = built(lambda: races.run("clean", watched))
    assert (ran.returncode, ran.stdout.splitlines()[-1:]) == (0, ["done"]), ran.stderr[-4000:]
    assert "ThreadSanitizer" not in ran.stderr


def test_a_planted_data_race_is_reported(watched: Path) -> None:
    ran = built(lambda: races.run("race", watched))
    assert ran.returncode == 66, ran.stderr[-4000:]
    assert "data race" in ran.stderr
    assert "Note::write" in ran.stderr
