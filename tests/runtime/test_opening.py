"""Opening a library for serving."""

import ctypes
from pathlib import Path

import psutil
import pytest

from serving.core import settings
from serving.pipeline.native import build
from serving.runtime import opening
from serving.runtime.loading import Cache
from tests.conftest import EMBEDDED
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


def test_memory_that_the_load_has_freed_is_given_back() -> None:
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "malloc_trim"):
        pytest.skip("the C library is not glibc")
    libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, (ctypes.c_void_p,)
    size, count = 64 << 10, 1500
    blocks = [libc.malloc(size) for _ in range(count)]
    for block in blocks:
        ctypes.memset(block, 1, size)
    for block in blocks[::2]:  # the others stay, and so the C library keeps what is between them
        libc.free(block)
    before = psutil.Process().memory_info().rss
    opening.release()
    assert before - psutil.Process().memory_info().rss > size * count / 3
    for block in blocks[1::2]:
        libc.free(block)


def test_a_load_gives_back_what_it_has_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(opening, "release", lambda: calls.append("release"))
    Cache(settings.read({"MODEL_DIR": str(EMBEDDED)})).get().close()
    assert calls == ["release"]
