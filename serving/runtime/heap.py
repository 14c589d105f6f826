"""The heap of the C library: huge pages during a start, and the freed memory that it keeps (glibc; else no effect).

TensorFlow allocates some 30 MB when its library is opened. A load then copies the constants of the graph eight times:
for a baked MobileNetV2, 70 MB. Each page of 4 KiB costs a page fault, and a huge page of 2 MiB one. With huge pages a
start takes 0.8 to 1.0 of the CPU time for a baked MLP, 0.7 to 0.9 for a baked MobileNetV2 (`python -m bench.starts`, at
two times). It took 1.3 once, beside other processes on a virtual machine that gives freed memory back to its host.

Each thread has a heap of its own, and only the main thread's can be extended. On one core all threads share it. On two,
threads that wait for each other's allocations would answer a quarter fewer requests; there it holds what the main
thread allocates, which opens the library: 30 MB.

A huge page also holds freed memory. So after the first answer they end, and what the load has freed is given back. From
then on, each heap keeps some freed memory for the next request: by default, glibc gives back the memory of each large
body, and fresh pages for the next one cost several times as much as copying it.
"""

import ctypes
import threading
import time
from pathlib import Path

from serving.core import machine
from serving.core.settings import Settings
from serving.core.telemetry import phases

HUGE = 2 << 20  # bytes
LEAST = 64 << 20  # bytes of the reserve: what opening the library and loading a small model allocate
COPIES = 10  # of saved_model.pb, above that
MOST = 1 << 30  # bytes of the reserve
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -2, -3, -8  # mallopt(3), malloc.h
# glibc adapts two thresholds to the blocks that are freed, the second to twice the first; mallopt ends that adapting.
MMAP_THRESHOLD = 32 << 20  # bytes of a block that is mapped by itself; the largest value
TOP_PAD = 128 << 10  # glibc's default
MADV_HUGEPAGE, MADV_NOHUGEPAGE = 14, 15  # madvise(2)
PATIENCE = 10.0  # seconds after a load in which a first answer is expected

_reserve: tuple[int, int] | None = None  # address and bytes of what is in huge pages
_kept = 0  # bytes of freed memory that each heap keeps after that


def reserve(options: Settings) -> None:
    """Extend the main thread's heap by what a start is expected to need of it, in huge pages.

    Call it before another thread is started. Only what is used of the heap takes memory.
    """
    global _reserve, _kept
    libc, is_shared = _glibc(), machine.cores() == 1
    if libc is None or _reserve is not None:
        return
    size = _expected(options) if is_shared else LEAST
    _kept = 2 * MMAP_THRESHOLD if is_shared else _most_kept(options.max_body_bytes)
    if is_shared:
        libc.mallopt(M_ARENA_MAX, 1)
    libc.mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD)
    libc.mallopt(M_TRIM_THRESHOLD, 2 * size)
    libc.mallopt(M_TOP_PAD, size)
    begin = -(-libc.sbrk(0) // HUGE) * HUGE
    libc.free(libc.malloc(MMAP_THRESHOLD - 4096))  # the largest that is taken from the heap
    libc.mallopt(M_TOP_PAD, TOP_PAD)
    _reserve = begin, max(0, libc.sbrk(0) - begin)
    libc.madvise(*_reserve, MADV_HUGEPAGE)


def release() -> None:
    """Give back what a load has freed; where it used the reserve, in a thread after the first answer.

    The first run prepares the graph, which allocates as much as the load.
    """
    if _reserve is None:
        trim()
    else:
        threading.Thread(target=_release_later, name="heap", daemon=True).start()


def _release_later() -> None:
    until = time.monotonic() + PATIENCE
    while phases.pending and time.monotonic() < until:
        time.sleep(0.1)
    trim()


def trim() -> None:
    """Give the memory that was freed back to the system; less than 5 ms."""
    libc = _glibc()
    if libc is None:
        return
    if _reserve is not None:
        libc.madvise(*_reserve, MADV_NOHUGEPAGE)  # first: the kernel would make huge pages of the rest again
        libc.mallopt(M_TRIM_THRESHOLD, _kept)
    libc.malloc_trim(0)


def _most_kept(body_bytes: int) -> int:
    """Return how many bytes a heap keeps: for large bodies, and as many as a process may leave unused."""
    return min(4 * body_bytes, machine.memory_share() // 4, 2 * MMAP_THRESHOLD)


def _expected(options: Settings) -> int:
    directory, size = options.model_dir, 0
    if isinstance(directory, Path):
        try:
            size = (directory / "saved_model.pb").stat().st_size
        except OSError:  # a twin, or a folder of versions
            size = 0
    return min(LEAST + COPIES * size, MOST)


def _glibc() -> ctypes.CDLL | None:
    """Return the C library where it is glibc."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return None
    libc.sbrk.argtypes, libc.sbrk.restype = (ctypes.c_ssize_t,), ctypes.c_ssize_t
    libc.malloc.argtypes, libc.malloc.restype = (ctypes.c_size_t,), ctypes.c_void_p
    libc.free.argtypes, libc.free.restype = (ctypes.c_void_p,), None
    libc.madvise.argtypes, libc.madvise.restype = (ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int), ctypes.c_int
    return libc
