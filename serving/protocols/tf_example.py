"""JSON → serialized tf.Example messages, for the signatures that TensorFlow Serving's classify and regress call.

{"signature_name": "...", "context": {"user": "a"}, "examples": [{"age": 3, "words": ["x", "y"]}, ...]}

Each feature is a value or a flat list. Its kind follows from the first value: a decimal makes floats, an integer or a
boolean int64s, text or {"b64": "..."} bytes. The context's features belong to every example.
The body: <https://www.tensorflow.org/tfx/serving/api_rest#classify_and_regress_api>. The messages, of few fields, are
written by hand: <https://github.com/tensorflow/tensorflow/blob/master/tensorflow/core/example/feature.proto>.
"""

import math
import struct
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import simdjson

from serving.core.errors import did_you_mean
from serving.core.http import BadRequest, TooLarge
from serving.protocols.call import Call, Context, choose, signature_named
from serving.protocols.json_tensors.document import Document, b64, kind, members
from serving.protocols.json_tensors.elements import bytes_of
from serving.protocols.options import refuse_others, refuse_slips
from serving.protocols.unclear import explained
from serving.savedmodel.protobuf import write_field, write_varint
from serving.savedmodel.signature import Signature, check

LISTS = (simdjson.Array, list)
OBJECTS = (simdjson.Object, dict)
MEMBERS = frozenset({"signature_name", "context", "examples", "parameters"})  # of a body
INPUT = "inputs"  # the one input that such a signature has


def decode(
    body: bytes,
    signatures: Mapping[str, Signature],
    context: Context,
    problem: Callable[[Signature], str | None],
) -> Call:
    """Return the call of a signature that takes serialized examples; `problem` returns why one is not of the kind."""
    try:
        document = Document(body, context.limits)
    except BadRequest as error:
        raise explained(error, body, context.headers) from None
    root = document.root
    if "examples" in root:
        refuse_slips(root.keys(), MEMBERS, "body")
    if "parameters" in root:
        context = context.with_parameters(root["parameters"])
    refuse_others(context.query, {"signature_name"}, "classify or regress")
    signature = choose(signatures, signature_named(root, context, "signature_name"), "signature_name")
    try:
        _check(signature, signatures, problem)
        if "examples" not in root:
            others = [name for name in root if name not in MEMBERS]
            came = f"got {others[0][:200]!r}{did_you_mean(others[0], ['examples'])}" if others else "got nothing"
            raise BadRequest(f"body: expected 'examples' (a list of objects), {came}")
        examples = root["examples"]
        if not isinstance(examples, LISTS) or not len(examples):
            came = "an empty list" if isinstance(examples, LISTS) else kind(examples)
            raise BadRequest(f"examples: expected a list of at least one object, got {came}")
        shared = _features(root["context"], "context") if "context" in root else b""
        if len(shared) * len(examples) > (most := context.limits.max_body_bytes):
            raise TooLarge(
                f"context: expected at most {most} bytes in all examples together (MAX_BODY_BYTES), "
                f"got {len(shared)} in each of {len(examples)}"
            )
        serialized = np.empty(len(examples), object)
        for index, features in enumerate(examples):
            serialized[index] = shared + _features(features, f"examples[{index}]")
        (spec,) = signature.inputs.values()
        if wrong := check(spec, serialized.shape):
            raise BadRequest(f"examples: {wrong}")
    except BadRequest as error:
        error.signature = signature.name
        raise
    return Call(signature, {spec.name: serialized}, "examples", context._replace(query={}))  # predict's options alone


def _check(
    signature: Signature, signatures: Mapping[str, Signature], problem: Callable[[Signature], str | None]
) -> None:
    wrong = _input_problem(signature) or problem(signature)
    if wrong:
        others = [other for other in signatures.values() if not other.refusal]
        fit = [other.name for other in others if not (_input_problem(other) or problem(other))]
        there = f"there is {', '.join(map(repr, fit))}" if fit else "the model has none that does: use :predict"
        raise BadRequest(f"signature_name: {signature.name!r} {wrong}; {there}", example=False)


def _input_problem(signature: Signature) -> str | None:
    spec = signature.inputs.get(INPUT)
    if len(signature.inputs) != 1 or spec is None or spec.dtype.kind != "S":
        return f"does not take one string input named {INPUT!r}, serialized tf.Example messages"
    return None


def place(call: Call, row: int | None) -> str:
    """Name what a call's inputs are in its body: all of them, or one."""
    return "examples" if row is None else f"examples[{row}]"


# Wire format: https://protobuf.dev/programming-guides/encoding


def _features(value: Any, place: str) -> bytes:
    """Return an Example with the features of an object, in the order of their names."""
    if not isinstance(value, OBJECTS) or b64(value) is not None:
        raise BadRequest(f"{place}: expected an object of features, got {kind(value)}")
    entries = [
        write_field(1, write_field(1, name.encode()) + write_field(2, _feature(feature, f"{place}.{name[:200]}")))
        for name, feature in sorted(members(value, place).items())
    ]
    return write_field(1, b"".join(entries))


def _feature(value: Any, place: str) -> bytes:
    values = list(value) if isinstance(value, LISTS) else [value]
    if not values:
        return b""  # a feature without a kind
    first = _kind(values[0], f"{place}[0]" if isinstance(value, LISTS) else place)
    for index, element in enumerate(values):
        if (other := _kind(element, f"{place}[{index}]")) != first:
            raise BadRequest(f"{place}[{index}]: expected {first} as the first value is, got {other}")
    if first == FLOATS:
        return write_field(2, write_field(1, _floats(values, place)))
    if first == BYTES:
        return write_field(1, b"".join(write_field(1, bytes_of(element, place)) for element in values))
    for index, number in enumerate(values):
        if not -(1 << 63) <= number < 1 << 63:
            raise BadRequest(f"{place}[{index}]: expected int64, got {number}, which is out of its range")
    return write_field(3, write_field(1, b"".join(write_varint(int(number)) for number in values)))


FLOATS, INTEGERS, BYTES = "a decimal", "an integer or a boolean", "text or bytes"


def _kind(value: Any, place: str) -> str:
    if isinstance(value, float):
        return FLOATS
    if isinstance(value, (bool, int)):
        return INTEGERS
    if isinstance(value, str) or b64(value) is not None:
        return BYTES
    raise BadRequest(f"{place}: expected a number, a boolean, text, or a flat list of them, got {kind(value)}")


def _floats(values: list[float], place: str) -> bytes:
    try:
        return struct.pack(f"<{len(values)}f", *values)
    except OverflowError:
        wrong = next(value for value in values if math.isfinite(value) and abs(value) > 3.4028235e38)
        raise BadRequest(f"{place}: expected float32, got {wrong:g}, which is out of its range") from None
