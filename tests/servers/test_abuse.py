"""Malformed and hostile requests to both servers: each is refused or cut off, and the next request is answered."""

import json
import socket
import struct
from collections.abc import Iterator
from typing import Any

import grpc
import psutil
import pytest

from tests.harness.waiting import until
from tests.server import Server, running

POST = b"POST / HTTP/1.1\r\nHost: x\r\n"
GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"
GOOD = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


KINDS = ["functions-framework", "standalone"]


@pytest.fixture(scope="module", params=KINDS)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with running(request.param, READ_TIMEOUT="2") as started:
        assert started.ask("GET", "/readyz").status == 200
        yield started


def send(server: Server, data: bytes, *, reset: bool = False, seconds: float = 10) -> bytes:
    """Send bytes as they are; return what comes until the server closes, or has given a whole answer."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=seconds) as connection:
        received = b""
        try:
            connection.sendall(data)
            if reset:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return b""
            while part := connection.recv(1 << 16):
                received += part
                head, end, body = received.partition(b"\r\n\r\n")
                fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
                if end and len(body) >= int(fields.get(b"content-length", b"0")):
                    return received
        except OSError:
            pass  # reset: the answer is what came before
        return received


def head(lines: bytes) -> bytes:
    return POST + lines + b"\r\n"


def whole(content_type: bytes, body: bytes) -> bytes:
    return head(b"Content-Type: %b\r\nContent-Length: %d\r\n" % (content_type, len(body))) + body


PART = b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\nyyyyyyyyyy\r\n'

# fmt: off
ABUSE = [
    # what                                  sent                                                              statuses
    ("a field of 200 kB",                   GET + b"X: " + b"a" * 200_000 + b"\r\n\r\n",                     {431}),
    ("2,000 fields",                        GET + b"".join(b"H%d: x\r\n" % n for n in range(2000)) + b"\r\n", {431, 400}),
    ("a folded field",                      GET + b"A: b\r\n c\r\n\r\n",                                     {400}),
    ("NUL in a field",                      GET + b"A: b\0c\r\n\r\n",                                        {400}),
    ("a field without a colon",             GET + b"nonsense\r\n\r\n",                                       {400}),
    ("a space before the colon",            GET + b"A : b\r\n\r\n",                                          {400}),
    ("two lengths",                         head(b"Content-Length: 2\r\nContent-Length: 3\r\n") + b"{}",      {400}),
    ("a negative length",                   head(b"Content-Length: -1\r\n") + b"{}",                         {400}),
    ("a length that is no number",          head(b"Content-Length: 2x\r\n") + b"{}",                         {400}),
    ("a length of 30 digits",               head(b"Content-Length: " + b"9" * 30 + b"\r\n") + b"{}",         {400, 413}),
    ("10 GB declared",                      head(b"Content-Length: 10000000000\r\n") + b"{}",                {413}),
    ("a length and chunks",                 head(b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n") + b"0\r\n\r\n", {400}),
    ("an unknown transfer coding",          head(b"Transfer-Encoding: cow\r\n") + b"{}",                     {400, 501}),
    ("a chunk of no size",                  head(b"Transfer-Encoding: chunked\r\n") + b"zz\r\n",             {400}),
    ("a chunk of a huge size",              head(b"Transfer-Encoding: chunked\r\n") + b"f" * 40 + b"\r\n",   {400, 413}),
    ("a chunk without its end",             head(b"Transfer-Encoding: chunked\r\n") + b"2\r\n{}XX0\r\n\r\n", {400}),
    ("50,000 chunks of a byte",             head(b"Transfer-Encoding: chunked\r\n") + b"1\r\n \r\n" * 50_000 + b"0\r\n\r\n", {400, 408}),  # on a busy machine READ_TIMEOUT ends it
    ("no HTTP",                             b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",         {400}),
    ("no version",                          b"GET /healthz\r\nHost: x\r\n\r\n",                              {400}),
    ("a version to come",                   b"GET /healthz HTTP/9.9\r\nHost: x\r\n\r\n",                     {400, 505}),
    ("an address of 100 kB",                b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",     {414, 431}),
    ("an address of 8,000 characters",      b"GET /v1/models/" + b"a" * 8000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", {404}),
    ("a path out of the folder",            b"GET /../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n",            {400, 404}),
    ("a path out of it, encoded",           b"GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n",    {404}),
    ("NUL in a name",                       b"GET /v1/models/%00 HTTP/1.1\r\nHost: x\r\n\r\n",               {404}),
    ("no UTF-8 in a name",                  b"GET /v1/models/%ff%fe HTTP/1.1\r\nHost: x\r\n\r\n",            {404}),
    ("a line end in a name",                b"GET /v1/models/a%0d%0aX-Injected:%20y HTTP/1.1\r\nHost: x\r\n\r\n", {404}),
    ("an unknown method",                   b"BREW / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",      {405}),
    ("nothing but line ends",               b"\r\n" * 1000,                                                 {400, None}),
    ("20,000 fields of a form",             whole(b"application/x-www-form-urlencoded", b"a=b&" * 20_000),   {400}),
    ("3,000 parts",                         whole(b"multipart/form-data; boundary=b", PART * 3_000 + b"--b--"), {400}),
]
# fmt: on


@pytest.mark.parametrize(("what", "data", "statuses"), ABUSE, ids=[case[0] for case in ABUSE])
def test_a_malformed_request_is_refused_and_the_next_request_answered(
    server: Server, what: str, data: bytes, statuses: set[int | None]
) -> None:
    received = send(server, data)
    status = int(received.split(b" ", 2)[1]) if received.startswith(b"HTTP/") else None
    assert status in statuses, received[:300]
    fields, _, body = received.partition(b"\r\n\r\n")
    assert b"injected" not in fields.lower()
    if body:
        assert b"application/json" in fields
        error = json.loads(body)["error"]
        assert len(body) <= 2048 or status == 404
        assert not any(leak in error for leak in ("Traceback", "/work", "site-packages"))
    assert server.ask("GET", "/healthz").status == 200


@pytest.mark.parametrize("field", [b"SCRIPT_NAME: /healthz", b"PATH_INFO: /healthz", b"Script-Name: /healthz"])
def test_no_header_field_rewrites_the_path(server: Server, field: bytes) -> None:
    received = send(server, b"GET /healthz/nothing HTTP/1.1\r\nHost: x\r\n" + field + b"\r\n\r\n")
    assert received.startswith(b"HTTP/1.1 404 ")
    assert b"there is nothing at '/healthz/nothing'" in received


def test_a_client_that_resets_its_connection_affects_no_other(server: Server, examples: dict[str, Any]) -> None:
    body = json.dumps(examples["pixels"]).encode()
    whole = head(b"Content-Length: %d\r\n" % len(body)) + body
    for part in (whole, whole[:-5], whole[:30], POST, b""):
        for _ in range(5):
            send(server, part, reset=True)
    assert server.ask("POST", "/", examples["pixels"]).status == 200


def test_pipelined_requests_get_their_own_answers(server: Server) -> None:
    names = [b"one", b"two", b"three"]
    asked = b"".join(b"GET /v1/models/%b HTTP/1.1\r\nHost: x\r\n\r\n" % name for name in names)
    asked += b"GET /v1/models/last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(asked)
        received = b""
        while part := connection.recv(1 << 16):
            received += part
    places = [received.index(b"there is no model '%b'" % name) for name in (*names, b"last")]
    assert places == sorted(places)
    assert received.count(b"HTTP/1.1 404") == 4


def test_the_rest_of_a_bad_request_is_not_read_as_another(server: Server) -> None:
    received = send(server, head(b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n") + b"0\r\n\r\n" + GOOD)
    assert received.count(b"HTTP/1.1") == 1


SLOW = [
    # what                         sent by each of 60 clients, which then stay
    ("idle connections",           b""),
    ("slow headers",               b"POST / HT"),
    ("slow bodies",                head(b"Content-Length: 100000\r\n") + b"{"),
    ("slow chunks",                head(b"Transfer-Encoding: chunked\r\n") + b"5\r\n{"),
    ("large bodies begun",         head(b"Content-Length: 8000000\r\n") + b" " * 50_000),
    ("refused, and still there",   head(b"Connection: close\r\nContent-Length: 1\r\n") + b"{"),
    ("refused, too large",         head(b"Content-Length: 10000000000\r\n") + b"{"),
]  # fmt: skip


@pytest.fixture(scope="module", params=KINDS)
def patient(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server that waits for slow clients for longer than others wait for it, on a busy machine too."""
    with running(request.param, READ_TIMEOUT="120") as started:
        assert started.ask("GET", "/readyz").status == 200
        yield started


@pytest.mark.parametrize(("what", "data"), SLOW, ids=[case[0] for case in SLOW])
def test_sixty_slow_clients_do_not_block_others(
    patient: Server, examples: dict[str, Any], what: str, data: bytes
) -> None:
    clients = [socket.create_connection(("127.0.0.1", patient.port), timeout=30) for _ in range(60)]
    try:
        for client in clients:
            client.sendall(data)
        for _ in range(5):
            assert patient.ask("POST", "/", examples["pixels"], timeout=30).status == 200
    finally:
        for client in clients:
            client.close()


NEVER = [
    # what                         sent, and no more                                           answered, if at all
    ("half a head",                b"POST / HT",                                               {400, 408}),
    ("a body of a known size",     head(b"Content-Length: 100000\r\n") + b"{",                 {400, 408}),
    ("a body in chunks",           head(b"Transfer-Encoding: chunked\r\n") + b"1\r\n{\r\n",    {400, 408}),
    ("a body that is too large",   head(b"Content-Length: 10000000000\r\n"),                   {413}),
    ("the same, after a question", head(b"Expect: 100-continue\r\nContent-Length: 10000000000\r\n"), {100, 413}),
    ("a body after a question",    head(b"Expect: 100-continue\r\nContent-Length: 9\r\n"),      {100}),
]  # fmt: skip


@pytest.mark.parametrize(("what", "data", "statuses"), NEVER, ids=[case[0] for case in NEVER])
def test_a_request_that_never_arrives_is_cut_off(server: Server, what: str, data: bytes, statuses: set[int]) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
        client.sendall(data)
        received = b""
        while part := client.recv(1 << 16):
            received += part
    assert not received or int(received.split(b" ", 2)[1]) in statuses
    if b"body" in what.encode():
        assert b'{"error":"body: ' in received
    assert server.ask("GET", "/healthz").status == 200


def test_a_client_that_reads_none_of_its_answers_is_cut_off(server: Server) -> None:
    (worker,) = psutil.Process(server.process.pid).children(recursive=True)

    def connections() -> int:
        return sum(connection.status == psutil.CONN_ESTABLISHED for connection in worker.connections())

    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(10)
        client.connect(("127.0.0.1", server.port))
        client.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 500)  # their answers: more than buffers hold
        until(connections, pause=0.05)
        until(lambda: not connections(), pause=0.1)
    assert server.ask("GET", "/healthz").status == 200


def test_a_grpc_client_is_refused_and_the_log_says_why_once(server: Server) -> None:
    text = "gRPC and HTTP/2 are not supported: send the request to POST /v1/models/model:predict as JSON over HTTP/1.1"
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        predict = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
        with pytest.raises(grpc.RpcError) as raised:
            predict(b"", timeout=10)
    assert raised.value.code() == grpc.StatusCode.UNAVAILABLE
    assert json.loads(send(server, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").partition(b"\r\n\r\n")[2])["error"].endswith(
        text
    )
    answer = server.ask("POST", "/tensorflow.serving.PredictionService/Predict", b"x", content_type="application/grpc")
    assert (answer.status, answer.json) == (415, {"error": text})
    assert server.log.count(f"a client was refused: {text}") == 1
