"""A sink that receives events."""

from collections.abc import Iterator

import pytest

from tests.events.sink import Sink, sink


@pytest.fixture
def receiver() -> Iterator[Sink]:
    with sink() as started:
        yield started
