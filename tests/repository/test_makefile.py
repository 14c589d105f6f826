"""What `make` installs, and from which Python: with a Python and a pip that only log their arguments. What CI runs."""

import os
import platform
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import LONGEST, ROOT

PYTHON = """\
#!/bin/sh
# -c is run by the real one with another version; -m venv makes a folder with a pip that writes down
if [ "$1" = -c ]; then
  exec {real} -c 'import sys; sys.version_info = ({version}, 0, "final", 0); exec(sys.argv.pop(1))' "$2"
fi
echo "python $*" >> {log}
if [ "$2" = venv ]; then
  mkdir -p .venv/bin && cp "$0" .venv/bin/python && cp {folder}/pip .venv/bin/pip
fi
"""
PIP = """\
#!/bin/sh
[ "$1" = --version ] && exit 0
echo "pip $*" >> {log}
test ! -e {folder}/fails
"""


def outside_make() -> dict[str, str]:
    """Return the environment without the variables that a make sets for the one it starts."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}


class Made:
    """A folder with the Makefile, and what was done in it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder / "project", folder / "log"
        shutil.copytree(ROOT / "requirements", self.folder / "requirements")
        for name in ("Makefile", "requirements.txt"):
            shutil.copy(ROOT / name, self.folder)
        self.write(folder / "pip", PIP)

    def write(self, file: Path, text: str, version: str = "3, 13") -> Path:
        file.write_text(text.format(real=sys.executable, log=self.log, folder=self.folder.parent, version=version))
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
        return file

    def make(self, target: str, version: str = "3, 13") -> "subprocess.CompletedProcess[str]":
        python = self.write(self.folder.parent / "python", PYTHON, version)
        self.log.write_text("")
        return subprocess.run(
            ["make", target, f"PYTHON={python}"], cwd=self.folder, env=outside_make(), capture_output=True, text=True
        )

    def done(self, which: str) -> list[str]:
        return [line for line in self.log.read_text().splitlines() if line.startswith(which)]


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path)


INSTALLED = [
    # target        what pip installs
    ("setup",       ["requirements.txt"]),
    ("serve",       ["requirements.txt"]),
    ("serve-fast",  ["requirements.txt"]),
    ("compiled",    ["requirements.txt", "requirements/dev.txt"]),
]  # fmt: skip


@pytest.mark.parametrize(("target", "files"), INSTALLED)
def test_each_target_installs_what_it_needs_once(made: Made, target: str, files: list[str]) -> None:
    ended = made.make(target)
    assert made.done("pip") == [f"pip install -r {name}" for name in files], ended.stderr
    assert "GB on the disk" in ended.stdout
    made.make(target)
    assert made.done("pip") == []


@pytest.mark.parametrize("target", ["serve", "serve-fast"])
def test_a_server_is_started_with_tensorflows_library_bound_where_it_can_be(made: Made, target: str) -> None:
    made.make(target)
    can_be = (platform.system(), platform.machine()) == ("Linux", "x86_64")
    assert made.done("python").count("python -m tools.image.cached --model model") == can_be


@pytest.mark.parametrize("version", ["3, 9", "3, 14"])
def test_a_python_out_of_range_is_refused_before_anything_is_made(made: Made, version: str) -> None:
    ended = made.make("serve", version)
    assert ended.returncode != 0
    assert (
        f"expected Python 3.10 to 3.13, PYTHON={made.folder.parent}/python is {version.replace(', ', '.')}"
        in ended.stderr
    )
    assert not (made.folder / ".venv").exists()


def test_a_failed_setup_is_repeated(made: Made) -> None:
    (made.folder.parent / "fails").touch()
    assert made.make("compiled").returncode != 0
    assert made.make("compiled").returncode != 0
    (made.folder.parent / "fails").unlink()
    made.make("compiled")
    assert len(made.done("pip")) == 2


def test_an_incomplete_environment_is_made_again(made: Made) -> None:
    (made.folder / ".venv" / "bin").mkdir(parents=True)
    made.make("setup")
    assert made.done("python") == ["python -m venv --clear .venv"]


def test_an_environment_of_another_python_is_made_again(made: Made) -> None:
    made.make("setup", "3, 12")
    (made.folder / "requirements.txt").touch()
    os.utime(made.folder / ".venv" / ".ready", (0, 0))
    made.make("setup", "3, 13")
    assert made.done("python") == ["python -m venv --clear .venv"]


def test_make_alone_lists_every_target_with_its_line() -> None:
    ended = subprocess.run(["make"], cwd=ROOT, env=outside_make(), capture_output=True, text=True, check=True)
    listed = [line.split()[1] for line in ended.stdout.splitlines()]
    phony = re.search(r"^\.PHONY: (.+?[^\\])$", (ROOT / "Makefile").read_text(), re.MULTILINE | re.DOTALL)
    assert phony is not None
    assert set(listed) == set(phony[1].replace("\\\n", " ").split()) - {"help", "compiled"} | {"help"}


def test_the_tests_that_quick_runs_exist() -> None:
    planned = subprocess.run(
        ["make", "--dry-run", "quick"], cwd=ROOT, env=outside_make(), capture_output=True, text=True, check=True
    )
    paths = re.findall(r" (tests/\S+)", planned.stdout.splitlines()[-1])
    assert len(paths) > 5
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_files_of_tests_that_come_first_exist() -> None:
    assert [name for name in LONGEST if not (ROOT / "tests" / name).is_file()] == []


class Ci:
    """A folder with .ci/run, and the programs that it calls, which only log their names."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder / "log"
        (folder / ".ci").mkdir()
        shutil.copy(ROOT / ".ci" / "run", folder / ".ci")
        self.programs = folder / "programs"
        self.programs.mkdir()
        for tool in ("bash", "dirname", "cat"):
            (self.programs / tool).symlink_to(str(shutil.which(tool)))
        self.stub("id", "echo 0")
        self.stub("make", 'echo "make $*" >> "$LOG"')
        self.stub("c++", "cat >/dev/null")

    def stub(self, name: str, text: str) -> None:
        (self.programs / name).write_text(f"#!{shutil.which('bash')}\n{text}\n")
        (self.programs / name).chmod(0o755)

    def run(self) -> tuple[int, list[str], str]:
        """Return the exit status, the targets made, and standard error."""
        self.log.write_text("")
        environment = {"PATH": str(self.programs), "LOG": str(self.log)}
        ended = subprocess.run([".ci/run"], cwd=self.folder, env=environment, capture_output=True, text=True)
        return ended.returncode, self.log.read_text().splitlines(), ended.stderr


@pytest.fixture
def ci(tmp_path: Path) -> Ci:
    return Ci(tmp_path)


def test_ci_installs_the_optional_programs_as_root_and_then_runs_every_test(ci: Ci) -> None:
    assert ci.run() == (0, ["make test-tools", "make test"], "")
    ci.stub("id", "echo 1000")
    assert ci.run() == (0, ["make test"], "")


def test_ci_continues_without_the_optional_programs_and_says_so(ci: Ci) -> None:
    ci.stub("make", 'echo "make $*" >> "$LOG"; [ "$1" != test-tools ]')
    status, made, said = ci.run()
    assert (status, made) == (0, ["make test-tools", "make test"])
    assert said.startswith("ci: make test-tools failed: tests that need its programs are skipped")


def test_ci_fails_where_a_test_fails(ci: Ci) -> None:
    ci.stub("make", '[ "$1" != test ] || exit 3')
    assert ci.run()[0] == 3


@pytest.mark.parametrize("compiler", [None, "exit 1"])
def test_ci_fails_without_a_cpp_compiler_that_works(ci: Ci, compiler: str | None) -> None:
    (ci.programs / "c++").unlink()
    if compiler:
        ci.stub("c++", compiler)
    status, made, said = ci.run()
    assert (status, made) == (1, ["make test-tools"])
    assert "ci: expected a C++ compiler that works, c++ doesn't" in said


TOOLS = [
    # programs that are missing, apt-get is there                       status  said
    ((),                          True,                                 0, "test-tools: everything is installed"),
    (("nginx",),                  False,                                1, "expected Debian's apt-get, found none; install these in your system's way: nginx-light"),
    (("nginx", "java"),           True,                                 1, "expected root, to install packages: sudo apt-get install nginx-light default-jre-headless"),
]  # fmt: skip


@pytest.mark.parametrize(("missing", "apt", "status", "said"), TOOLS)
def test_the_optional_programs_are_installed_where_they_can_be(
    tmp_path: Path, missing: tuple[str, ...], apt: bool, status: int, said: str
) -> None:
    programs = {"c++", "gcc", "readelf", "curl", "nginx", "chromium", "prometheus", "go", "java"} - {*missing} | (
        {"apt-get"} if apt else set()
    )
    for program in programs:
        (tmp_path / program).write_text("#!/bin/sh\nexit 9\n")
        (tmp_path / program).chmod(0o755)
    # EUID is read-only: the copy that runs takes the branch of another user than root.
    text = (ROOT / "tests" / "tools.sh").read_text().replace("EUID != 0", "1").replace("PATH=$PATH:/usr/sbin\n", "")
    ended = subprocess.run(
        [str(shutil.which("bash")), "-c", text], env={"PATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert (ended.returncode, said in ended.stdout + ended.stderr) == (status, True), ended.stdout + ended.stderr


def test_the_workflow_runs_ci_and_nothing_else_on_every_supported_python() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    (job,) = workflow["jobs"].values()
    assert job["strategy"]["matrix"]["python"] == ["3.10", "3.11", "3.12", "3.13"]
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    used = [step["uses"] for step in job["steps"] if "uses" in step]
    assert [use.partition("@")[0] for use in used] == ["actions/checkout", "actions/setup-python"]
    assert all(re.fullmatch(r"[^@]+@[0-9a-f]{40}", use) for use in used)


def test_a_test_that_hangs_in_c_ends_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import ctypes\n"
        "def test_that_hangs() -> None:\n"
        "    lock = ctypes.create_string_buffer(40)  # a pthread_mutex_t\n"
        "    for _ in range(2):\n"
        "        ctypes.CDLL(None).pthread_mutex_lock(lock)\n"
    )
    command = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "-o", "timeout=1", "-p", "no:xdist"]
    ended = subprocess.run([*command, "-p", "no:cacheprovider", str(tmp_path)], capture_output=True, text=True)
    assert ended.returncode != 0
    assert "in test_that_hangs" in ended.stdout + ended.stderr


def test_shellcheck_finds_nothing_in_the_scripts_of_ci() -> None:
    command = [str(Path(sys.executable).parent / "shellcheck"), ".ci/run", "tests/tools.sh"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.stdout + ended.stderr == ""


def test_each_name_by_which_a_target_selects_tests_selects_some() -> None:
    selections = re.findall(r"-m pytest ((?:tests\S* )+)-k (\"[^\"]+\"|\S+)", (ROOT / "Makefile").read_text())
    assert len(selections) == 2
    for folders, expression in selections:
        files = [file for path in map(ROOT.joinpath, folders.split()) for file in (path, *path.rglob("test_*.py"))]
        names = [file.name for file in files]
        names += [name for file in files if file.is_file() for name in re.findall(r"def (test_\w+)", file.read_text())]
        for part in expression.strip('"').split(" or "):
            assert any(part in name for name in names), part
