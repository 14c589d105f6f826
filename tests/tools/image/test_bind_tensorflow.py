"""TensorFlow's own libraries, with their symbols bound and their pages listed."""

import os
import pickle
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.core import settings
from serving.core.errors import LoadError, RunError
from serving.runtime import opening
from serving.runtime.model import Model
from serving.runtime.opening import HEAD
from serving.runtime.sessions import open_session
from serving.savedmodel.source import Source
from tests.models.zoo import BROKEN, IMPURE, ZOO, build, cases
from tests.tools.image.linked import ROOT
from tests.tools.image.test_bind import Answer
from tools.image import bind as binding
from tools.image import cached, pages
from tools.image.cached import bound, listed
from tools.image.elf import Refused


def answers(out: str) -> None:
    """Run every case of the zoo, in this process, with the library that the environment names; pickle what came."""
    options = settings.current()
    zoo, by_name = build(), {}
    for name in [*ZOO, *(f"broken/{name}" for name in BROKEN)]:
        if (zoo / name).is_dir():
            by_name[name] = list(answer(zoo / name, name, options))
    with ThreadPoolExecutor(8) as threads:
        for name in ("keras_convolution", "keras_text", "failures", "lookup_table"):
            model = load(zoo / name, name, options)
            some = cases(name) * 10
            by_name[f"{name} in parallel"] = list(threads.map(lambda case, model=model: run(model, case), some))  # type: ignore[misc]
    library = [line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "libtensorflow" in line]
    Path(out).write_bytes(pickle.dumps((sorted(set(library)), by_name)))


def load(directory: Path, name: str, options: settings.Settings) -> Model:
    libraries = tuple(sorted(directory.glob("*.so")))
    options = options._replace(custom_op_libraries=libraries)
    source = Source(directory, name)
    return Model(source, open_session(source, options))


def answer(directory: Path, name: str, options: settings.Settings) -> Iterator[Answer]:
    try:
        model = load(directory, name, options)
    except LoadError as error:
        yield "LoadError", str(error)
        return
    for case in [] if name.startswith("broken/") else cases(name):
        yield run(model, case)
    model.close()


def run(model: Model, case: Any) -> Answer:
    try:
        outputs = model.run(model.signatures[case["signature"]], case["inputs"])
    except RunError as error:
        return error.code, str(error)
    except Exception as error:
        return type(error).__name__, str(error)
    return "OK", {
        name: (str(array.dtype), array.shape, array.tolist() if array.dtype == object else array.tobytes())
        for name, array in outputs.items()
    }


@pytest.fixture(scope="module")
def library() -> Path:
    try:
        return bound()
    except Refused as refused:
        pytest.skip(str(refused))


def test_bound_and_original_tensorflow_give_the_same_answers_and_errors(library: Path, tmp_path: Path) -> None:
    build()
    started = []
    for name, folder in (("shipped", ""), ("bound", str(library))):
        environment = os.environ | {"TENSORFLOW_LIBRARY_DIR": folder, "RUNTIME": "c"}
        code = f"from tests.tools.image.test_bind_tensorflow import answers; answers({str(tmp_path / name)!r})"
        started.append(
            subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environment, stderr=subprocess.PIPE)
        )
    for process in started:
        _, errors = process.communicate(timeout=300)
        assert not process.returncode, errors.decode()[-2000:]
    (used, shipped), (used_bound, from_bound) = [
        pickle.loads((tmp_path / name).read_bytes()) for name in ("shipped", "bound")
    ]
    assert used_bound == [str(library / name) for name in binding.NAMES]
    assert not set(used) & set(used_bound)
    assert shipped.keys() == from_bound.keys()
    assert len(shipped) > 50
    statuses = {status for many in shipped.values() for status, _ in many}
    assert statuses >= {"OK", "INVALID_ARGUMENT", "LoadError"}
    for name in shipped:
        if name in IMPURE or "random" in name:
            assert [status for status, _ in shipped[name]] == [status for status, _ in from_bound[name]], name
        elif name == "py_function":  # TensorFlow lists the attributes in an order that changes with every process
            words = [sorted(re.split(r"[\s,\[\]]+", str(results[name]))) for results in (shipped, from_bound)]
            assert words[0] == words[1]
        else:
            assert shipped[name] == from_bound[name], name
    for name in ("keras_convolution", "keras_text", "lookup_table"):
        assert from_bound[f"{name} in parallel"] == from_bound[name] * 10


LOOKED_UP = ("64", "GLOB_DAT", "JUMP_SLOT")


@pytest.mark.parametrize("name", binding.NAMES)
def test_the_loader_looks_up_a_third_of_the_symbols(library: Path, name: str) -> None:
    """What opening costs is looking symbols up by name: of TensorFlow's, those of C++ that others share remain."""
    shipped, ours = binding.installed(None)[0].parent / name, library / name
    looked_up = [sum(binding.kinds(path).get(kind, 0) for kind in LOOKED_UP) for path in (shipped, ours)]
    assert looked_up[1] < looked_up[0] / 3
    assert binding.kinds(ours)["bytes of tables"] < binding.kinds(shipped)["bytes of tables"] / 3


# --- Pages -----------------------------------------------------------------------------------------------------------
RANGES = [
    # pages                  ranges of pages
    ([],                     []),
    ([0],                    [(0, 1)]),
    ([3, 4, 5],              [(3, 3)]),
    ([3, 7, 12],             [(3, 5), (12, 1)]),
    ([1, 1000],              [(1, 1), (1000, 1)]),
]  # fmt: skip


@pytest.mark.parametrize(("numbers", "expected"), RANGES)
def test_adjacent_pages_are_read_as_one_range(numbers: list[int], expected: list[tuple[int, int]]) -> None:
    size = pages.PAGE
    assert pages.ranges(np.array(numbers, np.int64)) == [(start * size, count * size) for start, count in expected]


def linked_to(library: Path, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for name in binding.NAMES:
        if not (folder / name).exists():
            (folder / name).symlink_to(library / name)
    return folder


@pytest.fixture
def linked(library: Path, tmp_path: Path) -> Path:
    return linked_to(library, tmp_path)


def test_the_pages_of_a_first_answer_are_listed(linked: Path) -> None:
    lists = pages.record(linked, ROOT / "model")
    assert sorted(path.name for path in linked.iterdir()) == sorted([*binding.NAMES, *(path.name for path in lists)])
    for path in lists:
        size = path.with_suffix("").stat().st_size
        assert path.read_bytes()[:HEAD] == path.with_suffix("").read_bytes()[:HEAD]
        ranges = list(struct.iter_unpack("<QQ", path.read_bytes()[HEAD:]))
        assert ranges == sorted(ranges)
        assert all(start % pages.PAGE == 0 and start < size for start, _ in ranges)
        assert sum(length for _, length in ranges) < size * 0.6


# fmt: off
LISTS = [
    # library      list                                               ranges that are read ahead
    (b"short",     b"short" + struct.pack("<QQ", 0, 4096),            0),  # shorter than a library's head
    (b"x" * 9000,  b"x" * HEAD + struct.pack("<QQQQ", 0, 99, 4096, 9), 2),
    (b"y" * 9000,  b"x" * HEAD + struct.pack("<QQ", 0, 4096),         0),  # of another library
    (b"x" * 9000,  b"x" * HEAD + struct.pack("<QQ", 1 << 40, 1 << 30), 1),  # advice about what is not there
    (b"x" * 9000,  b"x" * HEAD + struct.pack("<QQ", 1 << 63, 1 << 30), 0),
    (b"x" * 9000,  b"x" * HEAD + b"junk",                             0),
    (b"x" * 9000,  b"junk",                                           0),
    (b"x" * 9000,  b"",                                               0),
    (b"x" * 9000,  None,                                              0),
    (None,         b"x" * HEAD + struct.pack("<QQ", 0, 4096),         0),
]
# fmt: on


@pytest.mark.parametrize(("content", "listed", "expected"), LISTS)
def test_only_the_list_of_this_library_is_used_and_none_does_harm(
    content: bytes | None, listed: bytes | None, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library, advised, advise = tmp_path / "library.so", [], os.posix_fadvise

    def counted(*arguments: int) -> None:
        advise(*arguments)
        advised.append(arguments)

    monkeypatch.setattr(os, "posix_fadvise", counted)
    monkeypatch.setattr(opening, "_is_in_memory", lambda descriptor, position: False)
    for path, data in ((library, content), (tmp_path / "library.so.pages", listed)):
        if data is not None:
            path.write_bytes(data)
    opening.read_ahead(library)
    assert len(advised) == expected


def test_a_file_that_was_just_written_is_in_memory_up_to_its_end() -> None:
    with tempfile.TemporaryFile() as file:
        file.write(b"x" * 9000)
        file.flush()
        try:
            os.preadv(file.fileno(), [bytearray(1)], 0, os.RWF_NOWAIT)
        except OSError as error:
            pytest.skip(f"the file system cannot tell: {error}")
        assert [opening._is_in_memory(file.fileno(), position) for position in (0, 8999, 9000)] == [True, True, False]


def test_what_is_in_memory_is_not_read_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library, parts, looked, advised = tmp_path / "library.so", 1000, list[int](), list[int]()
    library.write_bytes(b"x" * 9000)
    listed = struct.pack(f"<{2 * parts}Q", *(number for part in range(parts) for number in (part, 1)))
    library.with_name("library.so.pages").write_bytes(b"x" * HEAD + listed)
    missing = -1

    def is_in_memory(descriptor: int, position: int) -> bool:
        looked.append(position)
        return position != missing

    monkeypatch.setattr(opening, "_is_in_memory", is_in_memory)
    monkeypatch.setattr(os, "posix_fadvise", lambda descriptor, start, size, advice: advised.append(start))
    opening.read_ahead(library)
    assert not advised
    assert 32 < len(looked) <= opening.SAMPLED
    assert max(looked) > 0.95 * parts
    missing = looked[-1]
    opening.read_ahead(library)
    assert advised == [*range(parts)]


def test_the_lists_of_a_model_are_made_once_and_again_when_it_changes(
    library: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, made = tmp_path / "model", []
    shutil.copytree(ROOT / "model", model)
    cache = tmp_path / "cache"
    for change in (False, False, True):
        if change:
            (model / "saved_model.pb").write_bytes(b"junk")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cached, "_bound", lambda cache: linked_to(library, tmp_path / "bound"))
            made.append(listed(model, cache))
    assert made[0] == made[1]
    assert sorted(path.name for path in made[0].iterdir()) == sorted(
        name + end for name in binding.NAMES for end in ("", ".pages")
    )
    assert all((made[0] / name).samefile(library / name) for name in binding.NAMES)
    assert made[2] not in made[:2]
    assert not list(made[2].glob("*.pages"))  # the server has the reason


def test_the_lists_that_found_no_space_on_the_disk_are_made_later(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    libraries, recorded = linked_to(library, tmp_path / "bound"), list[Path]()
    monkeypatch.setattr(cached, "_bound", lambda cache: libraries)
    monkeypatch.setattr(cached, "record", lambda draft, model: recorded.append(model))
    with monkeypatch.context() as patch:
        patch.setattr(cached, "SPARE_BYTES", 1 << 62)
        assert listed(ROOT / "model", tmp_path) == libraries
    assert "no pages listed: less than 4294967296 GB are free" in capsys.readouterr().err
    assert listed(ROOT / "model", tmp_path).parent == libraries
    assert recorded == [ROOT / "model"]


def test_pages_of_a_model_that_cannot_be_loaded_are_refused(linked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pages.main([str(linked), "--model", str(linked / "nowhere")]) == 1
    error = capsys.readouterr().err
    reason = "the model cannot be run: serving.core.errors.LoadError: there is no such folder"
    assert error == f"tools.image.pages: {reason}\n"
    assert sorted(path.name for path in linked.iterdir()) == sorted(binding.NAMES)
