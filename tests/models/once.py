"""Models that many tests share: made once on a machine, by a process that may import tensorflow, and kept in .cache."""

import contextlib
import fcntl
import hashlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.harness.forks import ROOT, python

CACHE = ROOT / ".cache"
DAY = 24 * 3600  # seconds


def digest(*parts: Path | str) -> str:
    """Return 16 hexadecimal digits that change with the contents of the files and with the texts."""
    content = hashlib.sha256()
    for part in parts:
        content.update(part.read_bytes() if isinstance(part, Path) else part.encode())
    return content.hexdigest()[:16]


def made_once(kind: str, content: str, module: str, *arguments: str, drop_old: bool = False) -> Path:
    """Return the folder .cache/KIND-CONTENT; `python -m MODULE ARGUMENTS FOLDER` makes it where it is not there.

    Processes that want it at the same time wait for the one that makes it. With `drop_old`, folders of the kind that
    are older than a day go. Raise RuntimeError with what the maker wrote where it fails, and keep nothing of it.
    """
    folder = CACHE / f"{kind}-{content}"
    CACHE.mkdir(exist_ok=True)
    with locked(CACHE / f"{kind}.lock"):
        if folder.is_dir():
            return folder
        for old in CACHE.glob(f"{kind}-*") if drop_old else ():
            if old.is_dir() and time.time() - old.stat().st_mtime > DAY:
                shutil.rmtree(old, ignore_errors=True)
        making = Path(tempfile.mkdtemp(prefix=f"{kind}-making-", dir=CACHE))
        try:
            maker = python("-m", module, *arguments, making)
            if maker.returncode:
                raise RuntimeError(f"{module} failed:\n{maker.stderr[-3000:]}")
            making.rename(folder)
        finally:
            shutil.rmtree(making, ignore_errors=True)
    return folder


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file, against other processes."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield  # closing the file unlocks it
