"""Building the extension, finding it, and doing without it."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from serving.core import settings
from serving.core.http import Request
from serving.pipeline import accelerator, handler
from serving.pipeline.native import build
from serving.runtime import loading
from tests.conftest import ROOT, Serve, plain_environment
from tests.pipeline.native import models
from tests.pipeline.native.conftest import built
from tools.image import elf

BODY = b'{"instances":[1,0.5]}'
ANSWER = b'{"predictions":[1.0,0.5]}'


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Build into a cache of this test's own."""
    monkeypatch.setattr(build, "ROOT", tmp_path)
    return tmp_path


def script(path: Path, *lines: str) -> str:
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    path.chmod(0o755)
    return str(path)


# name, what replaces the compiler, the message
COMPILERS = [
    ("absent",    [],                                             "there is no C++ compiler: "),
    ("refuses",   ["echo 'x.cc:1:1: error: it is wrong' >&2", "echo more >&2", "exit 1"], "the compiler: x.cc:1:1: error: it is wrong"),
    ("terse",     ["echo first >&2; echo last >&2", "exit 4"],    "the compiler: last"),
    ("silent",    ["exit 3"],                                     "the compiler: it ended with status 3"),
]  # fmt: skip


@pytest.mark.usefixtures("headers")
@pytest.mark.parametrize(("name", "lines", "message"), COMPILERS)
def test_a_missing_or_failing_compiler_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, lines: list[str], message: str
) -> None:
    monkeypatch.setenv("CXX", script(tmp_path / name, *lines) if lines else "nope")
    with pytest.raises(build.Refused) as raised:
        build.build(tmp_path / "out")
    assert str(raised.value).startswith(message)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.usefixtures("headers")
def test_a_library_that_cannot_be_loaded_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writes = 'for last in "$@"; do :; done; echo junk > "$last"'
    monkeypatch.setenv("CXX", script(tmp_path / "compiler", writes))
    with pytest.raises(build.Refused, match=r"^what was compiled cannot be loaded: ImportError"):
        build.build(tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_missing_python_headers_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path / "include"))
    with pytest.raises(build.Refused) as raised:
        build.build(tmp_path / "out")
    assert str(raised.value) == f"Python's headers are not installed: there is no {tmp_path}/include/Python.h"


def test_a_change_of_source_or_compiler_builds_again(
    extension: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[Path] = []

    def instead(folder: Path) -> Path:
        folder.mkdir()
        built.append(folder)
        return Path(shutil.copy(extension, folder / extension.name))

    monkeypatch.setattr(build, "build", instead)
    first = build.cached()
    assert first == build.cached()
    assert first.read_bytes() == extension.read_bytes()
    assert len(built) == 1
    copied = elsewhere / "source"
    shutil.copytree(build.SOURCE.parent, copied)
    monkeypatch.setattr(build, "SOURCE", copied / build.SOURCE.name)
    assert build.cached() == first
    for number, name in enumerate(sorted(path.name for path in copied.iterdir() if path.suffix in (".cc", ".h")), 2):
        (copied / name).write_bytes((copied / name).read_bytes() + b"\n")
        assert build.cached() != first
        assert len(built) == number
    wrapped = script(elsewhere / "c++", "echo another", 'exec c++ "$@"')
    monkeypatch.setenv("CXX", wrapped)
    before = len(built)
    assert len({first, build.cached(), build.cached()}) == 2
    assert len(built) == before + 1


@pytest.mark.parametrize(("ci", "outcome"), [("true", pytest.fail.Exception), ("", pytest.skip.Exception)])
def test_without_a_compiler_tests_fail_under_ci_and_are_skipped_elsewhere(
    monkeypatch: pytest.MonkeyPatch, ci: str, outcome: type[BaseException]
) -> None:
    monkeypatch.setenv("CI", ci)
    monkeypatch.setenv("CXX", "nope")
    with pytest.raises(outcome, match=r"there is no C\+\+ compiler: "):
        built(build.cached)


def command(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "serving.pipeline.native.build", *arguments], cwd=ROOT, env=plain_environment(**environment),
        capture_output=True, text=True,
    )  # fmt: skip


def test_the_command_prints_the_path_of_the_library(extension: Path) -> None:
    ran = command("--cached")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, f"{build.cached()}\n", "")


def test_the_command_prints_off_where_the_library_cannot_be_built(tmp_path: Path) -> None:
    ran = command("--cached", CXX="nope")
    assert (ran.returncode, ran.stdout) == (0, "off\n")
    assert ran.stderr.startswith(
        "serving.pipeline.native.build: no native codec, so plain requests take twice as long: there is no C++ compiler: "
    )
    assert ran.stderr.count("\n") == 1


def test_the_command_fails_where_a_folder_is_asked_for(tmp_path: Path) -> None:
    ran = command(str(tmp_path / "out"), CXX="nope")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith("serving.pipeline.native.build: ")
    assert command().returncode == command("--cached", str(tmp_path)).returncode == 2


def test_it_exports_one_symbol_and_needs_no_library_of_cpp(extension: Path) -> None:
    try:
        library = elf.Elf(extension)
    except elf.Refused as refused:
        pytest.skip(str(refused))
    assert [name for _, name in library.defined()] == [b"PyInit__accelerator"]
    strings = library.strings()
    needed = {strings[at : strings.index(b"\0", at)] for tag, at in library.dynamic if tag == elf.DT_NEEDED}
    assert needed <= {b"libc.so.6", b"libm.so.6", b"ld-linux-x86-64.so.2"}
    assert b"libc.so.6" in needed
    assert b"GLIBCXX" not in extension.read_bytes()


def test_it_uses_only_the_limited_api_of_python(extension: Path) -> None:
    """One library serves every later Python: every function is in the stable ABI of 3.10."""
    try:
        library = elf.Elf(extension)
    except elf.Refused as refused:
        pytest.skip(str(refused))
    symbols, strings = library.symbols(), library.strings()
    names = {
        strings[at : strings.index(b"\0", at)].decode() for at in symbols["name"][symbols["section"] == 0].tolist()
    }
    assert {name for name in names if name.startswith(("Py", "_Py"))} <= STABLE


# https://docs.python.org/3.10/c-api/stable.html
STABLE = {
    "PyArg_ParseTuple", "PyBytes_AsStringAndSize", "PyErr_Format", "PyErr_Occurred", "PyErr_SetString",
    "PyEval_RestoreThread", "PyEval_SaveThread", "PyExc_ValueError", "PyLong_AsLongLong", "PyModule_AddObject",
    "PyModule_Create2", "PyTuple_GetItem", "PyTuple_Pack", "PyTuple_Size", "PyTuple_Type", "PyType_FromSpec",
    "PyType_GetSlot", "PyType_GetFlags", "Py_BuildValue", "Py_DecRef", "Py_IncRef", "_Py_Dealloc", "_Py_NoneStruct", "Py_GetVersion",
    "PyErr_NoMemory", "PyModule_AddObjectRef", "PyModuleDef_Init", "PyTuple_New", "PyObject_Free", "PyObject_GC_Del",
    "_PyArg_ParseTuple_SizeT", "_Py_BuildValue_SizeT", "PyLong_AsUnsignedLongLong", "PyErr_Clear", "PyModule_AddType",
    "PyModule_AddIntConstant", "PyBytes_FromStringAndSize", "PyLong_FromLongLong", "PyLong_FromLong", "PyLong_FromSize_t", "PyStructSequence_New",
    "PyStructSequence_NewType", "PyStructSequence_SetItem", "PyTuple_SetItem", "PyUnicode_InternFromString",
}  # fmt: skip


def lines(capfd: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capfd.readouterr().out.splitlines() if line.startswith("{")]


def junk(path: Path, _extension: Path | None) -> None:
    path.write_bytes(b"junk")


def empty(path: Path, _extension: Path | None) -> None:
    path.write_bytes(b"")


def cut(path: Path, extension: Path | None) -> None:
    path.write_bytes((extension or Path(os.__file__)).read_bytes()[:40])


def another_module(path: Path, _extension: Path | None) -> None:
    """Stand in by an extension of Python's own, which has no function of this name."""
    import _json

    shutil.copy(_json.__file__, path)


@pytest.mark.parametrize("broken", [junk, empty, cut, another_module])
def test_a_broken_extension_is_logged_once_and_not_used(
    serve: Serve, tmp_path: Path, capfd: Any, broken: Any, request: pytest.FixtureRequest
) -> None:
    path = tmp_path / f"{broken.__name__}.so"
    try:
        broken(path, build.cached())
    except build.Refused:
        broken(path, None)
    except (ImportError, AttributeError):
        pytest.skip("this Python has its extensions inside")
    accelerator._extension.cache_clear()
    request.addfinalizer(accelerator._extension.cache_clear)
    ask = serve(models.build() / "types", ACCELERATOR=str(path))
    for _ in range(3):
        response = ask("POST", "/", BODY)
        assert (response.status, response.body) == (200, ANSWER)
    loading.forget()
    assert ask("POST", "/", BODY).body == ANSWER
    warnings = [line for line in lines(capfd) if line["severity"] not in ("INFO", "DEBUG")]
    assert [line["severity"] for line in warnings] == ["WARNING"]
    assert warnings[0]["message"].startswith("serving without the accelerator: ")
    assert str(path) in warnings[0]["message"] or "PyInit" in warnings[0]["message"]


@pytest.mark.parametrize("text", ["nowhere.so", "ON", "Auto", "1", "/"])
def test_a_bad_value_of_ACCELERATOR_is_refused(text: str) -> None:
    with pytest.raises(settings.SettingError) as raised:
        settings.read({"ACCELERATOR": text})
    assert str(raised.value) == f"ACCELERATOR: expected auto, off or an existing file, got {text!r}"


def test_the_values_of_ACCELERATOR(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beside = tmp_path / "_accelerator.abi3.so"
    monkeypatch.setattr(settings, "ACCELERATOR", beside)
    assert settings.read({}).accelerator is settings.read({"ACCELERATOR": "auto"}).accelerator is None
    beside.write_bytes(b"")
    assert settings.read({}).accelerator == settings.read({"ACCELERATOR": "auto"}).accelerator == beside
    assert settings.read({"ACCELERATOR": "off"}).accelerator is None
    other = tmp_path / "other.so"
    other.write_bytes(b"")
    assert settings.read({"ACCELERATOR": str(other)}).accelerator == other


def test_auto_finds_it_beside_the_code(
    serve: Serve, extension: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "ACCELERATOR", Path(shutil.copy(extension, tmp_path)))
    for way, taken in (("", True), ("auto", True), ("off", False)):
        ask = serve(models.build() / "types", ACCELERATOR=way)
        assert ask("POST", "/", BODY).body == ANSWER
        assert (not isinstance(accelerator.of(loading.cache().get()).predict(BODY), str)) == taken


def test_a_model_of_another_runtime_is_served_without_the_native_codec(
    serve: Serve, extension: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from serving.runtime import tensorflow_c

    serve(models.build() / "types", ACCELERATOR=str(extension))
    monkeypatch.setattr(tensorflow_c.Function, "addresses", lambda self: None)
    assert accelerator.of(loading.cache().get()).predict(BODY) == accelerator.MODEL
    assert handler.answer(Request("POST", "/", body=BODY)).body == ANSWER
