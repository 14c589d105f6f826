"""Prune an environment to what serving needs.

    python -m tools.image.prune .venv /opt/packages      # a copy: site-packages for PYTHONPATH
    python -m tools.image.prune /venv --in-place         # what is not needed is deleted there

What is needed is found, not listed: the distributions that the requirement files name and that the code of the server
imports, anywhere in it; what those require; and, of the distribution that carries TensorFlow's C library, the two
libraries, with its licences and metadata. The libraries are bound (docs/image.md). Left out of the rest is what only
compilers, type checkers, debuggers and test runners read.

The distributions that stay are whole to `pip check` and importlib.metadata: their records name the files that are
there, and TensorFlow no longer asks for what its Python package asked for.
"""

import argparse
import ast
import base64
import compileall
import csv
import hashlib
import io
import py_compile
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from pathlib import Path, PurePosixPath

from tools.image.bind import NAMES, ROOT, bind
from tools.image.elf import Refused
from tools.image.reach import asked, imported
from tools.image.requirements import distribution_of, named, normal, with_requirements
from tools.image.strip import stripped
from tools.image.trial import answers, differences

ENTRY = "serving.servers.standalone.__main__"
REQUIREMENTS = (ROOT / "requirements.txt",)
LIBRARIES = tuple(f"tensorflow/{name}" for name in NAMES)
LICENCE = re.compile(r"(licen[cs]e|notice|copying|third_party)", re.IGNORECASE)
# Read by compilers, type checkers and test runners.
NEEDLESS = {
    ".pyi",
    ".pxd",
    ".pyx",
    ".pxi",
    ".c",
    ".cc",
    ".cpp",
    ".h",
    ".hpp",
    ".inc",
    ".src",
    ".a",
    ".lib",
    ".f",
    ".f90",
}
NEEDLESS_FOLDERS = {"tests", "__pycache__"}
OF_METADATA = {"METADATA", "RECORD", "INSTALLER", "WHEEL", "REQUESTED"}


@dataclass(frozen=True)
class Kept:
    """A distribution of the environment, and which of its files stay; none where it goes."""

    title: str
    files: tuple[PurePosixPath, ...]
    staying: frozenset[PurePosixPath]
    scripts: tuple[PurePosixPath, ...]  # beside the folder of packages
    named: bool  # by the requirement files, or by what they name: pip installs it for them


Plan = dict[str, Kept]


def packages_of(environment: Path) -> Path:
    """Return the folder of a virtual environment's packages, or the folder itself; raise Refused where it has none."""
    folders = sorted(environment.glob("lib/python3.*/site-packages")) if (environment / "pyvenv.cfg").is_file() else []
    site = folders[0] if folders else environment
    if not any(site.glob("*.dist-info")):
        raise Refused(f"{environment}: expected a virtual environment, or a folder of packages, got neither")
    return site


def plan(site: Path, requirements: Sequence[Path] = REQUIREMENTS, root: Path = ROOT) -> Plan:
    """Choose the files to keep of the packages in `site`; raise Refused where a needed one is missing."""
    installed = {normal(distribution.name): distribution for distribution in distributions(path=[str(site)])}
    files = {name: _files(distribution) for name, distribution in installed.items()}
    required = dict(named(requirements))
    missing = [line for name, line in required.items() if name not in installed and ";" not in line]
    if missing:
        raise Refused(f"{site}: {', '.join(missing)} not installed")
    imports = imported(ENTRY, root)
    library = {name for name in required if name in installed and {PurePosixPath(LIBRARIES[0])} & set(files[name])}
    needed = {name for name in required if name in installed and imports & _modules(files[name])} - library
    needed = with_requirements(needed, installed)
    of_pip = with_requirements({name for name in required if name in installed}, installed)
    packages: Plan = {}
    for name, distribution in installed.items():
        if name in library:
            staying = frozenset(path for path in files[name] if _of_library(path))
        elif name in needed:
            staying = frozenset(_needed(site, files[name]))
        else:
            staying = frozenset()
        scripts = tuple(PurePosixPath(str(path)) for path in distribution.files or () if ".." in path.parts)
        packages[name] = Kept(
            f"{distribution.name} {distribution.version}", files[name], staying, scripts, name in of_pip
        )
    return packages


def _files(distribution: Distribution) -> tuple[PurePosixPath, ...]:
    """Return its files below the folder of packages; scripts are elsewhere."""
    return tuple(PurePosixPath(str(path)) for path in distribution.files or () if ".." not in path.parts)


def _modules(files: Sequence[PurePosixPath]) -> set[str]:
    return {path.parts[0].partition(".")[0] for path in files if not path.parts[0].endswith(".dist-info")}


def _of_library(path: PurePosixPath) -> bool:
    if path.parts[0].endswith(".dist-info"):
        return path.name in OF_METADATA or bool(LICENCE.search(path.name))
    return str(path) in LIBRARIES or (path.suffix in {"", ".txt", ".md"} and bool(LICENCE.match(path.name)))


def _needless(path: PurePosixPath) -> bool:
    if path.parts[0].endswith(".dist-info"):
        return False
    return path.suffix in NEEDLESS or bool(NEEDLESS_FOLDERS.intersection(path.parts[:-1]))


def _needed(site: Path, files: Sequence[PurePosixPath]) -> set[PurePosixPath]:
    """Leave out needless files; tests that other modules import stay (numpy.testing has some)."""
    kept = {path for path in files if not _needless(path)}
    tests = {path for path in files if path.suffix == ".py" and _needless(path)}
    folders = {part.encode() for path in tests for part in NEEDLESS_FOLDERS.intersection(path.parts)}
    for path in [path for path in kept if path.suffix == ".py"]:
        code = (site / path).read_bytes()
        if any(folder in code for folder in folders):
            for module in asked(ast.parse(code), ".".join(path.parts[:-1])):
                module_path = PurePosixPath(*module.split("."))
                kept |= tests & {
                    module_path.with_suffix(".py"),
                    *(parent / "__init__.py" for parent in [module_path, *module_path.parents]),
                }
    return kept


def copy(site: Path, packages: Plan, out: Path, *, bound: bool = True) -> None:
    """Write what stays into the folder `out`, and bytecode for it."""
    for kept in packages.values():
        for path in sorted(kept.staying):
            target = out / path
            target.parent.mkdir(parents=True, exist_ok=True)
            if str(path) not in LIBRARIES or not bound:
                shutil.copyfile(site / path, target)
                shutil.copymode(site / path, target)
    if bound and (libraries := _libraries(site, packages)):
        bind(libraries, out / "tensorflow")
    _finish(packages, out)


def _libraries(site: Path, packages: Plan) -> list[Path]:
    staying = {str(path) for kept in packages.values() for path in kept.staying}
    return [site / path for path in LIBRARIES if path in staying]


def in_place(site: Path, packages: Plan, *, bound: bool = True) -> None:
    """Delete what does not stay. Files are replaced, never overwritten: hard links in other folders keep theirs."""
    if bound and (libraries := _libraries(site, packages)):
        with tempfile.TemporaryDirectory(prefix=".bound-", dir=site) as name:
            for library in bind(libraries, Path(name)):
                library.replace(site / "tensorflow" / library.name)
    staying = {path for kept in packages.values() for path in kept.staying}
    for kept in packages.values():
        gone = [path for path in kept.files if path not in staying]
        for path in gone if kept.staying else [*gone, *kept.scripts]:
            (site / path).unlink(missing_ok=True)
    for folder in sorted((path for path in site.rglob("*") if path.is_dir()), reverse=True):
        if folder.name == "__pycache__":
            shutil.rmtree(folder)
        elif not any(folder.iterdir()):
            folder.rmdir()
    _finish(packages, site)


def _finish(packages: Plan, site: Path) -> None:
    changed = {PurePosixPath(path) for path in LIBRARIES}
    for kept in packages.values():
        for path in kept.staying:
            if path.name.endswith(".so") or ".so." in path.name:
                data = None if str(path) in LIBRARIES else stripped(site / path)
                if data is not None:
                    _replace(site / path, data)
                    changed.add(path)
            elif path.parts[0].endswith(".dist-info") and path.name == "METADATA" and _narrow(site / path, packages):
                changed.add(path)
        for path in kept.staying:
            if path.parts[0].endswith(".dist-info") and path.name == "RECORD":
                _record(site, path, kept, changed)
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH  # an image's layers need not keep times of files
    if not compileall.compile_dir(site, quiet=2, force=True, invalidation_mode=mode):
        raise Refused(f"{site}: not all of it could be compiled")


def _replace(path: Path, data: bytes) -> None:
    draft = path.with_name(f".{path.name}.draft")
    draft.write_bytes(data)
    shutil.copymode(path, draft)
    draft.replace(path)


def _narrow(path: Path, packages: Plan) -> bool:
    """Remove requirements that are gone from a distribution's metadata; return whether that changed it."""
    lines = path.read_text("utf-8").splitlines(keepends=True)
    end = next((number for number, line in enumerate(lines) if not line.strip()), len(lines))
    head = [line for line in lines[:end] if not _is_gone(line, packages)]
    if len(head) < end:
        _replace(path, "".join(head + lines[end:]).encode())
    return len(head) < end


def _is_gone(line: str, packages: Plan) -> bool:
    field, _, requirement = line.partition(":")
    if field != "Requires-Dist" or re.search(r"\bextra\s*==", requirement):
        return False
    kept = packages.get(distribution_of(requirement))
    return kept is not None and not kept.staying


def _record(site: Path, path: PurePosixPath, kept: Kept, changed: set[PurePosixPath]) -> None:
    """Rewrite the list of a distribution's files (PEP 376): the remaining ones, with their digests."""
    rows = []
    for name, *rest in csv.reader((site / path).read_text("utf-8").splitlines()):
        file = PurePosixPath(name)
        if file in changed and file in kept.staying:
            digest = base64.urlsafe_b64encode(_digest(site / file)).rstrip(b"=").decode()
            rows.append([name, f"sha256={digest}", str((site / file).stat().st_size)])
        elif file in kept.staying or (".." in file.parts and (site / file).exists()):
            rows.append([name, *rest])
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    _replace(site / path, text.getvalue().encode())


def _digest(path: Path) -> bytes:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.digest()


def sizes(site: Path, packages: Plan) -> dict[str, int]:
    """Return the bytes of each distribution's files, with bytecode, as they are in `site` now."""
    return {name: sum(map(_size, _with_bytecode(site, kept.files))) for name, kept in packages.items()}


def _with_bytecode(site: Path, files: Sequence[PurePosixPath]) -> set[Path]:
    of_code = {site / path.parent / "__pycache__" / f"{path.stem}.{sys.implementation.cache_tag}.pyc"
               for path in files if path.suffix == ".py"}  # fmt: skip
    return of_code | {site / path for path in files}


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def table(packages: Plan, before: Mapping[str, int], after: Mapping[str, int]) -> str:
    """Return what each package was and is, in MB (10**6 bytes), the largest first."""
    lines = [f"{'MB of files':<36}{'before':>9}{'after':>9}"]
    small = [0, 0, 0]
    for name in sorted(packages, key=lambda name: -before[name]):
        kept = packages[name]
        if not kept.named:
            continue
        if kept.staying or before[name] >= 2e6:
            lines.append(f"{kept.title:<36}{before[name] / 1e6:>9.1f}{after[name] / 1e6:>9.1f}")
        else:
            small = [small[0] + 1, small[1] + before[name], small[2] + after[name]]
    lines.append(f"{f'{small[0]} smaller ones':<36}{small[1] / 1e6:>9.1f}{small[2] / 1e6:>9.1f}")
    required = [name for name, kept in packages.items() if kept.named]
    totals = [sum(size[name] for name in required) / 1e6 for size in (before, after)]
    lines.append(f"{'all that the requirements name':<36}{totals[0]:>9.1f}{totals[1]:>9.1f}")
    others = [name for name, kept in packages.items() if not kept.named]
    if others:
        size = sum(before[name] for name in others) / 1e6
        lines.append(
            f"{f'{len(others)} that they do not':<36}{size:>9.1f}{sum(after[name] for name in others) / 1e6:>9.1f}"
        )
    return "\n".join(lines)


def must_be_new(out: Path) -> None:
    """Raise Refused where something is in the place of the folder to write."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise Refused(f"{out}: expected no such folder, or an empty one")


def prune(
    environment: Path,
    out: Path | None,
    model: Path | None,
    *,
    bound: bool = True,
    requirements: Sequence[Path] = REQUIREMENTS,
) -> str:
    """Make the copy `out`, or prune in place; return the table of sizes. Raise Refused, and leave no copy.

    With a model, the server has to give the same answers from the pruned packages as from the whole ones.
    """
    if out is not None:
        must_be_new(out)
    site = packages_of(environment)
    expected = answers(site, model) if model else {}  # first: a wrong model is reported at once
    packages = plan(site, requirements)
    before = sizes(site, packages)
    try:
        if out is None:
            in_place(site, packages, bound=bound)
        else:
            copy(site, packages, out, bound=bound)
        target = site if out is None else out
        if model and (differing := differences(expected, answers(target, model))):
            raise Refused(f"{target}: the server's answer differs from the one before: {differing}")
        return table(packages, before, sizes(target, packages))
    except BaseException:
        if out is not None:
            shutil.rmtree(out, ignore_errors=True)
        raise


def main(arguments: Sequence[str] | None = None) -> int:
    """Prune one environment; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.image.prune",
        description="Keep of an environment what serving needs.",
        epilog="example: python -m tools.image.prune .venv /tmp/packages",
    )
    parser.add_argument(
        "environment", type=Path, metavar="ENVIRONMENT", help="a virtual environment, or a folder of packages"
    )
    parser.add_argument("out", type=Path, nargs="?", metavar="OUT", help="the folder to write")
    parser.add_argument("--in-place", action="store_true", help="delete from ENVIRONMENT instead")
    parser.add_argument(
        "--model", type=Path, default=ROOT / "model", metavar="DIR", help="to compare answers on (default: model/)"
    )
    parser.add_argument("--no-bind", action="store_true", help="leave the libraries as they are")
    options = parser.parse_args(arguments)
    if (options.out is None) != options.in_place:
        parser.error("expected OUT, or --in-place")
    try:
        print(prune(options.environment, options.out, options.model, bound=not options.no_bind))
    except (Refused, OSError) as error:
        print(f"tools.image.prune: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
