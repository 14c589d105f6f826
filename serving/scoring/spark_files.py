"""What Spark's executors need besides their packages: this package as a zip, and the model as a tar."""

import atexit
import shutil
import tarfile
import tempfile
import zipfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import serving
from serving.core import files

_sent: set[tuple[str, str]] = set()  # the id of an application, and what it has


def pack(session: Any, model: Path, digest: str) -> str:
    """Send the package and the model to the executors of a Spark session, once; return the model's path.

    The path is among Spark's files, as `SparkFiles` knows them.
    """
    context = session.sparkContext
    name = f"model-{digest}"
    if (context.applicationId, name) not in _sent:
        context.addPyFile(str(_package()))
        context.addArchive(f"{_archive(model, name)}#{name}")
        _sent.add((context.applicationId, name))
    return f"{name}/{_inside(model)}"


def _inside(model: Path) -> str:
    return model.name if model.name.isdecimal() else "model"  # the name of a version says which it is


@lru_cache(maxsize=1)
def _folder() -> Path:
    """Return a folder that lasts as long as this process: Spark sends the files from there."""
    folder = Path(tempfile.mkdtemp(prefix="serving-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@lru_cache(maxsize=1)
def _package() -> Path:
    path = _folder() / "serving.zip"
    with zipfile.PyZipFile(str(path), "w", zipfile.ZIP_DEFLATED) as file:
        file.writepy(str(Path(serving.__file__).parent))  # compiled: a worker process imports it in half of the time
    return path


@lru_cache(maxsize=1)
def _archive(model: Path, name: str) -> Path:
    path = _folder() / f"{name}.tar"
    with tarfile.open(path, "w", dereference=True) as archive:
        for member in files.served(model):  # what a load may open, and nothing outside of the model's folder
            with files.opened(model, member, files.ANY) as content:
                described = archive.gettarinfo(arcname=f"{_inside(model)}/{member}", fileobj=content)
                archive.addfile(described, content)
    return path
