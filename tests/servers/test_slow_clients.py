"""A thousand clients that send a head and one byte of a body, and incomplete bodies, to both servers."""

import json
import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.server import Server, running

CLIENTS = 1000
READ_TIMEOUT = 40  # seconds; no test waits so long
HEAD = b"POST / HTTP/1.1\r\nHost: x\r\n"


@pytest.fixture(scope="module", params=["functions-framework", "standalone"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < CLIENTS + 200:
        pytest.skip(f"a process may open {hard} files here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, CLIENTS + 200), hard))
    with running(request.param, READ_TIMEOUT=str(READ_TIMEOUT)) as started:
        assert started.ask("GET", "/readyz").status == 200
        yield started


SLOW = [
    # what                      sent by each of the clients, which then stay
    ("a body of a known size",  HEAD + b"Content-Length: 100000\r\n\r\n{"),
    ("a body in chunks",        HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"),
]  # fmt: skip


@pytest.mark.parametrize(("what", "data"), SLOW, ids=[case[0] for case in SLOW])
def test_a_thousand_slow_bodies_delay_no_other_request(
    server: Server, examples: dict[str, Any], what: str, data: bytes
) -> None:
    with ExitStack() as clients:
        for _ in range(CLIENTS):
            client = clients.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=30))
            client.sendall(data)
        for _ in range(5):
            assert server.ask("POST", "/", examples["pixels"], timeout=READ_TIMEOUT / 2).status == 200


BROKEN = [
    # what                        field                                 before the body       after it
    ("chunks without the last",   b"Transfer-Encoding: chunked\r\n",    b"%x\r\n",            b"\r\n"),
    ("a chunk cut in two",        b"Transfer-Encoding: chunked\r\n",    b"f%x\r\n",           b""),
    ("less than Content-Length",  b"Content-Length: 9%d\r\n",           b"",                  b""),
]  # fmt: skip
EVENT = b"ce-specversion: 1.0\r\nce-id: 1\r\nce-source: /x\r\nce-type: t\r\nContent-Type: application/json\r\n"
KINDS = [
    # what      path                           fields
    ("JSON",    b"/v1/models/model:predict",   b"Content-Type: application/json\r\n"),
    ("lines",   b"/v1/models/model:predict",   b"Content-Type: application/x-ndjson\r\n"),
    ("event",   b"/events",                    EVENT),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "path", "fields"), KINDS, ids=[case[0] for case in KINDS])
@pytest.mark.parametrize(("what", "framing", "before", "after"), BROKEN, ids=[case[0] for case in BROKEN])
def test_an_incomplete_body_is_refused(
    server: Server, examples: dict[str, Any], what: str, framing: bytes, before: bytes, after: bytes,
    kind: str, path: bytes, fields: bytes,
) -> None:  # fmt: skip
    body = json.dumps(examples["pixels"]).encode()  # whole: only the framing says that more was to come
    if kind == "lines":
        body = b"".join(json.dumps(row).encode() + b"\n" for row in examples["pixels"]["instances"])
    framing, before = (part % len(body) if b"%" in part else part for part in (framing, before))
    head = b"POST %b HTTP/1.1\r\nHost: x\r\n" % path + fields + framing
    received = server.raw(head + b"\r\n" + before + body + after)
    head, _, answer = received.partition(b"\r\n\r\n")
    assert head.split(b" ")[1] == b"400", received[:300]
    assert "body" in json.loads(answer)["error"]


def test_a_chunked_body_is_read_completely(server: Server, examples: dict[str, Any]) -> None:
    body = json.dumps(examples["pixels"]).encode()
    pieces = [body[start : start + 7] for start in range(0, len(body), 7)]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    assert status(server, HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunks) == 200


def status(server: Server, request: bytes) -> int:
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
        client.sendall(request)
        return int(client.recv(1 << 16).split(b" ", 2)[1])


UNDERSCORES = [
    # with hyphens, each would make another request of it
    b"X_Request_Timeout: 0",
    b"ce_id: 1",
    b"ce_specversion: 1.0",
    b"Content_Encoding: gzip",
    b"Content_Length: 5",
    b"Content_Type: image/png",
    b"Transfer_Encoding: chunked",
]


@pytest.mark.parametrize("field", UNDERSCORES)
def test_a_header_with_underscores_is_a_different_header(
    server: Server, examples: dict[str, Any], field: bytes
) -> None:
    body = json.dumps(examples["pixels"]).encode()
    sent = HEAD + field + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    assert status(server, sent) == 200
