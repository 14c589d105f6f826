"""Binding the symbols of small libraries: they behave as before, and tools still read them."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.tools.image.linked import EXPECTED, LINKING, STAYS, VERSIONED, call, compile_pair
from tools.image import elf
from tools.image.bind import bind
from tools.image.elf import Elf
from tools.image.rewrite import decode


@pytest.mark.parametrize("relr", [True, False], ids=["relr", "rela"])
@pytest.mark.parametrize("flags", LINKING.values(), ids=LINKING)
def test_a_bound_library_behaves_like_the_original(tmp_path: Path, flags: tuple[str, ...], relr: bool) -> None:
    libraries = compile_pair(tmp_path, flags)
    expected = call(tmp_path, os.RTLD_NOW)
    assert expected == (VERSIONED if flags == LINKING["versions"] else EXPECTED)
    shipped = [path.read_bytes() for path in libraries]
    bind(libraries, tmp_path / "bound", relr)
    assert call(tmp_path / "bound", os.RTLD_NOW) == expected
    assert call(tmp_path / "bound", os.RTLD_LAZY) == expected
    assert [path.read_bytes() for path in libraries] == shipped
    assert sorted(path.name for path in (tmp_path / "bound").iterdir()) == ["libone.so", "libtwo.so"]


def test_own_symbols_are_bound_and_shared_names_stay_symbolic(pair: list[Path], tmp_path: Path) -> None:
    copy, _ = bind(pair, tmp_path)
    before, after = Elf(pair[0]), Elf(copy)
    assert elf.DT_RELR in after.tags
    assert elf.DT_JMPREL not in after.tags  # so nothing is left to bind lazily
    assert after.tags[elf.DT_SONAME] == before.tags[elf.DT_SONAME]
    strings, symbols = after.strings(), after.symbols()
    names = {
        strings[start : strings.index(b"\0", start)].decode() for start in symbols["name"][decode(after)[2]["symbol"]]
    }
    assert names.issuperset(STAYS)
    assert not names & {"add_one", "only_one", "pointers", "_ZTV6Square", "_ZTI6Square"}
    assert len(decode(after)[0]) > len(decode(before)[0]) + 20


def test_tools_still_read_a_bound_library(pair: list[Path], tmp_path: Path) -> None:
    if shutil.which("readelf") is None:
        pytest.skip("needs readelf")
    copy, _ = bind(pair, tmp_path)
    read = subprocess.run(["readelf", "--wide", "--all", copy], capture_output=True, text=True)
    assert (read.returncode, read.stderr) == (0, "")
    assert "GLIBC_ABI_DT_RELR" in read.stdout
    assert ".relr.dyn" in read.stdout
    assert ".symtab" not in read.stdout


# --- Refusals --------------------------------------------------------------------------------------------------------
Change = Callable[[bytearray], None]
# --- TensorFlow's own ------------------------------------------------------------------------------------------------
Answer = tuple[str, Any]
