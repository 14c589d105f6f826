"""Small libraries, linked once for each file of tests."""

from pathlib import Path

import pytest

from tests.tools.image.linked import compile_pair


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return compile_pair(tmp_path_factory.mktemp("pair"))
