"""Opening a library for serving."""

import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from serving.core import settings
from serving.core.telemetry import phases
from serving.pipeline.native import build
from serving.runtime import opening
from tests.pipeline.native.conftest import built


def test_a_function_of_the_library_is_looked_up_when_it_is_called(tmp_path: Path) -> None:
    """A function that is nowhere, and never called, shows it: it cannot be looked up when the library is opened."""
    source, library = tmp_path / "x.c", tmp_path / "x.so"
    source.write_text("int nowhere(void); int call(void) { return nowhere(); }\n")
    command = [*build.compiler(), "-x", "c", "-shared", "-fPIC", "-Wl,-z,lazy", str(source), "-o", str(library)]
    built(lambda: build.run(command, "the compiler"))
    assert opening.dlopen(library)


def test_a_file_that_is_no_library_has_no_handle(tmp_path: Path) -> None:
    (tmp_path / "x.so").write_bytes(b"junk")
    assert opening.dlopen(tmp_path / "x.so") is None


def test_another_thread_imports_while_the_main_thread_opens_the_library(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened: list[threading.Thread] = []
    imported: list[threading.Thread] = []
    monkeypatch.setattr(opening.heap, "reserve", lambda _: None)
    monkeypatch.setattr(opening, "_open", lambda _: opened.append(threading.current_thread()))

    def imports() -> None:
        imported.append(threading.current_thread())
        raise ImportError("the module is imported again where it is used, and the error is raised there")

    opening.beside(settings.read({}), imports)
    assert opened == [threading.current_thread()]
    assert [thread.name for thread in imported] == ["imports"]
    assert not imported[0].is_alive()


def test_the_time_to_open_the_library_beside_the_imports_is_a_phase_of_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter([1.0, 3.0])
    monkeypatch.setattr(phases, "_durations", {})
    monkeypatch.setattr(opening.heap, "reserve", lambda _: None)
    monkeypatch.setattr(opening, "_open", lambda _: None)
    monkeypatch.setattr(opening, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    opening.beside(settings.read({}), lambda: None)
    assert phases.durations() == {"library": 2.0}
