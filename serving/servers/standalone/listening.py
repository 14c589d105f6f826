"""The port that the workers share."""

import socket

from serving.core.settings import Settings
from serving.servers import connections

QUEUE = 1024  # connections that wait until one is accepted


def listen(options: Settings) -> list[socket.socket]:
    """Open the port, once for each worker; raise OSError where another process has it."""
    addresses = socket.getaddrinfo(options.host, options.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, address = addresses[0]

    def bound(*, is_shared: bool) -> socket.socket:
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # connections inherit it from their listener
        if is_shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        connections.end_unread(listener, options.read_timeout)
        try:
            listener.bind(address)
        except OSError:
            listener.close()
            raise
        return listener

    first = bound(is_shared=False)  # refuse a port that another process holds, even one opened for sharing
    listeners = [first]
    if options.workers > 1:
        first.close()  # this probe does not listen: a client that connected to it would be reset
        listeners = [bound(is_shared=True) for _ in range(options.workers)]  # the kernel distributes connections evenly
    for listener in listeners:
        listener.listen(QUEUE)
    return listeners
