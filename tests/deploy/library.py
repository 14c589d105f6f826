"""The package of TensorFlow's C library that is staged, its backend as a module, and what it takes in place of a download."""

import importlib.util
import shutil
from pathlib import Path
from typing import Any

from deploy.requirements import FOLDER, with_library
from serving.runtime.opening import find
from tests.conftest import EMBEDDED, ROOT


def staged_beside(folder: Path, model: Path = EMBEDDED) -> Path:
    """Stage the package, with what it needs of the function beside it; return its folder."""
    (folder / "requirements.txt").write_bytes((ROOT / "requirements.txt").read_bytes())
    shutil.copytree(ROOT / "serving", folder / "serving", ignore=shutil.ignore_patterns("__pycache__", "native"))
    (folder / "model").symlink_to(model)
    with_library(folder, "model")
    return folder / FOLDER


def backend_of(package: Path) -> Any:
    """Import the package's build backend from where it is."""
    spec = importlib.util.spec_from_file_location("backend_of_the_package", package / "backend.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def installed(folder: Path) -> str:
    """Stand for `backend.fetch`: link the installed TensorFlow's libraries instead of downloading them."""
    library = find()
    assert library
    (folder / "tensorflow").mkdir(parents=True)
    for name in ("libtensorflow_cc.so.2", "libtensorflow_framework.so.2", "THIRD_PARTY_NOTICES.txt"):
        (folder / "tensorflow" / name).symlink_to(library.with_name(name))
    return "2.21.0"


def nonsense(folder: Path) -> str:
    """Stand for `backend.fetch`: files that are no libraries."""
    (folder / "tensorflow").mkdir(parents=True)
    for name in ("libtensorflow_cc.so.2", "libtensorflow_framework.so.2", "THIRD_PARTY_NOTICES.txt"):
        (folder / "tensorflow" / name).write_text(f"{name}\n")
    return "2.21.0"
