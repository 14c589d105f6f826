"""A standalone Spark cluster of processes on 127.0.0.1: a master, workers, and the commands that people give.

The packages of requirements/spark.txt are in a folder of their own, which `make test-tools` makes; SPARK_PACKAGES names
another one, with another version of Spark.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psutil
import pytest

from tests.conftest import ROOT, plain_environment
from tests.harness import waiting

PACKAGES = Path(os.environ.get("SPARK_PACKAGES") or ROOT / ".cache" / "spark" / "packages")
PATIENCE = 300.0  # seconds, on a machine that does other things as well
until = partial(waiting.until, seconds=PATIENCE, pause=0.05)
# Short programs: compiled once, and the classes of Spark's own jars not verified.
JVM = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Xshare:auto -XX:+UnlockDiagnosticVMOptions -XX:-BytecodeVerificationRemote"
ONE_EXECUTOR = {"spark__cores__max": "1"}  # of a worker's one core; each further JVM takes 8 seconds of CPU


def missing() -> str:
    """Say what these tests lack here; nothing where they have all."""
    if not (PACKAGES / "pyspark" / "jars").is_dir():
        return f"pyspark is not in {PACKAGES}: make test-tools"
    if shutil.which("java") is None:
        return "java is not here: make test-tools"
    return ""


def require() -> None:
    """Skip where the programs are missing, with the reason; fail where CI may install them."""
    if reason := missing():
        (pytest.fail if must_run() else pytest.skip)(reason)


def needs_packages() -> None:
    """Skip a whole file where the packages are missing; fail where CI may install them."""
    if not (PACKAGES / "pyarrow").is_dir():
        reason = f"pyarrow is not in {PACKAGES}: make test-tools"
        if must_run():
            raise RuntimeError(reason)
        pytest.skip(reason, allow_module_level=True)


def must_run() -> bool:
    """Say whether a missing package is a failure: CI may install it."""
    return bool(os.environ.get("CI")) and os.geteuid() == 0


def environment(**more: str) -> dict[str, str]:
    """Return the environment of Spark's processes: its packages, and none of our code."""
    jars = PACKAGES / "pyspark" / "jars"
    (scala,) = {
        file.name.split("-")[-1].rpartition(".")[0].rpartition(".")[0] for file in jars.glob("scala-library-*.jar")
    }
    return plain_environment(
        SPARK_SCALA_VERSION=scala, PYTHONPATH=str(PACKAGES), PYSPARK_PYTHON=sys.executable, SPARK_HOME=str(PACKAGES / "pyspark"),
        SPARK_LOCAL_IP="127.0.0.1", SPARK_LOCAL_HOSTNAME="127.0.0.1", **more,
    )  # fmt: skip


class Job:
    """A program that was submitted."""

    def __init__(self, command: list[str], variables: dict[str, str], folder: Path) -> None:
        self._out, self._error = (folder / f"job.{os.urandom(4).hex()}.{end}" for end in ("out", "error"))
        with self._out.open("wb") as out, self._error.open("wb") as error:
            self._process = subprocess.Popen(command, cwd=ROOT, env=variables, stdin=subprocess.DEVNULL, stdout=out,
                                             stderr=error, start_new_session=True)  # fmt: skip

    @property
    def runs(self) -> bool:
        return self._process.poll() is None

    @property
    def error(self) -> str:
        return self._error.read_text()

    def finish(self) -> tuple[int, str]:
        """Wait for the end; return the exit status and standard output."""
        return self._process.wait(PATIENCE * 2), self._out.read_text()

    def kill(self) -> None:
        """Kill the driver with everything that it started, unless it has ended: its number may be another's by then."""
        if self.runs:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


class Cluster:
    """A running master and its workers."""

    def __init__(self, folder: Path, workers: int) -> None:
        self._folder, self._processes, self._jobs = folder, list[subprocess.Popen[bytes]](), list[Job]()
        folder.mkdir(parents=True, exist_ok=True)
        log = folder / "master.log"
        self._daemon("master.Master", log, "--host", "127.0.0.1", "--port", "0", "--webui-port", "0")
        match = until(lambda: re.search(r"Starting Spark master at (spark://\S+)", log.read_text()), "the master")
        self.address: str = match[1]
        self.folders = [folder / f"worker{number}" for number in range(workers)]
        self.workers = [self._worker(number) for number in range(workers)]
        until(lambda: log.read_text().count("Registering worker") >= workers, "the workers")

    def _worker(self, number: int) -> "subprocess.Popen[bytes]":
        work = self.folders[number]
        return self._daemon("worker.Worker", self._folder / f"worker{number}.log", "--host", "127.0.0.1", "--port", "0",
                            "--webui-port", "0", "--cores", "1", "--memory", "1g", "--work-dir", str(work), self.address)  # fmt: skip

    def _daemon(self, name: str, log: Path, *arguments: str) -> "subprocess.Popen[bytes]":
        command = [
            "java",
            *JVM.split(),
            "-Xmx192m",
            "-cp",
            f"{PACKAGES}/pyspark/jars/*",
            f"org.apache.spark.deploy.{name}",
        ]
        with log.open("wb") as file:
            process = subprocess.Popen([*command, *arguments], cwd=self._folder, env=environment(),
                                       stdin=subprocess.DEVNULL, stdout=file, stderr=file)  # fmt: skip
        self._processes.append(process)
        return process

    def executors(self) -> list[psutil.Process]:
        """Return the JVMs that run tasks, of every worker that is alive."""
        return [child for worker in self.workers if worker.poll() is None for child in children(worker.pid)
                if any("CoarseGrainedExecutorBackend" in word for word in words(child))]  # fmt: skip

    def pythons(self) -> list[psutil.Process]:
        """Return the processes that answer rows: the children of each executor's daemon."""
        daemons = [child for executor in self.executors() for child in children(executor.pid)]
        return [worker for daemon in daemons for worker in children(daemon.pid)]

    def submit(self, script: Path, *arguments: str, **settings: str) -> "Job":
        """Begin what `spark-submit` does with a program; settings in capitals are variables, others are Spark's."""
        command = [str(PACKAGES / "pyspark" / "bin" / "spark-submit"), "--master", self.address]
        options = {
            "spark.ui.enabled": "false", "spark.executor.memory": "512m", "spark.driver.memory": "512m",
            "spark.driver.extraJavaOptions": JVM, "spark.executor.extraJavaOptions": JVM,
            "spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1",
            "spark.files.openCostInBytes": "0",
        }  # fmt: skip
        variables = {name: value for name, value in settings.items() if name.isupper()}
        options |= {name.replace("__", "."): value for name, value in settings.items() if not name.isupper()}
        pairs = [word for name, value in options.items() for word in ("--conf", f"{name}={value}")]
        job = Job([*command, *pairs, str(script), *arguments], environment(**variables), self._folder)
        self._jobs.append(job)
        return job

    def stop(self) -> None:
        for job in self._jobs:
            job.kill()
        for process in self._processes:
            if process.poll() is None:  # else its number may be another's
                for child in children(process.pid, recursive=True):
                    child.kill()
                process.kill()
                process.wait()


def children(process: int, *, recursive: bool = False) -> list[psutil.Process]:
    try:
        return psutil.Process(process).children(recursive=recursive)
    except psutil.NoSuchProcess:
        return []


def words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@contextmanager
def cluster(folder: Path, workers: int = 2) -> Iterator[Cluster]:
    running = Cluster(folder, workers)
    try:
        yield running
    finally:
        running.stop()
