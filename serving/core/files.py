"""The one place that opens the files of a model.

A model's folder may come from anywhere: a link in it may lead to any file of the machine, and a pipe or a device may
block or act when it is opened. Each file is opened only if it is a regular file inside the folder after all links are
followed, and of a bounded size. The folder itself may be a link, and links inside it may lead to each other, as in a
mounted volume of Kubernetes.
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

    Raise FileNotFoundError where there is none, and LoadError where it is not a file of the model's own.
    """
    try:
        root, parts = _place(directory, name)
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
    """Return what is in a file of the model, None where there is none; raise LoadError as `opened` does."""
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
    """Return the size of a file of the model; raise as `opened` does."""
    with opened(directory, name, ANY) as file:
        return os.fstat(file.fileno()).st_size


def sha256(directory: Path, name: str) -> str:
    """Return the SHA-256 of a file of the model, without reading it all at once; raise as `opened` does."""
    import hashlib  # OpenSSL comes with it, and a model without a manifest does not need it

    digest = hashlib.sha256()
    with opened(directory, name, ANY) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def problem(directory: Path) -> str | None:
    """Say which file that a load opens, by us or by a runtime, is not a file of the model's own, or None."""
    try:
        for name in served(directory):
            root, parts = _place(directory, name)
            if not stat.S_ISREG(os.stat(os.path.join(root, *parts)).st_mode):
                return f"{name} is not a regular file"
    except OSError as error:
        return f"{name} cannot be read ({error.strerror})"
    except LoadError as error:
        return str(error)
    return None


def served(directory: Path) -> Iterator[str]:
    """Yield the names of the files that a load opens, or may open."""
    for name in names(directory, deep=False):
        if name.endswith((".pb", ".tflite", ".json")):
            yield name
    for folder in FOLDERS:
        yield from names(directory, folder)


def names(directory: Path, folder: str = "", *, deep: bool = True) -> Iterator[str]:
    """Yield the name of everything in a folder of the model that is no folder; links to folders inside are followed."""
    root = os.path.realpath(directory)
    pending, visited = [folder], set()
    while pending:
        inner = pending.pop()
        place = os.path.realpath(os.path.join(directory, inner))
        if place in visited or not _inside(root, place):
            continue
        visited.add(place)
        try:
            entries = sorted(os.scandir(place), key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):
            continue
        for entry in entries:
            name = f"{inner}/{entry.name}" if inner else entry.name
            if entry.is_dir() and _inside(root, os.path.realpath(entry.path)):
                pending += [name] if deep else []
            else:
                yield name


def readable(directory: Path, name: str) -> bool:
    """Say whether a file may be opened: a regular one, or a link of which `opened` will say what is wrong with it."""
    path = os.path.join(directory, name)
    return os.path.isfile(path) or (os.path.islink(path) and not os.path.exists(path))


def _inside(root: str, place: str) -> bool:
    return place == root or place.startswith(root.rstrip("/") + "/")


def _place(directory: Path, name: str) -> tuple[str, list[str]]:
    """Return the model's folder and the way from it to a file, both without links."""
    root = os.path.realpath(directory, strict=True)
    place = os.path.realpath(os.path.join(directory, name), strict=True)
    if place == root or not _inside(root, place):
        raise LoadError(f"{name} is a link that leads out of the model's folder; {LINKS}")
    return root, os.path.relpath(place, root).split(os.sep)


def _open(root: str, parts: list[str], name: str) -> int:
    """Open a file step by step without following links, so that what was checked is what is opened."""
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
