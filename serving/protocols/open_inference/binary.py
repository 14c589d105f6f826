"""Binary tensor data, Triton's extension of the protocol.

<https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md>

The tensors' bytes follow the JSON in its order: little-endian, row by row, without padding. An element of BYTES has its
length before it, in 4 bytes. The header Inference-Header-Content-Length has the length of the JSON in bytes; 0 says
that there is no JSON: the body is the data of the one input (of BYTES a single element, without a length).
"""

import math
import struct
from typing import Any

import numpy as np

from serving.core.dtypes import DType
from serving.core.http import BadRequest
from serving.protocols.json_tensors.elements import objects
from serving.protocols.kinds import HEADER
from serving.protocols.open_inference.fields import datatype_of
from serving.savedmodel.signature import Signature, TensorSpec, shape_text

Array = np.ndarray[Any, Any]

_LENGTH = struct.Struct("<I")


def decode_raw(body: bytes, signature: Signature) -> dict[str, Array]:
    """Return the one input whose data is the body; its free dimension follows from the body's size."""
    spec = signature.only
    if spec is None:
        raise BadRequest(
            f"{HEADER}: 0, a body without JSON, is for a model of one input; "
            f"{signature.name!r} has {', '.join(map(repr, signature.inputs)) or 'none'}",
            signature.name,
        )
    datatype_of(spec.dtype)
    place = f"body, as input {spec.name!r} without JSON"
    try:
        if spec.dtype.kind == "S":
            return {spec.name: objects([body]).reshape(_raw_string_shape(spec, place))}
        return {spec.name: from_bytes(body, 0, len(body), spec.dtype, _raw_shape(spec, len(body), place), place)}
    except BadRequest as error:
        error.signature = signature.name
        raise


def _raw_string_shape(spec: TensorSpec, place: str) -> tuple[int, ...]:
    """Return the shape of one string, with a size of 1 in each dimension."""
    free, known = _sizes(spec)
    if free < 0 or (free > 1 and known != 1):
        raise _unclear(spec, place)
    if known != 1:
        raise BadRequest(f"{place}: expected one element, got a shape of {shape_text(spec.shape)}")
    return (1,) * len(spec.shape or ())


def _raw_shape(spec: TensorSpec, size: int, place: str) -> tuple[int, ...]:
    """Return the shape of `size` bytes of numbers."""
    free, known = _sizes(spec)
    if free not in (0, 1):
        raise _unclear(spec, place)
    row = known * spec.dtype.numpy.itemsize
    count = size // row if row and free else 1 if row else 0
    if size != count * row:
        raise BadRequest(f"{place}: expected {'a multiple of ' if free else ''}{row} bytes, got {size}")
    return tuple(count if length is None else length for length in spec.shape or ())


def _sizes(spec: TensorSpec) -> tuple[int, int]:
    """Return how many dimensions are free, -1 for an unknown rank, and the product of the others."""
    shape = spec.shape
    return -1 if shape is None else shape.count(None), math.prod(size for size in shape or () if size is not None)


def _unclear(spec: TensorSpec, place: str) -> BadRequest:
    return BadRequest(f"{place}: its shape {shape_text(spec.shape)} does not follow from the size")


def from_bytes(body: bytes, start: int, size: int, dtype: DType, shape: tuple[int, ...], place: str) -> Array:
    """Return the tensor whose data are `size` bytes of the body: the bytes themselves, not a copy, and read-only.

    They may be unaligned; NumPy knows it of its array, and TensorFlow copies what it cannot use as it is. Raise
    BadRequest where they are too few or too many for the shape.
    """
    count = math.prod(shape)
    if dtype.kind == "S":
        return objects(_strings(body, start, size, count, place)).reshape(shape)
    width = dtype.numpy.itemsize
    if size != count * width:
        raise BadRequest(
            f"{place}: expected {count * width} bytes for {dtype.v2_name} of the shape {shape_text(shape)}, got {size}"
        )
    if dtype.kind == "b":
        octets = np.frombuffer(body, np.uint8, count, start)
        if (wrong := octets > 1).any():
            first = int(np.argmax(wrong))
            raise BadRequest(f"{place}: expected bytes of 0 or 1 for BOOL, got {octets[first]} at element {first}")
    return np.frombuffer(body, dtype.numpy, count, start).reshape(shape)


def _strings(body: bytes, start: int, size: int, count: int, place: str) -> list[bytes]:
    end = start + size
    if count * _LENGTH.size > size:
        raise BadRequest(f"{place}: expected {count} elements of BYTES, each after its length, got {size} bytes")
    elements = []
    for index in range(count):
        if end - start < _LENGTH.size:
            raise BadRequest(f"{place}: expected {count} elements of BYTES, got {index}")
        (length,) = _LENGTH.unpack_from(body, start)
        start += _LENGTH.size
        if length > end - start:
            raise BadRequest(f"{place}: element {index} says {length} bytes, got {end - start}")
        elements.append(body[start : start + length])
        start += length
    if start < end:
        raise BadRequest(f"{place}: expected {count} elements of BYTES, got {end - start} bytes more")
    return elements


def to_bytes(array: Array) -> bytes | memoryview:
    """Return a tensor's elements as this extension has them."""
    if array.dtype == object:
        elements = array.ravel().tolist()
        return b"".join([part for element in elements for part in (_LENGTH.pack(len(element)), element)])
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
