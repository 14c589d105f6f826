"""The load balancer in front of the instances: a real nginx, or a list that the client tries in order."""

import http.client
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from tools.server import free_port

NGINX = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")

# It retries nothing that was sent, as a platform's front end does, and answers in JSON where no instance is available.
CONFIGURATION = """\
daemon off;
worker_processes 1;
pid nginx.pid;
error_log error.log warn;
events { worker_connections 512; }
http {
  access_log off;
  default_type application/json;
  client_body_temp_path body;
  proxy_temp_path proxy;
  fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
  client_max_body_size 32m;
  %(upstream)s
  server {
    listen 127.0.0.1:%(port)d;
    location = /which { return 200 "%(number)d"; }
    error_page 502 503 504 @refused;
    location / { %(answer)s }
    location @refused { return 502 '{"error":"no instance answered"}'; }
  }
}
"""
PROXY = "proxy_pass http://instances; proxy_http_version 1.1; proxy_set_header Connection ''; proxy_connect_timeout 2s;"
NOBODY = """return 503 '{"error":"there is no instance"}';"""


class Balancer(Protocol):
    """Where a client sends its next request."""

    def route(self, ports: Sequence[int]) -> None: ...

    def port(self) -> int | None: ...

    def close(self) -> None: ...


class Direct:
    """No proxy: the client takes one instance after the other, as a client with their addresses would."""

    def __init__(self) -> None:
        self._ports: tuple[int, ...] = ()
        self._turn = 0
        self._lock = threading.Lock()

    def route(self, ports: Sequence[int]) -> None:
        """Give the ports that are in use from now on."""
        with self._lock:
            self._ports = tuple(ports)

    def port(self) -> int | None:
        """Return the instance for the next request, None where there is none."""
        with self._lock:
            self._turn += 1
            return self._ports[self._turn % len(self._ports)] if self._ports else None

    def close(self) -> None:
        """Nothing runs."""


class Nginx:
    """A real nginx in a folder of its own, which reloads its list of instances on a signal."""

    def __init__(self, folder: Path) -> None:
        if NGINX is None:
            raise FileNotFoundError("nginx")
        self._folder, self._port, self._number = folder, free_port(), 0
        self._configure(())
        self._process = subprocess.Popen(
            [NGINX, "-p", str(folder), "-c", "nginx.conf", "-e", "error.log"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        end = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", self._port), 1).close()
                return
            except OSError:
                if time.monotonic() > end or self._process.poll() is not None:
                    self.close()
                    raise AssertionError(f"nginx did not start: {self.log}") from None
                time.sleep(0.02)

    @property
    def log(self) -> str:
        """Return its error log."""
        path = self._folder / "error.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def _configure(self, ports: Sequence[int]) -> None:
        servers = " ".join(f"server 127.0.0.1:{port} max_fails=0;" for port in ports)
        upstream = f"upstream instances {{ {servers} keepalive 8; }}" if ports else ""
        answer = PROXY if ports else NOBODY
        new = self._folder / "nginx.conf.new"
        self._number += 1
        values = {"upstream": upstream, "port": self._port, "answer": answer, "number": self._number}
        new.write_text(CONFIGURATION % values)
        new.replace(self._folder / "nginx.conf")

    def route(self, ports: Sequence[int]) -> None:
        """Write the list again and reload; return when it alone is in use. Requests in flight stay with their instance."""
        self._configure(ports)
        self._process.send_signal(signal.SIGHUP)
        end = time.monotonic() + 60
        while self._which() != self._number or self._accepting() != 1:
            if time.monotonic() > end:
                raise AssertionError(f"nginx did not take its new list within 60 s: {self.log}")
            time.sleep(0.01)

    def _accepting(self) -> int:
        """Return how many workers take connections: the old one goes on for at least 0.1 s beside the new one."""
        master = self._process.pid
        workers = Path(f"/proc/{master}/task/{master}/children").read_text().split()
        return sum(b"shutting down" not in _command(worker) for worker in workers)

    def _which(self) -> int | None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=5)
        try:
            connection.request("GET", "/which", headers={"Connection": "close"})
            return int(connection.getresponse().read())
        except (OSError, http.client.HTTPException, ValueError):
            return None
        finally:
            connection.close()

    def port(self) -> int | None:
        """Return nginx's port."""
        return self._port

    def close(self) -> None:
        """End it."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def _command(process: str) -> bytes:
    """Return the title of a process, which nginx sets; one that has just ended takes no connections."""
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return b"shutting down"
