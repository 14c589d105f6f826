"""The heap of the C library during a start."""

import ctypes
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from serving.core import machine, settings
from serving.runtime import heap
from serving.runtime.loading import Cache
from tests.conftest import EMBEDDED

IS_GLIBC = hasattr(ctypes.CDLL(None), "gnu_get_libc_version")
needs_glibc = pytest.mark.skipif(not IS_GLIBC, reason="the C library is not glibc")
SUPPORTS_ADVICE = Path("/sys/kernel/mm/transparent_hugepage/enabled").exists()

# Prints how many MiB of the heap are advised to be huge pages: after `reserve`, after a load, after the first answer.
START = """
import os, sys, time
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:int(sys.argv[1])])
from serving.core import settings
from serving.core.telemetry import phases
from serving.runtime import heap, opening
from serving.runtime.loading import Cache

def advised():
    text = open("/proc/self/smaps").read()
    return sum(int(part.split()[0]) for part in text.split("\\nSize:")[1:] if " hg" in part.split("VmFlags:")[1].split("\\n")[0])

options = settings.current()
opening.beside(options, lambda: None)
print(advised() >> 10)
Cache(options).get()
print(advised() >> 10)
phases.first()
end = time.monotonic() + 30
while advised() and time.monotonic() < end:
    time.sleep(0.02)
print(advised() >> 10)
"""

# Prints how many fresh pages a body of 4 MiB takes that is received in pieces and joined: by default, and after a load.
PAGES = """
import json, resource
from serving.core import settings
from serving.runtime import heap

def fresh_pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    b"".join([b"x" * (1 << 20) for _ in range(4)])
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

default = min(fresh_pages() for _ in range(5))
heap.reserve(settings.read({}))
heap.trim()
print(json.dumps([default, min(fresh_pages() for _ in range(5))]))
"""


@needs_glibc
def test_memory_that_was_freed_is_given_back() -> None:
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, (ctypes.c_void_p,)
    size, count = 64 << 10, 1500
    blocks = [libc.malloc(size) for _ in range(count)]
    for block in blocks:
        ctypes.memset(block, 1, size)
    for block in blocks[::2]:  # the others stay, and so the C library keeps what is between them
        libc.free(block)
    before = psutil.Process().memory_info().rss
    heap.trim()
    assert before - psutil.Process().memory_info().rss > size * count / 3
    for block in blocks[1::2]:
        libc.free(block)


def test_a_load_gives_back_what_it_has_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(heap, "_reserve", None)
    monkeypatch.setattr(heap, "trim", lambda: calls.append("trim"))
    Cache(settings.read({"MODEL_DIR": str(EMBEDDED)})).get().close()
    assert calls == ["trim"]


@needs_glibc
@pytest.mark.skipif(not SUPPORTS_ADVICE, reason="the kernel has no huge pages")
@pytest.mark.parametrize("cores", [1, 2])
def test_the_heap_is_in_huge_pages_from_the_start_to_the_first_answer(cores: int) -> None:
    if machine.cores() < cores:
        pytest.skip("this machine has one core")
    environment = os.environ | {"MODEL_DIR": str(EMBEDDED), "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", START, str(cores)]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
    begun, loaded, answered = map(int, re.findall(r"^\d+$", ran.stdout, re.MULTILINE))
    assert begun >= heap.LEAST >> 20
    assert loaded >= heap.LEAST >> 20
    assert answered == 0


@needs_glibc
def test_freed_memory_is_kept_for_the_next_large_body() -> None:
    ran = subprocess.run([sys.executable, "-c", PAGES], capture_output=True, check=True, timeout=60)
    before, after = json.loads(ran.stdout)
    assert before > 1000
    assert after < 100


KEPT = [
    # MAX_BODY_BYTES  the container's memory  bytes that a heap keeps
    (1 << 20,         None,                   4 << 20),
    (1 << 40,         None,                   64 << 20),
    (1 << 40,         512 << 20,              32 << 20),
]  # fmt: skip


@pytest.mark.parametrize(("body", "limit", "kept"), KEPT)
def test_what_is_kept_follows_from_the_largest_body_and_the_memory(
    body: int, limit: int | None, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "memory_limit", lambda: limit)
    assert heap._most_kept(body) == kept


def test_a_c_library_without_these_functions_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap, "_glibc", lambda: None)
    monkeypatch.setattr(heap, "_reserve", None)
    heap.reserve(settings.read({}))
    heap.release()
    assert heap._reserve is None


# fmt: off
SIZES = [
    # bytes of saved_model.pb   bytes of the reserve
    (None,                      heap.LEAST),
    (1 << 20,                   heap.LEAST + heap.COPIES * (1 << 20)),
    (1 << 40,                   heap.MOST),
]
# fmt: on


@pytest.mark.parametrize(("size", "expected"), SIZES)
def test_the_reserve_grows_with_the_graph(size: int | None, expected: int, tmp_path: Path) -> None:
    if size is not None:
        with (tmp_path / "saved_model.pb").open("wb") as file:
            file.truncate(size)
    assert heap._expected(settings.read({"MODEL_DIR": str(tmp_path)})) == expected


def test_a_model_in_a_bucket_gets_the_least_reserve() -> None:
    assert heap._expected(settings.read({"MODEL_DIR": "gs://bucket/model"})) == heap.LEAST
