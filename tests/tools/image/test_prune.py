"""Pruning an environment: small environments made here, then a copy of the one that runs the tests."""

import base64
import csv
import hashlib
import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest

from serving.core.comparison import difference
from serving.savedmodel.signature import read
from tests.conftest import EMBEDDED, ROOT
from tests.tools.image.image import image, make, started
from tools.image import prune, strip
from tools.image.build import OBSERVE
from tools.image.build import main as build_main
from tools.image.elf import Refused
from tools.image.prune import main, packages_of, plan
from tools.image.reach import imported
from tools.image.trial import differences

# --- What code imports -----------------------------------------------------------------------------------------------

MODULES = {
    "app/__init__.py": "import once",
    "app/start.py": "import os, a.b\nfrom app import near\nfrom . import beside\nimport third.part as short",
    "app/near.py": "def f():\n    from lazy import thing",
    "app/beside.py": "if False:\n    import orphan.of\nfrom .deep.er import name",
    "app/deep/__init__.py": "",
    "app/deep/er.py": "name = __import__('by_name')\nfrom importlib import import_module as i\nimport importlib\nimportlib.import_module('by.module')",
    "app/never.py": "import unreached",
    "other/start.py": "import unreached",
}  # fmt: skip


def test_imports_are_found_at_any_depth_of_the_code(tmp_path: Path) -> None:
    for name, code in MODULES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(code)
    assert imported("app.start", tmp_path) == {"once", "a", "third", "lazy", "orphan", "by_name", "by"}
    assert imported("app.never", tmp_path) == {"once", "unreached"}


OBSERVING = {"prometheus-client", "opentelemetry-sdk", "opentelemetry-exporter-otlp-proto-http"}


def test_the_packages_of_metrics_and_traces_stay_where_they_are_asked_for() -> None:
    packages = plan(packages_of(Path(sys.prefix)), [*prune.REQUIREMENTS, OBSERVE])
    assert {name for name, package in packages.items() if package.staying} >= OBSERVING
    assert not {package.name for package in distributions(path=[str(image() / "packages")])} & OBSERVING


def test_the_server_imports_no_web_framework() -> None:
    modules = imported(prune.ENTRY, ROOT)
    assert modules >= {"numpy", "orjson", "simdjson", "ml_dtypes", "httptools"}
    assert not modules & {"flask", "functions_framework", "tensorflow", "werkzeug"}


# --- Small environments ----------------------------------------------------------------------------------------------

LIBRARY = "tensorflow/libtensorflow_cc.so.2"
DISTRIBUTIONS = {
    # name             requires                                          files
    "Server.Of-Ours":  (["needed>=1", "extra-only; extra == 'x'"],       ["server/__init__.py", "server/core.pyi", "server/tests/test_it.py", "server/tests/data.txt"]),
    "needed":          (["deeper"],                                      ["needed.py", "needed.h"]),
    "deeper":          ([],                                              ["deeper/__init__.py", "deeper/tests/__init__.py", "deeper/tests/shared.py", "deeper/testing.py"]),
    "extra-only":      ([],                                              ["extra_only.py"]),
    "web":             (["needed"],                                      ["web.py"]),
    "tensorflow-cpu":  (["keras", "needed", "gone; extra == 'cuda'"],    [LIBRARY, "tensorflow/libtensorflow_framework.so.2", "tensorflow/__init__.py", "tensorflow/THIRD_PARTY_NOTICES.txt", "tensorflow/include/x/LICENSE", "tensorflow/include/x/licenses.h"]),
    "keras":           (["deeper"],                                      ["keras/__init__.py"]),
}  # fmt: skip
CODE = {"deeper/testing.py": "from deeper.tests.shared import thing"}
STAYS = {
    "server/__init__.py", "needed.py", "deeper/__init__.py", "deeper/testing.py", "deeper/tests/__init__.py",
    "deeper/tests/shared.py", LIBRARY, "tensorflow/libtensorflow_framework.so.2", "tensorflow/THIRD_PARTY_NOTICES.txt",
    "tensorflow/include/x/LICENSE",
}  # fmt: skip


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Return a folder with `site`, a folder of packages, and `root`, whose server imports `server` alone."""
    site = tmp_path / "site"
    for name, (requires, files) in DISTRIBUTIONS.items():
        info = f"{name}-1.0.dist-info"
        metadata = "".join(["Metadata-Version: 2.1\n", f"Name: {name}\n", "Version: 1.0\n", *(f"Requires-Dist: {required}\n" for required in requires), "\nRequires-Dist: named in the text\n"])  # fmt: skip
        contents = {file: CODE.get(file, "") for file in files} | {f"{info}/METADATA": metadata, f"{info}/entry_points.txt": ""}  # fmt: skip
        for file, text in contents.items():
            (site / file).parent.mkdir(parents=True, exist_ok=True)
            (site / file).write_text(text)
        rows = [f"{file},sha256=x,1\n" for file in [*contents, f"{info}/RECORD", f"../bin/{name}"]]
        (site / info / "RECORD").write_text("".join(rows))
    servers = tmp_path / "root" / "serving" / "servers"
    servers.mkdir(parents=True)
    for package in (servers, servers.parent):
        (package / "__init__.py").touch()
    (servers / "standalone.py").write_text("import server")
    (tmp_path / "requirements.txt").write_text(
        "# why\nserver_of.ours==1.0\nweb==1.0\n\ntensorflow-cpu==1.0\nother==2; platform_system == 'None'\n"
    )
    return tmp_path


def kept(folder: Path) -> set[str]:
    files = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    return {str(path) for path in files if not path.parts[0].endswith(".dist-info") and path.suffix != ".pyc"}


@pytest.mark.parametrize("in_place", [False, True])
def test_imported_and_required_packages_and_the_library_are_kept(small: Path, in_place: bool) -> None:
    planned = plan(small / "site", [small / "requirements.txt"], small / "root")
    out = small / ("site" if in_place else "out")
    if in_place:
        prune.in_place(out, planned, bound=False)
    else:
        prune.copy(small / "site", planned, out, bound=False)
    assert kept(out) == STAYS
    here = {package.name: package for package in distributions(path=[str(out)])}
    assert here.keys() == {"Server.Of-Ours", "needed", "deeper", "tensorflow-cpu"}
    assert here["tensorflow-cpu"].requires == ["needed", "gone; extra == 'cuda'"]
    assert "named in the text" in (out / "tensorflow-cpu-1.0.dist-info" / "METADATA").read_text()
    assert here["Server.Of-Ours"].requires == ["needed>=1", "extra-only; extra == 'x'"]
    for package in here.values():
        assert all(Path(str(package.locate_file(file))).is_file() for file in package.files or ())
    assert len(list(out.rglob("*.pyc"))) == sum(name.endswith(".py") for name in STAYS)


def test_a_missing_package_is_named(small: Path) -> None:
    with (small / "requirements.txt").open("a") as file:
        file.write("absent==3.0\n")
    with pytest.raises(Refused, match=r"site: absent==3.0 not installed"):
        plan(small / "site", [small / "requirements.txt"], small / "root")


COMMANDS = [
    # arguments                                       status  on standard error
    (["/nowhere", "out"],                             1,      "tools.image.prune: /nowhere: expected a virtual environment, or a folder of packages, got neither"),
    ([sys.prefix],                                    2,      "expected OUT, or --in-place"),
    ([sys.prefix, "out", "--in-place"],               2,      "expected OUT, or --in-place"),
    ([sys.prefix, str(ROOT)],                         1,      "expected no such folder, or an empty one"),
    ([sys.prefix, str(ROOT / "main.py")],             1,      "expected no such folder, or an empty one"),
    ([sys.prefix, "{new}", "--model", "/nowhere"],    1,      "/nowhere: there is no such folder"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "status", "line"), COMMANDS)
def test_the_command_reports_a_wrong_argument(
    arguments: list[str], status: int, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        got = main([argument.replace("{new}", str(tmp_path / "new")) for argument in arguments])
    except SystemExit as stop:
        got = int(str(stop.code))
    assert got == status
    assert line in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "new").exists()


def test_a_model_that_cannot_be_served_leaves_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model").mkdir()
    assert build_main([str(tmp_path / "out"), "--model", str(tmp_path / "model")]) == 1
    assert capsys.readouterr().err.startswith(f"tools.image.build: {tmp_path / 'model'}: ")
    assert not (tmp_path / "out").exists()


DIFFERENCES = [
    # before                     after                      report
    ({"a": (200, b"1")},         {"a": (200, b"1")},        ""),
    ({"a": (200, b"1")},         {"a": (200, b"2")},        "a: 200 b'1', now 200 b'2'"),
    ({"a": (200, b"")},          {"a": (200, b"2")},        ""),  # it differs from time to time
    ({"a": (200, b"")},          {"a": (500, b"")},         "a: 200 b'', now 500 b''"),
    ({"a": (200, b"1")},         {},                        "a: 200 b'1', now 0 b''"),
]  # fmt: skip


@pytest.mark.parametrize(("before", "after", "report"), DIFFERENCES)
def test_answers_that_differ_are_reported(
    before: dict[str, tuple[int, bytes]], after: dict[str, tuple[int, bytes]], report: str
) -> None:
    assert differences(before, after) == report


# --- Debug information -----------------------------------------------------------------------------------------------


def test_a_library_without_its_debug_information_works_and_reads_as_before(tmp_path: Path) -> None:
    if shutil.which("gcc") is None or shutil.which("readelf") is None:
        pytest.skip("needs gcc and readelf")
    (tmp_path / "one.c").write_text("int one_static[1000] = {7}; int one(int x) { return x + one_static[0]; }")
    subprocess.run(
        ["gcc", "-g3", "-shared", "-fPIC", "-include", "stdio.h", "-o", "one.so", "one.c"], cwd=tmp_path, check=True
    )
    data = strip.stripped(tmp_path / "one.so")
    assert data is not None
    (tmp_path / "less.so").write_bytes(data)
    assert len(data) < 0.9 * (tmp_path / "one.so").stat().st_size
    code = "import ctypes, sys; print(ctypes.CDLL(sys.argv[1]).one(35))"
    for name in ("one.so", "less.so"):
        ran = subprocess.run([sys.executable, "-I", "-c", code, tmp_path / name], capture_output=True, text=True)
        assert (ran.stdout, ran.stderr) == ("42\n", "")
    dumps = [
        subprocess.run(["readelf", "--wide", "--segments", tmp_path / name], capture_output=True, text=True)
        for name in ("one.so", "less.so")
    ]
    parts = [dump.stdout.partition("Section to Segment")[0].split() for dump in dumps]
    assert parts[0] == parts[1]
    assert "LOAD" in parts[0]
    assert strip.stripped(tmp_path / "less.so") is None  # nothing more to gain
    assert strip.stripped(tmp_path / "one.c") is None


# --- The environment itself ------------------------------------------------------------------------------------------


def test_the_image_has_less_than_nine_hundred_megabytes_with_python_and_debian() -> None:
    base = 130e6  # python:3.13-slim-bookworm, with the bytecode of its standard library
    size = sum(path.stat().st_size for path in image().rglob("*") if path.is_file())
    assert size + base < 900e6


def test_pip_check_finds_the_packages_of_the_image_complete(tmp_path: Path) -> None:
    packages, site = image() / "packages", packages_of(Path(sys.prefix))
    for path in site.glob("pip*"):
        (tmp_path / path.name).symlink_to(path)
    environment = {**os.environ, "PYTHONPATH": f"{packages}:{tmp_path}"}
    command = [sys.executable, "-S", "-m", "pip", "--disable-pip-version-check", "check"]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout.strip()) == (0, "No broken requirements found.")


def test_the_package_records_of_the_image_match_its_files() -> None:
    packages = image() / "packages"
    for record in packages.glob("*.dist-info/RECORD"):
        for name, digest, size in csv.reader(record.read_text().splitlines()):
            data = (packages / name).read_bytes()
            if digest:
                assert (
                    digest == f"sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip('=')}"
                ), name
                assert int(size) == len(data), name


def test_an_environment_pruned_in_place_answers_and_leaves_hard_linked_files_unchanged(tmp_path: Path) -> None:
    if not os.environ.get("TEST_IMAGE"):
        pytest.skip("half a minute: make test-image")
    original = packages_of(Path(sys.prefix))
    (tmp_path / "venv").mkdir()
    shutil.copy(Path(sys.prefix) / "pyvenv.cfg", tmp_path / "venv")
    site = tmp_path / "venv" / original.relative_to(sys.prefix)
    site.parent.mkdir(parents=True)
    subprocess.run(["cp", "--archive", "--link", original, site], check=True)
    shared = {path: path.stat().st_size for path in original.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    written = [
        *original.glob("*.dist-info/RECORD"),
        *original.glob("*.dist-info/METADATA"),
        *original.glob("*.so"),
        *original.glob("ml_dtypes/*.so"),
    ]
    before = {path: hashlib.sha256(path.read_bytes()).digest() for path in written}
    assert main([str(tmp_path / "venv"), "--in-place"]) == 0
    assert {path: path.stat().st_size for path in shared} == shared
    assert {path: hashlib.sha256(path.read_bytes()).digest() for path in written} == before
    inside = {package.name for package in distributions(path=[str(site)])}
    assert inside == {package.name for package in distributions(path=[str(image() / "packages")])}


def test_a_build_with_bake_reports_the_baked_model(tmp_path: Path) -> None:
    if not os.environ.get("TEST_IMAGE"):
        pytest.skip("half a minute: make test-image")
    messages = make(tmp_path / "image", "--bake", "1")
    assert read(tmp_path / "image" / "model").baked
    assert not read(image() / "model").baked
    assert "the folder" in messages


def test_a_light_twins_image_has_no_tensorflow_and_less_than_two_hundred_megabytes(tmp_path: Path) -> None:
    if not os.environ.get("TEST_IMAGE"):
        pytest.skip("half a minute: make test-image")
    make(tmp_path / "image", "--litert", "1", "--signature", "pixels")
    assert not list(tmp_path.rglob("libtensorflow*"))
    assert sum(path.stat().st_size for path in (tmp_path / "image").rglob("*") if path.is_file()) < 200e6
    with started(tmp_path / "image") as server:
        body = json.loads((EMBEDDED / "assets.extra" / "examples.json").read_bytes())["pixels"]
        del body["signature_name"]  # it answers for the default one too
        expected = json.loads((EMBEDDED / "assets.extra" / "answers.json").read_bytes())["pixels"]
        assert difference(expected["predictions"], server.ask("POST", "/", body).json["predictions"]) is None
