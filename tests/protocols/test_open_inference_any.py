"""The Open Inference Protocol: round trips, and any body is decoded or refused."""

import json
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from serving.core.http import BadRequest
from serving.protocols import open_inference
from serving.protocols.call import Call
from serving.protocols.kinds import HEADER
from serving.protocols.open_inference import decode, encode
from serving.protocols.open_inference.binary import to_bytes
from tests.protocols.inference_bodies import (
    BY_V2_NAME,
    SIGNATURES,
    Array,
    answered,
    ask,
    binary,
    context,
    framed,
    parts,
    same,
    tensor,
)

# Round trips
FLOATS = {"FP16": 16, "FP32": 32, "FP64": 64}


def elements(datatype: str) -> st.SearchStrategy[Any]:
    if datatype == "BYTES":
        return st.binary(max_size=9)
    if datatype in FLOATS:
        return st.floats(width=FLOATS[datatype])  # type: ignore[arg-type]
    return arrays_of.from_dtype(np.dtype(np.uint16 if datatype == "BF16" else BY_V2_NAME[datatype].numpy_name))


@st.composite
def tensors(draw: st.DrawFn) -> tuple[str, Array]:
    datatype = draw(st.sampled_from(sorted(BY_V2_NAME)))
    shape = draw(arrays_of.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
    stored = np.dtype(np.uint16) if datatype == "BF16" else np.dtype(BY_V2_NAME[datatype].numpy_name)
    array = draw(arrays_of.arrays(stored, shape, elements=elements(datatype), fill=st.nothing()))
    return datatype, array.view(BY_V2_NAME[datatype].numpy) if datatype == "BF16" else array


@given(tensors(), st.integers(0, 7))
def test_binary_round_trips(given_: tuple[str, Array], padding: int) -> None:
    datatype, array = given_
    blob = bytes(to_bytes(array))
    request = ask(binary(len(blob), shape=array.shape, datatype=datatype), named=datatype)
    request["parameters"]["binary_data_output"] = True
    body, its = framed(json.dumps(request).encode() + b" " * padding, blob)
    call = decode(body, SIGNATURES, its)
    assert same(call.inputs["x"], array)
    head, back = parts(encode(call, {"x": call.inputs["x"]}))
    (output,) = head["outputs"]
    assert (output["shape"], output["datatype"]) == (list(array.shape), datatype)
    assert output["parameters"]["binary_data_size"] == len(blob)
    assert back == blob


@given(tensors(), st.booleans())
def test_json_round_trips(given_: tuple[str, Array], nested: bool) -> None:
    datatype, array = given_
    if datatype == "BF16":
        return
    if datatype == "BYTES":
        array = np.array([element.decode("latin-1").encode() for element in array.ravel()], object).reshape(array.shape)
    call = Call(SIGNATURES[datatype], {}, decode_form(datatype))
    (output,) = answered(call, x=array)["outputs"]
    data = output["data"]
    assert isinstance(data, list)
    if nested:
        data = np.array(data, object).reshape(array.shape).tolist()
    body = json.dumps(ask(tensor("x", output["shape"], datatype, data=data), named=datatype)).encode()
    came = decode(body, SIGNATURES, context()).inputs["x"]
    if datatype in FLOATS:  # one NaN is as good as another
        assert came.dtype == array.dtype
        np.testing.assert_array_equal(came, array)
        assert (np.signbit(came) == np.signbit(array))[~np.isnan(array)].all()
    else:
        assert same(came, array)


def decode_form(datatype: str) -> Any:
    declared = SIGNATURES[datatype]
    return open_inference.Form(None, (open_inference.Output(declared.outputs["x"], False),), context())


# Whatever comes
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["x", "FP32"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["name", "shape", "datatype", "data", "parameters", "binary_data_size", "a", "x\0"]), inner
        )
    ),
    max_leaves=12,
)
TENSOR = st.fixed_dictionaries(
    {"name": st.just("x"), "datatype": st.sampled_from(sorted(BY_V2_NAME)), "shape": JSON | st.lists(st.integers())},
    optional={
        "data": JSON | st.lists(st.integers() | st.floats()),
        "parameters": JSON | st.fixed_dictionaries({"binary_data_size": st.integers(-1, 40) | JSON}),
    },
)
DOCUMENT = st.fixed_dictionaries(
    {"inputs": st.lists(TENSOR | JSON, max_size=2) | JSON},
    optional={
        "outputs": JSON | st.lists(st.fixed_dictionaries({"name": st.just("x")}, optional={"parameters": JSON})),
        "parameters": st.fixed_dictionaries({"signature_name": st.sampled_from(sorted(SIGNATURES))}) | JSON,
        "id": JSON,
    },
)
SIZES = st.none() | st.integers(-2, 400).map(str) | st.text(max_size=6)


def either_way(body: bytes, size: str | None) -> None:
    try:
        call = decode(body, SIGNATURES, context(size))
    except BadRequest:
        return
    assert call.inputs.keys() == call.signature.inputs.keys()
    for name, array in call.inputs.items():
        assert array.dtype == call.signature.inputs[name].dtype.numpy


@given(st.binary(), SIZES)
def test_any_bytes_are_decoded_or_refused(body: bytes, size: str | None) -> None:
    either_way(body, size)


@given(DOCUMENT | JSON, st.binary(max_size=40), SIZES, st.booleans())
def test_any_json_is_decoded_or_refused(document: Any, blob: bytes, size: str | None, framed_: bool) -> None:
    head = json.dumps(document).encode()
    either_way(head + blob if framed_ else head, str(len(head)) if framed_ else size)


@given(st.integers(-1, 40), st.integers(-1, 5), st.binary(max_size=40))
def test_wrong_lengths_are_refused(size: int, count: int, blob: bytes) -> None:
    body, its = framed(ask(binary(size, shape=[count], datatype="BYTES"), named="BYTES"), blob)
    either_way(body, its.headers.get(HEADER))
