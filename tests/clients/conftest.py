"""Running servers for the clients, each started when a test first asks for it."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache

import pytest

from tests.conftest import EMBEDDED
from tests.models.zoo import build
from tests.server import Server, running

Served = Callable[[str], Server]


@pytest.fixture(scope="session")
def served() -> Iterator[Served]:
    """Serve the embedded model, "model", or one of the zoo by its name."""
    with ExitStack() as ends:

        @cache
        def start(name: str) -> Server:
            return ends.enter_context(running(directory=EMBEDDED if name == "model" else build() / name))

        yield start
