"""A closed loop of clients, in a process of its own: `python -m tools.plan.load PORT BODY_FILE CLIENTS SECONDS`.

Prints {"requests", "seconds", "busy": its own share of a core, "latencies": seconds, of each}.
"""

import json
import selectors
import socket
import sys
import time
from pathlib import Path


class Client:
    """One connection that is kept: it asks again as soon as it is answered."""

    def __init__(self, port: int, request: bytes) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.request = request
        self.received = b""
        self.asked = 0.0

    def ask(self) -> None:
        self.received, self.asked = b"", time.perf_counter()
        self.socket.sendall(self.request)

    def whole(self) -> bool:
        """Read what has come, and say whether the answer is complete."""
        part = self.socket.recv(1 << 16)
        if not part:
            raise ConnectionResetError("closed before the answer was complete")
        self.received += part
        head, end, body = self.received.partition(b"\r\n\r\n")
        if not end:
            return False
        if not head.startswith(b"HTTP/1.1 200"):
            raise ConnectionError(self.received.decode(errors="replace")[:300])
        length = head.lower().rpartition(b"content-length:")[2].partition(b"\r\n")[0]
        return len(body) >= int(length)


def main(port: int, body: bytes, clients: int, seconds: float) -> None:
    """Ask for this long, and print what was found; the first tenth of the time is not counted."""
    head = (
        f"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    request = head.encode() + body
    latencies: list[float] = []
    with selectors.DefaultSelector() as selector:
        for _ in range(clients):
            client = Client(port, request)
            selector.register(client.socket, selectors.EVENT_READ, client)
            client.ask()
        begin = time.perf_counter() + seconds / 10
        end = begin + seconds
        used, counted = time.process_time(), False
        while (now := time.perf_counter()) < end:
            if now >= begin and not counted:
                counted, used, begin = True, time.process_time(), now
                latencies.clear()
            for key, _ in selector.select(1):
                client = key.data
                if client.whole():
                    latencies.append(time.perf_counter() - client.asked)
                    client.ask()
        spent = time.perf_counter() - begin
    busy = (time.process_time() - used) / spent
    print(json.dumps({"requests": len(latencies), "seconds": spent, "busy": busy, "latencies": latencies}))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]).read_bytes(), int(sys.argv[3]), float(sys.argv[4]))
