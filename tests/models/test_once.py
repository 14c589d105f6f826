"""Models that tests share are made once, and a failed attempt leaves no files."""

from pathlib import Path

import pytest

from tests.models import once


def test_a_folder_is_made_once_and_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(once, "CACHE", tmp_path / "cache")
    folder = once.made_once("kind", "1", "compileall", "-q")
    (folder / "mark").touch()
    assert (once.made_once("kind", "1", "json.tool") / "mark").exists()  # which could not make it
    assert not (once.made_once("kind", "2", "compileall", "-q") / "mark").exists()


def test_a_maker_that_fails_is_quoted_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(once, "CACHE", tmp_path)
    with pytest.raises(RuntimeError, match=r"^json.tool failed:\n(.*\n)*.*Is a directory"):
        once.made_once("kind", "1", "json.tool")
    assert [path.name for path in tmp_path.iterdir()] == ["kind.lock"]
