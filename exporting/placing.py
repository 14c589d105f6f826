"""Writes a new model beside its destination first, and renames it when it is complete."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from exporting.refusal import Refusal
from serving.savedmodel.folder import twin

NOT_CARRIED = frozenset({"saved_model.pb", "fingerprint.pb", "keras_metadata.pb", "variables"})


def check_places(directory: Path, out: Path, force: bool) -> None:
    """Raise Refusal where a model made of `directory` cannot be written to `out`."""
    source, target = directory.resolve(), out.resolve()
    if target == source or target.is_relative_to(source):
        raise Refusal(f"{out}: it is inside {directory}; write it elsewhere")
    if source.is_relative_to(target):
        raise Refusal(f"{out}: it holds {directory}; write it elsewhere")
    if (out.exists() or out.is_symlink()) and not force:
        raise Refusal(f"{out}: it exists; --force replaces it")
    known = (out / "saved_model.pb").exists() or twin.holds(out)
    if force and out.exists() and not known and (not out.is_dir() or any(out.iterdir())):
        raise Refusal(f"{out}: it exists and is not a SavedModel; --force replaces SavedModels and twins only")
    if not out.absolute().parent.is_dir():
        raise Refusal(f"{out}: there is no folder {out.absolute().parent} to write it in")


@contextmanager
def folder_beside(out: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `out`, deleted at the end unless it was renamed."""
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.absolute().parent))
        mask = os.umask(0)
        os.umask(mask)
        folder.chmod(0o777 & ~mask)
    except OSError as error:
        raise Refusal(f"{out}: cannot be written: {error.strerror}") from None
    try:
        yield folder
    except OSError as error:  # a full disk, above all
        raise Refusal(f"{out}: cannot be written: {error.strerror or error}; nothing of it was kept") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def copy_folder(source: Path, target: Path) -> None:
    """Copy a folder; raise OSError with the first reason where it cannot be copied."""
    try:
        shutil.copytree(source, target, copy_function=shutil.copyfile)
    except shutil.Error as error:  # a list of (source, target, why)
        raise OSError(error.args[0][0][2]) from None


def put_in_place(folder: Path, out: Path, force: bool) -> None:
    """Rename the folder to `out`, or raise Refusal and leave the existing one."""
    if not out.exists() and not out.is_symlink():
        folder.rename(out)
        return
    if not force:
        raise Refusal(f"{out}: it was created in the meantime; --force replaces it")
    old = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.absolute().parent))
    try:
        out.rename(old / "old")
        try:
            folder.rename(out)
        except OSError:
            (old / "old").rename(out)
            raise
    finally:
        shutil.rmtree(old, ignore_errors=True)
