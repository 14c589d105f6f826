"""The highest complete version is served, from a folder and from a bucket; what the others lack is logged."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from serving.core.errors import LoadError
from serving.core.storage import Object, Storage
from serving.savedmodel.folder.fetch import fetch
from serving.savedmodel.folder.versions import lacking
from serving.savedmodel.source import Source
from tests.conftest import Serve
from tests.models.zoo.kinds import build

DATA = "variables/variables.data-00000-of-00001"
Break = Callable[[Path], object]


def cut(name: str, share: float = 0.5) -> Break:
    def work(model: Path) -> None:
        data = (model / name).read_bytes()
        (model / name).write_bytes(data[: int(len(data) * share)])

    return work


def without(name: str) -> Break:
    return lambda model: shutil.rmtree(model / name) if (model / name).is_dir() else (model / name).unlink()


def of_two_shards(model: Path) -> None:
    (model / DATA).rename(model / "variables/variables.data-00000-of-00002")


BROKEN: list[tuple[str, Break, str]] = [
    # model              what happened                         what it lacks
    ("keras3_saved",     without("variables"),                 "variables/variables.index is missing"),
    ("keras3_saved",     without("variables/variables.index"), "variables/variables.index is missing"),
    ("keras3_saved",     cut("variables/variables.index"),     "variables/variables.index is cut off"),
    ("keras3_saved",     without(DATA),                        f"{DATA} is missing"),
    ("keras3_saved",     cut(DATA),                            f"{DATA} has "),
    ("keras3_saved",     cut(DATA, 0),                         f"{DATA} has 0 bytes of "),
    ("keras3_saved",     of_two_shards,                        "variables/variables.data-00001-of-00002 is missing"),
    ("keras3_saved",     without("saved_model.pb"),            "there is no saved_model.pb"),
    ("keras3_saved",     cut("saved_model.pb"),                "saved_model.pb is not a SavedModel, or only part of one"),
    ("keras3_saved",     cut("saved_model.pb", 0),             "saved_model.pb is empty"),
    ("vocabulary_strict", without("assets"),                   "assets/words.txt is missing"),
    ("vocabulary_strict", without("assets/words.txt"),         "assets/words.txt is missing"),
]  # fmt: skip


class Bucket(Storage):
    """A folder as a bucket; writes down what was read."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.read_names = folder, list[str]()

    def list(self, bucket: str, prefix: str) -> Iterator[Object]:
        for path in sorted(self.folder.rglob("*")):
            if path.is_file():
                name = path.relative_to(self.folder).as_posix()
                yield Object(bucket, prefix + name, "1", path.stat().st_size, "", "", {})

    def read(self, what: Object, start: int = 0) -> Iterator[bytes]:
        self.read_names.append(what.name.removeprefix("m/"))
        yield (self.folder / what.name.removeprefix("m/")).read_bytes()[start:]


@pytest.fixture
def numbered(tmp_path: Path) -> Callable[[str, Break | None], Path]:
    """Return how a folder of the versions 2, 9 and 10 is made, 10 broken."""

    def make(name: str, broken: Break | None) -> Path:
        for version in ("2", "9", "10"):
            shutil.copytree(build() / name, tmp_path / "numbered" / version)
        if broken:
            broken(tmp_path / "numbered" / "10")
        return tmp_path / "numbered"

    return make


Numbered = Callable[[str, Break | None], Path]


@pytest.mark.parametrize(("name", "broken", "words"), BROKEN, ids=[case[2] for case in BROKEN])
def test_the_highest_complete_version_is_served(name: str, broken: Break, words: str, numbered: Numbered) -> None:
    source = Source(numbered(name, broken), "model")
    assert source.version == "9"
    assert len(source.passed_over) == 1
    assert source.passed_over[0].startswith(f"version 10: {words}")


@pytest.mark.parametrize(("name", "broken", "words"), BROKEN, ids=[case[2] for case in BROKEN])
def test_only_the_chosen_version_of_a_bucket_is_kept(
    name: str, broken: Break, words: str, numbered: Numbered, capsys: pytest.CaptureFixture[str]
) -> None:
    bucket = Bucket(numbered(name, broken))
    into = fetch("gs://models/m", bucket)
    assert [path.name for path in into.iterdir()] == ["9"]
    assert not any(name.startswith("2/") for name in bucket.read_names)
    assert "version 10 is ignored" in capsys.readouterr().out
    assert Source(into, "model").version == "9"
    shutil.rmtree(into)


def test_complete_versions_are_not_skipped(numbered: Numbered) -> None:
    folder = numbered("keras3_saved", None)
    source = Source(folder, "model")
    assert (source.version, source.passed_over) == ("10", ())
    bucket = Bucket(folder)
    into = fetch("gs://models/m", bucket)
    assert {name.partition("/")[0] for name in bucket.read_names} == {"10"}
    shutil.rmtree(into)


def test_without_a_complete_version_the_error_says_what_each_lacks(tmp_path: Path) -> None:
    shutil.copytree(build() / "keras3_saved", tmp_path / "numbered" / "3")
    (tmp_path / "numbered" / "3" / DATA).unlink()
    with pytest.raises(LoadError, match=f"no version is complete: version 3: {DATA} is missing"):
        Source(tmp_path / "numbered", "model")
    with pytest.raises(LoadError, match="no complete version"):
        fetch("gs://models/m", Bucket(tmp_path / "numbered"))


def test_a_skipped_version_is_logged(numbered: Numbered, serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    ask = serve(numbered("keras3_saved", without(DATA)))
    assert ask("GET", "/readyz").status == 200
    assert f"version 10: {DATA} is missing; version 9 is served" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["keras3_saved", "vocabulary_strict", "pinned_to_gpu"])
def test_a_complete_model_lacks_nothing(name: str) -> None:
    assert lacking(build() / name) is None
