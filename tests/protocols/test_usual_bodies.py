"""Every parser and every path give the same call or the same error for a body, and the same bytes for an answer."""

import json
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from serving.core.dtypes import DTYPES
from serving.core.http import BadRequest, ModelFault
from serving.protocols import tensorflow_serving
from serving.protocols.call import Call, Context
from serving.protocols.json_tensors import document, reader
from serving.protocols.sizes import DefaultLimits
from serving.protocols.tensorflow_serving import decode, encode
from serving.savedmodel.signature import Shape, Signature, TensorSpec
from tests.fuzz import rounds

BY_NAME = {dtype.numpy_name: dtype for dtype in DTYPES}
TYPES = ("float32", "float64", "float16", "bfloat16", "int8", "int32", "int64", "uint8", "uint64", "bool", "object")
SHAPES: tuple[Shape | None, ...] = (None, (), (None,), (None, 2), (2, 2), (None, None), (None, 1, 3), (None, None, 1))

numbers = st.one_of(
    st.integers(-3, 300),
    st.sampled_from([-0.0, 1e-50, 3.4028235e38, 3.4028236e38, 65520.0, -1e300, 2**31, 2**63, 2**64, -(2**63), 10**45]),
    st.floats(width=32, allow_nan=False, allow_infinity=False),
)
elements = st.one_of(
    numbers, numbers, numbers, st.sampled_from([None, True, "1", float("nan"), [], {}, [1], {"b64": "AA=="}])
)
rectangles = st.tuples(st.integers(1, 3), st.integers(1, 3), numbers).map(lambda it: [[it[2]] * it[1]] * it[0])
nests = st.one_of(
    rectangles,
    st.lists(st.lists(elements, max_size=3), max_size=3),
    st.lists(st.lists(st.lists(numbers, min_size=1, max_size=3), max_size=2), max_size=3),
)
SEPARATORS = ((",", ":"), (", ", ": "))
# Behind the nest: nothing, another member, the same one again, or what is no JSON.
TAILS = (b"}", b"}", b"}", b"}", b" }\n", b', "key": [1]}', b', "instances": [[1, 2]]}', b"} ]", b",}", b"", b"}\0")
cut_or_not = st.one_of(st.none(), st.none(), st.integers(0, 40))


def signature(dtype: str, shape: Shape | None) -> dict[str, Signature]:
    tensor = TensorSpec("x", BY_NAME[dtype], shape, "x:0")
    output = TensorSpec("y", BY_NAME["float32"], (None,), "y:0")
    return {"serving_default": Signature("serving_default", {"x": tensor}, {"y": output}, "")}


def outcome(body: bytes, signatures: dict[str, Signature]) -> Any:
    try:
        call = decode(body, signatures)
    except BadRequest as error:
        return str(error), error.signature, error.example
    array = call.inputs["x"]
    return call._replace(inputs={}), array.dtype, array.shape, array.tobytes()


@hypothesis(max_examples=rounds(200), deadline=None)
@given(
    nests,
    st.sampled_from(SEPARATORS),
    st.sampled_from(TAILS),
    cut_or_not,
    st.sampled_from(TYPES),
    st.sampled_from(SHAPES),
)
def test_a_body_that_pythons_parser_reads_gives_the_same_call_or_error(
    nest: Any, separators: tuple[str, str], tail: bytes, cut: int | None, dtype: str, shape: Shape | None
) -> None:
    head = '{"instances"' + separators[1]
    body = (head + json.dumps(nest, separators=separators)).encode() + tail
    body = body if cut is None else body[: len(head) + cut] + body[len(head) + cut + 1 :]
    signatures = signature(dtype, shape)
    by_simdjson = outcome(body, signatures)
    with patch.object(document, "parse", side_effect=ValueError):  # lists of Python's own, which are walked
        assert by_simdjson == outcome(body, signatures)


@hypothesis(max_examples=300, deadline=None)
@given(st.lists(nests, min_size=1, max_size=3), st.sampled_from(TYPES), st.sampled_from(SHAPES))
def test_named_rows_that_pythons_parser_reads_give_the_same_call_or_error(
    nested: list[Any], dtype: str, shape: Shape | None
) -> None:
    body = json.dumps({"instances": [{"x": nest} for nest in nested]}).encode()
    signatures = signature(dtype, shape)
    by_simdjson = outcome(body, signatures)
    with patch.object(document, "parse", side_effect=ValueError):
        assert by_simdjson == outcome(body, signatures)


arrays = st.tuples(
    st.sampled_from(["float32", "float64", "float16", "int8", "uint64", "bool"]),
    st.sampled_from([(), (0,), (0, 2), (3,), (1, 2), (2, 1, 2)]),
    st.lists(st.sampled_from([0.1, -1.5, 0.0, 7.0, float("nan"), float("inf"), float("-inf")]), min_size=4, max_size=4),
)


@hypothesis(max_examples=rounds(200), deadline=None)
@given(arrays, st.booleans())
def test_an_answer_of_one_output_is_written_the_same_at_once_and_row_by_row(
    array: tuple[str, tuple[int, ...], list[float]], null: bool
) -> None:
    dtype, shape, values = array
    with np.errstate(invalid="ignore"):
        outputs = {"y": np.resize(np.array(values), shape).astype(dtype)}
    (declared,) = signature("float32", (None,)).values()
    rows = outputs["y"].shape[0] if outputs["y"].ndim else 1
    call = Call(declared, {"x": np.zeros(rows, np.float32)}, "instances", Context(null=null))

    def written() -> Any:
        try:
            return encode(call, outputs)
        except (BadRequest, ModelFault) as error:
            return str(error)

    at_once = written()
    with patch.object(tensorflow_serving, "sole_rows", lambda *_, **__: None):
        assert at_once == written()


ONE_BUFFER = [
    b'{"instances": [[1, 2.5]]}',
    b'{"instances":[[1e3,2],[3,4]]}',
    b'{"instances": [[ 1 ,\n2 ]] }',
    b'{"instances": [{"x": [1, 2]}, {"x": [3.5, 4]}]}',
    b'{"instances": [{"x": [1, 2], "key": "a"}]}',
    b'{"inputs": [[1, 2]]}',
    b'{"inputs": {"x": [[1, 2], [3, 4]]}}',
]


@pytest.mark.parametrize("body", ONE_BUFFER)
def test_numbers_in_rows_or_columns_are_read_as_one_buffer(body: bytes) -> None:
    with patch.object(reader, "to_elements", side_effect=AssertionError):
        array = decode(body, signature("float32", (None, 2))).inputs["x"]
    root = json.loads(body)
    rows = root.get("instances") or (root["inputs"]["x"] if isinstance(root["inputs"], dict) else root["inputs"])
    np.testing.assert_array_equal(array, [row["x"] if isinstance(row, dict) else row for row in rows])


def test_rows_of_numbers_keep_the_limit_of_nesting() -> None:
    context = Context(limits=DefaultLimits(max_nesting=2))
    assert decode(b'{"instances": [1.5]}', signature("float32", (None,)), context).inputs["x"].shape == (1,)
    with pytest.raises(BadRequest, match="nested too deep: expected at most 2 levels"):
        decode(b'{"instances": [[1.5]]}', signature("float32", (None, 1)), context)
