"""libFuzzer, which is guided by what the C++ covers, under the address and undefined-behaviour sanitizers.

It needs clang++ with its runtimes (Debian: clang and libclang-rt-14-dev).

python -m tests.fuzz.libfuzzer SECONDS SEED FOLDER     in the environment that `environment` returns
"""

import ctypes
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

from serving.pipeline.native.build import run
from tests.conftest import ROOT
from tests.fuzz.__main__ import CORPUS, NATIVE, attempt, keep, seeds
from tests.fuzz.mutate import mutate
from tests.pipeline.native.sanitizers import FUZZER, extension, library
from tests.pipeline.native.sanitizers import environment as sanitized

WORK = ROOT / ".cache" / "fuzz" / NATIVE
FOUND = 77  # the exit status of libFuzzer for what it has found itself


def fuzz(seconds: float, seed: int) -> int:
    """Fuzz in a process of its own; keep what breaks it in the corpus. Raise Refused where the tools are missing."""
    (WORK / "inputs").mkdir(parents=True, exist_ok=True)
    for left in WORK.glob("*-*"):
        left.unlink()
    environment = build()
    command = [sys.executable, "-m", "tests.fuzz.libfuzzer", str(int(seconds)), str(seed or 1), str(WORK)]
    ended = subprocess.run(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True, errors="replace")
    progress = [line for line in ended.stderr.splitlines() if "cov:" in line or "Done" in line]
    print(f"{NATIVE}, by libFuzzer: {progress[-1] if progress else 'it did not begin'}", flush=True)
    for artifact in sorted(WORK.glob("*-*")):
        print(f"{NATIVE}: {keep(NATIVE, artifact.read_bytes())}", flush=True)
    if ended.returncode:
        print(ended.stderr[-6000:], flush=True)
        return 1
    return 0


def build() -> dict[str, str]:
    """Compile the extension and the driver; return the environment of the process that loads both. Raise Refused."""
    driver = WORK / "libdriver.so"
    archive = library(FUZZER, "libclang_rt.fuzzer_no_main-x86_64.a")
    linked = [f"-Wl,--whole-archive,{archive},--no-whole-archive", "-ldl", "-lpthread"]
    source = Path(__file__).with_name("driver.cc")
    run(["clang++", "-std=c++17", "-O1", "-fPIC", "-shared", source, *linked, "-o", driver], "the compiler")
    # The sanitizer's library has empty functions of the same names as libFuzzer's, which have to be found first.
    return {**sanitized(FUZZER, [driver]), "FUZZ_EXTENSION": str(extension(FUZZER, WORK, [driver]))}


def _main(seconds: int, seed: int, folder: Path) -> int:
    from tests.fuzz.targets import TARGETS, prepare

    prepare(NATIVE)
    target, pool = TARGETS[NATIVE], seeds(NATIVE)

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t)
    def one(data: Any, size: int) -> int:
        body = ctypes.string_at(data, size) if size else b""
        if problem := attempt(target, body):
            print(f"{NATIVE}: {keep(NATIVE, body)}\n{problem}", file=sys.stderr, flush=True)
            os._exit(FOUND)
        return 0

    @ctypes.CFUNCTYPE(ctypes.c_size_t, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_uint)
    def change(data: Any, size: int, most: int, number: int) -> int:
        changed = mutate(ctypes.string_at(data, size) if size else b"", pool, random.Random(number), most)[:most]
        ctypes.memmove(data, changed, len(changed))
        return len(changed)

    words = [
        b"fuzz", b"-max_total_time=%d" % seconds, b"-seed=%d" % seed, b"-max_len=4096", b"-rss_limit_mb=4096",
        b"-timeout=20", b"-detect_leaks=0", b"-artifact_prefix=%b/" % os.fsencode(folder),
        os.fsencode(folder / "inputs"), os.fsencode(CORPUS / NATIVE),
    ]  # fmt: skip
    arguments = (ctypes.c_char_p * (len(words) + 1))(*words, None)
    status: int = ctypes.CDLL(None).fuzz(len(words), arguments, one, change)
    return status


if __name__ == "__main__":
    sys.exit(_main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])))
