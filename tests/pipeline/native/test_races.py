"""The native code from several threads under ThreadSanitizer, with real models and TensorFlow's own library."""

from tests.pipeline.native import races
from tests.pipeline.native.conftest import built


def test_several_callers_at_once_race_for_nothing() -> None:
    ran = built(lambda: races.run("clean"))
    assert (ran.returncode, ran.stdout.splitlines()[-1:]) == (0, ["done"]), ran.stderr[-4000:]
    assert "ThreadSanitizer" not in ran.stderr


def test_a_race_would_be_seen() -> None:
    ran = built(lambda: races.run("race"))
    assert ran.returncode == 66, ran.stderr[-4000:]
    assert "data race" in ran.stderr
    assert "Note::write" in ran.stderr
