"""Bytes on a connection and the bytes of its answers, in any fragments; h11 reads both as the oracle."""

import json
import time
import tracemalloc
from collections.abc import Iterator
from typing import Any

import h11
import pytest

from serving.core.http import Response, Unavailable
from serving.servers.standalone import connection as connections
from serving.servers.standalone.loop import Loop
from serving.servers.standalone.reading import Exchange
from tests.servers.standalone.wire import CHUNKED, GET, LIMIT, POST, Wire, answered, echo, length, responses


def requests(data: bytes) -> list[list[Any]]:
    """Read requests as h11 does: method, path, query, body, and the field X-Field."""
    read: list[list[Any]] = []
    while data:
        server = h11.Connection(h11.SERVER)
        server.receive_data(data.lstrip(b"\r\n"))  # RFC 9112, 2.2, which h11 leaves to others
        while not isinstance(event := server.next_event(), h11.EndOfMessage):
            if isinstance(event, h11.Request):
                path, _, query = event.target.partition(b"?")
                values = [value.decode() for name, value in event.headers if name == b"x-field"]
                read.append([event.method.decode(), path.decode(), query.decode(), "", ",".join(values) or None])
            elif isinstance(event, h11.Data):
                read[-1][3] += bytes(event.data).decode("latin-1")
            else:
                return read
        data = server.trailing_data[0]
    return read


# fmt: off
GOOD = [
    # what                                 sent
    ("a request",                          GET + b"\r\n"),
    ("a query",                            b"GET /a?b=c%20d HTTP/1.1\r\nHost: x\r\n\r\n"),
    ("a body",                             length(2) + b"{}"),
    ("an empty body",                      length(0)),
    ("a body in chunks",                   CHUNKED + b"1\r\n{\r\n1\r\n}\r\n0\r\n\r\n"),
    ("chunks with extensions",             CHUNKED + b"2;a=b\r\n{}\r\n0\r\n\r\n"),
    ("chunks with a trailer",              CHUNKED + b"2\r\n{}\r\n0\r\nX-Field: no\r\n\r\n"),
    ("a field twice",                      GET + b"X-Field: a\r\nx-field: b\r\n\r\n"),
    ("an empty field before another",      GET + b"X-Empty:\r\nX-Field: a\r\n\r\n"),
    ("a field with an underscore",         GET + b"X_Field: a\r\n\r\n"),
    ("two requests",                       GET + b"\r\n" + length(2) + b"{}"),
    ("three with bodies",                  length(2) + b"{}" + CHUNKED + b"2\r\n[]\r\n0\r\n\r\n" + length(1) + b"1"),
    ("line ends before a request",         b"\r\n" + GET + b"\r\n"),
    ("HTTP/1.0",                           b"GET /a HTTP/1.0\r\n\r\n"),
    ("a connection that is closed",        GET + b"Connection: close\r\n\r\n"),
    ("an upgrade to WebSocket",            GET + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n" ),
]
BAD = [
    # what                                 sent                                                           statuses
    ("a length and chunks",                POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", [400]),
    ("chunks and a length",                POST + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n", [400]),
    ("two lengths",                        POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}x",   [400]),
    ("the same length twice",              POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",    [400]),
    ("a list of lengths",                  POST + b"Content-Length: 2, 2\r\n\r\n{}",                      [400]),
    ("a length with a sign",               POST + b"Content-Length: +2\r\n\r\n{}",                        [400]),
    ("a length of 30 digits",              POST + b"Content-Length: " + b"9" * 30 + b"\r\n\r\n",          [400]),
    ("a coding that is not known",         POST + b"Transfer-Encoding: cow\r\n\r\n",                      [501]),
    ("a coding before chunks",             POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",   [501]),
    ("chunked twice",                      POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", [400]),
    ("a chunk's size that is none",        CHUNKED + b"zz\r\n",                                           [400]),
    ("a chunk that is longer",             CHUNKED + b"2\r\n{}XX0\r\n\r\n",                               [400]),
    ("chunks that are too large",          CHUNKED + b"40\r\n" + b"x" * 64 + b"\r\n1\r\nx\r\n0\r\n\r\n",  [413]),
    ("a body that is too large",           length(LIMIT + 1) + b"x" * (LIMIT + 1),                        [413]),
    ("one after a good request",           GET + b"\r\n" + length(LIMIT + 1),                             [200, 413]),
    ("a bare line feed",                   b"GET /a HTTP/1.1\nHost: x\n\n",                               [400]),
    ("a folded field",                     GET + b"A: b\r\n c\r\n\r\n",                                   [400]),
    ("a space before a colon",             GET + b"A : b\r\n\r\n",                                        [400]),
    ("NUL in a field",                     GET + b"A: b\0c\r\n\r\n",                                      [400]),
    ("a carriage return in a field",       GET + b"A: b\rc: d\r\n\r\n",                                   [400]),
    ("no host",                            b"GET /a HTTP/1.1\r\nA: b\r\n\r\n",                             [400]),
    ("two hosts",                          GET + b"Host: y\r\n\r\n",                                    [400]),
    ("101 fields",                         b"GET /a HTTP/1.1\r\n" + b"".join(b"H%d:\r\n" % n for n in range(101)) + b"\r\n", [431]),
    ("an unknown method",                  b"BREW /a HTTP/1.1\r\n\r\n",                                   [405]),
    ("a proxy's method",                   b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n",                    [405]),
    ("the first bytes of TLS",             b"\x16\x03\x01\x02\0\x01",                                     [400]),
    ("HTTP/0.9",                           b"GET /a\r\n",                                                 [400]),
    ("HTTP/2's beginning",                 b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",                           [400]),
    ("HTTP/2.0",                           b"GET /a HTTP/2.0\r\n\r\n",                                    [505]),
    ("nothing after a closing request",    GET + b"Connection: close\r\n\r\n" + GET + b"\r\n",            [200]),
    ("an upgrade beside chunks",           POST + b"Connection: Upgrade\r\nUpgrade: h2c\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", [501]),
    ("half a body",                        length(3) + b"{}",                                             [400]),
    ("chunks without the last",            CHUNKED + b"2\r\n{}\r\n",                                      [400]),
    ("half a head",                        GET,                                                           [400]),
]
# fmt: on


def cuts(data: bytes) -> Iterator[list[bytes]]:
    """Yield the data whole, cut in two at every place, and byte by byte."""
    yield [data]
    for position in range(1, len(data), 1 if len(data) < 300 else 37):
        yield [data[:position], data[position:]]
    yield [data[position : position + 1] for position in range(len(data))]


@pytest.mark.parametrize(("what", "data"), GOOD, ids=[case[0] for case in GOOD])
def test_requests_are_read_as_h11_reads_them_in_any_fragments(loop: Loop, what: str, data: bytes) -> None:
    expected = requests(data)
    assert expected
    for parts in cuts(data):
        answers = responses(answered(loop, parts))
        assert [(status, json.loads(body)) for status, body in answers] == [(200, request) for request in expected], (
            parts
        )


@pytest.mark.parametrize(("what", "data", "statuses"), BAD, ids=[case[0] for case in BAD])
def test_malformed_requests_are_refused_with_json_in_any_fragments(
    loop: Loop, what: str, data: bytes, statuses: list[int]
) -> None:
    for parts in cuts(data):
        answers = responses(answered(loop, parts))
        assert [status for status, _ in answers] == statuses, parts
        assert statuses[-1] == 200 or json.loads(answers[-1][1])["error"]


PIECES = [
    # head                  one piece         number of pieces, pieces sent at once
    (CHUNKED,               b"2\r\n{}\r\n",   10_000, 500),
    (length(20_000),        b"{}",            10_000, 1),
]  # fmt: skip


@pytest.mark.parametrize(("head", "piece", "count", "at_once"), PIECES, ids=["chunks", "packets"])
def test_a_body_in_tiny_pieces_takes_little_memory(
    loop: Loop, monkeypatch: pytest.MonkeyPatch, head: bytes, piece: bytes, count: int, at_once: int
) -> None:
    monkeypatch.setattr("serving.servers.standalone.reading.largest_body", lambda path: 1 << 20)
    wire = Wire(loop)
    wire.send(head + piece)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(count // at_once - 1):
        wire.send(piece * at_once)
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert taken < 3 * 2 * count, taken
    wire.send(piece * at_once + b"0\r\n\r\n")
    wire.close()


def test_the_body_of_an_upgrade_request_is_not_read_as_a_request(loop: Loop) -> None:
    inner = b"GET /inner HTTP/1.1\r\nHost: x\r\n\r\n"
    data = length(len(inner), b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n") + inner
    for parts in cuts(data):
        ((status, body),) = responses(answered(loop, parts))
        assert (status, json.loads(body)[1:4]) == (200, ["/a", "", inner.decode()])


TARGETS = [
    # sent                          path         query
    (b"/a/b",                       "/a/b",      ""),
    (b"/a%2Fb%20c?d=%20",           "/a/b c",    "d=%20"),
    (b"/%C3%A9",                    "/é",        ""),
    (b"/%ff",                       "/\ufffd",   ""),
    (b"http://host:80/a?b",         "/a",        "b"),
    (b"http://host",                "/",         ""),
    (b"http://host?b",              "/",         "b"),
    (b"/a?b?c",                     "/a",        "b?c"),
    (b"//a",                        "//a",       ""),
]  # fmt: skip


@pytest.mark.parametrize(("url", "path", "query"), TARGETS)
def test_a_target_is_read_in_each_of_its_forms(loop: Loop, url: bytes, path: str, query: str) -> None:
    ((_, body),) = responses(answered(loop, [b"GET " + url + b" HTTP/1.1\r\nHost: x\r\n\r\n"]))
    assert json.loads(body)[1:3] == [path, query]


EXPECTING = [
    # what                             head                                                           statuses
    ("a body that is wanted",          length(2, b"Expect: 100-continue\r\n"),                        [100, 200]),
    ("chunks that are wanted",         POST + b"Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n", [100, 200]),
    ("a body that is too large",       length(LIMIT + 1, b"Expect: 100-continue\r\n"),                [413]),
    ("HTTP/1.0, which has none",       length(2, b"Expect: 100-continue\r\n").replace(b"1.1", b"1.0"), [200]),
]  # fmt: skip


@pytest.mark.parametrize(("what", "data", "statuses"), EXPECTING, ids=[case[0] for case in EXPECTING])
def test_100_continue_is_sent_only_where_the_body_is_read(
    loop: Loop, what: str, data: bytes, statuses: list[int]
) -> None:
    body = b"2\r\n{}\r\n0\r\n\r\n" if b"chunked" in data else b"{}"
    assert [status for status, _ in responses(answered(loop, [data, body]))] == statuses
    statuses_sent = [status for status, _ in responses(answered(loop, [data + body]))]
    assert statuses_sent == statuses[-1:]  # the body was there already


def test_a_refused_request_gets_no_100_continue(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> float:
        raise Unavailable("too many requests")

    monkeypatch.setattr(loop._admission.alone, "expect", refuse)
    for path, statuses in ((b"/", [503]), (b"/healthz", [100, 200]), (b"/nothing", [100, 200])):
        data = length(2, b"Expect: 100-continue\r\n").replace(b"/a", path)
        assert [status for status, _ in responses(answered(loop, [data, b"{}"]))] == statuses
        assert [status for status, _ in responses(answered(loop, [data + b"{}"]))] == [200]  # the body is there


def test_a_pipelined_request_gets_100_continue_after_the_previous_answer(loop: Loop) -> None:
    data = GET + b"\r\n" + length(2, b"Expect: 100-continue\r\n")
    assert [status for status, _ in responses(answered(loop, [data, b"{}"]))] == [200, 100, 200]


def test_nothing_is_read_while_another_thread_answers(loop: Loop) -> None:
    wire, held = Wire(loop), list[tuple[Exchange, Any]]()

    def hold(exchange: Exchange, body: Any) -> None:
        exchange.connection.busy = exchange
        held.append((exchange, body))

    loop.answer = hold  # type: ignore[method-assign]
    wire.send(length(1) + b"1" + length(1) + b"2")
    wire.send(length(1) + b"3")
    assert (len(held), wire.connection.interest) == (1, 0)
    for number in (b"1", b"2", b"3"):
        exchange, body = held[-1]
        assert body == number
        echo(exchange, body)
        wire.connection.finished = exchange
        wire.connection.resume()
        wire.connection.resume()  # a second call changes nothing
        if number == b"2":
            wire.connection.on_event(connections.IN)
    assert [json.loads(body)[3] for _, body in responses(wire.answers())] == ["1", "2", "3"]
    wire.close()


def test_many_pipelined_requests_take_turns_with_other_connections(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "TURN", 1e-9)
    many, other = Wire(loop), Wire(loop)
    many.send(3 * (length(2) + b"{}"))
    many.send(length(2) + b"{}")
    assert (list(loop._posted), many.connection.is_idle) == ([many.connection], False)
    assert len(responses(many.answers())) == 1
    other.send(length(2) + b"{}")
    assert len(responses(other.answers())) == 1
    for _ in range(2):
        loop._on_event(loop._waking)
        assert len(responses(many.answers())) == 1
    assert not loop._posted
    many.connection.on_event(connections.IN)
    assert len(responses(many.answers())) == 1
    for wire in (many, other):
        wire.close()


def test_a_stopping_server_answers_pipelined_requests_and_reads_what_else_is_sent(loop: Loop) -> None:
    wire, loop.is_stopping = Wire(loop), True
    wire.send(3 * (length(2) + b"{}"))
    answers = wire.answers()
    assert len(responses(answers)) == 3
    assert answers.count(b"Connection: close") == 1
    wire.send(length(2) + b"{}")  # a connection that is closed with unread bytes is reset, and loses its answers
    assert (wire.answers(), wire.connection.lingers, wire.connection.is_closed) == (b"", True, False)
    wire.end()
    assert wire.connection.is_closed
    wire.close()


def test_an_answer_to_a_slow_reader_is_continued_and_ended_in_time(loop: Loop) -> None:
    wire, size = Wire(loop), 8 << 20
    loop.answer = lambda exchange, body: exchange.connection.send(exchange, Response(200, b"x" * size))  # type: ignore[assignment, method-assign]
    wire.send(GET + b"\r\n")
    assert wire.connection.timer is loop.sending
    received = wire.answers()
    for _ in range(1000):
        if len(received) > size:
            break
        wire.connection.on_event(connections.OUT)
        received += wire.answers()
    assert len(received.partition(b"\r\n\r\n")[2]) == size
    assert wire.connection.is_idle
    wire.send(GET + b"\r\n")
    loop._look(time.monotonic() + 6)
    assert wire.connection.is_closed
    wire.close()


def test_answers_without_a_body_have_none_and_a_field_with_a_line_end_is_not_sent(loop: Loop) -> None:
    def answer(response: Response, method: bytes) -> tuple[bytes, bytes]:
        loop.answer = lambda exchange, body: exchange.connection.send(exchange, response)  # type: ignore[assignment, method-assign]
        head, _, body = answered(loop, [method + b" /a HTTP/1.1\r\nHost: x\r\n\r\n"]).partition(b"\r\n\r\n")
        return head.lower(), body

    head, body = answer(Response(204, b""), b"POST")
    assert (b"content-length" in head, b"content-type" in head, body) == (False, False, b"")
    head, body = answer(Response(200, b"12345"), b"HEAD")
    assert (b"content-length: 5" in head, body) == (True, b"")
    for value in ("a\r\nb: c", "a\nb", "a\rb", "\u20ac"):
        head, body = answer(Response(200, b"", headers=(("X-A", value),)), b"GET")
        assert head.startswith(b"http/1.1 500 ")
        assert b"x-a" not in head
