"""A model's card: the origin of the model in the metadata and in `show`, and cards that are ignored."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exporting import card as written
from exporting import manifest
from serving.savedmodel.folder import card
from serving.servers.commands.show import show
from tests.conftest import EMBEDDED, Serve
from tests.models.zoo import build, kinds

FACTS = {"time": "2026-01-02T03:04:05Z", "tensorflow": "2.21.0", "source": "keras", "keras": "3.12.0"}
METADATA = "/v1/models/model/metadata"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(EMBEDDED, folder)
    put(folder)
    return folder


def put(folder: Path, content: Any = None) -> None:
    """Write a card, by default a good one, and the manifest of the folder with it."""
    content = {"digest": card.digest(folder), **FACTS} if content is None else content
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    (folder / card.PLACE).write_bytes(data)
    manifest.write(folder)


def test_the_metadata_and_show_include_the_card(model: Path, serve: Serve) -> None:
    ask = serve(model)
    metadata = json.loads(ask("GET", METADATA).body)["metadata"]
    assert metadata["card"] == {"digest": card.digest(model), **FACTS}
    assert metadata.keys() == {"signature_def", "card"}
    assert b'"card"' not in ask("GET", "/v2/models/model").body  # that protocol has no place for it
    assert ask("GET", "/readyz").status == 200
    assert f"card: digest {card.digest(model)}, time 2026-01-02T03:04:05Z, tensorflow 2.21.0" in show(model)


def test_a_model_without_a_card_is_described_without_one(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    folder = build() / "dense_512"
    assert json.loads(serve(folder)("GET", METADATA).body)["metadata"].keys() == {"signature_def"}
    assert "card:" not in show(folder)
    assert "card" not in capsys.readouterr().out


GOOD = {"digest": "0" * 32, **FACTS}
# fmt: off
HOSTILE: list[tuple[str, Any, str]] = [
    # what               the card                                     reason
    ("no JSON",          b"{",                                        "expected JSON"),
    ("no UTF-8",         b'{"digest": "\xff"}',                       "expected JSON"),
    ("deep",             b"[" * 4000,                                 "expected JSON"),
    ("long",             b" " * 5000,                                 "has 5000 bytes; expected at most 4096"),
    ("a list",           [],                                          "expected an object"),
    ("nothing in it",    {},                                          "expected 'digest', which is not there"),
    ("another model's",  GOOD,                                        "digest: it is that of another model"),
    ("a number",         {**GOOD, "source": 1},                       "source: expected a string, got int"),
    ("an object",        {**GOOD, "keras": {"a": "b"}},               "keras: expected a string, got dict"),
    ("an unknown name",  {**GOOD, "html": "x"},                       "got 'html'"),
    ("no time",          {**GOOD, "time": "yesterday"},               "got 'yesterday'"),
    ("no digest",        {**GOOD, "digest": "../../etc/passwd"},      "digest: expected"),
    ("a long text",      {**GOOD, "source_name": "x" * 201},          "source_name: expected at most 200"),
    ("a terminal's",     {**GOOD, "source_name": "\x1b[2J"},          "source_name: expected at most 200"),
    ("lines",            {**GOOD, "source_name": "a\nb"},             "source_name: expected at most 200"),
    ("half a character", {**GOOD, "source_name": "\ud800"},           "source_name: expected at most 200"),
]
# fmt: on


@pytest.mark.parametrize(("what", "content", "reason"), HOSTILE, ids=[case[0] for case in HOSTILE])
def test_a_broken_card_is_ignored_with_one_warning(
    model: Path, serve: Serve, capsys: pytest.CaptureFixture[str], what: str, content: Any, reason: str
) -> None:
    put(model, content)
    ask = serve(model)
    for _ in range(2):
        answer = ask("GET", METADATA)
        assert (answer.status, json.loads(answer.body)["metadata"].keys()) == (200, {"signature_def"})
    warnings = [json.loads(line) for line in capsys.readouterr().out.splitlines() if "is ignored" in line]
    assert len(warnings) == 1
    assert reason in warnings[0]["message"]
    assert "card:" not in show(model)


ODD_FILES: list[tuple[str, Callable[[Path], Any]]] = [
    ("a link out", lambda path: path.symlink_to("/etc/passwd")),
    ("a pipe", os.mkfifo),
    ("a folder", Path.mkdir),
]


@pytest.mark.parametrize(("what", "make"), ODD_FILES, ids=[case[0] for case in ODD_FILES])
def test_a_card_that_is_not_a_regular_file_is_not_opened(
    model: Path, serve: Serve, what: str, make: Callable[[Path], Any]
) -> None:
    (model / card.PLACE).unlink()
    make(model / card.PLACE)
    answer = serve(model)("GET", METADATA)
    assert (answer.status, json.loads(answer.body)["metadata"].keys()) == (200, {"signature_def"})


@pytest.mark.parametrize("kept", [True, False], ids=["with a manifest", "without"])
def test_the_card_of_a_replaced_model_is_not_shown(model: Path, serve: Serve, kept: bool) -> None:
    if not kept:
        (model / manifest.PLACE).unlink()
    shutil.copytree(kinds.build() / "keras3_signatures", model, dirs_exist_ok=True)
    assert "card" not in json.loads(serve(model)("GET", METADATA).body)["metadata"]


def test_a_damaged_card_fails_the_manifest(model: Path, serve: Serve) -> None:
    (model / card.PLACE).write_text("{}")
    answer = serve(model)("GET", "/readyz")
    assert answer.status == 503
    assert b"assets.extra/card.json has changed" in answer.body


def test_a_name_that_no_card_can_hold_is_left_out(tmp_path: Path) -> None:
    pytest.importorskip("tensorflow")
    odd = tmp_path / "odd\nname"
    shutil.copytree(EMBEDDED, odd)
    shutil.copytree(EMBEDDED, tmp_path / "baked")
    written.write_baked(tmp_path / "baked", "bake", odd)
    fields = card.read(tmp_path / "baked")
    assert fields["source_digest"] == card.digest(odd)
    assert "source_name" not in fields
