"""The folder that `./deploy.sh run` uploads: what is made for it, what is left out, and what it answers when deployed."""

import io
import os
import subprocess
import sys
import sysconfig
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import parse_wheel_filename

from deploy import staging
from serving.core.settings import ACCELERATOR
from serving.pipeline.native import build
from serving.runtime.opening import find
from tests import server as servers
from tests.conftest import EMBEDDED, ROOT
from tests.deploy.library import backend_of, installed
from tests.pipeline.native.conftest import built
from tests.server import running
from tools.image import baking
from tools.image.bind import NAMES, kinds
from tools.image.elf import Elf, Need, Refused

CODEC = ACCELERATOR.relative_to(ROOT)
FEW = ["main.py", "model/saved_model.pb", "model/variables/variables.index"]


@pytest.fixture(scope="module")
def compiled() -> Path:
    path: Path = built(build.cached)
    return path


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory, compiled: Path) -> Path:
    """Return the function with its codec, made as deploy.sh does, from the files that it lists."""
    out = tmp_path_factory.mktemp("staged") / "upload"
    command = f"set -e; . deploy/values.sh; . deploy/check.sh; upload_list | {sys.executable} -m deploy.staging {out}"
    ran = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert (ran.returncode, ran.stderr.splitlines()) == (0, [
        "deploy.sh: stage: with the native codec, which answers plain requests",
        "deploy.sh: stage: with TensorFlow's C library alone, which the build binds",
    ])  # fmt: skip
    return out


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_the_folder_holds_what_is_listed_and_the_codec(staged: Path, compiled: Path) -> None:
    names = files(staged)
    assert {"main.py", "requirements.txt", ".python-version", "serving/core/http.py", "model/saved_model.pb"} <= names
    assert not [name for name in names if name.startswith(("tests", "bench", "tools", "deploy", ".git"))]
    assert [name for name in names if name.startswith("serving/pipeline/native/")] == [str(CODEC)]
    assert (staged / CODEC).read_bytes() == compiled.read_bytes()


@pytest.fixture(scope="module")
def wheel(staged: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the package of TensorFlow's library, built as pip would do it, from the installed libraries."""
    backend, folder = backend_of(staged / "tensorflow_library"), tmp_path_factory.mktemp("wheel")
    backend.fetch = installed
    return folder / backend.build_wheel(str(folder))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def packages(staged: Path, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of the packages that the staged requirements name, and of the one that METRICS needs."""
    folder = tmp_path_factory.mktemp("packages")
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--no-compile",
        "--target",
        folder,
    ]
    subprocess.run([*pip, wheel], check=True)
    site = Path(sysconfig.get_path("purelib"))
    lines = [line for line in (staged / "requirements.txt").read_text().splitlines() if line and line[0] not in "#."]
    for requirement in map(Requirement, [*lines, "prometheus_client"]):
        if requirement.marker is None or requirement.marker.evaluate():
            for file in distribution(requirement.name).files or ():
                link = folder / file.parts[0]
                if file.parts[0] not in ("..", "__pycache__") and not link.exists():
                    link.symlink_to(site / file.parts[0])
    return folder


def test_the_build_binds_the_library_for_the_c_libraries_that_the_wheels_own_needs(wheel: Path, packages: Path) -> None:
    assert parse_wheel_filename(wheel.name)[1].local == "bound"
    folder, library = packages / "tensorflow", find()
    assert library
    assert {path.name for path in folder.iterdir()} == {
        "THIRD_PARTY_NOTICES.txt", *NAMES, *(f"{name}.pages" for name in NAMES),
    }  # fmt: skip
    for name in NAMES:
        (now, before), strings = (Elf(folder / name), Elf(library.with_name(name))), []
        for elf in (now, before):
            texts = elf.strings()
            strings.append([texts[at : texts.index(b"\0", at)] for need in elf.needs() for *_, at in need.versions])
        assert strings[0] == strings[1]
        assert kinds(folder / name)["relative"] > kinds(library.with_name(name))["relative"]


def test_with_its_requirements_alone_the_codec_answers_with_pythons_bytes(
    staged: Path, packages: Path, examples: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    start = f"import sys; sys.path.insert(0, {str(packages)!r}); from functions_framework._cli import _cli; _cli()"
    command = [sys.executable, "-I", "-S", "-c", start, "--target", "predict", "--port", "{port}"]
    monkeypatch.setitem(servers.COMMANDS, "staged", command)
    answers, counts = [], []
    for accelerator in ("auto", "off"):
        with running("staged", staged / "model", staged, ACCELERATOR=accelerator, METRICS="1") as server:
            answers.append([server.ask("POST", "/", body) for body in examples.values()])
            lines = server.ask("GET", "/metrics").body.decode().splitlines()
            counts.append([line for line in lines if line.startswith("serving_native_requests_total{")])
            assert '"severity":"WARNING"' not in server.log
            assert str(packages / "tensorflow") in mapped(server)
    assert [(answer.status, answer.body) for answer in answers[0]] == [(200, answer.body) for answer in answers[1]]
    assert counts == [
        [f'serving_native_requests_total{{outcome="accelerated"}} {len(examples)}.0'],
        [f'serving_native_requests_total{{outcome="off"}} {len(examples)}.0'],
    ]


def mapped(server: servers.Server) -> str:
    return "".join(Path(f"/proc/{process}/maps").read_text() for process in server.processes())


def test_bytecode_of_the_build_is_valid_when_the_times_of_all_files_have_changed(tmp_path: Path) -> None:
    """The build runs compileall, and then sets every time to 1980."""
    given = 'set -e; . deploy/service.sh; printf %s "$BYTECODE"'
    variable = subprocess.run(["bash", "-c", given], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (tmp_path / "module.py").write_text("value = 1\n")
    for words, valid in (([], False), ([variable], True)):
        compiling = ["env", *words, sys.executable, "-m", "compileall", "-f", "-q", "."]
        subprocess.run(compiling, cwd=tmp_path, check=True)
        os.utime(tmp_path / "module.py", (315532801, 315532801))
        importing = [sys.executable, "-B", "-v", "-c", "import module"]
        messages = subprocess.run(importing, cwd=tmp_path, capture_output=True, text=True, check=True).stderr
        assert (f"matches {tmp_path / 'module.py'}" in messages) == valid


def test_without_a_compiler_python_answers_and_a_log_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "nope")
    (note,) = staging.stage(tmp_path / "upload", FEW, "model", baking.NO, staging.PACKAGE)
    assert note.startswith("no native codec, so plain requests take twice as long: there is no C++ compiler: ")
    assert files(tmp_path / "upload") == {*FEW}


def test_a_codec_whose_answers_differ_is_left_out(
    tmp_path: Path, compiled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([{"serving_default": (200, b"1")}, {"serving_default": (200, b"2")}])
    monkeypatch.setattr(staging, "answers", lambda *_, **__: next(answers))
    (note,) = staging.stage(tmp_path / "upload", FEW, "model", baking.NO, staging.PACKAGE)
    assert "the server's answer differs with it: serving_default: 200 b'1', now 200 b'2'" in note
    assert files(tmp_path / "upload") == {*FEW}


VERSIONS = [
    # what the library needs       why the platform cannot load it
    ([b"GLIBC_2.2.5", b"GLIBC_2.35"], ""),
    ([b"GLIBC_2.36"],                 "it needs GLIBC_2.36, and the platform has GLIBC_2.35"),
    ([b"GLIBC_2.4", b"GLIBC_2.100"],  "it needs GLIBC_2.100, and the platform has GLIBC_2.35"),
    ([b"GLIBCXX_3.4.29"],             "it needs GLIBCXX_3.4.29, and the platform has GLIBC_2.35"),
]  # fmt: skip


@pytest.mark.parametrize(("versions", "reason"), VERSIONS)
def test_a_codec_for_a_newer_c_library_is_left_out(
    compiled: Path, versions: list[bytes], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    strings = b"\0".join([b"", *versions, b""])
    need = Need(0, tuple((0, 0, 0, strings.index(b"\0" + version + b"\0") + 1) for version in versions))
    monkeypatch.setattr(Elf, "needs", lambda self: [need])
    monkeypatch.setattr(Elf, "strings", lambda self: strings)
    if not reason:
        staging.check_portable(compiled)
        return
    with pytest.raises(Refused) as raised:
        staging.check_portable(compiled)
    assert str(raised.value) == f"{compiled.name}: {reason}"


BAKING = [
    # --bake   status, the message, and whether the model is uploaded unbaked
    ("auto",   (0, "the model is not baked: ", True)),
    ("yes",    (1, "deploy.sh: stage: ",       False)),
]  # fmt: skip


@pytest.mark.parametrize(("bake", "expected"), BAKING)
def test_a_model_that_cannot_be_baked_is_uploaded_unbaked_only_with_auto(
    bake: str, expected: tuple[int, str, bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    status, words, uploaded = expected
    refusing = subprocess.CompletedProcess([], 1, "", "bake: it is baked already\n")
    monkeypatch.setattr(baking.subprocess, "run", lambda *_, **__: refusing)
    monkeypatch.setattr(staging, "_with_codec", lambda *_: "")
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(FEW)))
    assert staging.main([str(tmp_path / "upload"), "--bake", bake, "--tensorflow", "package"]) == status
    error = capsys.readouterr().err
    assert error.startswith(f"deploy.sh: stage: {words}" if uploaded else words)
    assert error.endswith("bake: it is baked already\n")
    assert (files(tmp_path / "upload" / "model") == files(EMBEDDED)) == uploaded
