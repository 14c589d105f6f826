"""Servers as child processes: started, awaited, measured and stopped."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.harness.waiting import until
from tools.server import Server, StartError, free_port, memory_of, peak_of, spawn


@contextmanager
def running(folder: Path, code: str) -> Iterator[Server]:
    server = Server(spawn([sys.executable, "-c", code], os.environ, folder / "log"), free_port(), folder / "log")
    try:
        yield server
    finally:
        server.kill()


def test_a_process_that_ends_before_it_listens_is_an_error_with_the_last_line_of_its_log(tmp_path: Path) -> None:
    with (
        running(tmp_path, "raise SystemExit('there is no model')") as server,
        pytest.raises(StartError, match="the server ended with status 1: there is no model"),
    ):
        server.wait_until_ready()


ANSWERS = """if True:
    import sys
    from http.server import BaseHTTPRequestHandler, HTTPServer
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            body = b'{"error": "the model cannot be loaded: it is too old"}'
            self.send_response(%d)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
    HTTPServer(("127.0.0.1", %d), Handler).serve_forever()
"""


@pytest.mark.parametrize(("status", "is_ready"), [(200, True), (503, False)])
def test_a_server_is_ready_by_its_probe_and_its_error_is_reported(tmp_path: Path, status: int, is_ready: bool) -> None:
    port = free_port()
    log = tmp_path / "log"
    server = Server(spawn([sys.executable, "-c", ANSWERS % (status, port)], os.environ, log), port, log)
    try:
        if is_ready:
            server.wait_until_ready()
        else:
            with pytest.raises(StartError, match=r"^the model cannot be loaded: it is too old$"):
                server.wait_until_ready()
    finally:
        server.kill()


FAMILY = """if True:
    import subprocess, sys, time
    content = b"x" * (64 << 20)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=%s)
    print("there", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("apart", [False, True], ids=["of its session", "of another session"])
def test_a_process_is_measured_with_its_children_as_psutil_measures_them(tmp_path: Path, apart: bool) -> None:
    with running(tmp_path, FAMILY % apart) as server:
        until(lambda: "there" in server.log, lambda: server.log)
        root = psutil.Process(server.process.pid)
        family = [root, *root.children()]
        assert sorted(server.processes()) == sorted(member.pid for member in family)
        assert server.cpu_seconds() == pytest.approx(sum(sum(member.cpu_times()[:2]) for member in family), abs=0.1)
        assert memory_of(root.pid)["Rss"] == pytest.approx(root.memory_info().rss, rel=0.1)
        assert peak_of(root.pid) >= memory_of(root.pid)["Pss_Anon"] > 64 << 20
        family[1].kill()
    assert not root.is_running()
