"""Files of a model: only regular files inside the folder are opened, links resolved."""

import ast
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from serving.core import files
from serving.core.errors import LoadError
from tests.conftest import EMBEDDED, ROOT, Serve
from tests.models.hostile import build


@pytest.fixture(autouse=True)
def no_hang() -> Iterator[None]:
    """Interrupt a test that waits for somebody to write into a pipe."""

    def stop(*_: object) -> None:
        raise TimeoutError("the test waits for a pipe")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Return a copy of a model with an asset, and of what an exporter leaves beside a model; without a manifest."""
    folder = tmp_path / "model"
    shutil.copytree(build() / "vocabulary", folder)
    (folder / "assets.extra").mkdir()
    for name in ("labels.txt", "examples.json", "answers.json", "manifest.json"):
        (folder / "assets.extra" / name).write_text("{}")
    (folder / "assets.extra" / "manifest.json").unlink()
    return folder


def link(path: Path, target: str) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


OUT, ODD_FILE, LOOP = "leads out of the model's folder", "is not a regular file", "cannot be read"
WARMUPS = "assets.extra/tf_serving_warmup_requests"
# fmt: off
TRICKS: list[tuple[str, Callable[[Path], Any], str]] = [
    # file                             what was done to it                what is said
    ("saved_model.pb",                 lambda p: link(p, str(p.parent.parent / "other.pb")), OUT),
    ("saved_model.pb",                 lambda p: link(p, "/etc/passwd"),  OUT),
    ("saved_model.pb",                 pipe,                              ODD_FILE),
    ("saved_model.pb",                 folder,                            ODD_FILE),
    ("fingerprint.pb",                 pipe,                              ODD_FILE),
    ("fingerprint.pb",                 lambda p: link(p, "/etc/passwd"),  OUT),
    ("assets/words.txt",               pipe,                              ODD_FILE),
    ("assets/words.txt",               lambda p: link(p, "/etc/passwd"),  OUT),
    ("assets/words.txt",               lambda p: link(p, "../../../x"),   LOOP),
    ("assets/words.txt",               lambda p: link(p, p.name),         LOOP),
    ("assets/words.txt",               lambda p: link(p, "/dev/zero"),    OUT),
    ("assets/more",                    lambda p: link(p, "/etc"),         OUT),
    ("variables/variables.index",      pipe,                              "variables.index"),
    ("variables/variables.index",      lambda p: link(p, "/etc/passwd"),  OUT),
    ("variables/variables.data-00000-of-00001", pipe,                     ODD_FILE),
    ("variables/variables.data-00000-of-00001", lambda p: link(p, "/etc/passwd"), OUT),
    ("assets.extra/labels.txt",        lambda p: link(p, "/etc/passwd"),  OUT),
    ("assets.extra/labels.txt",        lambda p: link(p, "/proc/self/environ"), OUT),
    ("assets.extra/labels.txt",        pipe,                              ODD_FILE),
    ("assets.extra/examples.json",     lambda p: link(p, "/etc/passwd"),  OUT),
    ("assets.extra/examples.json",     pipe,                              ODD_FILE),
    ("assets.extra/answers.json",      pipe,                              ODD_FILE),
    ("assets.extra/manifest.json",     lambda p: link(p, "/etc/passwd"),  OUT),
    ("assets.extra/manifest.json",     pipe,                              ODD_FILE),
    (WARMUPS,                          lambda p: link(p, "/etc/passwd"),  OUT),
    (WARMUPS,                          pipe,                              ODD_FILE),
]
# fmt: on


@pytest.mark.parametrize(("name", "trick", "words"), TRICKS, ids=[f"{case[0]}-{n}" for n, case in enumerate(TRICKS)])
def test_a_file_outside_of_the_model_is_refused(
    serve: Serve, copy: Path, name: str, trick: Callable[[Path], Any], words: str
) -> None:
    shutil.copyfile(copy / "saved_model.pb", copy.parent / "other.pb")
    trick(copy / name)
    ask = serve(copy)
    answer = ask("GET", "/readyz")
    assert answer.status == 503
    assert words in json.loads(answer.body)["error"]
    assert "/etc" not in answer.body.decode()
    assert ask("POST", "/", {"instances": ["dog"]}).status == 503


def test_labels_of_another_file_are_never_answered(serve: Serve, tmp_path: Path) -> None:
    shutil.copytree(EMBEDDED, tmp_path / "model")
    shutil.rmtree(tmp_path / "model" / "assets.extra")
    (tmp_path / "model" / "assets.extra").mkdir()
    (tmp_path / "secret").write_text("\n".join(f"secret {n}" for n in range(10)))
    link(tmp_path / "model" / "assets.extra" / "labels.txt", "../../secret")
    for allowed in ({}, {"DANGEROUS_OPS": "allow"}):
        ask = serve(tmp_path / "model", **allowed)
        answer = ask(
            "POST", "/v1/models/model:predict?top_k=2", {"signature_name": "pixels", "instances": [[[0.0] * 8] * 8]}
        )
        assert b"secret" not in answer.body


def test_a_twin_reads_only_files_of_its_own_folder(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "signatures.json").write_text("{}")
    (tmp_path / "model" / "model.tflite").write_bytes(b"x")
    link(tmp_path / "model" / "signatures.json", "../signatures.json")
    from serving.savedmodel.folder.twin import read

    with pytest.raises(LoadError, match=OUT):
        read(tmp_path / "model")


def mounted(source: Path, into: Path) -> None:
    """Lay a model out as a volume of Kubernetes: links into a folder that a link names, to change all files at once."""
    shutil.copytree(source, into / "..2026_01_01")
    (into / "..data").symlink_to("..2026_01_01")
    for entry in source.iterdir():
        (into / entry.name).symlink_to(f"..data/{entry.name}")


@pytest.mark.parametrize("how", ["off", "quick", "full"])
def test_a_mounted_volume_is_served(serve: Serve, tmp_path: Path, how: str) -> None:
    mounted(EMBEDDED, tmp_path / "volume")
    (tmp_path / "link").symlink_to("volume")
    for served in (tmp_path / "volume", tmp_path / "link"):
        assert serve(served, MANIFEST=how)("GET", "/readyz").status == 200


def test_a_file_above_its_size_limit_is_refused(tmp_path: Path) -> None:
    (tmp_path / "labels").write_bytes(b"12345")
    assert files.content(tmp_path, "labels", 5) == b"12345"
    with pytest.raises(LoadError, match="labels has 5 bytes; expected at most 4"):
        files.content(tmp_path, "labels", 4)
    assert files.content(tmp_path, "none") is None
    assert files.content(tmp_path, "labels/none") is None


# Modules that open other files than a model's: libraries, the page, /proc, MODEL_DIR itself where it is a file, rows and answers, what
# is fetched or written.
OTHERS = {"core/files.py", "core/inflight.py", "core/machine.py", "core/storage.py", "core/terminal.py",
          "core/telemetry/lines.py", "core/telemetry/phases.py", "core/telemetry/metrics.py", "events/sinks.py", "pipeline/native/build.py", "pipeline/page/__init__.py", "runtime/opening.py",
          "scoring/spark_files.py", "runtime/tensorflow_c/library.py",
          "savedmodel/mistaken.py", "savedmodel/folder/fetch.py", "savedmodel/safety/rewrite.py",
          "scoring/outputs.py", "scoring/formats.py", "scoring/__init__.py", "servers/commands/score.py"}  # fmt: skip
OPENING = {"open", "read_bytes", "read_text", "fdopen", "mmap", "listdir", "scandir", "walk", "memmap", "fromfile"}


def test_files_are_opened_only_in_the_listed_modules() -> None:
    calls = []
    for path in sorted((ROOT / "serving").rglob("*.py")):
        name = path.relative_to(ROOT / "serving").as_posix()
        if name in OTHERS:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                if called in OPENING:
                    calls.append(f"{name} {ast.unparse(node.func)}")
    assert calls == ["runtime/litert_c/library.py mmap.mmap", "savedmodel/saved_model.py mmap.mmap"]
