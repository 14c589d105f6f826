"""How every command ends: with one line, without a traceback, and with its servers stopped."""

import os
import select
import signal
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

import psutil
import pytest

from tests.conftest import EMBEDDED, ROOT, plain_environment
from tests.harness.waiting import until
from tools.server import free_port


def command(*arguments: str, **environment: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, *arguments], cwd=ROOT, env=plain_environment(**environment), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


ENDS = [
    # what happens in the command                                          status  said
    ("os.kill(os.getpid(), signal.SIGINT)",                                130,    "name: interrupted\n"),
    ("os.kill(os.getpid(), signal.SIGTERM)",                               143,    ""),
    ("import nothing_like_it",                                             1,      "name: this needs nothing_like_it, which is not installed here: pip install -r requirements/dev.txt\n"),
    ("raise BrokenPipeError",                                              141,    ""),
]  # fmt: skip


@pytest.mark.parametrize(("what", "status", "said"), ENDS)
def test_a_failing_command_prints_one_line(what: str, status: int, said: str) -> None:
    script = f"""if True:
        import os, signal, sys
        from serving.core import terminal
        def main():
            try:
                {what}
            except (KeyboardInterrupt, SystemExit):
                os.kill(os.getpid(), signal.SIGINT)  # once more: the way out is not cut short
                print("ended what it had started", flush=True)
                raise
        sys.exit(terminal.run("name", main))"""
    run = command("-c", script)
    out, err = run.communicate(timeout=60)
    assert (run.returncode, err) == (status, said)
    assert out == ("ended what it had started\n" if what.startswith("os.kill") else "")


@pytest.mark.parametrize("name", ["show", "check"])
def test_a_closed_output_pipe_is_not_an_error(name: str) -> None:
    run = command("-m", "serving", name, str(EMBEDDED))
    assert run.stdout
    assert run.stderr
    run.stdout.close()
    with run.stderr:
        assert "Traceback" not in run.stderr.read()
    assert run.wait(60) == 141


HONOURED = [["show"], ["check"], ["banner"], ["verify", "--quick"], ["plan"], ["replay", "http://localhost:1"]]


@pytest.mark.parametrize("arguments", HONOURED, ids=[case[0] for case in HONOURED])
def test_every_command_uses_MODEL_DIR(arguments: list[str], tmp_path: Path) -> None:
    run = command("-m", "serving", *arguments, MODEL_DIR=str(tmp_path / "elsewhere"))
    out, err = run.communicate(timeout=60)
    assert run.returncode != 0
    assert "elsewhere" in out + err or "MODEL_DIR" in out + err
    assert len(err.splitlines()) <= 2
    assert "Traceback" not in err


STARTED = [
    # command                                            ended by
    (["verify", str(EMBEDDED), "--quick"],               signal.SIGTERM),
    (["plan", str(EMBEDDED), "--no-picture"],            signal.SIGINT),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "number"), STARTED, ids=[case[0][0] for case in STARTED])
def test_an_interrupted_command_leaves_no_server(arguments: list[str], number: int) -> None:
    mark = uuid.uuid4().hex
    run = command("-m", "serving", *arguments, MARK=mark)
    until(lambda: len(marked(mark)) > 1, pause=0.05)
    run.send_signal(number)
    time.sleep(0.1)
    run.send_signal(signal.SIGINT)  # from somebody without patience
    _, err = run.communicate(timeout=60)
    assert run.returncode == 128 + number or "interrupted" in err
    assert "Traceback" not in err
    until(lambda: not marked(mark), pause=0.05)  # nothing that it started is left


def marked(mark: str) -> list[int]:
    """Return the processes with this value in their environment: those of a command that was started with it."""
    return [process.pid for process in psutil.process_iter() if mark in _environment(process).values()]


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except psutil.Error:
        return {}


def test_a_signal_that_comes_as_a_process_is_started_ends_the_command_behind_it() -> None:
    script = """if True:
        import os, signal, sys
        from serving.core import terminal
        def main():
            with terminal.held():
                os.kill(os.getpid(), signal.SIGTERM)
                print("started and noted", flush=True)
            print("this is not reached", flush=True)
        sys.exit(terminal.run("name", main))"""
    run = command("-c", script)
    assert run.communicate(timeout=60) == ("started and noted\n", "")
    assert run.returncode == 128 + signal.SIGTERM


def test_the_banner_is_printed_when_the_server_listens(tmp_path: Path) -> None:
    port = free_port()
    run = command("-m", "serving", "banner", "--port", str(port), "--while", str(os.getpid()))
    assert run.wait(60) == 0  # so that make goes on
    assert run.stdout
    assert run.stderr
    assert select.select([run.stdout], [], [], 0.3)[0] == []
    with socket.create_server(("127.0.0.1", port)):
        assert run.stdout.read().startswith("Serving model as 'model'")
    run.stdout.close()
    run.stderr.close()


def test_no_banner_is_printed_for_a_server_that_failed() -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    run = command("-m", "serving", "banner", "--port", str(free_port()), "--while", str(ended.pid))
    assert run.communicate(timeout=60) == ("", "")


def test_a_port_that_is_taken_is_refused_before_anything_starts() -> None:
    with socket.create_server(("0.0.0.0", 0)) as held:
        port = held.getsockname()[1]
        run = command("-m", "serving", "banner", "--port", str(port), "--while", str(os.getpid()))
        _, err = run.communicate(timeout=60)
    assert run.returncode == 1
    assert err == f"serving: port {port} is in use: another program listens there; choose another: PORT=8081\n"
