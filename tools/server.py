"""A server as a process: started on a free port, awaited, measured, and stopped with its children. Linux, by /proc.

The tools, the tests and the benchmarks start servers with it.
"""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from serving.core import terminal
from serving.core.settings import ROOT

HOST = "127.0.0.1"
ENDING = 10.0  # seconds that a platform gives a server to end
PAUSE = 0.005  # seconds between two attempts to reach a server that starts


class StartError(Exception):
    """The server does not listen or cannot load its model; the text says why."""


def free_port() -> int:
    """Return a port of the loopback interface that nothing listens on."""
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        port: int = listener.getsockname()[1]
        return port


def spawn(
    command: Sequence[str],
    environment: Mapping[str, str],
    log: Path,
    folder: Path = ROOT,
    cores: Collection[int] | None = None,
    piped: bool = False,
) -> "subprocess.Popen[bytes]":
    """Start a command in `folder`, as the leader of a session, on the given cores; it writes into `log`.

    With `piped`, its standard input and output are pipes.
    """
    with log.open("wb") as output:
        return subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.PIPE if piped else subprocess.DEVNULL,
            stdout=subprocess.PIPE if piped else output, stderr=output, start_new_session=True,
            preexec_fn=(lambda: os.sched_setaffinity(0, cores)) if cores else None,
        )  # fmt: skip


def start(
    directory: Path | str,
    log: Path,
    environment: Mapping[str, str],
    *,
    python: Sequence[str] = (sys.executable,),
    folder: Path = ROOT,
    cores: Collection[int] | None = None,
) -> "Server":
    """Start the standalone server with one worker, on a model and a free port, and return at once."""
    port = free_port()
    own = {"MODEL_DIR": str(directory), "HOST": HOST, "PORT": str(port), "WORKERS": "1"}
    command = [*python, "-m", "serving.servers.standalone"]
    return Server(spawn(command, {**environment, **own}, log, folder, cores), port, log)


@contextmanager
def running(
    directory: Path | str, log: Path, environment: Mapping[str, str], ending: float = ENDING, **options: Any
) -> Iterator["Server"]:
    """Start a server as `start` does; stop it at the end of the block within `ending` seconds, however it ends."""
    with ExitStack() as ends:
        with terminal.held():
            server = start(directory, log, environment, **options)
            ends.callback(server.stop, ending)
        yield server


class Server:
    """A server process, the leader of its session. One thread ends it."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
        """Store a process that `spawn` started and that will listen on the port."""
        self.process, self.port = process, port
        self.url = f"http://{HOST}:{port}"
        self._log = log
        self._asked_to_end = False

    @property
    def log(self) -> str:
        """Return the log so far."""
        return self._log.read_text(errors="replace")

    @property
    def last_line(self) -> str:
        """Return the last line of the log that is not empty, 300 characters of it at most."""
        lines = [line for line in self.log.splitlines() if line.strip()]
        return lines[-1][:300] if lines else "its log is empty"

    def must_live(self) -> None:
        """Raise StartError where the process has ended."""
        if self.process.poll() is not None:
            raise StartError(f"the server ended with status {self.process.returncode}: {self.last_line}")

    def wait_for_port(self, seconds: float = 120.0) -> None:
        """Wait until the port is open; raise StartError where the process ends before, or after so many seconds."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.must_live()
            try:
                socket.create_connection((HOST, self.port), 1).close()
                return
            except OSError:
                time.sleep(PAUSE)
        raise StartError(f"the server did not open its port in {seconds:g} s: {self.last_line}")

    def send(self, method: str, path: str, body: bytes | None = None, seconds: float = 120.0) -> tuple[int, bytes]:
        """Send one request on a connection of its own; return the status and the body of the response."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=seconds)
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def wait_until_ready(self, seconds: float = 120.0) -> None:
        """Wait until the model is loaded; raise StartError with the reason where it cannot be."""
        self.wait_for_port(seconds)
        try:
            status, body = self.send("GET", "/readyz", seconds=seconds)
        except (OSError, http.client.HTTPException) as error:
            self.process.wait(ENDING)
            self.must_live()
            raise StartError(f"the server did not answer: {error}") from None
        if status != 200:
            raise StartError(error_text(body))

    def processes(self) -> list[int]:
        """Return the ids of the processes of its session, and of those that descend from them."""
        stats = {int(entry.name): _stat(int(entry.name)) for entry in Path("/proc").iterdir() if entry.name.isdecimal()}
        living = {number: (int(stat[1]), int(stat[3])) for number, stat in stats.items() if stat}  # parent, session
        family = [number for number, (_, session) in living.items() if session == self.process.pid]
        for member in family:  # which grows
            family += [number for number, (parent, _) in living.items() if parent == member and number not in family]
        return family

    def cpu_seconds(self) -> float:
        """Return the user and system time of its processes up to now, with that of children that have ended."""
        ticks = sum(sum(map(int, stat[11:15])) for number in self.processes() if (stat := _stat(number)))
        return ticks / os.sysconf("SC_CLK_TCK")

    def terminate(self) -> None:
        """Send SIGTERM to the first process only, as a platform does, at most once, and return at once."""
        if not self._asked_to_end:
            self._asked_to_end = True
            self.process.send_signal(signal.SIGTERM)

    def stop(self, seconds: float = ENDING) -> int:
        """Send SIGTERM, wait for the end, and return the exit status; kill the remaining processes of its group."""
        self.terminate()
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return -signal.SIGKILL
        finally:
            self.kill()

    def kill(self) -> None:
        """Kill every process of its group at once, as a crash or a platform may do."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def error_text(body: bytes) -> str:
    """Return the message of an error body."""
    try:
        return str(json.loads(body)["error"])[:500]
    except (ValueError, KeyError, TypeError):
        return body.decode(errors="replace")[:300]


def memory_of(process: int) -> dict[str, float]:
    """Read /proc/PID/smaps_rollup: bytes by name, from lines as `Pss_Anon:   48123 kB`."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]
    return {name: int(size) * 1024 for name, size, _ in (line.replace(":", " ").split() for line in lines)}


def peak_of(process: int) -> float:
    """Return the most bytes that were ever resident in a process."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def _stat(process: int) -> list[str] | None:
    """Return the fields of /proc/PID/stat after the name; None where the process has ended."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
