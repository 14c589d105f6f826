"""Requests and connections that exceed a timeout are ended, with an answer where a request was begun."""

import time
from typing import Any

import pytest

from serving.core.http import Response
from serving.servers.standalone import connection as connections
from serving.servers.standalone.loop import Loop
from serving.servers.standalone.reading import Exchange
from tests.servers.standalone.wire import CHUNKED, GET, Wire, answered, length, responses


# Time
def wires(loop: Loop, data: bytes, count: int = 3) -> list[Wire]:
    made = [Wire(loop) for _ in range(count)]
    for wire in made:
        wire.send(data)
    return made


LATE = [
    # what                  sent                                  statuses
    ("half a head",         GET,                                  [408]),
    ("line ends alone",     b"\r\n\r\n",                          []),
    ("half a body",         length(5) + b"{}",                    [408]),
    ("half of the chunks",  CHUNKED + b"2\r\n{}\r\n",             [408]),
]  # fmt: skip


@pytest.mark.parametrize(("what", "data", "statuses"), LATE, ids=[case[0] for case in LATE])
def test_a_request_that_does_not_arrive_in_time_is_ended(
    loop: Loop, what: str, data: bytes, statuses: list[int]
) -> None:
    made = wires(loop, data)
    loop._look(time.monotonic() + 4)
    assert not any(wire.connection.is_closed for wire in made)
    loop._look(time.monotonic() + 6)
    for wire in made:
        assert [status for status, _ in responses(wire.answers())] == statuses
    loop._look(time.monotonic() + 9)
    assert not loop._connections
    for wire in made:
        wire.client.close()


def test_idle_connections_are_closed_after_their_timeout_and_first_when_connections_run_out(loop: Loop) -> None:
    idle = wires(loop, GET + b"\r\n")
    slow = wires(loop, GET)
    loop._most = 6
    loop._next_room = 0.0
    assert not loop._make_room(time.monotonic())  # each of them may be asking just now
    loop._next_room = 0.0
    for age, wire in zip((4, 3, 2), idle):
        wire.connection.idle_since -= age
    assert loop._make_room(time.monotonic())
    assert [wire.connection.is_closed for wire in idle] == [True, False, False]
    assert not any(wire.connection.is_closed for wire in slow)
    loop._sweep(time.monotonic() + connections.KEPT_ALIVE + 1)
    assert all(wire.connection.is_closed for wire in idle)
    loop._most, loop._next_room = 3, 0.0
    assert not loop._make_room(time.monotonic())  # each of them began just now
    loop._next_room = 0.0
    assert loop._make_room(time.monotonic() + 2)
    assert [wire.connection.is_closed for wire in slow] == [True, False, False]
    for wire in (*idle, *slow):
        wire.close()


def test_a_slow_body_is_dropped_when_another_needs_its_memory(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop._admission, "_most_bytes", 0)
    monkeypatch.setattr("serving.pipeline.admission.PIECE", 50)
    old, new = wires(loop, length(60) + b"x" * 40, 1)[0], Wire(loop)
    new.send(length(60) + b"y" * 40)
    assert [status for status, _ in responses(new.answers())] == [503]  # the old one is not slow yet
    monkeypatch.setattr("serving.servers.standalone.loop.CUTTABLE", -1.0)
    other = Wire(loop)
    other.send(length(60) + b"z" * 40)
    assert [status for status, _ in responses(old.answers())] == [503]
    other.send(b"z" * 20)
    answers = responses(other.answers())
    assert [status for status, _ in answers] == [200], answers
    for wire in (old, new, other):
        wire.close()


def test_a_request_answered_by_the_watchdog_is_answered_once(loop: Loop) -> None:
    def hang(exchange: Exchange, body: Any) -> None:
        exchange.give(Response(504, b'{"error":"late"}'))  # in a thread of its own
        exchange.connection.send(exchange, Response(200, b"later still"))

    loop.answer = hang  # type: ignore[method-assign]
    assert responses(answered(loop, [GET + b"\r\n" + GET + b"\r\n"])) == [(504, b'{"error":"late"}')]


def test_a_stopping_server_answers_the_next_request_on_a_connection_that_has_just_been_used(loop: Loop) -> None:
    unused, used, silent = wires(loop, b"", 3)
    unused.connection.idle_since -= 4
    loop._stop()
    assert unused.connection.is_closed
    used.send(GET + b"\r\n")
    answer = used.answers()
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"Connection: close" in answer
    assert not silent.connection.is_closed
    loop._look(time.monotonic() + 1)
    assert silent.connection.is_closed
    for wire in (unused, used, silent):
        wire.close()
