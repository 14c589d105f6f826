"""The image's last stage, run on the folder that its builder makes: user, limits, signals, answers."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from serving.core.comparison import difference
from serving.core.settings import ACCELERATOR
from tests.pipeline.native.conftest import missing
from tests.pipeline.test_handler import PREDICT
from tests.server import Server
from tests.tools.image import image as cell
from tests.tools.image.dockerfile import stages
from tests.tools.image.image import LIMIT, Group, family, first, limited, proportional, started


@pytest.fixture(scope="module")
def tree() -> Path:
    return cell.image()


class Cell(NamedTuple):
    server: Server
    group: Group | None
    before: dict[str, tuple[int, int]]


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(folder.rglob("*"))}


@pytest.fixture(scope="module")
def running(tree: Path) -> Iterator[Cell]:
    before = listing(tree)
    with limited() as group, started(tree, group) as server:
        yield Cell(server, group, before)


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_the_examples_are_answered_as_tensorflow_answers_them(
    running: Cell, examples: dict[str, Any], answers: dict[str, Any]
) -> None:
    for name, body in examples.items():
        answer = running.server.ask("POST", PREDICT, body)
        assert answer.status == 200, answer.body
        assert difference(answers[name]["predictions"], answer.json["predictions"]) is None


def test_it_has_the_accelerator(tree: Path, running: Cell) -> None:
    if shutil.which("c++") is None:
        missing("needs a C++ compiler; the image's builder has one")
    assert (tree / "serving" / "pipeline" / "native" / ACCELERATOR.name).is_file()
    assert running.server.ask("GET", "/readyz").status == 200
    running.server.ask("POST", PREDICT, {"instances": ["no picture"]})
    maps = [Path(f"/proc/{pid}/maps").read_text() for pid in family(first(running.server))]
    assert any(ACCELERATOR.name in mapped for mapped in maps)


def test_it_runs_as_its_user_as_process_1_on_one_cpu(running: Cell) -> None:
    if not cell.can_isolate():
        pytest.skip("needs root and unshare, to make a process namespace")
    user, _ = stages()[-1].last("USER").split(":")
    for pid in family(first(running.server)):
        fields = status(pid)
        assert fields["Uid"].split() == [user] * 4
        assert int(fields["CapEff"], 16) == int(fields["CapBnd"], 16) == 0
        assert fields["Cpus_allowed_list"].isdecimal()
    assert status(first(running.server))["NSpid"].split()[-1] == "1"


def test_the_image_is_read_only(running: Cell, tree: Path) -> None:
    assert running.server.ask("GET", "/readyz").status == 200
    assert listing(tree) == running.before
    if cell.can_isolate():
        root = f"/proc/{first(running.server)}/root"
        for folder in ("", "/usr", "/usr/local", cell.PLACE):
            assert os.statvfs(f"{root}{folder}").f_flag & os.ST_RDONLY, folder


def test_half_a_gigabyte_is_enough_under_load(running: Cell, examples: dict[str, Any]) -> None:
    body = json.dumps({"signature_name": "pixels", "instances": examples["pixels"]["instances"] * 256}).encode()
    with ThreadPoolExecutor(8) as threads:
        statuses = list(threads.map(lambda _: running.server.ask("POST", PREDICT, body).status, range(64)))
    assert statuses == [200] * 64
    pids = family(first(running.server))
    assert sum(map(proportional, pids)) < LIMIT
    if running.group is not None:  # memory stayed below the limit: no process was killed
        members = (running.group.folder / "cgroup.procs").read_text().split()
        assert set(map(str, pids)) <= set(members)
        assert 1 << 20 < running.group.peak <= LIMIT
        assert running.group.killed == 0


def test_the_memory_limit_of_the_test_takes_effect() -> None:
    with limited() as group:
        if group is None:
            pytest.skip("needs a memory control group that this user may make")
        greedy = [sys.executable, "-c", f"print(len(b'x' * {LIMIT + (64 << 20)}))"]
        assert subprocess.run(greedy, preexec_fn=group.add).returncode == -signal.SIGKILL
        assert group.killed == 1


def test_a_package_missing_from_the_image_is_named(tree: Path) -> None:
    with started(tree, RUNTIME="python") as server:
        answer = server.ask("GET", "/readyz")
        assert answer.status == 503
        assert "TensorFlow's Python package is not installed (RUNTIME=python)" in answer.json["error"]


def seconds(pids: list[int]) -> float:
    """Return the processor time that processes have used."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(field[11]) + int(field[12]) for field in fields) / os.sysconf("SC_CLK_TCK")


def test_sigterm_finishes_the_running_requests_and_ends_process_1(tree: Path, examples: dict[str, Any]) -> None:
    with started(tree) as server, ThreadPoolExecutor(1) as thread:
        assert server.ask("GET", "/readyz").status == 200
        pids = family(first(server))
        used = seconds(pids)
        body = {"signature_name": "pixels", "instances": examples["pixels"]["instances"] * 4000}
        answer = thread.submit(server.ask, "POST", PREDICT, json.dumps(body).encode())
        while seconds(pids) < used + 0.03 and not answer.done():
            time.sleep(0.005)
        assert not answer.done()
        os.kill(first(server), signal.SIGTERM)
        assert server.process.wait(10) == 0  # Cloud Run's patience
        assert answer.result().status == 200
