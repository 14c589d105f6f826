"""The image without Docker: its folder, made by the command of the Dockerfile, and its last stage, run in a cell.

As root, the cell is a mount and a process namespace with a root of its own: this machine's /usr for the base image,
the Python that runs the tests as /usr/local, the folder where the image has it; all of it read-only, the server
process 1, its user the image's. Otherwise the same command with the same environment, as the user that runs the tests.
"""

import fcntl
import hashlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.conftest import ROOT, plain_environment
from tests.server import Server
from tests.tools.image.dockerfile import built_by, stages
from tools.server import free_port

CACHE = ROOT / ".cache"
PLACE = "/opt/function"
LIMIT = 512 << 20
OLD = 3600  # seconds
SOURCES = ("tools", "serving", "exporting", "model", "requirements.txt", "requirements")


@cache
def image() -> Path:
    """Return the image's folder, made if what it is made of has changed."""
    digest = hashlib.sha256(f"{sys.version} {sys.prefix}".encode())
    for name in SOURCES:
        for path in sorted([ROOT / name, *(ROOT / name).rglob("*")]):
            if path.is_file() and path.suffix != ".pyc":
                digest.update(str(path).encode() + path.read_bytes())
    for path in sorted(Path(sys.prefix).glob("lib/python3*/site-packages/*.dist-info")):
        digest.update(path.name.encode())
    folder = CACHE / f"image-{digest.hexdigest()[:16]}"
    CACHE.mkdir(exist_ok=True)
    with (CACHE / "image.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            for old in CACHE.glob("image-*"):
                if old.stat().st_mtime < time.time() - OLD:  # else another run of the tests may be at it
                    shutil.rmtree(old)
            make(folder)
    return folder


def make(folder: Path, *more: str) -> str:
    """Run the builder's command here, into a folder; return what it prints."""
    draft = folder.with_name(f"{folder.name}.{os.getpid()}")
    command = [{"/environment/bin/python": sys.executable, PLACE: str(draft)}.get(word, word) for word in built_by()]
    try:
        ran = subprocess.run([*command, *more], cwd=ROOT, env=plain_environment(), capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
        draft.replace(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return ran.stdout


@dataclass
class Group:
    """A memory control group with a limit."""

    folder: Path

    def add(self) -> None:
        """Put the calling process into it."""
        (self.folder / "cgroup.procs").write_text(str(os.getpid()))

    @property
    def peak(self) -> int:
        for name in ("memory.max_usage_in_bytes", "memory.peak", "memory.current"):
            with suppress(OSError):
                return int((self.folder / name).read_text())
        raise AssertionError(self.folder)

    @property
    def killed(self) -> int:
        """Return how many processes the kernel ended in it for want of memory."""
        for name in ("memory.oom_control", "memory.events"):
            with suppress(OSError):
                rows = dict(line.split() for line in (self.folder / name).read_text().splitlines())
                return int(rows["oom_kill"])
        raise AssertionError(self.folder)


@contextmanager
def limited() -> Iterator[Group | None]:
    """Make a group of 512 MB, by either version of control groups; None where this machine or user has no way to."""
    for parent, limit in (
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
        (Path("/sys/fs/cgroup"), "memory.max"),
    ):
        if not (parent / "cgroup.procs").is_file():
            continue
        try:
            folder = Path(tempfile.mkdtemp(prefix="function-", dir=parent))
        except OSError:
            continue
        try:
            (folder / limit).write_text(str(LIMIT))
        except OSError:
            folder.rmdir()
            continue
        try:
            yield Group(folder)
        finally:
            _remove(folder)
        return
    yield None


def _remove(group: Path) -> None:
    for _ in range(100):  # until its last process is gone
        with suppress(OSError):
            group.rmdir()
            return
        time.sleep(0.05)


def can_isolate() -> bool:
    """Say whether a cell with a root of its own can be made here."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("unshare", "chroot", "setpriv"))):
        return False
    return subprocess.run(["unshare", "--mount", "--pid", "--fork", "true"], capture_output=True).returncode == 0


MOUNTS = """
set -eu
mkdir -p {root}/usr {root}/proc {root}/dev {root}/etc {root}/opt/function
for name in bin lib lib64 sbin; do [ -L /$name ] && ln -s usr/$name {root}/$name; done
mount --bind {root} {root}
mount --bind /usr {root}/usr
mount --bind {python} {root}/usr/local
mount --bind /dev {root}/dev
mount --bind {tree} {root}/opt/function
mount -t proc proc {root}/proc
for place in "" /usr /usr/local /opt/function; do mount -o remount,bind,ro {root}$place; done
exec chroot {root} setpriv --reuid={user} --regid={group} --clear-groups --no-new-privs --bounding-set=-all \
    env -i -C {folder} {words}
"""


@contextmanager
def started(tree: Path, group: Group | None = None, **environment: str) -> Iterator[Server]:
    """Run the last stage of the Dockerfile on `tree`, on one CPU and in `group`; the server's own process is `.inner`."""
    stage = stages()[-1]
    port = free_port()
    user, gid = stage.last("USER").split(":")
    variables = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": "/",
        **stage.environment,
        "PORT": str(port),
        **environment,
    }
    cpu = min(os.sched_getaffinity(0))

    def confine() -> None:
        os.sched_setaffinity(0, {cpu})
        if group:
            group.add()

    with tempfile.TemporaryDirectory() as folder:
        log, root = Path(folder) / "log", Path(folder) / "root"
        if can_isolate():
            variables["LD_LIBRARY_PATH"] = "/usr/local/lib"  # the image has it in the loader's cache
            words = [*(f"{name}={value}" for name, value in variables.items()), *stage.command]
            words[words.index("python")] = f"/usr/local/bin/python3.{sys.version_info.minor}"
            script = MOUNTS.format(
                root=root, python=sys.base_prefix, tree=tree, user=user, group=gid, folder=stage.last("WORKDIR"),
                words=shlex.join(words),
            )  # fmt: skip
            root.mkdir(mode=0o755)
            command, where, variables = (
                ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script],
                "/",
                {},
            )
            variables["PATH"] = os.environ["PATH"]
        else:
            variables = {name: value.replace(PLACE, str(tree)) for name, value in variables.items()}
            command, where = [sys.executable, "-S", *stage.command[1:]], str(tree)
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, cwd=where, env=variables, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
                preexec_fn=confine,
            )  # fmt: skip
        server = Server(process, port, log)
        try:
            server.wait_for_port()
            yield server
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def first(server: Server) -> int:
    """Return the number of the process that the image's command became."""
    if not can_isolate():
        return server.process.pid
    (child,) = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    return int(child)


def family(pid: int) -> list[int]:
    """Return a process and all that it started."""
    pids, left = [], [pid]
    while left:
        pids.append(left.pop())
        for task in Path(f"/proc/{pids[-1]}/task").glob("*/children"):
            left += map(int, task.read_text().split())
    return pids


def proportional(pid: int) -> int:
    """Return the bytes of memory of a process, shared pages divided among those who share them."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(pid)
