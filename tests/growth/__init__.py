"""Every reader's work grows with what it reads, not faster: CPU time at n and at 8 n, along each axis a client chooses.

A reader and an axis are one line of a table: how a body of size n is made, and what reads it. The sizes are found by
doubling until a reading takes milliseconds, so that a line needs no tuning; a reader that refuses at a limit is measured
at the largest size. A quadratic reader takes 64 times as long for 8 n, and the bound is 16.
"""

import ctypes
import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from serving.core.errors import InputError, LoadError
from serving.core.http import HttpError

MOST = 16  # times as long for 8 n
ENOUGH = 0.002  # seconds: below, a clock's grain and a cache decide
LARGEST = 1 << 17  # bytes at n: what is 8 times as large still fits in a cache
TRIES = 5

Make = Callable[[int], Any]
Reader = Callable[[Any], Any]


def seconds(read: Reader, given: Any, times: int = 3) -> float:
    """Return the CPU time of one reading, the least of a few."""
    least = float("inf")
    for _ in range(times):
        begin = time.thread_time()
        with suppress(HttpError, LoadError, InputError, ValueError):
            read(given)
        least = min(least, time.thread_time() - begin)
    return least


@contextmanager
def kept_memory() -> Iterator[None]:
    """Have malloc keep what is freed: else each large body costs the kernel's work for fresh pages, a small one none."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", lambda *_: 0)
    trim, threshold = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD in malloc.h
    mallopt(trim, 1 << 30)
    mallopt(threshold, 1 << 25)
    try:
        yield
    finally:
        mallopt(trim, 1 << 17)  # as glibc begins
        mallopt(threshold, 1 << 17)


def _size(given: Any) -> int:
    return len(given) if isinstance(given, (bytes, str)) else sum(map(_size, given))


def grows(make: Make, read: Reader) -> float:
    """Return how many times as long 8 n takes as n."""
    n = 64
    seconds(read, make(n), 1)  # what is imported only when it is needed
    while n < LARGEST and _size(make(n)) < LARGEST and seconds(read, make(n), 1) < ENOUGH:
        n *= 2
    small, large = make(n), make(8 * n)
    ratio = float("inf")
    gc.collect()
    gc.disable()  # a full collection goes over all that the tests hold
    try:
        with kept_memory():
            for _ in range(TRIES):
                ratio = min(ratio, seconds(read, large, 2) / max(seconds(read, small), ENOUGH / 4))
                if ratio <= MOST:
                    break
    finally:
        gc.enable()
    return ratio
