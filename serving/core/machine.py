"""The resources that this process may use: cores, and memory by the control groups of its container."""

import os
from functools import lru_cache
from pathlib import Path

SHARE = 4  # of the memory limit, one part in so many: for the inputs of one request, and for all bodies together
UNLIMITED = 1 << 60  # cgroup v1 writes "no limit" as the largest multiple of a page below 2**63


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@lru_cache(maxsize=1)
def memory_limit(root: Path = Path("/")) -> int | None:
    """Return the smallest memory limit in bytes of this process's control groups; None where there is none."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    limits = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            limits += _limits(root / "sys/fs/cgroup", path, "memory.max")
        elif "memory" in controllers.split(","):
            limits += _limits(root / "sys/fs/cgroup/memory", path, "memory.limit_in_bytes")
    return min(limits, default=None)


def memory_share() -> int:
    """Return how many bytes the inputs of one request may take, and the bodies of all that wait."""
    return (memory_limit() or 1 << 60) // SHARE


def _limits(mount: Path, path: str, name: str) -> list[int]:
    """Return the limits of a group and of its parents. A container sees its own group as the mount."""
    group, limits = mount / path.strip("/"), []
    for folder in (group, *group.parents):
        if folder != mount and mount not in folder.parents:
            break
        try:
            text = (folder / name).read_text().strip()
        except OSError:
            continue
        if text.isdecimal() and int(text) < UNLIMITED:
            limits.append(int(text))
    return limits
