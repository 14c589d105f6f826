"""The package of TensorFlow's C library: what its build makes of the wheel, and when it leaves the libraries as they are."""

import json
import os
import re
import subprocess
import sys
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


def test_libraries_that_cannot_be_bound_are_packed_as_they_are_and_the_version_says_so(
    backend: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = backend.build_wheel(str(tmp_path))
    project, version, _, (tag,) = parse_wheel_filename(name)
    assert (project, str(version), str(tag)) == ("tensorflow-c-library", "2.21.0+not.bound", "py3-none-linux_x86_64")
    packed = unpacked(tmp_path, name)
    reason = "not bound: tools.image.bind: libtensorflow_cc.so.2: not an ELF file"
    assert packed.metadata["Summary"] == f"TensorFlow's C library, as the wheel has it, {reason}"
    assert reason in capsys.readouterr().err
    files = {str(file): file.read_text() for file in packed.files or () if file.parts[0] == "tensorflow"}
    assert files == {f"tensorflow/{name}": f"{name}\n" for name in (
        "THIRD_PARTY_NOTICES.txt", "libtensorflow_cc.so.2", "libtensorflow_framework.so.2",
    )}  # fmt: skip


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


def test_a_wheel_with_another_hash_is_refused(package: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    backend = backend_of(package)
    name = f"tensorflow_cpu-2.21.0-cp3{sys.version_info[1]}-cp3{sys.version_info[1]}-manylinux_2_27_x86_64.whl"
    (tmp_path / name).write_bytes(b"of somebody else")
    for variable, value in (("PIP_NO_INDEX", "1"), ("PIP_FIND_LINKS", str(tmp_path)), ("PIP_CONFIG_FILE", os.devnull)):
        monkeypatch.setenv(variable, value)
    with pytest.raises(backend.Failed):
        backend.fetch(tmp_path / "out")
    message = subprocess.run(
        [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "-d", tmp_path / "out", "-r", backend.PIN],
        capture_output=True, text=True,
    ).stderr  # fmt: skip
    assert "THESE PACKAGES DO NOT MATCH THE HASHES" in message


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


def test_what_the_build_takes_is_what_the_requirements_pin() -> None:
    lines = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line and line[0] != "#"]
    pins = {requirement.name: requirement.specifier for requirement in map(Requirement, lines)}
    (pin,) = [line.split()[0] for line in (PACKAGE / "tensorflow.txt").read_text().splitlines() if line[0].isalpha()]
    assert Requirement(pin).specifier == pins["tensorflow-cpu"]
    (built_with,) = re.findall(r"^requires = (.*)$", (PACKAGE / "pyproject.toml").read_text(), re.MULTILINE)
    numpy, pip = map(Requirement, json.loads(built_with))
    assert (numpy.specifier, pip.name) == (pins["numpy"], "pip")
