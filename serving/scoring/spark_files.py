"""The files of a Spark job: the package and the model, which are sent to its executors, and its output."""

import atexit
import re
import shutil
import tarfile
import tempfile
import zipfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import serving
from serving.core import files
from serving.scoring.faults import BadFile

RESULT = "result"  # the column by which rows are written apart, and its values
PREDICTIONS, ERRORS = "predictions", "errors"
RECORD, SUCCESS = "_record.json", "_SUCCESS"

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


class Folder:
    """The output, by Hadoop's file systems."""

    def __init__(self, spark: Any, address: str) -> None:
        gateway = spark.sparkContext._jvm
        assert gateway is not None
        self._path = gateway.org.apache.hadoop.fs.Path
        self._root = self._path(address)
        self._system = self._root.getFileSystem(spark.sparkContext._jsc.hadoopConfiguration())

    def clear(self) -> None:
        """Delete what an interrupted run left; raise BadFile where there is anything else."""
        if not self._system.exists(self._root):
            return
        names = {entry.getPath().getName() for entry in self._system.listStatus(self._root)}
        ours = {"_temporary", RECORD, f"{RESULT}={PREDICTIONS}", f"{RESULT}={ERRORS}"}
        if others := sorted(names - ours):
            raise BadFile(f"OUT: expected a new folder, or what an interrupted run left, got one with {others[0]!r}")
        self._system.delete(self._root, True)

    def write(self, name: str, content: bytes) -> None:
        stream = self._system.create(self._path(self._root, name), True)
        stream.write(bytearray(content))
        stream.close()


_OURS = re.compile(r"^\s*serving\.scoring\.faults\.\w+: (.+)$", re.MULTILINE)


def reason_of(error: Exception) -> str:
    """Return in one line why a job failed: what this package raised in a worker process, else the first cause."""
    text = str(error)
    if ours := _OURS.findall(text):
        return str(ours[-1])
    cause = getattr(error, "java_exception", None)
    while cause is not None:
        text, cause = cause.toString(), cause.getCause()
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [type(error).__name__]
    return lines[-1 if "Traceback (most recent call last)" in text else 0]
