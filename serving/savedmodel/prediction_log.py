"""TensorFlow Serving's warm-up requests: a TFRecord of PredictionLog messages, read without any protobuf library.

    TFRecord        8 bytes length, 4 bytes checksum, the record, 4 bytes checksum; and so on
    PredictionLog   { predict_log: 6 | classify_log: 2 | regress_log: 3 { request: 1 } }
    PredictRequest  { model_spec: 1 { signature_name: 3 }, inputs: 2 { name: 1, TensorProto: 2 } }
    ClassificationRequest, RegressionRequest
                    { model_spec: 1, input: 2 { example_list: 1 { examples: 1 } } }

tensorflow_serving/apis/prediction_log.proto, predict.proto, input.proto; tensorflow/core/framework/tensor.proto. The
checksums are ignored: a damaged record fails to parse.
"""

import math
import os
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from serving.core.dtypes import DType, by_code
from serving.savedmodel.protobuf import (
    each_field,
    last_field,
    message_field,
    number_field,
    numbers_field,
    text_of,
)
from serving.savedmodel.signature import DEFAULT, Signature

PREDICT, CLASSIFY, REGRESS = 6, 2, 3
OTHER = {4: "MultiInference", 5: "SessionRun", 7: "PredictStreamed"}
LARGEST = 1 << 28  # bytes of a tensor: a message of a few bytes may claim any shape

Array = np.ndarray[Any, Any]


class Logged(NamedTuple):
    """One request: the signature's name, and an array for each input."""

    signature: str
    inputs: dict[str, Array]


def records(file: BinaryIO, most: int) -> Iterator[memoryview]:
    """Yield the records that end within the first `most` bytes of a TFRecord file, then close it.

    Raise ValueError where the file ends in the middle of a record.
    """
    with file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        while head := file.read(12):
            length = int.from_bytes(head[:8], "little")
            end = file.tell() + length + 4
            if len(head) < 12 or end > size:
                raise ValueError("the file ends in the middle of a record, or is not a TFRecord")
            if end > most:
                return
            yield memoryview(file.read(length))
            file.seek(end)


def request(record: memoryview, signatures: Mapping[str, Signature]) -> Logged:
    """Return the request in a PredictionLog; raise ValueError where there is none, or of a kind that is not served."""
    for field, kind in OTHER.items():
        if len(message_field(record, field)):
            raise ValueError(f"a {kind} request is not served")
    for field in (PREDICT, CLASSIFY, REGRESS):
        if len(message := message_field(message_field(record, field), 1)):
            name = text_of(last_field(message_field(message, 1), 3)) or DEFAULT
            if name not in signatures:
                raise ValueError(f"the model has no signature {name!r}")
            return Logged(name, _inputs(message) if field == PREDICT else _examples(message, signatures[name]))
    raise ValueError("it is not a PredictionLog with a request")


def _inputs(message: memoryview) -> dict[str, Array]:
    return {text_of(last_field(entry, 1)): array(message_field(entry, 2)) for entry in each_field(message, 2)}


def _examples(message: memoryview, signature: Signature) -> dict[str, Array]:
    """Return the serialized examples as the one input of a signature that takes them."""
    input_message = message_field(message, 2)
    if len(message_field(input_message, 2)):
        raise ValueError("examples with a context are not served")
    if len(signature.inputs) != 1:
        raise ValueError(f"expected a signature with one input for examples, got {len(signature.inputs)} inputs")
    (name,) = signature.inputs
    return {name: _strings([bytes(example) for example in each_field(message_field(input_message, 1), 1)])}


def _strings(values: list[bytes]) -> Array:
    strings = np.empty(len(values), object)
    strings[:] = values
    return strings


def array(tensor: memoryview) -> Array:
    """Return the array of a TensorProto; raise ValueError where it is malformed or larger than LARGEST bytes.

    Where it has fewer values than elements, the last value is repeated, as TensorFlow does.
    """
    dtype, shape = by_code(number_field(tensor, 1)), message_field(tensor, 2)
    if dtype.numpy_name is None:
        raise ValueError(f"no array holds {dtype.name}")
    sizes = tuple(number_field(dimension, 1) for dimension in each_field(shape, 2))
    count = math.prod(sizes)
    if number_field(shape, 3) or any(size < 0 for size in sizes):
        raise ValueError("a tensor without a shape")
    if count * dtype.numpy.itemsize > LARGEST:
        raise ValueError(f"a tensor of more than {LARGEST} bytes")
    values = _values(tensor, dtype)
    if len(values) > count or (not len(values) and count):
        raise ValueError(f"expected {count} values, got {len(values)}")
    if len(values) < count:
        values = np.concatenate([values, np.repeat(values[-1:], count - len(values))])
    return values.reshape(sizes)


# The field that holds the values, by TensorFlow's number of the type: in fixed width, and as varints.
PLAIN = {1: 5, 2: 6, 8: 9, 18: 12, 24: 18, 25: 18}
VARINTS = {3: 7, 4: 7, 5: 7, 6: 7, 17: 7, 9: 10, 10: 11, 22: 16, 23: 17}
BITS = {14: 13, 19: 13}  # bfloat16 and half, two bytes in each varint


def _values(tensor: memoryview, dtype: DType) -> Array:
    if dtype.kind == "S":
        return _strings([bytes(value) for value in each_field(tensor, 8)])
    content = last_field(tensor, 4)
    if not len(content) and dtype.code in PLAIN:
        content = memoryview(b"".join(each_field(tensor, PLAIN[dtype.code])))
    if len(content) % dtype.numpy.itemsize:
        raise ValueError(f"{len(content)} bytes are not a whole number of {dtype.label}")
    if len(content) or dtype.code in PLAIN:
        return np.frombuffer(content, dtype.numpy.newbyteorder("<")).astype(dtype.numpy)
    if dtype.code in BITS:
        return _numbers(tensor, BITS[dtype.code]).astype(np.uint16).view(dtype.numpy)
    return _numbers(tensor, VARINTS[dtype.code]).astype(dtype.numpy)


def _numbers(tensor: memoryview, field_number: int) -> Array:
    return np.array([value & (1 << 64) - 1 for value in numbers_field(tensor, field_number)], np.uint64)
