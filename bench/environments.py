"""An environment for each subject: its own requirements and nothing else, as a user would install them.

They are made under .cache/bench/environments from the files below, compiled, and made again when a file changes.
Large files that two environments share (TensorFlow's library is in four of them) are hard links to one copy.
"""

import compileall
import fcntl
import filecmp
import hashlib
import os
import shutil
import signal
import sys
import venv
from collections.abc import Callable, Iterable
from pathlib import Path
from py_compile import PycInvalidationMode

from bench.models import CACHE, ROOT
from bench.process import finish, inherited
from deploy import staging
from tools.image import baking

FOLDER = CACHE / "environments"
FUNCTIONS = ROOT / "bench" / "functions"
UPLOAD = CACHE / "upload"  # what a deploy from source sends, compiled as the cloud's build does it
SPARE_BYTES = 4 << 30  # what one environment takes while it is being installed
LINKED_BYTES = 1 << 16  # files of at least this size are linked

# fmt: off
ENVIRONMENTS: dict[str, tuple[Path, ...]] = {
    "naive":    (FUNCTIONS / "naive" / "requirements.txt",),
    "litert":   (FUNCTIONS / "litert" / "requirements.txt",),
    "mosec":    (FUNCTIONS / "mosec" / "requirements.txt",),
    "constant": (FUNCTIONS / "constant" / "requirements.txt",),
    "source":   (ROOT / "requirements.txt",),
    "uploaded": (UPLOAD / "requirements.txt",),  # after `upload`
    "twin":     (ROOT / "requirements" / "light.txt",),
    "observed": (ROOT / "requirements.txt", ROOT / "requirements" / "observe.txt"),
}
# fmt: on


class Unavailable(Exception):
    """Something that a subject needs cannot be made here; the text says why."""


def python(name: str) -> Path:
    """Return the Python of an environment; it exists after `make(name)`."""
    return FOLDER / name / "bin" / "python"


def make(name: str, say: Callable[[str], None]) -> None:
    """Install an environment unless it is there and current; raise Unavailable with pip's reason."""
    folder, mark = FOLDER / name, FOLDER / name / ".installed-from"
    digest = _digest(ENVIRONMENTS[name])
    if mark.exists() and mark.read_text() == digest:
        return
    shutil.rmtree(folder, ignore_errors=True)  # removes the mark as well: half an environment is never used
    FOLDER.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(FOLDER).free
    if free < SPARE_BYTES:
        raise Unavailable(f"environment {name}: expected {SPARE_BYTES >> 30} GiB free on the disk, got {free >> 30}")
    say(f"installing environment {name}; TensorFlow's take 1.6 GB each before equal files are linked")
    venv.create(folder)
    listed = [word for file in ENVIRONMENTS[name] for word in ("-r", str(file))]
    pip = [sys.executable, "-m", "pip", "--python", str(python(name)), "--disable-pip-version-check", "install"]
    done = finish([*pip, "--quiet", *listed], folder=ENVIRONMENTS[name][0].parent)  # which paths are relative to
    if done.returncode:
        reason = next((line for line in done.stderr.splitlines() if "ERROR" in line), "pip failed and wrote no reason")
        shutil.rmtree(folder)
        raise Unavailable(f"environment {name}: {reason}")
    _link_equal_files(folder, [Path(sys.prefix), *(FOLDER / other for other in ENVIRONMENTS if other != name)])
    compileall.compile_dir(folder, quiet=2)  # some packages contain files that no Python compiles
    mark.write_text(digest)


def _digest(files: Iterable[Path]) -> str:
    """Hash requirement files, those that they name, and the Python that they are installed for."""
    digest, pending, seen = hashlib.sha256(f"{sys.version} {sys.base_prefix}".encode()), list(files), set()
    while pending:
        file = pending.pop(0).resolve()
        if file not in seen:
            seen.add(file)
            lines = [line for line in file.read_text().splitlines() if line and not line.startswith("#")]
            digest.update("\n".join(lines).encode())
            options = [line.split() for line in lines if line.startswith(("-r ", "-c "))]
            pending += [file.parent / name for _, name in options]
    return digest.hexdigest()


def _link_equal_files(folder: Path, others: Iterable[Path]) -> None:
    """Replace large files by hard links to equal files at the same path in other environments."""
    large = [file for file in folder.rglob("*") if not file.is_symlink() and file.is_file()]
    for file in (file for file in large if file.stat().st_size >= LINKED_BYTES):
        for other in others:
            twin = other / file.relative_to(folder)
            if twin.is_file() and not twin.is_symlink() and filecmp.cmp(file, twin, shallow=False):
                link = file.with_name(f"{file.name}.link")
                try:
                    os.link(twin, link)
                except OSError:  # another file system
                    continue
                link.replace(file)
                break


def disk() -> str:
    """Say what the environments take, with and without what they share."""
    files = [file.lstat() for file in FOLDER.rglob("*") if not file.is_dir()]
    own = {file.st_ino: file.st_size for file in files}
    return f"{sum(own.values()) / 1e9:.1f} GB on the disk; {sum(file.st_size for file in files) / 1e9:.1f} GB without hard links"


def alone() -> None:
    """Exit where another benchmark is running, since they would share cores and files; exit cleanly when interrupted.

    Call it first: it holds until this process ends.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit("bench: interrupted"))  # what was started is killed on the way out
    FOLDER.mkdir(parents=True, exist_ok=True)
    lock = os.open(FOLDER / ".lock", os.O_CREAT | os.O_RDWR)  # never closed
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit("bench: another benchmark is running; their figures would be of half a machine")


def upload() -> None:
    """Make what `deploy.sh run` would send in UPLOAD, and compile it; raise Unavailable."""
    listing = "set -e; . deploy/values.sh; . deploy/check.sh; upload_list"
    done = finish(["bash", "-c", listing], inherited())
    if done.returncode or not done.stdout:
        raise Unavailable(f"the upload cannot be listed: {done.stderr.strip() or 'neither gcloud nor git is here'}")
    for note in staging.stage(UPLOAD, done.stdout.splitlines(), "model", baking.NO):
        print(f"bench: the upload: {note}", file=sys.stderr)
    compileall.compile_dir(UPLOAD, quiet=2, invalidation_mode=PycInvalidationMode.CHECKED_HASH)
    compileall.compile_dir(FUNCTIONS, quiet=2)
