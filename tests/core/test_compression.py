"""Responses are compressed if the client accepts it and if it helps."""

import gzip
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.core.http import Request, Response, compress, read_body
from serving.protocols.kinds import HEADER

# Compression
# fmt: off
ACCEPTED = [
    # Accept-Encoding                       used
    (None,                                  None),
    ("",                                    None),
    ("identity",                            None),
    ("br",                                  None),
    ("*",                                   None),
    ("gzip",                                "gzip"),
    ("GZIP",                                "gzip"),
    ("deflate",                             "deflate"),
    ("gzip, deflate, br",                   "gzip"),
    ("deflate, gzip",                       "gzip"),
    ("gzip;q=0.5, deflate;q=0.8",           "deflate"),
    ("gzip;q=0, deflate; q=0",              None),
    ("gzip ; q=0.001",                      "gzip"),
    ("gzip;q=nan",                          None),
    ("gzip;q=-1, deflate;q=9",              None),
    ("," * 5000 + "gzip",                   None),
]
# fmt: on


@pytest.mark.parametrize(("accept", "used"), ACCEPTED, ids=[str(accept)[:40] for accept, _ in ACCEPTED])
def test_a_response_is_compressed_when_asked(accept: str | None, used: str | None) -> None:
    body = b"0.125," * 1000
    response = compress(Response(200, body, headers=((HEADER, "12"),)), accept)
    headers = dict(response.headers)
    assert headers[HEADER] == "12"
    assert headers.get("Content-Encoding") == used
    unpack = {None: bytes, "gzip": gzip.decompress, "deflate": zlib.decompress}[used]
    assert unpack(response.body) == body
    assert (len(response.body) < len(body)) == (used is not None)


LEFT_ALONE = {
    "short": Response(200, b"x" * 1023),
    "an error": Response(400, b"x" * 5000),
    "no smaller": Response(200, np.random.default_rng(1).bytes(5000)),
}


@pytest.mark.parametrize("response", LEFT_ALONE.values(), ids=LEFT_ALONE)
def test_a_response_is_not_compressed_where_that_would_not_help(response: Response) -> None:
    assert compress(response, "gzip") is response


@given(st.text(max_size=40) | st.lists(st.sampled_from(["gzip", "deflate", ";", "q=", "0.5", ",", " "])).map("".join))
def test_any_accept_encoding_is_read(accept: str) -> None:
    compress(Response(200, b"a" * 2000), accept)


@given(st.sampled_from(["gzip", "deflate"]), st.binary(min_size=1024, max_size=4096))
def test_compression_round_trips(encoding: str, body: bytes) -> None:
    response = compress(Response(200, body * 2), encoding)
    headers = {"content-encoding": dict(response.headers).get("Content-Encoding", "identity")}
    assert read_body(Request("POST", "/", headers=headers, body=response.body), 1 << 20) == body * 2
