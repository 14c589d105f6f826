"""TensorFlow's libraries bound, and the pages that a first answer touches listed, once on a developer's machine.

    python -m tools.image.cached --model model      .cache/bound-5d41402abc4b2a76/7d793037a0760186

prints the folder for TENSORFLOW_LIBRARY_DIR: links to the bound libraries (bind.py), and the lists for this model
(pages.py). `make serve` and `make serve-fast` do it. The libraries are bound again when the installed ones or the code
that binds them change, and the pages are listed again when the model changes. Without a model in a folder, or where it
cannot be run, the folder has no lists, and a server reads more on its first start.
"""

import argparse
import fcntl
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from serving.core.errors import LoadError
from serving.savedmodel.source import Source
from tools.image.bind import NAMES, ROOT, bind, installed
from tools.image.elf import Refused
from tools.image.pages import record

CACHE = ROOT / ".cache"
SPARE_BYTES = 3 << 30


class NoSpace(Refused):
    """The disk has no room for copies of the libraries."""


def bound(cache: Path = CACHE) -> Path:
    """Return a folder with bound copies of the installed wheel's libraries, made if they or this code have changed."""
    with _locked(cache):
        return _bound(cache)


def listed(model: Path | None, cache: Path = CACHE) -> Path:
    """Return a folder with the bound libraries and the lists of the pages that this model's first answer touches.

    Raise Refused where the libraries cannot be bound; say on the standard error where no pages can be listed. A model
    that cannot be run is not tried again until it changes.
    """
    with _locked(cache):
        libraries = _bound(cache)
        try:
            source = Source(model, "model") if model else None
        except LoadError:  # the server has the reason
            source = None
        if source is None or source.light:
            return libraries
        folder = libraries / _digest(source.directory)
        if not folder.is_dir():
            with tempfile.TemporaryDirectory(prefix=".listing-", dir=libraries) as name:
                draft = Path(name) / "draft"
                draft.mkdir()
                for library in NAMES:
                    (draft / library).symlink_to(libraries / library)
                try:
                    _must_have_space(cache)
                    record(draft, source.directory)
                except (NoSpace, OSError) as problem:
                    _say(problem)
                    return libraries
                except Refused as problem:
                    _say(problem)
                draft.rename(folder)
        return folder


def _say(problem: Exception) -> None:
    print(f"tools.image.cached: no pages listed: {problem}", file=sys.stderr)


@contextmanager
def _locked(cache: Path) -> Iterator[None]:
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "bound.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until the file is closed
        yield


def _bound(cache: Path) -> Path:
    sources = installed(None)
    digest = hashlib.sha256(f"{sys.version} {sys.prefix}".encode())
    for code in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(code.read_bytes())
    for source in sources:
        status = source.stat()
        digest.update(f"{source} {status.st_size} {status.st_mtime_ns}".encode())
    folder = cache.resolve() / f"bound-{digest.hexdigest()[:16]}"
    if not all((folder / name).is_file() for name in NAMES):
        _must_have_space(cache)
        for old in cache.glob("bound-*"):
            shutil.rmtree(old)
        bind(sources, folder)
    return folder


def _must_have_space(cache: Path) -> None:
    if shutil.disk_usage(cache).free < SPARE_BYTES:
        raise NoSpace(f"less than {SPARE_BYTES >> 30} GB are free for copies of the libraries")


def _digest(model: Path) -> str:
    """Hash the names, sizes and times of a model's files."""
    digest = hashlib.sha256(os.fsencode(model.resolve()))
    for path in sorted(model.rglob("*")):
        status = path.lstat()
        digest.update(os.fsencode(path.relative_to(model)) + f" {status.st_size} {status.st_mtime_ns}\0".encode())
    return digest.hexdigest()[:16]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the folder with the bound libraries."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.image.cached",
        description="Bind TensorFlow's libraries and list the pages that a first answer touches, unless that is done.",
        epilog="example: python -m tools.image.cached --model model",
    )
    parser.add_argument("--model", metavar="DIR", help="the model to serve; in a bucket: no pages are listed")
    parser.add_argument("--cache", type=Path, default=CACHE, metavar="DIR", help="default: .cache")
    options = parser.parse_args(arguments)
    model = Path(options.model) if options.model and "://" not in options.model else None
    try:
        print(listed(model, options.cache))
    except (Refused, OSError) as error:
        print(f"tools.image.cached: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
