"""The container's limit of memory, read from control groups as the kernel and the runtimes write them."""

from pathlib import Path

import pytest

from serving.core import machine

GIB = 1 << 30
# fmt: off
GROUPS = [
    # what                          /proc/self/cgroup                            files below sys/fs/cgroup                          limit
    ("version 2, in a container",   "0::/\n",                                    {"memory.max": f"{GIB}\n"},                        GIB),
    ("version 2, no limit",         "0::/\n",                                    {"memory.max": "max\n"},                           None),
    ("version 2, the host's view",  "0::/a/b\n",                                 {"a/b/memory.max": "max\n", "a/memory.max": "5"},  5),
    ("version 2, the smallest",     "0::/a/b\n",                                 {"a/b/memory.max": "7\n", "a/memory.max": "5"},    5),
    ("version 1, in a container",   "5:cpu,cpuacct:/x\n4:memory:/docker/1\n",    {"memory/memory.limit_in_bytes": "7\n"},           7),
    ("version 1, the host's view",  "4:memory:/docker/1\n",                      {"memory/docker/1/memory.limit_in_bytes": "6\n", "memory/memory.limit_in_bytes": "9223372036854771712\n"}, 6),
    ("version 1, no limit",         "4:memory:/\n",                              {"memory/memory.limit_in_bytes": "9223372036854771712\n"}, None),
    ("both",                        "4:memory:/\n0::/\n",                        {"memory/memory.limit_in_bytes": "8"},             8),
    ("junk",                        "x\n\n:::\n0::/../../etc\n",                 {"memory.max": "-5"},                              None),
    ("none",                        None,                                        {},                                                None),
]
# fmt: on


@pytest.mark.parametrize(("what", "groups", "files", "limit"), GROUPS, ids=[case[0] for case in GROUPS])
def test_the_limit_is_read(
    tmp_path: Path, what: str, groups: str | None, files: dict[str, str], limit: int | None
) -> None:
    for name, text in files.items():
        file = tmp_path / "sys/fs/cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    if groups is not None:
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text(groups)
    assert machine.memory_limit.__wrapped__(tmp_path) == limit
