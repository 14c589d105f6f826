"""Opens the files of a model; no other module does.

A model's folder is not trusted: a link in it may lead to any file of the machine, and a pipe or a device may block or
act when it is opened. A file is opened only if it is a regular file inside the folder after all links are followed, and
of a bounded size. The folder itself may be a link, and links inside it may lead to each other, as in a mounted volume
of Kubernetes.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from serving.core.errors import LoadError

FOLDERS = ("assets", "assets.extra", "debug", "variables")
SMALL = 64 << 20  # bytes of a file that is read whole: examples, labels, a manifest
ANY = 1 << 62  # bytes of a file that is read in parts
LINKS = "copy the model with its links followed (cp -rL)"


def opened(directory: Path, name: str, largest: int = SMALL) -> BinaryIO:
    """Open a file of the model for reading.

    Raise FileNotFoundError where it is absent, and LoadError where it is not a regular file inside the folder or has
    more than `largest` bytes.
    """
    try:
        root, parts = _resolve(directory, name)
        descriptor = _open(root, parts, name)
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(name) from None
    except OSError as error:
        raise LoadError(f"{name} cannot be read ({error.strerror})") from None
    file = os.fdopen(descriptor, "rb")
    if (size := os.fstat(descriptor).st_size) > largest:
        file.close()
        raise LoadError(f"{name} has {size} bytes; expected at most {largest}")
    return file


def content(directory: Path, name: str, largest: int = SMALL) -> bytes | None:
    """Return the content of a file of the model, None where it is absent; raise LoadError as `opened` does."""
    try:
        with opened(directory, name, largest) as file:
            data = file.read(largest + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise LoadError(f"{name} cannot be read ({error.strerror})") from None
    if len(data) > largest:
        raise LoadError(f"{name} has grown beyond {largest} bytes while it was read")
    return data


def size(directory: Path, name: str) -> int:
    """Return the size of a file of the model in bytes; raise as `opened` does."""
    with opened(directory, name, ANY) as file:
        return os.fstat(file.fileno()).st_size


def sha256(directory: Path, name: str) -> str:
    """Return the SHA-256 of a file of the model in hexadecimal, read in blocks; raise as `opened` does."""
    import hashlib  # it loads OpenSSL, which a model without a manifest does not need

    digest = hashlib.sha256()
    with opened(directory, name, ANY) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def problem(directory: Path) -> str | None:
    """Return which file that a load opens, here or in a runtime, is not a regular file inside the folder, or None."""
    try:
        for name in served(directory):
            try:
                root, parts = _resolve(directory, name)
                mode = os.stat(os.path.join(root, *parts)).st_mode
            except OSError as error:
                return f"{name} cannot be read ({error.strerror})"
            if not stat.S_ISREG(mode):
                return f"{name} is not a regular file"
    except LoadError as error:
        return str(error)
    return None


def served(directory: Path) -> Iterator[str]:
    """Yield the names of the files that a load may open."""
    for name in names(directory, deep=False):
        if name.endswith((".pb", ".tflite", ".json")):
            yield name
    for folder in FOLDERS:
        yield from names(directory, folder)


def names(directory: Path, folder: str = "", *, deep: bool = True) -> Iterator[str]:
    """Yield the names of all files in a folder of the model, following links to folders inside the model.

    Raise LoadError where a folder cannot be read.
    """
    root = os.path.realpath(directory)
    pending, visited = [folder], set()
    while pending:
        inner = pending.pop()
        path = os.path.realpath(os.path.join(directory, inner))
        if path in visited or not _inside(root, path):
            continue
        visited.add(path)
        try:
            entries = sorted(os.scandir(path), key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise LoadError(f"{inner or 'the folder'} cannot be read ({error.strerror})") from None
        for entry in entries:
            name = f"{inner}/{entry.name}" if inner else entry.name
            if _is_folder(entry) and _inside(root, os.path.realpath(entry.path)):
                pending += [name] if deep else []
            else:
                yield name


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # such as a link to itself, which `opened` reports
        return False


def readable(directory: Path, name: str) -> bool:
    """Return whether a file may be opened: a regular file, or a broken link, which `opened` reports."""
    path = os.path.join(directory, name)
    return os.path.isfile(path) or (os.path.islink(path) and not os.path.exists(path))


def _inside(root: str, path: str) -> bool:
    return path == root or path.startswith(root.rstrip("/") + "/")


def _resolve(directory: Path, name: str) -> tuple[str, list[str]]:
    """Return the model's folder and the path of a file in it, both without links; raise LoadError outside it."""
    root = os.path.realpath(directory, strict=True)
    path = os.path.realpath(os.path.join(directory, name), strict=True)
    if path == root or not _inside(root, path):
        raise LoadError(f"{name} is a link that leads out of the model's folder; {LINKS}")
    return root, os.path.relpath(path, root).split(os.sep)


def _open(root: str, parts: list[str], name: str) -> int:
    """Open a file folder by folder without following links, so that the file that was checked is the one opened."""
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parts[:-1]:
            inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            os.close(folder)
            folder = inner
        before = os.stat(parts[-1], dir_fd=folder, follow_symlinks=False)
        if not stat.S_ISREG(before.st_mode):
            raise LoadError(f"{name} is not a regular file")
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(parts[-1], flags, dir_fd=folder)
    finally:
        os.close(folder)
    if not os.path.samestat(before, os.fstat(descriptor)):
        os.close(descriptor)
        raise LoadError(f"{name} was replaced while it was opened")
    return descriptor
