"""A bench for scoring: a served model beside a store of objects."""

import re
from collections.abc import Iterator

import pytest

from serving.core import storage as client
from tests.conftest import Serve
from tests.events.emulators import Store, storage
from tests.scoring.benches import BOXES, Bench


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    with storage() as running:
        for name in BOXES:
            running.bucket(name)
        yield running


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "PAUSES", (0.0, 0.0))


@pytest.fixture
def bench(serve: Serve, store: Store, request: pytest.FixtureRequest) -> Bench:
    return Bench(serve, store, re.sub(r"\W+", "-", request.node.name))
