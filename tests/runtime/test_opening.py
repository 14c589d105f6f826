"""Opening a library for serving."""

from pathlib import Path

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
