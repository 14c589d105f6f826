"""libFuzzer and the sanitizers find a planted error of the native code."""

import shutil
from pathlib import Path

import pytest

from serving.pipeline.native import build
from tests.fuzz import ROUNDS, libfuzzer

CHECK = "if (data.size() < sizeof length) return Decline::binary;"


@pytest.mark.skipif(ROUNDS == 1, reason="takes minutes: `make fuzz` runs it")
def test_libfuzzer_finds_a_missing_bounds_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A length of a binary string is read behind the end of the body."""
    source = shutil.copytree(build.SOURCE.parent, tmp_path / "source")
    text = (source / "infer.h").read_text()
    assert text.count(CHECK) == 1
    (source / "infer.h").write_text(text.replace(CHECK, ""))
    kept: list[bytes] = []
    monkeypatch.setattr(build, "SOURCE", source / build.SOURCE.name)
    monkeypatch.setattr(libfuzzer, "WORK", tmp_path / "work")
    monkeypatch.setattr(libfuzzer, "keep", lambda _name, data: kept.append(data))
    try:
        failures = libfuzzer.fuzz(seconds=60, seed=1)
    except build.Refused as refused:
        pytest.skip(str(refused))
    output = capfd.readouterr().out
    assert failures == 1, output
    assert "heap-buffer-overflow" in output
    assert len(kept) == 1, output
