"""Targets that are whole requests to a served model, and what they have in common."""

import contextlib
import io
import json
import os
import sys
import zlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import orjson

from serving.core import settings
from serving.core.http import Request
from serving.core.record import Record
from serving.pipeline import accelerator, handler
from serving.pipeline.native import build
from serving.protocols.kinds import HEADER
from serving.runtime import loading
from serving.runtime.model import Model
from serving.servers import wsgi
from tests.conftest import EMBEDDED, ROOT, forget
from tests.pipeline.native import models as echoes


class Fields:
    """Header fields, read without regard to case."""

    def __init__(self, fields: Mapping[str, str]) -> None:
        self._fields = {name.lower(): value for name, value in fields.items()}

    def get(self, name: str) -> str | None:
        return self._fields.get(name.lower())


def message(data: bytes) -> tuple[str, str, str, dict[str, str], bytes]:
    """Read an HTTP message as a friendly server would: method, path, query, header fields, body."""
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    method, _, target = first.partition(" ")
    path, _, query = target.removesuffix(" HTTP/1.1").partition("?")
    fields = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if colon and name and name.isascii():
            fields[name.strip().lower()] = value.strip()
    return method, path, query, fields, body


INSIDE = (str(ROOT), "Traceback", "{{node", "StatefulPartitionedCall", "__inference", 'File "')


@lru_cache(maxsize=1)
def serve(folder: Path, **environment: str) -> Model:
    """Serve a model in this process, by its defaults and what `environment` says; return it."""
    for variable in settings.VARIABLES:
        os.environ.pop(variable, None)
    os.environ |= {"MODEL_DIR": str(folder), **environment}
    forget()
    with contextlib.redirect_stdout(io.StringIO()):
        return loading.cache().get()


def served(folder: Path, **environment: str) -> Model:
    """Do as `serve` does, once for as long as no other target serves another model."""
    if not loading._cache or not loading._cache.loaded:
        serve.cache_clear()
    return serve(folder, **environment)


def request(data: bytes) -> None:
    """A whole HTTP message through the WSGI application and the embedded model."""
    served(EMBEDDED)
    first = ask(data)
    status, headers, body = first
    judge(status, headers, body, data)
    if zlib.crc32(data) % 8 == 0:
        again = ask(data)
        assert (again[0], again[2]) == (status, body), "the same request, another answer"


def native(data: bytes) -> None:
    """Predict and infer bodies that the code in C++ answers; the oracle is the code in Python.

    A line with the protocol, and the size of the JSON where binary tensors follow it; the body.
    """
    line, _, body = data.partition(b"\n")
    protocol, _, length = line.partition(b" ")
    quick = prepared()
    if protocol == b"infer":
        size = int(length) if length.isdigit() and len(length) < 10 else len(body)
        answer = quick.infer(body, size)
        path, headers = "/v2/models/model/infer", {HEADER: str(size)}
    else:
        answer = quick.predict(body)
        path, headers = "/v1/models/model:predict", {}
    if isinstance(answer, str):
        return
    with contextlib.redirect_stdout(io.StringIO()):  # what TensorFlow refuses is logged
        response = handler.answer(Request("POST", path, "", Fields(headers), body, record=Record()))
    if len(answer) == 2:
        assert response.status >= 400, response
        return
    assert (response.status, response.body) == (200, answer.body)
    assert dict(response.headers).get(HEADER) == (str(answer.json_size) if answer.json_size else None)


def prepared() -> accelerator.Quick:
    """Return the code in C++ for a model that Python alone serves; FUZZ_EXTENSION names its library.

    The first call may take a minute: it makes the model and compiles the library.
    """
    model_ = served(echoes.build() / "fuzzed", MODEL_NAME="model", ACCELERATOR="off")
    return _quick(model_)


@lru_cache(maxsize=1)
def _quick(model_: Model) -> accelerator.Quick:
    path = Path(os.environ.get("FUZZ_EXTENSION") or build.cached())
    quick = accelerator.Quick(model_, settings.current()._replace(accelerator=path))
    assert len(quick.names) == 13, quick.names
    return quick


def environ(data: bytes) -> dict[str, Any]:
    """Return what a server makes of an HTTP message, PEP 3333."""
    from urllib.parse import unquote_to_bytes

    method, path, query, fields, body = message(data)
    variables: dict[str, Any] = {
        "REQUEST_METHOD": method, "PATH_INFO": unquote_to_bytes(path.encode("latin-1")).decode("latin-1"),
        "QUERY_STRING": query, "wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body)),
        "SCRIPT_NAME": "", "SERVER_NAME": "localhost", "SERVER_PORT": "80", "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.version": (1, 0), "wsgi.url_scheme": "http", "wsgi.errors": sys.stderr,
        "wsgi.multithread": True, "wsgi.multiprocess": False, "wsgi.run_once": False,
    }  # fmt: skip
    for name, value in fields.items():
        key = name.upper().replace("-", "_")
        if key != "CONTENT_LENGTH":
            variables[key if key == "CONTENT_TYPE" else f"HTTP_{key}"] = value
    return variables


def ask(data: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
    started: list[Any] = []
    log = io.StringIO()
    with contextlib.redirect_stdout(log):
        body = b"".join(wsgi.app(environ(data), lambda *of: started.append(of)))
    for line in log.getvalue().splitlines():
        assert isinstance(orjson.loads(line), dict), line
        assert line.isprintable() or not any(ord(character) < 32 for character in line)
    (status, headers), *more = started
    assert not more
    return int(status[:3]), headers, body


def judge(status: int, headers: list[tuple[str, str]], body: bytes, data: bytes) -> None:
    """Assert what holds of every answer."""
    if status == 503:  # an object in a bucket, which has nowhere to go
        assert b"EVENT_OUTPUT" in body, body
    else:
        assert 200 <= status < 500, (status, body)
    for name, value in headers:
        assert "\r" not in value
        assert "\n" not in value
        (name + value).encode("latin-1")
    kinds = [value for name, value in headers if name == "Content-Type"]
    if message(data)[0] == "HEAD" or status == 204:
        assert not body
        return
    if kinds == ["application/json"] and not any(name == "Content-Encoding" for name, _ in headers):
        answer = json.loads(body)
        if status >= 400:
            assert set(answer) == {"error"}
            assert len(body) <= 2048 + 6 * 2048  # \u escapes of what came
            text = answer["error"]
            assert len(text) <= 2048
            assert not any(part in text for part in INSIDE), text
