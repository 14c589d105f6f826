"""JSON ↔ arrays: the fast and the careful reader agree, and nothing is silently repaired."""

import json
import math
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from serving.core.dtypes import DTYPES, EXTENDED, DType
from serving.core.http import BadRequest, to_json
from serving.protocols.json_tensors.dialect import parse_carefully
from serving.protocols.json_tensors.document import Document
from serving.protocols.json_tensors.elements import narrow
from serving.protocols.json_tensors.reader import to_array
from serving.protocols.json_tensors.writer import sole_rows, to_values
from serving.protocols.sizes import DEFAULTS
from serving.savedmodel.signature import TensorSpec
from tests.fuzz import rounds

BY_NAME = {dtype.numpy_name: dtype for dtype in DTYPES}
FLOAT, INT, UINT, BYTE, BOOL, TEXT = (
    BY_NAME[name] for name in ("float32", "int64", "uint64", "uint8", "bool", "object")
)


def decode(text: bytes, dtype: DType) -> np.ndarray[Any, Any]:
    """Decode one value of free shape."""
    document = Document(b'{"x": ' + text + b"}", DEFAULTS)
    return to_array(document, document.root["x"], TensorSpec("x", dtype, None, "x:0"), "x")


# fmt: off
RIGHT = [
    # JSON                              dtype   array
    (b"1",                              FLOAT,  np.float32(1)),
    (b"[]",                             FLOAT,  np.zeros(0, np.float32)),
    (b"[[], []]",                       FLOAT,  np.zeros((2, 0), np.float32)),
    (b"[[1, 2.5], [3e1, -0.5]]",        FLOAT,  np.array([[1, 2.5], [30, -0.5]], np.float32)),
    (b"[NaN, Infinity, -Infinity]",     FLOAT,  np.array([math.nan, math.inf, -math.inf], np.float32)),
    (b"[9223372036854775807]",          INT,    np.array([2**63 - 1])),
    (b"[-9223372036854775808]",         INT,    np.array([-(2**63)])),
    (b"[18446744073709551615]",         UINT,   np.array([2**64 - 1], np.uint64)),
    (b"[3.0, -1e2, -0.0, 5]",           INT,    np.array([3, -100, 0, 5])),  # Vertex AI has doubles alone
    (b"[[3.0], [4]]",                   INT,    np.array([[3], [4]])),
    (b"7.0",                            INT,    np.int64(7)),
    (b"[-9223372036854775808.0]",       INT,    np.array([-(2**63)])),
    (b"[0, 255]",                       BYTE,   np.array([0, 255], np.uint8)),
    (b"[true, false]",                  BOOL,   np.array([True, False])),
    (b'["a", {"b64": "AP8="}]',         TEXT,   np.array([b"a", b"\x00\xff"], object)),
    (b'{"b64": "AP8"}',                 TEXT,   np.array(b"\x00\xff", object)),
    (b'{"b64": " A P\\n8 = "}',         TEXT,   np.array(b"\x00\xff", object)),
    ('"Zoë\\u0000\\ud83d\\ude00"'.encode(), TEXT, np.array("Zoë\0😀".encode(), object)),
    (b"[[[1]], [[2]]]",                 INT,    np.array([[[1]], [[2]]])),
]

WRONG = [
    # JSON                              dtype   words
    (b"null",                           FLOAT,  "x: expected float32, got null"),
    (b'"1.5"',                          FLOAT,  'x: expected float32, got the string "1.5"'),
    (b"[1, true]",                      FLOAT,  "x[1]: expected float32, got true"),
    (b"[[1, 2], [3, null]]",            FLOAT,  "x[1][1]: expected float32, got null"),
    (b"[[1, 2], [3]]",                  FLOAT,  "x[1]: expected 2 elements as in the first of its neighbours, got 1"),
    (b"[[1, 2, 3], [4], [5, 6]]",       FLOAT,  "x[1]: expected 3 elements"),
    (b"[[1, 2], 3, 4]",                 FLOAT,  "x[1]: expected a list of 2 as its neighbours are, got 3"),
    (b"[1, [2]]",                       FLOAT,  "x[1]: expected float32, got a list"),
    (b"[[1, 2], [[3], [4]]]",           FLOAT,  "x[1][0]: expected float32, got a list"),
    (b"[[5], []]",                      FLOAT,  "x[1]: expected 1 elements"),
    (b"[1e39]",                         FLOAT,  "x[0]: expected float32, got 1e+39, which is out of its range"),
    (b"[2.5]",                          INT,    "x[0]: expected int64, got 2.5"),
    (b"[1.0, 2.5]",                     INT,    "x[1]: expected int64, got 2.5"),
    (b"[[1.0], [2.5]]",                 INT,    "x[1][0]: expected int64, got 2.5"),
    (b"[1e300]",                        INT,    "x[0]: expected int64, from -9223372036854775808 to"),
    (b"[9223372036854775808.0]",        INT,    "x[0]: expected int64, from -9223372036854775808 to"),
    (b"[-1.0]",                         UINT,   "x[0]: expected uint64, from 0 to 18446744073709551615, got -1"),
    (b"[256.0]",                        BYTE,   "x[0]: expected uint8, from 0 to 255, got 256"),
    (b"[NaN]",                          INT,    "x[0]: expected int64, got NaN"),
    (b"[9223372036854775808]",          INT,    "x[0]: expected int64, from -9223372036854775808 to"),
    (b"[-1]",                           UINT,   "x[0]: expected uint64, from 0 to 18446744073709551615, got -1"),
    (b"[18446744073709551616]",         UINT,   "x[0]: expected uint64, from 0"),
    (b"[256]",                          BYTE,   "x[0]: expected uint8, from 0 to 255, got 256"),
    (b"[1]",                            BOOL,   "x[0]: expected bool, got 1"),
    (b'["true"]',                       BOOL,   'x[0]: expected bool, got the string "true"'),
    (b"[5]",                            TEXT,   'x[0]: expected a string or {"b64": "..."}, got 5'),
    (b'{"b64": 5}',                     TEXT,   'x: expected a string or {"b64": "..."}, got an object'),
    (b'{"b64": "AA==", "c": 1}',        TEXT,   "x: expected a string"),
    (b'{"b64": "A"}',                   TEXT,   "x: expected base64, got 1 characters"),
    (b'{"b64": "AP_="}',                TEXT,   "the web-safe alphabet"),
    (b'{"b64": "!!"}',                  TEXT,   "got the character '!'"),
    (b'{"b64": "AA=="}',                FLOAT,  "x: expected float32, got base64 bytes; only a string input takes them"),
    (b'{"a": 1}',                       FLOAT,  "x: expected float32, got an object"),
    (b"[" * 33 + b"1" + b"]" * 33,      FLOAT,  "body: nested too deep: expected at most 32 levels (MAX_NESTING), got more"),
    (b"[1]",            BY_NAME["complex64"],   "x: complex64 has no JSON form"),
]

NO_JSON = [
    # body                              words
    (b"",                               "body: expected a JSON object, got nothing"),
    (b" \n",                            "body: expected a JSON object, got nothing"),
    (b"[1]",                            "body: expected a JSON object, got a list"),
    (b"1",                              "body: expected a JSON object, got 1"),
    (b'"' + b"x" * 99 + b'"',           "body: expected a JSON object, got a string"),
    (b'{"a": 1}x',                      "body: not JSON: Extra data at line 1, column 9"),
    (b'{"a": 1',                        "body: not JSON: Expecting ',' delimiter"),
    (b"{'a': 1}",                       "body: not JSON: Expecting property name"),
    (b'{"a": 01}',                      "body: not JSON"),
    (b'{"a": 1,}',                      "body: not JSON"),
    (b'{"a": .5}',                      "body: not JSON"),
    (b'{"a": +1}',                      "body: not JSON"),
    (b'{"a": Nan}',                     "body: not JSON"),
    (b'{"a": 1e400}',                   "body: the number 1e400 is too large for a double"),
    (b'{"a": ' + b"9" * 5000 + b"}",    "body: a number of 5000 digits, expected at most 40"),
    (b'{"a": 1, "a": 2}',               "body: the key 'a' appears twice"),
    (b'{"a": NaN, "a": 2}',             "body: the key 'a' appears twice"),
    (b'{"a": "\xff"}',                  "body: not JSON: not UTF-8 at byte 7"),
    (b'{"a": "\\ud800"}',               "body: not JSON: half a surrogate pair in a string"),
    (b'{"\\ud800": 1}',                 "body: not JSON: half a surrogate pair in a string"),
    (b"[" * 200_000,                    "body: nested too deep"),
    (b'{"a":' * 200_000,                "body: nested too deep"),
    (b"\x1f\x8b\x08\x00\x00",           "body: not JSON"),
    (b"--boundary\r\nContent-",         "body: not JSON"),
    (b"x=1&y=2",                        "body: not JSON"),
]
# fmt: on


@pytest.mark.parametrize(("text", "dtype", "wanted"), RIGHT)
def test_a_value_becomes_an_array(text: bytes, dtype: DType, wanted: Any) -> None:
    array = decode(text, dtype)
    assert (array.dtype, array.shape) == (dtype.numpy, np.shape(wanted))
    np.testing.assert_array_equal(array, wanted)


@pytest.mark.parametrize(("text", "dtype", "words"), WRONG)
def test_a_wrong_value_is_named(text: bytes, dtype: DType, words: str) -> None:
    with pytest.raises(BadRequest) as raised:
        decode(text, dtype)
    assert words in str(raised.value)


@pytest.mark.parametrize(("body", "words"), NO_JSON)
def test_what_is_no_json_object_is_refused(body: bytes, words: str) -> None:
    with pytest.raises(BadRequest) as raised:
        Document(body, DEFAULTS)
    assert words in str(raised.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3) | st.just("b64"), inner, max_size=2)
    ),
    max_leaves=20,
)
NUMBERS = st.recursive(
    st.integers(-300, 300) | st.floats(width=32),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=30,
)


@hypothesis(max_examples=rounds(500), deadline=None)
@given(st.one_of(NUMBERS, JSON), st.sampled_from([FLOAT, INT, UINT, BYTE, BOOL, TEXT, BY_NAME["float16"]]))
def test_the_fast_and_the_careful_reader_agree(value: Any, dtype: DType) -> None:
    body = json.dumps({"x": value}).encode()

    def outcome(quick: bool) -> Any:
        try:
            document = Document(body, DEFAULTS)
            root = document.root if quick else parse_carefully(body, DEFAULTS)
            array = to_array(document, root["x"], TensorSpec("x", dtype, None, "x:0"), "x")
        except BadRequest as error:
            return str(error)
        return array.dtype, array.shape, array.tolist() if dtype.kind != "f" else array.tobytes()

    assert outcome(quick=True) == outcome(quick=False)


@hypothesis(max_examples=rounds(200), deadline=None)
@given(NUMBERS)
def test_only_rectangular_lists_are_accepted(value: Any) -> None:
    try:
        wanted = np.array(value, np.float64)
    except ValueError:  # ragged
        with pytest.raises(BadRequest):
            decode(json.dumps(value).encode(), BY_NAME["float64"])
    else:
        array = decode(json.dumps(value).encode(), BY_NAME["float64"])
        np.testing.assert_array_equal(array, wanted)


SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3)


@hypothesis(max_examples=300, deadline=None)
@given(
    st.sampled_from(
        [
            "bool",
            "int8",
            "int16",
            "int32",
            "int64",
            "uint8",
            "uint16",
            "uint32",
            "uint64",
            "float16",
            "float32",
            "float64",
        ]
    ),
    st.data(),
)
def test_numbers_round_trip(name: str, data: st.DataObject) -> None:
    array = data.draw(hnp.arrays(np.dtype(name), SHAPES))
    text = orjson.dumps(to_values(array, "y"), option=orjson.OPT_SERIALIZE_NUMPY)
    if 0 in array.shape[:-1]:
        return  # an empty list does not give the length of its lists
    came = decode(text, BY_NAME[name])
    assert (came.dtype, came.shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(came, array)


@given(hnp.arrays(object, SHAPES, elements=st.binary(max_size=4)), st.booleans())
def test_bytes_round_trip(array: np.ndarray[Any, Any], as_bytes: bool) -> None:
    text = orjson.dumps(to_values(array, "y_bytes" if as_bytes else "y"))
    if 0 not in array.shape[:-1]:
        came = decode(text, TEXT)
        assert (came.shape, came.tolist()) == (array.shape, array.tolist())


WRITTEN = [
    # array                                              name        JSON
    (np.array([2.1, 9e6, 3], np.float32),                "y",        b"[2.1,9000000.0,3.0]"),
    (np.array([math.nan, 1.5, -math.inf], np.float32),   "y",        b"[NaN,1.5,-Infinity]"),
    (np.array([[0.1, math.inf]], np.float32),            "y",        b"[[0.1,Infinity]]"),
    (np.array(math.nan, np.float64),                     "y",        b"NaN"),
    (np.array([2**63 - 1]),                              "y",        b"[9223372036854775807]"),
    (np.array([True, False]),                            "y",        b"[true,false]"),
    (np.array([b"a", b"\xff"], object),                  "y",        b'["a",{"b64":"/w=="}]'),
    (np.array([b"a"], object),                           "y_bytes",  b'[{"b64":"YQ=="}]'),
    (np.array([1], np.int8),                             "y_bytes",  b"[1]"),
    (np.zeros((2, 0), object),                           "y",        b"[[],[]]"),
]  # fmt: skip


@pytest.mark.parametrize(("array", "name", "wanted"), WRITTEN)
def test_an_array_is_written_as_tensorflow_serving_writes_it(array: Any, name: str, wanted: bytes) -> None:
    assert orjson.dumps(to_values(array, name), option=orjson.OPT_SERIALIZE_NUMPY) == wanted


FEW_BITS = {dtype.name: dtype for dtype in DTYPES if dtype.name in EXTENDED}


@pytest.mark.parametrize("name", sorted(EXTENDED))
@pytest.mark.parametrize(("shape", "wanted"), [((2,), b"[1.5,-2.0]"), ((2, 1), b"[[1.5],[-2.0]]")])
def test_numbers_of_few_bits_are_written_with_their_own_digits(
    name: str, shape: tuple[int, ...], wanted: bytes
) -> None:
    array = np.array([1.5, -2], FEW_BITS[name].numpy).reshape(shape)
    assert to_json(to_values(array, "y")) == wanted
    assert to_json(list(to_values(array, "y", rows=True))) == wanted
    assert sole_rows(array, "y", null=False) is None


@pytest.mark.parametrize("name", sorted(EXTENDED))
def test_a_number_beyond_the_range_of_few_bits_is_refused(name: str) -> None:
    dtype = FEW_BITS[name]
    assert narrow(np.array([1.5, 1e39]), dtype) is None
    narrowed = narrow(np.array([1.5, -2]), dtype)
    assert narrowed is not None
    assert (narrowed.dtype, narrowed.tolist()) == (dtype.numpy, [1.5, -2])


TRICKS = [
    # a string that looks like brackets must not stand in for the real ones
    b'{"note": "[[,],[,]]", "x": [[1, 2], [3]]}',
    b'{"x": [[1, 2, 3], [4], [5, 6]], "note": "]["}',
    b'{"x": [[1, 2], [3, 4, 5], [6]]}',
    b'{"x": [[[1], [2]], [[3, 4]]]}',
]


@pytest.mark.parametrize("body", TRICKS)
def test_ragged_lists_are_refused(body: bytes) -> None:
    document = Document(body, DEFAULTS)
    with pytest.raises(BadRequest):
        to_array(document, document.root["x"], TensorSpec("x", FLOAT, None, "x:0"), "x")
