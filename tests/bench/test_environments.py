"""Each subject of the benchmarks has its own packages and nothing else; what is measured is what would be deployed."""

import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from bench import environments
from bench.environments import ENVIRONMENTS, Unavailable
from bench.models import ROOT
from bench.process import finish, inherited
from bench.subjects import SUBJECTS
from deploy import staging
from tests.harness.waiting import until


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(environments, "FOLDER", tmp_path / "environments")
    monkeypatch.setattr(environments, "SPARE_BYTES", 0)
    return tmp_path / "environments"


def requirements(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> Path:
    file = folder / "requirements.txt"
    file.write_text(text)
    monkeypatch.setitem(ENVIRONMENTS, "tried", (file,))
    return file


def wheel(folder: Path) -> Path:
    """Write a package of one module, which needs no network to be installed."""
    file = folder / "tried-1-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("tried.py", "")
        archive.writestr("tried-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: tried\nVersion: 1\n")
        archive.writestr("tried-1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("tried-1.dist-info/RECORD", "")
    return file


def test_every_subject_has_an_environment_whose_requirements_exist() -> None:
    assert {subject.environment for subject in SUBJECTS} <= ENVIRONMENTS.keys()
    named = {file for files in ENVIRONMENTS.values() for file in files}
    assert all(file.is_file() for file in named if environments.UPLOAD not in file.parents)  # which `upload` writes


def test_an_environment_holds_what_its_requirements_name_and_nothing_else(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requirements(tmp_path, monkeypatch, f"{wheel(tmp_path)}\n")
    messages: list[str] = []
    environments.make("tried", messages.append)
    (site,) = (folder / "tried" / "lib").glob("python*/site-packages")
    assert {path.name for path in site.glob("*.py")} == {"tried.py"}
    assert not (site / "pip").exists()
    environments.make("tried", messages.append)
    assert len(messages) == 1  # the second call has nothing to do


def test_an_environment_that_cannot_be_installed_is_refused_with_pips_reason_and_removed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requirements(tmp_path, monkeypatch, f"{tmp_path}/missing.whl\n")
    with pytest.raises(Unavailable, match=r"environment tried: ERROR: .*missing\.whl"):
        environments.make("tried", print)
    assert not (folder / "tried").exists()


def test_an_environment_is_made_again_when_a_file_that_its_requirements_name_changes(tmp_path: Path) -> None:
    first, constraints = tmp_path / "first.txt", tmp_path / "constraints.txt"
    first.write_text("-c constraints.txt\nnumpy\n")
    constraints.write_text("numpy==1\n")
    before = environments._digest([first])
    assert environments._digest([first]) == before
    constraints.write_text("numpy==2\n")
    assert environments._digest([first]) != before


def test_large_equal_files_become_one_file_and_different_ones_stay(tmp_path: Path) -> None:
    size = environments.LINKED_BYTES
    contents = {"equal.so": (b"a" * size, b"a" * size), "differs.so": (b"a" * size, b"b" * size), "small": (b"a", b"a")}
    for name, texts in contents.items():
        for environment, text in zip(("one", "other"), texts, strict=True):
            (tmp_path / environment).mkdir(exist_ok=True)
            (tmp_path / environment / name).write_bytes(text)
    environments._link_equal_files(tmp_path / "one", [tmp_path / "other"])
    same = {name: (tmp_path / "one" / name).samefile(tmp_path / "other" / name) for name in contents}
    assert same == {"equal.so": True, "differs.so": False, "small": False}
    assert (tmp_path / "one" / "differs.so").read_bytes() == b"a" * size


def test_the_function_from_source_is_a_folder_of_what_a_deploy_uploads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environments, "UPLOAD", tmp_path / "upload")
    monkeypatch.setattr(staging, "answers", lambda *_, **__: {})  # tests/deploy/test_staging.py compares them
    environments.upload()
    names = {path.name for path in (tmp_path / "upload").iterdir()} - {"__pycache__"}
    assert {"main.py", "requirements.txt", "serving", "model"} <= names
    assert not names & {"bench", "tests", "deploy.sh", ".venv", ".cache", "exporting"}
    assert list((tmp_path / "upload").glob("__pycache__/main.*.pyc"))  # compiled, as the cloud's build does it


def test_two_benchmarks_do_not_run_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    environments.alone()
    second = "from bench import environments; from pathlib import Path; import sys; "
    second += "environments.FOLDER = Path(sys.argv[1]); environments.alone()"
    command = [sys.executable, "-c", second, str(environments.FOLDER)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (
        1,
        "bench: another benchmark is running; their figures would be of half a machine\n",
    )


def test_an_interrupted_command_is_killed_with_what_it_has_started(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    script = f"sleep 60 & echo $! > {mark}.new; mv {mark}.new {mark}; wait"

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 1.0)
        with pytest.raises(KeyboardInterrupt):
            finish(["sh", "-c", script])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    until(lambda: not is_running(int(mark.read_text())))  # it ends some time after it is killed


def is_running(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_measured_process_inherits_nothing_that_could_change_a_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "MODEL_DIR", "LOG_REQUESTS", "TF_NUM_INTRAOP_THREADS"):
        monkeypatch.setenv(name, "1")
    assert inherited() == {name: os.environ[name] for name in inherited()}
    assert inherited().keys() <= {"PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH"}
