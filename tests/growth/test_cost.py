"""The CPU time per byte of the most expensive bodies: no form of a body occupies a worker for long.

CPU time against CPU time on the same machine, the yardstick being Python's own json.loads of as many bytes of rows.
"""

import json

import pytest

from tests.conftest import Serve
from tests.growth import Make, Reader, kept_memory, seconds
from tests.growth.grown import v2
from tests.growth.test_bodies import (
    CSV,
    LINES,
    NAMED,
    STRING,
    TEXT,
    VECTOR,
    WHOLE,
    _signature,
    bare,
    infer,
    posted,
    predict,
)

SIZE = 1 << 16  # bytes
MOST = 15  # times as long as json.loads; an array and a check for each row took 30 to 60 times
TEXTS = _signature("serving_default", x=(STRING, (None, None)))
LONGS = _signature("serving_default", x=(9, (None, None)))
HEADLESS = "text/csv; header=absent"
SCALARS = _signature("serving_default", x=(1, (None,)))


def filled(text: str, end: str = "", around: str = '{"instances":[%s]}') -> Make:
    """Return what makes a body of a text, again and again, and of another one at its end."""
    return lambda size: (around % ",".join([text] * (size // (len(text) + 1)) + [end] * bool(end))).encode()


def lines(text: str, end: str = "") -> Make:
    return lambda size: f"{text}\n".encode() * (size // (len(text) + 1)) + end.encode()


# fmt: off
WORST: list[tuple[str, Make, Reader]] = [
    ("a bad row at the end",               filled("[1]", '["a"]'),                  predict(VECTOR)),
    ("a longer row at the end",            filled("[1]", "[1,2]"),                  predict(VECTOR)),
    ("a bad row behind empty ones",        filled("[]", '["a"]'),                   predict(VECTOR)),
    ("a bad row behind deep ones",         filled("[[[[1]]]]", "1"),                predict(VECTOR)),
    ("a bad number at the end",            filled("1", '"a"'),                      predict(SCALARS)),
    ("a number out of range at the end",   filled("1", "1e39"),                     predict(SCALARS)),
    ("a row out of range at the end",      filled("[1]", "[1e39]"),                 predict(VECTOR)),
    ("half a whole number at the end",     filled("[1.0]", "[1.5]"),                predict(LONGS)),
    ("half a whole number, no lists",      filled("1", "1.5"),                      predict(WHOLE)),
    ("NaN in every row",                   filled("[NaN]"),                         predict(VECTOR)),
    ("NaN at the end",                     filled("[1]", "[NaN]"),                  predict(VECTOR)),
    ("a large integer at the end",         filled("[1]", "[18446744073709551616]"), predict(VECTOR)),
    ("base64",                             filled('{"b64":""}'),                    predict(TEXT)),
    ("strings in lists",                   filled('[""]', "[1]"),                   predict(TEXTS)),
    ("rows with a name",                   filled('{"x":[1]}', '{"x":["a"]}'),      predict(VECTOR)),
    ("a column with a bad row at the end", filled("[1]", '["a"]', '{"inputs":[%s]}'), predict(VECTOR)),
    ("objects of another model",           filled('{"a":[[]]}'),                    predict(NAMED)),
    ("SageMaker, a bad row at the end",    filled("[1]", '["a"]', "[%s]"),          bare(VECTOR)),
    ("infer, a bad row at the end",        filled("[1]", '["a"]', v2("[%s]")),      infer(SCALARS)),
    ("lines with NaN",                     lines("NaN"),                            posted(LINES, SCALARS)),
    ("lines with NaN in lists",            lines("[NaN]"),                          posted(LINES, VECTOR)),
    ("lines, one of them NaN",             lines("1", "NaN"),                       posted(LINES, SCALARS)),
    ("lines, a bad one at the end",        lines("1", "x"),                         posted(LINES, SCALARS)),
    ("lines, a bad row at the end",        lines("[1]", '["a"]'),                   posted(LINES, VECTOR)),
    ("CSV of one wide row",                lambda size: b",".join([b"1"] * (size // 2)), posted(HEADLESS, VECTOR)),
    ("CSV of one wide row of NaN",         lambda size: b",".join([b"NaN"] * (size // 4)), posted(HEADLESS, VECTOR)),
    ("CSV, a bad cell at the end",         lambda size: b"x\n" + b"1\n" * (size // 2) + b"z", posted(CSV, SCALARS)),
    ("CSV, a large integer at the end",    lambda size: b"x\n" + b"1\n" * (size // 2) + b"1" * 30, posted(CSV, WHOLE)),
]
# fmt: on


@pytest.mark.parametrize(("make", "reader"), [case[1:] for case in WORST], ids=[case[0] for case in WORST])
def test_no_body_costs_many_times_a_plain_one(make: Make, reader: Reader, serve: Serve) -> None:
    serve(MAX_ROWS=str(1 << 30))
    body, plain = make(SIZE), filled("[1.5,2]")(SIZE)
    with kept_memory():
        assert min(seconds(reader, body) / seconds(json.loads, plain) for _ in range(3)) <= MOST
