"""Threads that answer requests, started when they are needed."""

import threading
from collections import deque
from queue import SimpleQueue
from typing import Any


class Pool:
    """Daemon threads, started when needed, up to a maximum."""

    def __init__(self, most: int) -> None:
        self._most, self._count = most, 0
        self._starting = threading.Lock()
        self._work: SimpleQueue[tuple[Any, ...]] = SimpleQueue()
        self._idle: deque[None] = deque()  # one for each thread that waits; appending and popping need no lock

    def submit(self, function: Any, *arguments: Any) -> None:
        """Call a function in one of the threads; any thread may submit. Raise RuntimeError where there can be none."""
        try:
            self._idle.pop()
        except IndexError:
            self._grow()
        self._work.put((function, *arguments))

    def _grow(self) -> None:
        with self._starting:
            if self._count == self._most:
                return
            thread = threading.Thread(target=self._serve, name=f"answers-{self._count + 1}", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the system has no more: the work waits for one of those that are there
                if not self._count:
                    raise
                return
            self._count += 1

    def _serve(self) -> None:
        while True:
            function, *arguments = self._work.get()
            function(*arguments)
            del function, arguments
            self._idle.append(None)
