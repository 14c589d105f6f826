"""The requirements of what is uploaded: in place of TensorFlow's Python package its C library, built in the cloud.

requirements.txt pins TensorFlow and what TensorFlow brings along (Keras, h5py, gRPC ...). The function needs of it two
shared libraries. So those lines go, except for what something else needs too, and deploy/library/ comes, which makes a
package of the libraries: see deploy/library/backend.py.
"""

import ast
import hashlib
import shutil
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions, packages_distributions
from pathlib import Path

from serving.core.settings import ROOT
from serving.savedmodel.folder import twin
from tools.image import baking
from tools.image.elf import Refused
from tools.image.reach import asked
from tools.image.requirements import distribution_of, normal, with_requirements

PACKAGE = ROOT / "deploy" / "library"
FOLDER = "tensorflow_library"  # its name in the upload
TOOLS = ("__init__.py", *(f"image/{name}.py" for name in ("__init__", "bind", "elf", "pages", "rewrite")))
TENSORFLOW = {"tensorflow", "tensorflow-cpu"}
FALLBACK = "fallback"  # the folder that imports TensorFlow's Python package, for other platforms


def with_library(folder: Path, model: str) -> None:
    """Change the requirements of the staged function, and add what they name; raise Refused, and change nothing.

    `model` is the model's folder in the staged one; it is run when the library is built.
    """
    if not (folder / model).is_dir():
        raise Refused("there is no model in the upload to try the library with")
    if twin.holds(baking.served(folder / model)):
        raise Refused("the model is a twin for LiteRT")
    file = folder / "requirements.txt"
    lines = file.read_text().splitlines()
    dropped = dispensable(lines, used(folder))
    package = folder / FOLDER
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in TOOLS:
        (package / "tools" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / "tools" / name, package / "tools" / name)
    (package / "model.txt").write_text(model)
    # The cloud keeps installed packages for a day, for as long as this file stays the same.
    library = f"./{FOLDER}  # {_digest(folder, model)}"
    at = next(number for number, line in enumerate(lines) if _names(line) and distribution_of(line) in TENSORFLOW)
    lines.insert(at, library)
    kept = [line for line in lines if not _names(line) or line == library or distribution_of(line) not in dropped]
    file.write_text("".join(f"{line}\n" for line in kept))


def _names(line: str) -> bool:
    return bool(line.strip()) and not line.startswith(("#", "-"))


def dispensable(lines: list[str], imports: set[str]) -> set[str]:
    """Return which distributions of the requirements only TensorFlow's Python package needs, itself included.

    `imports` are the modules that the function imports. Raise Refused where it needs that package, or where the
    version is not the one whose wheels are pinned.
    """
    installed = {normal(distribution.name): distribution for distribution in distributions()}
    named = {distribution_of(line): line for line in lines if _names(line)}
    tensorflow = TENSORFLOW & named.keys()
    pinned = next(line for line in (PACKAGE / "tensorflow.txt").read_text().splitlines() if _names(line)).split()[0]
    if named.get("tensorflow-cpu", "").partition(";")[0].strip() != pinned:
        raise Refused(f"the hashes in deploy/library/tensorflow.txt are those of {pinned}, which is not required")
    if "tensorflow" in imports:
        raise Refused("a module of the function imports tensorflow")
    here = tensorflow & installed.keys()
    if not here:
        raise Refused("TensorFlow is not installed here, so what it brings along is not known")
    brought = with_requirements(here, installed) | tensorflow
    modules = packages_distributions()
    imported = {normal(name) for module in imports for name in modules.get(module, ())}
    roots = (named.keys() - brought) | (named.keys() & imported)
    needed = with_requirements(roots & installed.keys(), installed) | roots
    if tensorflow & needed:
        raise Refused(f"{_requiring(roots, tensorflow, installed)} requires TensorFlow's Python package")
    return (brought & named.keys()) - needed


def _requiring(roots: set[str], tensorflow: set[str], installed: dict[str, Distribution]) -> str:
    alone = (root for root in sorted(roots & installed.keys()) if with_requirements({root}, installed) & tensorflow)
    return next(alone, "a requirement")


def used(folder: Path) -> set[str]:
    """Return the top-level names of the modules that the staged code imports, the fallback apart."""
    return {
        name.partition(".")[0]
        for path in sorted(folder.rglob("*.py"))
        if path.relative_to(folder).parts[0] not in (FALLBACK, FOLDER)
        for name in asked(ast.parse(path.read_bytes()), "")
    }


def _digest(folder: Path, model: str) -> str:
    digest = hashlib.sha256()
    for path in _files(folder / FOLDER, folder / model):
        digest.update(f"{path.relative_to(folder)}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _files(*folders: Path) -> Iterator[Path]:
    for folder in folders:
        yield from sorted(path for path in folder.rglob("*") if path.is_file())
