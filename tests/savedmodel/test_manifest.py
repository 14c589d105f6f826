"""The manifest at load: a model that is not as it was exported is not served, and the file is named."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exporting.manifest import write
from serving.core.errors import LoadError
from serving.runtime import loading
from serving.savedmodel.folder import manifest
from serving.savedmodel.folder.card import digest
from tests.conftest import EMBEDDED, Serve


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def edit(path: Path) -> None:
    """Change a text in a graph and leave its structure whole."""
    data = path.read_bytes()
    assert b"serving_default" in data
    path.write_bytes(data.replace(b"serving_default", b"serving_defaulT"))


DATA = "variables/variables.data-00000-of-00001"
LABELS = "assets.extra/labels.txt"  # what TensorFlow has no checksum of

# fmt: off
CHANGES: list[tuple[str, Callable[[Path], Any], str | None]] = [
    # what                      done to the folder                                      reason
    ("nothing",                 lambda f: None,                                         None),
    ("a bit of a variable",     lambda f: flip(f / DATA),                               f"{DATA} has changed"),
    ("a byte more",             lambda f: (f / DATA).write_bytes((f / DATA).read_bytes() + b"0"), f"{DATA} has changed"),
    ("a text of the graph",     lambda f: edit(f / "saved_model.pb"),                   "saved_model.pb has changed"),
    ("a file less",             lambda f: (f / "fingerprint.pb").unlink(),              "fingerprint.pb is not there"),
    ("an asset more",           lambda f: (f / "assets" / "words.txt").write_text("x"), "assets/words.txt is not in the manifest"),
    ("two things",              lambda f: (flip(f / DATA), edit(f / "saved_model.pb")), "saved_model.pb has changed (1 more)"),
    ("another manifest",        lambda f: (f / manifest.PLACE).write_text("[]"),        "is not a readable manifest"),
    ("files without a size",    lambda f: (f / manifest.PLACE).write_text('{"files": {"saved_model.pb": {}}}'), "is not a readable manifest"),
    ("a link to nothing",       lambda f: ((f / DATA).unlink(), (f / DATA).symlink_to("gone")), f"{DATA} cannot be read (No such file"),
    ("no manifest",             lambda f: (flip(f / LABELS), (f / manifest.PLACE).unlink()), None),
    ("its card",                lambda f: (f / "README.md").write_text("my words"),     None),
    ("a hidden file",           lambda f: (f / "assets" / ".DS_Store").write_text("x"), None),
]
# fmt: on


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(EMBEDDED, folder)
    (folder / "assets").mkdir(exist_ok=True)
    return folder


@pytest.mark.parametrize(("what", "change", "reason"), CHANGES, ids=[case[0] for case in CHANGES])
def test_a_changed_model_is_not_served(
    serve: Serve, copy: Path, what: str, change: Callable[[Path], Any], reason: str | None
) -> None:
    change(copy)
    answer = serve(copy)("GET", "/readyz")
    assert answer.status == (503 if reason else 200)
    if reason:
        assert reason in json.loads(answer.body)["error"]
        assert "MANIFEST=off" in json.loads(answer.body)["error"]


HOW = [
    # MANIFEST  served where a file above the limit has another bit, another byte
    ("quick",   (200, 503)),
    ("full",    (503, 503)),
    ("off",     (200, 200)),
]  # fmt: skip


@pytest.mark.parametrize(("how", "wanted"), HOW)
def test_MANIFEST_full_compares_the_digests_of_large_files(
    serve: Serve, copy: Path, monkeypatch: pytest.MonkeyPatch, how: str, wanted: tuple[int, int]
) -> None:
    monkeypatch.setattr(manifest, "LARGE", (copy / LABELS).stat().st_size - 1)
    flip(copy / LABELS)
    flipped = serve(copy, MANIFEST=how)("GET", "/readyz").status
    with (copy / LABELS).open("ab") as file:
        file.write(b"0")
    assert (flipped, serve(copy, MANIFEST=how)("GET", "/readyz").status) == wanted


def test_a_repaired_model_is_served(serve: Serve, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "FIRST_PAUSE", 0.0)
    flip(copy / DATA)
    ask = serve(copy)
    assert ask("GET", "/readyz").status == 503
    flip(copy / DATA)
    assert ask("GET", "/readyz").status == 200


def test_the_signatures_of_a_twin_are_held_to_the_manifest_and_are_in_the_digest(tmp_path: Path) -> None:
    (tmp_path / "model.tflite").write_bytes(b"x")
    (tmp_path / "signatures.json").write_text('{"runs": "a"}')
    write(tmp_path)
    manifest.check(tmp_path, "quick")
    before = digest(tmp_path)
    (tmp_path / "signatures.json").write_text('{"runs": "b"}')
    assert digest(tmp_path) != before
    with pytest.raises(LoadError, match=r"signatures\.json has changed"):
        manifest.check(tmp_path, "quick")
