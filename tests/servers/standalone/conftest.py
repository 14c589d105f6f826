"""A loop of the standalone server that answers a request with what it has received."""

import os
import socket
from collections.abc import Iterator

import pytest

from serving.core import settings
from serving.pipeline.handler import handle
from serving.servers.standalone.loop import Loop
from tests.servers.standalone.wire import LIMIT, echo


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Iterator[Loop]:
    monkeypatch.setattr("serving.servers.standalone.reading.largest_body", lambda path: LIMIT)
    monkeypatch.setattr("serving.servers.standalone.connection.MAX_HEADER_BYTES", 8192)
    # Without turns of the loop, pipelined requests that a busy machine answers slowly would wait for their next one.
    monkeypatch.setattr("serving.servers.standalone.connection.TURN", 60.0)
    parent, alive = os.pipe()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        made = Loop(settings.read({"READ_TIMEOUT": "5"}), listener, parent, handle)
        made.answer = echo  # type: ignore[method-assign]
        yield made
    made._poll.close()
    for descriptor in (parent, alive, made._waking, made._wake):
        os.close(descriptor)
