"""The port of the standalone server: which sockets listen on it."""

import errno
import os
import socket

import pytest

from serving.core import settings
from serving.servers.standalone import listening
from tools.server import free_port


class Recorded(socket.socket):
    """A socket that must not be closed once it listens: its clients would be reset."""

    listens = False

    def listen(self, backlog: int = 0, /) -> None:
        super().listen(backlog)
        self.listens = True

    def close(self) -> None:
        assert not self.listens
        super().close()


@pytest.mark.parametrize("workers", ["1", "3"])
def test_every_listening_socket_belongs_to_a_worker(monkeypatch: pytest.MonkeyPatch, workers: str) -> None:
    options = settings.read({"PORT": str(free_port()), "WORKERS": workers})
    monkeypatch.setattr(listening.socket, "socket", Recorded)
    listeners = listening.listen(options)
    try:
        assert len(listeners) == int(workers)
        assert all(listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) for listener in listeners)
        with pytest.raises(OSError, match=str(errno.EADDRINUSE)):
            listening.listen(options)
    finally:
        for listener in listeners:
            os.close(listener.detach())
