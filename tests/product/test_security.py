"""What SECURITY.md promises: hostile models are refused with their reason, hostile requests leave no trace."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from serving.savedmodel.folder import manifest
from serving.savedmodel.saved_model import LARGEST
from tests.conftest import EMBEDDED, ROOT, Serve, plain_environment
from tests.models.hostile import build
from tests.server import COMMANDS, running

SECURITY = ROOT / "SECURITY.md"

# fmt: off
REFUSED = [
    # model                    what is said of it
    ("asset_above",            "names the asset '../../../../../../../../../../etc/passwd', which is not a file inside assets/"),
    ("asset_absolute",         "names the asset '/etc/passwd', which is not a file inside assets/"),
    ("asset_empty",            "names the asset '', which is not a file inside assets/"),
    ("asset_constant",         "it uses InitializeTableFromTextFileV2 (files)"),
    ("asset_assigned_twice",   "it uses InitializeTableFromTextFileV2 (files)"),
    ("reads_a_file",           "it uses ReadFile (files)"),
]
# fmt: on


@pytest.mark.parametrize(("name", "words"), REFUSED)
def test_a_model_that_reads_files_outside_of_its_folder_is_refused(serve: Serve, name: str, words: str) -> None:
    answer = serve(build() / name)("GET", "/readyz")
    assert answer.status == 503
    assert words in json.loads(answer.body)["error"]
    assert "DANGEROUS_OPS=allow" in json.loads(answer.body)["error"]


@pytest.fixture
def vocabulary(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(build() / "vocabulary", folder)
    return folder


LINKS: list[tuple[str, Callable[[Path], Any], int]] = [
    # what                     done to the asset                                                   status
    ("a file",                 lambda path: None,                                                  200),
    ("a link inside",          lambda path: (path.rename(path.with_name("w")), path.symlink_to("w")), 200),
    ("a link outside",         lambda path: (path.unlink(), path.symlink_to("/etc/passwd")),       503),
    ("a link above",           lambda path: (path.unlink(), path.symlink_to("../../../x")),        503),
    ("a link to itself",       lambda path: (path.unlink(), path.symlink_to(path.name)),           503),
]  # fmt: skip


@pytest.mark.parametrize(("what", "change", "status"), LINKS, ids=[case[0] for case in LINKS])
def test_an_asset_outside_of_the_model_is_refused(
    serve: Serve, vocabulary: Path, what: str, change: Callable[[Path], Any], status: int
) -> None:
    (asset,) = (vocabulary / "assets").iterdir()
    change(asset)
    answer = serve(vocabulary)("GET", "/readyz")
    assert answer.status == status, answer.body
    assert "/etc" not in answer.body.decode()


def test_a_model_behind_a_link_is_served(serve: Serve, vocabulary: Path) -> None:
    """As volumes of Kubernetes and caches of downloads have them: the folder itself is a link."""
    link = vocabulary.parent / "link"
    link.symlink_to(vocabulary)
    assert serve(link)("POST", "/", {"instances": ["dog", "cow"]}).body == b'{"predictions":[1,-1]}'


def test_a_graph_above_the_limit_of_protobuf_is_not_read(serve: Serve, tmp_path: Path) -> None:
    with (tmp_path / "saved_model.pb").open("wb") as file:
        file.truncate(LARGEST + 1)  # without a block on the disk
    answer = serve(tmp_path)("GET", "/readyz")
    assert answer.status == 503
    assert f"expected at most {LARGEST}" in json.loads(answer.body)["error"]


MANIFESTS = [
    '{"files": {"saved_model.pb": {}}}', '{"files": {"saved_model.pb": []}}', '{"files": {"saved_model.pb": {"bytes": "x"}}}',
    '{"files": []}', "[" * 100_000, '{"files": {"../../etc/passwd": {"bytes": 1, "sha256": ""}}}', "\xff", "{}",
]  # fmt: skip


@pytest.mark.parametrize("text", MANIFESTS, ids=lambda text: text[:30])
def test_a_hostile_manifest_refuses_the_model_and_nothing_else(serve: Serve, vocabulary: Path, text: str) -> None:
    (vocabulary / manifest.PLACE).parent.mkdir()
    (vocabulary / manifest.PLACE).write_text(text, "latin-1")
    answer = serve(vocabulary)("GET", "/readyz")
    assert answer.status == 503
    assert "MANIFEST=off" in json.loads(answer.body)["error"]


def test_a_hidden_asset_is_compared_and_a_pipe_is_not_read(serve: Serve, vocabulary: Path) -> None:
    asset, hidden = vocabulary / "assets" / "words.txt", vocabulary / "assets" / ".words.txt"
    data = (vocabulary / "saved_model.pb").read_bytes()
    asset.rename(hidden)
    # A name of the same length: "words.txt" and ".ords.txt"
    hidden = hidden.rename(hidden.with_name(".ords.txt"))
    (vocabulary / "saved_model.pb").write_bytes(data.replace(b"words.txt", b".ords.txt"))
    from exporting.manifest import write

    write(vocabulary)
    assert serve(vocabulary)("GET", "/readyz").status == 200
    hidden.write_text("cow\ndog\n")
    assert b"assets/.ords.txt has changed" in serve(vocabulary)("GET", "/readyz").body
    hidden.unlink()
    os.mkfifo(hidden)
    assert b"assets/.ords.txt is not there" in serve(vocabulary)("GET", "/readyz").body


OPENED = """
import io, json, os, sys
from tests.conftest import EMBEDDED
from tests.fuzz import requests
from tests.fuzz.__main__ import seeds
from tests.fuzz.mutate import mutate
import random
pool, random_ = seeds("request"), random.Random(11)
for data in pool:
    requests.served(EMBEDDED)
    requests.ask(data)
opened = []
def hook(event, arguments):
    if event in ("open", "os.listdir", "os.scandir", "os.mkdir", "os.remove", "os.rename", "os.link", "os.symlink",
                 "os.truncate", "shutil.copyfile", "subprocess.Popen", "os.system", "os.exec", "socket.connect",
                 "socket.getaddrinfo", "ctypes.dlopen", "compile", "exec", "import", "tempfile.mkstemp"):
        opened.append((event, str(arguments[0])[:200]))
sys.addaudithook(hook)
open(os.devnull).close()
assert opened.pop() == ("open", os.devnull)
for _ in range(3000):
    requests.ask(mutate(random_.choice(pool), pool, random_))
found = [one for one in opened if not (one[0] in ("import", "exec", "compile") or one[1].endswith((".py", ".pyc", ".so")))]
import sysconfig
folders = (os.getcwd(), sysconfig.get_paths()["stdlib"], sysconfig.get_paths()["purelib"])
found = [one for one in found if not (one[0] in ("os.listdir", "os.scandir") and one[1].startswith(folders))]
print(json.dumps(found[:20]))
"""


def test_no_request_reaches_the_file_system_the_network_or_another_program() -> None:
    """The interpreter's audit hook reports each opened file, connection and program: none in 3,000 requests."""
    run = subprocess.run(
        [sys.executable, "-c", OPENED], cwd=ROOT, env=plain_environment(), capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout.splitlines()[-1]) == []


EVIL = [
    "\x1b[2J\x1b]0;title\x07", "line\nINJECTED", "\r\nINJECTED: 1", '","severity":"EMERGENCY","x":"', "%0d%0aINJECTED",
    "\x85\u2028INJECTED", "${jndi:ldap://127.0.0.1/x}", "../../../../etc/passwd", "\x00", "\xff\xfe", "a" * 5000,
]  # fmt: skip
FIELDS = ("x-request-id", "traceparent", "x-cloud-trace-context", "user-agent", "x-request-timeout", "content-type",
          "content-encoding", "ce-id", "ce-source", "ce-type", "x-forwarded-for", "referer")  # fmt: skip


def _messages() -> list[bytes]:
    from urllib.parse import quote

    messages = []
    for evil in EVIL:
        raw = evil.encode("latin-1", "ignore")
        coded = quote(evil, safe="").encode()
        plain = bytes(byte for byte in raw if byte not in b"\r\n\0")  # what a server would take for more of the message
        messages.append(b"GET /v1/models/%b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % coded)
        messages.append(b"GET /%b?%b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % (coded, coded))
        body = json.dumps({"signature_name": evil, "instances": [{evil: evil, "key": evil}]}).encode()
        for name in FIELDS:
            head = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n" % len(body)
            messages.append(head + name.encode() + b": " + plain + b"\r\n\r\n" + body)
        event = b"POST /events HTTP/1.1\r\nHost: x\r\nConnection: close\r\nce-specversion: 1.0\r\nce-id: %b\r\n" % coded
        event += b"ce-source: %b\r\nce-type: %b\r\nContent-Length: %d\r\n\r\n" % (coded, coded, len(body))
        messages.append(event + body)
    return messages


@pytest.mark.parametrize("kind", [kind for kind in COMMANDS if kind != "predict_event"])
def test_text_from_a_request_is_escaped_in_the_log(kind: str) -> None:
    with running(kind) as server:
        assert server.ask("GET", "/readyz").status == 200
        for message in _messages():
            try:
                answer = server.raw(message)
            except ConnectionError:
                continue  # closed while it was still being sent: refused
            head, _, _ = answer.partition(b"\r\n\r\n")
            assert b"INJECTED" not in re.sub(rb"(?m)^(?!INJECTED).*$", b"", head)
            assert b"\x1b" not in answer
            assert b"\x00" not in head
        assert server.ask("GET", "/readyz").status == 200
        log = server.log
    for line in log.split("\n"):
        assert not line.startswith("INJECTED")
        assert line.isprintable() or all(ord(character) >= 32 and ord(character) != 0x7F for character in line), line
        if line.startswith("{"):
            assert json.loads(line)["severity"] in ("DEBUG", "INFO", "WARNING", "ERROR")
    assert "Traceback" not in log


def test_an_answer_reveals_no_internals(serve: Serve) -> None:
    ask = serve(EMBEDDED)
    for path in ("/v1/models/%2e%2e", "/../../etc/passwd", "/v1/models/model/versions/99999999999999999999:predict"):
        text = ask("POST", path, b"{}").body.decode()
        assert str(ROOT) not in text
        assert "serving/" not in text


def test_every_test_that_security_md_names_exists() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", SECURITY.read_text())
    assert len(named) > 20
    for file, test in named:
        assert f"def {test}(" in (ROOT / file).read_text(), f"{file}::{test}"


# fmt: off
ORIGINS = [
    # Origin                   Host               Content-Type                          status
    (None,                     "127.0.0.1:8080",  "text/plain",                         200),
    ("http://127.0.0.1:8080",  "127.0.0.1:8080",  "text/plain",                         200),
    ("https://Example.com",    "example.com",     "text/plain",                         200),
    ("http://evil.example",    "127.0.0.1:8080",  "text/plain",                         403),
    ("http://evil.example",    "127.0.0.1:8080",  "Text/Plain;charset=UTF-8",           403),
    ("http://evil.example",    "127.0.0.1:8080",  "application/x-www-form-urlencoded",  403),
    ("http://evil.example",    "127.0.0.1:8080",  "multipart/form-data; boundary=b",    403),
    ("http://evil.example",    "127.0.0.1:8080",  "",                                   403),
    ("http://evil.example",    "127.0.0.1:8080",  None,                                 403),
    ("http://127.0.0.1:8081",  "127.0.0.1:8080",  "text/plain",                         403),
    ("null",                   "127.0.0.1:8080",  "text/plain",                         403),
    ("null",                   "null",            "text/plain",                         403),
    ("",                       "",                "text/plain",                         403),
    # A browser sends a preflight request (OPTIONS) first, and is not allowed to post.
    ("http://evil.example",    "127.0.0.1:8080",  "application/json",                   200),
]
# fmt: on


@pytest.mark.parametrize(("origin", "host", "content_type", "status"), ORIGINS)
def test_a_page_of_another_site_cannot_post(
    serve: Serve, examples: dict[str, Any], origin: str | None, host: str, content_type: str | None, status: int
) -> None:
    headers = {"origin": origin, "host": host, "content-type": content_type}
    given = {name: value for name, value in headers.items() if value is not None}
    ask = serve()
    assert ask("POST", "/", examples["pixels"], **given).status == status
    for path in ("/v1/models/model:predict", "/events", "/invocations", "/v2/models/model/infer"):
        assert (ask("POST", path, examples["pixels"], **given).status == 403) == (status == 403)
    answer = ask("OPTIONS", "/", **given, **{"access-control-request-method": "POST"})
    assert not [name for name, _ in answer.headers if name.lower().startswith("access-control")]
    assert ask("GET", "/healthz", **given).status == 200
