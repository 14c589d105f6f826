"""Bodies that are not one JSON document: signatures and bytes alone, no TensorFlow."""

import csv
import io
import json
import re
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st
from werkzeug.datastructures import FileStorage, MultiDict
from werkzeug.test import encode_multipart

from serving.core.http import BadRequest, ModelFault
from serving.protocols.call import Context
from serving.protocols.kinds import is_raw
from serving.protocols.raw import decode, encode, example, place
from serving.protocols.raw.bodies import parameter
from tests.fuzz import rounds
from tests.protocols.raw_bodies import CSV, FORM, LINES, PNG, SIGNATURES, form, read, rows, signature, spec

TAKEN = [
    # content type                          body                       is raw
    ("image/png",                           PNG,                       True),
    ("image/png",                           b'{"a": 1}',               True),
    ("IMAGE/PNG; q=1",                      PNG,                       True),
    ("audio/wav",                           b"RIFF",                   True),
    ("video/mp4",                           b"",                       True),
    ("application/octet-stream",            PNG,                       True),
    ("application/octet-stream",            b'\xef\xbb\xbf { "a": 1}', False),
    ("application/octet-stream",            b"{}",                     False),
    ("application/octet-stream",            b"{\x00",                  True),
    ("text/plain;charset=UTF-8",            b'{"instances": [1]}',     False),
    ("text/plain;charset=UTF-8",            b'{"instances": [NaN',     False),
    ("text/plain",                          b"{curly} text",           True),
    ("text/plain",                          b"[1, 2]",                 True),
    ("text/csv",                            b"x\n1",                   True),
    ("text/csv",                            b' {"inputs": 1}',         False),
    ("multipart/form-data; boundary=x",     b"--x--",                  True),
    ("multipart/form-data; boundary=x",     b'{"inputs": 1}',          False),
    ("application/x-ndjson",                b'{"x": 1}\n',             True),
    ("application/jsonl",                   b'{"x": 1}\n',             True),
    ("application/x-jsonlines",             b"1",                      True),
    ("application/jsonlines",               b"1",                      True),
    ("",                                    b"{}",                     False),
    ("application/json",                    b"{}",                     False),
    ("application/x-www-form-urlencoded",   b"{}",                     False),
    ("text/html",                           b"<p>",                    False),
    ("images",                              b"{}",                     False),
]  # fmt: skip


@pytest.mark.parametrize(("content_type", "body", "raw"), TAKEN)
def test_a_body_that_begins_like_a_json_object_is_json(content_type: str, body: bytes, raw: bool) -> None:
    assert is_raw(content_type, body) is raw


RIGHT = [
    # signature   content type                   body                                              inputs
    ("",          "image/png",                   PNG,                                              {"image": [PNG]}),
    ("",          "application/octet-stream",    b"[1]\n",                                         {"image": [b"[1]\n"]}),
    ("rank0",     "image/png",                   PNG,                                              {"image": PNG}),
    ("free",      "audio/wav",                   PNG,                                              {"image": [PNG]}),
    ("one",       "video/mp4",                   PNG,                                              {"text": [PNG]}),
    ("column",    "text/plain",                  b"a\xc3\xa9\n",                                   {"text": [["aé\n".encode()]]}),
    ("",          "text/plain; charset=UTF-8",   b"\xef\xbb\xbfa",                                 {"image": [b"a"]}),
    ("",          "text/plain; charset=\"iso-8859-1\"", b"\xe9",                                   {"image": ["é".encode()]}),
    ("",          "text/plain; charset=us-ascii", b"a",                                            {"image": [b"a"]}),
    ("real",      LINES,                         b"1\n2.5\n",                                      {"x": [1, 2.5]}),
    ("real",      LINES,                         b"\xef\xbb\xbf1\r\n 2 \r\n\r\n\n",                {"x": [1, 2]}),
    ("real",      "application/jsonl",           b'{"x": 1}\n{"x": 2}',                            {"x": [1, 2]}),
    ("real",      LINES,                         b"-Infinity\n1e3",                                {"x": [-np.inf, 1000]}),
    ("vector",    LINES,                         b"[1, 2]\n[3, 4]",                                {"x": [[1, 2], [3, 4]]}),
    ("pair",      LINES,                         b'{"age": 1, "name": "a\\nb"}\n{"name": "\xc3\xa9", "age": 2}', {"age": [1, 2], "name": [b"a\nb", "é".encode()]}),
    ("",          LINES,                         b'{"b64": "/w=="}\n"a"',                          {"image": [b"\xff", b"a"]}),
    ("pair",      CSV,                           b"age,name\n1,a\n2,\n",                           {"age": [1, 2], "name": [b"a", b""]}),
    ("pair",      CSV,                           b"\xef\xbb\xbfname,age\r\n\"a,\"\"\r\nb\",-2\r\n\r\n", {"age": [-2], "name": [b'a,"\r\nb']}),
    ("pair",      CSV + "; charset=latin1",      b"age,name\n1,\xe9",                              {"age": [1], "name": ["é".encode()]}),
    ("real",      CSV,                           b"x\n1\n-2.5e-1\nNaN\n-Infinity",                 {"x": [1, -0.25, np.nan, -np.inf]}),
    ("double",    CSV,                           b"x\n18446744073709551616\n0.1",                  {"x": [2.0**64, 0.1]}),
    ("half",      CSV,                           b"x\n0.5\n65504",                                 {"x": [0.5, 65504]}),
    ("brain",     CSV,                           b"x\n0.5\nNaN",                                   {"x": [0.5, np.nan]}),
    ("tiny",      CSV,                           b"n\n0\n255",                                     {"n": [0, 255]}),
    ("huge",      CSV,                           b"n\n0\n18446744073709551615",                    {"n": [0, 2**64 - 1]}),
    ("tiny",      CSV,                           b"n\n3.0\n2.55e2\n-0.0\n7",                     {"n": [3, 255, 0, 7]}),
    ("huge",      CSV,                           b"n\n1e19\n18446744073709551615",                 {"n": [10**19, 2**64 - 1]}),
    ("flag",      CSV,                           b"flag\ntrue\nFalse\nTRUE",                       {"flag": [True, False, True]}),
    ("vector",    CSV,                           b"x[0],x[1]\n1,2\n3,4",                           {"x": [[1, 2], [3, 4]]}),
    ("vector",    CSV,                           b"x.1,x.0\n1,2\n3,4",                             {"x": [[2, 1], [4, 3]]}),
    ("vector",    CSV,                           b"height,width\n1,2",                             {"x": [[1, 2]]}),
    ("vector",    CSV + "; header=absent",       b"1,2\n3,4",                                      {"x": [[1, 2], [3, 4]]}),
    ("wide",      CSV,                           b"x[0],x[1],x[2]\n1,2,3",                         {"x": [[1, 2, 3]]}),
    ("wide",      CSV + "; header=absent",       b"1,2,3",                                         {"x": [[1, 2, 3]]}),
    ("wide",      CSV,                           b"x\n1",                                          {"x": [[1]]}),
    ("keras",     CSV,                           b"x\n1\n2",                                       {"x": [[1], [2]]}),
    ("keras",     CSV,                           b"height\n1",                                     {"x": [[1]]}),
    ("any",       CSV,                           b"x\n1\n2",                                       {"x": [1, 2]}),
    ("any",       CSV,                           b"x[0],x[1]\n1,2",                                {"x": [[1, 2]]}),
    ("real",      CSV + "; header=absent",       b"1\n2",                                          {"x": [1, 2]}),
    ("real",      CSV + "; header=present",      b"x\n1",                                          {"x": [1]}),
    ("words",     CSV,                           b"words[0],words[1]\na,\n1,true",                 {"words": [[b"a", b""], [b"1", b"true"]]}),
    ("dotted",    CSV,                           b"a.b,c.0,c[1]\n1,2,3",                           {"a.b": [1], "c": [[2, 3]]}),
    ("pair",      CSV,                           b"age,name\n1," + b"a" * 200_000,                 {"age": [1], "name": [b"a" * 200_000]}),
    ("keyed",     CSV,                           b"key\na",                                        {"key": [b"a"]}),
    ("",          FORM,                          form(("image", PNG)),                             {"image": [PNG]}),
    ("",          FORM,                          b"\r\n" + form(("image", b"")),                   {"image": [b""]}),
    ("",          FORM,                          form(("image", PNG), ("image", b"--xyza\r\n--xy")), {"image": [PNG, b"--xyza\r\n--xy"]}),
    ("",          FORM,                          form(("image", b"\r\n--xyza\r\n--xyz-\r\n")),     {"image": [b"\r\n--xyza\r\n--xyz-\r\n"]}),
    ("",          FORM,                          form(("image", b"")).replace(b"\r\n\r\n\r\n", b"\r\n\r\n"), {"image": [b""]}),
    ("boxed",     FORM,                          form(("box", b"[1,\n2,3,4]"), ("image", PNG)),    {"image": [PNG], "box": [[1, 2, 3, 4]]}),
    ("tuned",     FORM,                          form(("image", b"a"), ("heat", b"0.5"), ("image", b"b")), {"image": [b"a", b"b"], "heat": 0.5}),
    ("scalar",    FORM,                          form(("x", b"0.5")),                              {"x": 0.5}),
    ("rank0",     FORM,                          form(("image", PNG)),                             {"image": PNG}),
    ("column",    FORM,                          form(("text", b"a"), ("text", b"b")),             {"text": [[b"a"], [b"b"]]}),
    ("words",     FORM,                          form(("words", b'["a", {"b64": "/w=="}]')),       {"words": [[b"a", b"\xff"]]}),
    ("flag",      FORM,                          form(("flag", b"true")),                          {"flag": [True]}),
    ("real",      FORM,                          form(("x", b"NaN")),                              {"x": [np.nan]}),
    ("",          "multipart/form-data; boundary=\"x z\"", b'--x z \t\r\ncontent-disposition:form-data ; filename="a;\\"b.png"; name=image\r\nContent-Type: image/png\r\n\r\na\r\n--x z--', {"image": [b"a"]}),
    ("",          FORM,                          b'--xyz\r\nContent-Disposition: form-data; name="image"\r\nContent-Type: text/plain; charset=latin-1\r\n\r\n\xe9\r\n--xyz--', {"image": ["é".encode()]}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content_type", "body", "inputs"), RIGHT)
def test_a_body_becomes_named_arrays(name: str, content_type: str, body: bytes, inputs: dict[str, Any]) -> None:
    call = read(content_type, body, name)
    assert call.signature.name == (name or "serving_default")
    assert repr(rows(call)) == repr(
        {key: np.array(value, call.inputs[key].dtype).tolist() for key, value in inputs.items()}
    )
    for key, array in call.inputs.items():
        assert array.dtype == call.signature.inputs[key].dtype.numpy


EACH_ROW = [
    # signature   content type   body                                                 inputs                               failed rows
    ("real",      LINES,         b"1\n\nx\n2\nnull",                                  {"x": [1, 2]},                       {1: "line 2: expected a JSON value, got nothing", 2: "line 3: not JSON: Expecting value at column 1", 4: "line 5: expected float32, got null"}),
    ("real",      LINES,         b"x\n",                                              {},                                  {0: "line 1: not JSON: Expecting value at column 1"}),
    ("pair",      LINES,         b'{\n{"age": 1, "name": "a"}\n{"age": "b", "name": ""}', {"age": [1], "name": [b"a"]},    {0: "line 1: not JSON: Expecting property name enclosed in double quotes at column 2", 2: 'line 3, age: expected int32, got the string "b"'}),
    ("wide",      LINES,         b"[1]\n]\n[1, 2]\n[3]",                              {"x": [[1], [3]]},                   {1: "line 2: not JSON: Expecting value at column 1", 2: "line 3, x: expected shape [1] as in the rows before, got [2]"}),
    ("pair",      CSV,           b"age,name\n1,\"a\nb\"\nx,c\n2\n\n3,d\n4.5,e",       {"age": [1, 3], "name": [b"a\nb", b"d"]}, {1: "line 4, column age: expected int32, got 'x'", 2: "line 5: expected 2 values, got 1", 3: "line 6: expected 2 values, got an empty line", 5: "line 8, column age: expected int32, got 4.5"}),
    ("vector",    CSV,           b"x[0],x[1]\n1,2\n,y",                               {"x": [[1, 2]]},                     {1: "line 3, column x[0]: expected float32, got an empty cell"}),
    ("age",       CSV,           b"age\nx\ny",                                        {},                                  {0: "line 2, column age: expected int32, got 'x'", 1: "line 3, column age: expected int32, got 'y'"}),
    ("pair",      CSV,           b"age,name\n1\n2",                                   {},                                  {0: "line 2: expected 2 values, got 1", 1: "line 3: expected 2 values, got 1"}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content_type", "body", "inputs", "failed"), EACH_ROW)
def test_a_bad_row_can_get_an_error_at_its_position(
    name: str, content_type: str, body: bytes, inputs: dict[str, Any], failed: dict[int, str]
) -> None:
    call = read(content_type, body, name, on_error="row")
    assert rows(call) == inputs
    assert call.failed == failed
    answer = encode(call, {"y": np.arange(len(next(iter(inputs.values()))))} if inputs else {})
    lines = [json.loads(line) for line in answer.body.splitlines()]
    assert {row: line["error"] for row, line in enumerate(lines) if isinstance(line, dict)} == failed
    assert [line for line in lines if not isinstance(line, dict)] == list(range(len(lines) - len(failed)))


KEYED = [
    # content type   body                                                                                      keys
    (LINES,          b'{"key": [7], "age": 1, "name": "a"}\n{"age": 2, "name": "b"}',                          [[7], None]),
    (LINES,          b'{"key": 7, "age": 1, "name": "a"}\n{\n{"key": 9, "age": 2, "name": "b"}',               [7, None, 9]),
    (CSV,            b"key,age,name\nk1,1,a\n,2,b",                                                            ["k1", ""]),
    (CSV,            b"age,key,name\n1,k1,a\n2\nx,k3,b",                                                       ["k1", None, "k3"]),
    (FORM,           form(("key", b"k1"), ("age", b"1"), ("name", b"a"), ("name", b"b"), ("age", b"2"), ("key", b"k2")), ["k1", "k2"]),
]  # fmt: skip


@pytest.mark.parametrize(("content_type", "body", "keys"), KEYED)
def test_a_key_is_returned_with_its_row(content_type: str, body: bytes, keys: list[Any]) -> None:
    call = read(content_type, body, "pair", on_error="row")
    answer = encode(call, {"y": np.arange(len(call.inputs["age"]))})
    answered = (
        json.loads(answer.body)["predictions"]
        if content_type == FORM
        else list(map(json.loads, answer.body.splitlines()))
    )
    assert [row.get("key") for row in answered] == keys
    assert all(("error" in row) == (index in call.failed) for index, row in enumerate(answered))


ANSWERS = [
    # signature   content type   body                  outputs                                                       type                    answer
    ("",          "image/png",   PNG,                  {"y": np.array([2.1], np.float32)},                           "application/json",     b'{"predictions":[2.1]}'),
    ("",          "text/plain",  b"a",                 {"a": np.array([1]), "b": np.array([b"x"], object)},          "application/json",     b'{"predictions":[{"a":1,"b":"x"}]}'),
    ("rank0",     "image/png",   PNG,                  {"y": np.array(2.1, np.float32)},                             "application/json",     b'{"outputs":2.1}'),
    ("",          FORM,          form(("image", PNG)), {"y": np.array([[1, 2]])},                                    "application/json",     b'{"predictions":[[1,2]]}'),
    ("scalar",    FORM,          form(("x", b"1")),    {"y": np.array(2)},                                           "application/json",     b'{"outputs":2}'),
    ("real",      LINES,         b"1\n2",              {"y": np.array([0.1, 2], np.float32)},                        "application/x-ndjson", b"0.1\n2.0\n"),
    ("real",      LINES,         b"1\n2",              {"y": np.array([[1, 2], [3, 4]], np.int8)},                   "application/x-ndjson", b"[1,2]\n[3,4]\n"),
    ("real",      LINES,         b"1\n2",              {"y": np.array([b"a\n", b"\xff"], object)},                   "application/x-ndjson", b'"a\\n"\n{"b64":"/w=="}\n'),
    ("real",      CSV,           b"x\n1\n2",           {"a": np.array([1, 2]), "b": np.array([[0.5], [1]])},         "application/x-ndjson", b'{"a":1,"b":[0.5]}\n{"a":2,"b":[1.0]}\n'),
    ("real",      CSV,           b"x\n1\n2",           {"y": np.array([np.nan, 1], np.float32)},                     "application/x-ndjson", b"NaN\n1.0\n"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content_type", "body", "outputs", "answered", "wanted"), ANSWERS)
def test_json_lines_are_answered_by_json_lines(
    name: str, content_type: str, body: bytes, outputs: dict[str, Any], answered: str, wanted: bytes
) -> None:
    answer = encode(read(content_type, body, name), outputs)
    assert (answer.status, answer.content_type, answer.body) == (200, answered, wanted)


def test_a_row_that_the_model_refused_gets_an_error_at_its_position() -> None:
    call = read(LINES, b"1\nx\n3\n4", "real", on_error="row")
    inputs = {name: array[[0, 2]] for name, array in call.inputs.items()}
    refused = call._replace(inputs=inputs, failed={**call.failed, 2: "line 3: the model refuses it"})
    answer = encode(refused, {"y": np.array([1, 4])})
    assert [line if isinstance(line, int) else line["error"][:6] for line in map(json.loads, answer.body.splitlines())] == [
        1, "line 2", "line 3", 4,
    ]  # fmt: skip


def test_outputs_with_another_number_of_rows_cannot_answer_lines() -> None:
    with pytest.raises(ModelFault, match="the output 'y' has 1 rows for the 2 rows of the request"):
        encode(read(LINES, b"1\n2", "real"), {"y": np.array([1.0])})


PLACES = [
    # signature   content type   body                                                    row    place
    ("",          "image/png",   PNG,                                                    0,     "body"),
    ("real",      LINES,         b"1\n2",                                                1,     "line 2"),
    ("real",      LINES,         b"1\n2",                                                None,  "lines"),
    ("pair",      CSV,           b"age,name\n1,\"a\n\"\n2,b",                            1,     "line 4"),
    ("pair",      CSV,           b"age,name\n1,a\n2,b",                                  None,  "lines"),
    ("real",      CSV + "; header=absent", b"1\n2",                                      1,     "line 2"),
    ("",          FORM,          form(("image", b"a"), ("image", b"b")),                 1,     "part 2"),
    ("pair",      FORM,          form(("age", b"1"), ("name", b"a")),                    0,     "part 1 and part 2"),
    ("scalar",    FORM,          form(("x", b"1")),                                      None,  "parts"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content_type", "body", "row", "wanted"), PLACES)
def test_a_row_that_the_model_refuses_is_named_by_its_line(
    name: str, content_type: str, body: bytes, row: int | None, wanted: str
) -> None:
    assert place(read(content_type, body, name), row) == wanted


PARAMETERS = [
    # header field                                          name        value
    ("multipart/form-data; boundary=abc",                   "boundary", "abc"),
    ("multipart/form-data;boundary=\"a;b\\\"c\"; x=1",      "boundary", 'a;b"c'),
    ("multipart/form-data; BOUNDARY=abc",                   "boundary", "abc"),
    ("form-data; filename=\"name=x\"; name=\"y\"",          "name",     "y"),
    ("form-data; filename=\"a;name=x\"; name=\"y\"",        "name",     "y"),
    ("form-data; name*=utf-8''x",                           "name",     None),
    ("text/plain",                                          "charset",  None),
    ("text/plain; charset=",                                "charset",  ""),
]  # fmt: skip


@pytest.mark.parametrize(("field", "name", "value"), PARAMETERS)
def test_a_parameter_is_read_as_headers_write_it(field: str, name: str, value: str | None) -> None:
    assert parameter(field, name) == value


def test_a_body_for_a_signature_of_numbers_is_answered_with_an_example() -> None:
    with pytest.raises(BadRequest) as raised:
        read("image/png", PNG, "vector")
    assert raised.value.example
    assert raised.value.signature == "vector"
    assert orjson.loads(example(SIGNATURES["vector"])) == {"signature_name": "vector", "instances": [[0.0, 0.0]]}
    with pytest.raises(BadRequest) as raised:
        read(CSV, b"x\ny", "vector")
    assert not raised.value.example


TYPES = ["image/png", "text/plain", LINES, CSV, CSV + "; header=absent", FORM, "text/plain; charset=latin-1"]
PIECES = [
    b"--xyz", b"--xyz--", b"\r\n", b"\n", b'Content-Disposition: form-data; name="age"', b'name="image"', b":", b";",
    b"age", b"name", b"x", b"x[0]", b"x.1", b"key", b",", b'"', b"1", b"-2.5", b"1e400", b"NaN", b"true", b"[", b"]",
    b"{", b"}", b'"age":', b'"key":', b'"name":', b'"x":', b"null", b"\xff", b"\x00", b"\xc3\xa9", b"\xef\xbb\xbf", b" ",
]  # fmt: skip
BODIES = st.binary(max_size=80) | st.lists(st.sampled_from(PIECES), max_size=30).map(b"".join)


@hypothesis(max_examples=rounds(500), deadline=None)
@given(st.sampled_from(TYPES), BODIES, st.sampled_from([*SIGNATURES, "no"]), st.sampled_from(["row", "request"]))
def test_any_body_is_decoded_or_refused(content_type: str, body: bytes, name: str, on_error: str) -> None:
    try:
        call = read(content_type, body, name, on_error=on_error)
    except BadRequest as error:
        assert str(error)
        return
    for key, array in call.inputs.items():
        assert array.dtype == call.signature.inputs[key].dtype.numpy
    assert all(place(call, row) in message for row, message in call.failed.items())
    if not call.failed:
        assert call.inputs.keys() == call.signature.inputs.keys()


JSON_PIECES = ["[", "]", "{", "}", ",", '"x"', ":", "1", " ", "\n", '"instances"', "\\", "\r", "null"]


def text(value: Any) -> Any:
    if isinstance(value, list):
        return [text(item) for item in value]
    return value.decode() if isinstance(value, bytes) else value


@hypothesis(max_examples=rounds(500), deadline=None)
@given(
    st.lists(st.sampled_from(JSON_PIECES), max_size=24).map("".join), st.sampled_from(["free", "real", "any", "vector"])
)
def test_every_line_is_a_json_value_of_its_own(body: str, name: str) -> None:
    try:
        call = read(LINES, body.encode(), name)
    except BadRequest:
        return
    lines = body.rstrip().split("\n")
    (array,) = call.inputs.values()
    assert len(array) == len(lines)
    for line, row in zip(lines, array.tolist()):
        value = json.loads(line)
        assert (value["x"] if isinstance(value, dict) and "x" in value else value) == text(row)


BINARY = st.lists(
    st.sampled_from([b"\r", b"\n", b"\r\n", b"\0", b"\xff", b"--", b"--xyz", b"\r\n--xy", b"\r\n--xyza", b"-", b"a"]), max_size=12
).map(b"".join) | st.binary()  # fmt: skip


@hypothesis(max_examples=rounds(200), deadline=None)
@given(
    st.lists(
        BINARY.filter(lambda data: not re.search(rb"\r\n--xyz(--)?\r\n", b"\r\n" + data + b"\r\n")),
        min_size=1,
        max_size=4,
    )
)
def test_a_form_round_trips_every_byte(contents: list[bytes]) -> None:
    written = form(*[("image", data) for data in contents])
    assert read(FORM, written).inputs["image"].tolist() == contents


@hypothesis(max_examples=200, deadline=None)
@given(
    st.lists(st.binary(), min_size=1, max_size=4),
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc"], exclude_characters='\\"'), max_size=8),
)
def test_forms_of_other_clients_are_read(contents: list[bytes], filename: str) -> None:
    files = [("image", FileStorage(io.BytesIO(data), filename or "x", content_type="image/png")) for data in contents]
    texts = [("name", "text")] * len(contents)
    boundary, written = encode_multipart(MultiDict([*files, *texts]))
    two = {
        "serving_default": signature(
            "serving_default", spec("image", "object", (None,)), spec("name", "object", (None,))
        )
    }
    call = decode(written, two, Context({"content-type": f'multipart/form-data; boundary="{boundary}"'}))
    assert call.inputs["image"].tolist() == contents
    assert call.inputs["name"].tolist() == [b"text"] * len(contents)


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6)
ROWS = st.lists(st.tuples(st.integers(-(2**31), 2**31 - 1), TEXTS, st.floats(width=32)), min_size=1, max_size=6)


@hypothesis(max_examples=rounds(200), deadline=None)
@given(ROWS, st.sampled_from(["\n", "\r\n"]))
def test_a_csv_table_round_trips_every_value(table: list[tuple[int, str, float]], end: str) -> None:
    written = io.StringIO(newline="")
    writer = csv.writer(written, lineterminator=end, quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow(["age", "name", "x"])
    writer.writerows([age, name, json.dumps(x)] for age, name, x in table)
    inputs = spec("age", "int32", (None,)), spec("name", "object", (None,)), spec("x", "float32", (None,))
    three = {"serving_default": signature("serving_default", *inputs)}
    call = decode(written.getvalue().encode(), three, Context({"content-type": CSV}))
    ages, names, xs = zip(*table)
    assert call.inputs["age"].tolist() == list(ages)
    assert call.inputs["name"].tolist() == [name.encode() for name in names]
    np.testing.assert_array_equal(call.inputs["x"], np.array(xs, np.float32))
