"""Where and with what was measured."""

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from datetime import datetime, timezone

from bench.models import ROOT, versions
from tools.plan.measure import cpu_name

PACKAGES = (
    "tensorflow-cpu", "tensorflow", "functions-framework", "flask", "gunicorn", "httptools", "ai-edge-litert",
    "numpy", "orjson", "pysimdjson",
)  # fmt: skip


def about(repetitions: str, command: str) -> dict[str, str]:
    """Return what a page of figures says about its run, by heading."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "date": f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC",
        "command": " ".join([command, *sys.argv[1:]]),
        "commit": commit(),
        "repetitions": repetitions,
        "machine": f"{cpu_name()}, {len(os.sched_getaffinity(0))} cores, {memory:.0f} GiB, Linux {platform.release()}",
        "load before the run": f"{os.getloadavg()[0]:.2f} processes (1 minute); above 0.3 others were using the cores",
        "versions": ", ".join([interpreter(), *versions(*PACKAGES)]),
    }


def interleaved(repetitions: int) -> str:
    return f"{repetitions}, interleaved; medians"


def interpreter() -> str:
    """Name the Python, and whether it was built with profile-guided optimization, which makes it faster."""
    optimized = "--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or "")
    return f"Python {platform.python_version()} (built {'with' if optimized else 'without'} --enable-optimizations)"


def commit() -> str:
    if not shutil.which("git"):
        return "unknown"
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return described.stdout.strip() or "unknown"
