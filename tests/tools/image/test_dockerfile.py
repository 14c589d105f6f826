"""What can be checked of the Dockerfile without Docker; test_image.py runs its commands."""

import fnmatch
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.tools.image.dockerfile import DOCKERFILE, stages
from tests.tools.image.image import PLACE, image

BUILDER, FINAL = stages()
PYTHON = (ROOT / ".python-version").read_text().strip()


def test_hadolint_finds_nothing() -> None:
    program = shutil.which("hadolint", path=Path(sys.executable).parent)
    if program is None:
        pytest.skip("needs hadolint")
    ran = subprocess.run([program, DOCKERFILE], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (0, "")


def test_both_stages_are_of_the_python_that_the_project_names() -> None:
    assert BUILDER.base == FINAL.base  # the libraries are bound for this C library
    assert re.fullmatch(rf"python:{re.escape(PYTHON)}-slim-\w+", FINAL.base)


def ignored(path: str) -> bool:
    patterns = [line for line in DOCKERFILE.with_name("Dockerfile.dockerignore").read_text().splitlines() if line]
    return any(fnmatch.fnmatch(path.split("/")[0], pattern) for pattern in patterns if not pattern.startswith("#"))


def test_the_files_that_the_builder_copies_exist_and_are_in_its_context() -> None:
    copied = [source for _, sources, _ in BUILDER.copies for source in sources]
    assert len(copied) >= 6
    for source in copied:
        assert (ROOT / source).exists(), source
        assert source.endswith("/") == (ROOT / source).is_dir(), source
        assert not ignored(source), source
    assert ignored(".git")
    assert ignored("tests/server.py")


def test_the_last_stage_copies_the_files_that_the_builder_makes() -> None:
    assert {stage for stage, _, _ in FINAL.copies} == {BUILDER.name}
    copied = {source for _, sources, _ in FINAL.copies for source in sources}
    assert copied == {f"{PLACE}/{path.name}" for path in image().iterdir()}
    assert all(sources == [target] for _, sources, target in FINAL.copies)


def test_the_environment_names_folders_of_the_image() -> None:
    assert "PYTHONPATH" in FINAL.environment
    for value in [*FINAL.environment.values(), FINAL.last("WORKDIR")]:
        if not value.startswith("/"):
            continue  # no path: a setting
        assert (image() / Path(value).relative_to(PLACE)).is_dir(), value


def test_the_server_is_process_1_and_not_root() -> None:
    assert re.fullmatch(r"[1-9][0-9]{3,}:[1-9][0-9]{3,}", FINAL.last("USER"))  # numeric, which runAsNonRoot needs
    assert [word for word, _ in FINAL.instructions][-1] == "CMD"
    assert FINAL.command == ["python", "-m", "serving.servers.standalone"]
    assert not FINAL.all("ENTRYPOINT")


def test_no_dockerfile_is_in_the_root() -> None:
    """It would be built instead of the function by `gcloud run deploy --source`."""
    assert not [path.name for path in ROOT.iterdir() if path.name in {"Dockerfile", "Procfile", "Containerfile"}]


def test_the_standard_library_is_compiled(tmp_path: Path) -> None:
    """The base image has none; the command of the Dockerfile is run on a copy of a part of it."""
    (rest,) = (rest for rest in FINAL.all("RUN") if "compileall" in rest)
    command = [word.strip('",') for word in rest.strip("[]").split(" ")]
    standard = Path(shutil.__file__).parent
    for name in ("json", "ensurepip", "logging"):
        shutil.copytree(standard / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    assert command[-1] == f"/usr/local/lib/python{PYTHON}"
    subprocess.run([sys.executable, *command[1:-1], tmp_path], check=True)
    compiled = {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*.pyc")}
    assert compiled == {"json", "logging"}
    flags = next(tmp_path.rglob("json/**/decoder*.pyc")).read_bytes()[4:8]
    assert flags == b"\x01\0\0\0"  # PEP 552: by hash, unchecked
