"""The runs in flight in this process, in memory that survives it: the log of a crash names the shapes that it ran.

    slot = inflight.begin("serving_default: x [3, 28, 28]")
    try:
        ...                                      the model runs
    finally:
        inflight.end(slot)

    inflight.left_by(pid)                        in the parent, after a child has died: its unfinished runs

Before each fork, the parent makes a table that it shares with that child alone. A begin and an end together take
about 1 µs. Texts name signatures, inputs and shapes, and never hold data of a request.
"""

import mmap
import os
import threading
import time
from collections import deque
from typing import NamedTuple

SLOTS = 64  # runs at a time; those beyond are not recorded
SIZE = 512  # bytes of a slot: the length of the text, then the text
HEAD = 8  # bytes: the child's process id
MOST_TABLES = 512  # of ended children, if `left_by` is never called for them


class Run(NamedTuple):
    """A run that has not ended."""

    began: float  # time.monotonic
    text: str
    thread: int  # threading.get_ident


_free: list[int] = list(range(SLOTS))
_runs: dict[int, Run] = {}  # by slot
_table: mmap.mmap | None = None  # shared with the parent; None in a process that was not forked
_address: int | None = None  # of that table, once it is asked for
_children: deque[mmap.mmap] = deque(maxlen=MOST_TABLES)


def begin(text: str) -> int:
    """Record a run, and return its slot for `end`."""
    try:
        slot = _free.pop()
    except IndexError:
        return -1
    _runs[slot] = Run(time.monotonic(), text, threading.get_ident())
    if _table is not None:
        data = text.encode("utf-8", "replace")[: SIZE - 2]
        start = HEAD + slot * SIZE
        _table[start : start + 2 + len(data)] = len(data).to_bytes(2, "little") + data
    return slot


def address(slot: int) -> int:
    """Return the slot's address in memory, for native code that writes a text into it; 0 where it is not shared."""
    global _address
    if _table is None or slot < 0:
        return 0
    if _address is None:
        import ctypes  # the C library's binding has imported it

        _address = ctypes.addressof(ctypes.c_char.from_buffer(_table))
    return _address + HEAD + slot * SIZE


def end(slot: int) -> None:
    """Record that a run has ended."""
    if slot < 0:
        return
    if _table is not None:
        start = HEAD + slot * SIZE
        _table[start : start + 2] = b"\0\0"
    _runs.pop(slot, None)
    _free.append(slot)


def begun_before(then: float) -> list[Run]:
    """Return the unfinished runs that began before `then`, by time.monotonic."""
    return [run for run in list(_runs.values()) if run.began < then]


def left_by(pid: int) -> list[str]:
    """Return the texts of the unfinished runs of a child process that has died."""
    for table in list(_children):
        if int.from_bytes(table[:HEAD], "little") == pid:
            _children.remove(table)
            texts = [_text(table, HEAD + slot * SIZE) for slot in range(SLOTS)]
            table.close()
            return [text for text in texts if text]
    return []


def _text(table: mmap.mmap, start: int) -> str:
    size = int.from_bytes(table[start : start + 2], "little")
    return table[start + 2 : start + 2 + size].decode("utf-8", "replace")


def _before_fork() -> None:
    _children.append(mmap.mmap(-1, HEAD + SLOTS * SIZE))


def _after_fork() -> None:
    global _table, _address
    _table, _address = _children.pop(), None
    _table[:HEAD] = os.getpid().to_bytes(HEAD, "little")
    _children.clear()
    _runs.clear()
    _free[:] = range(SLOTS)


os.register_at_fork(before=_before_fork, after_in_child=_after_fork)
