"""The Open Inference Protocol with the accelerator and without it: the same answers, in JSON and in binary."""

import base64
import json
import random
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.fuzz import rounds
from tests.fuzz.mutate import mutate
from tests.pipeline.native import bodies
from tests.pipeline.native.conftest import Ask
from tests.pipeline.native.models import build
from tests.pipeline.native.questions import PATH, numbers, outputs, question, request, tensor

# The default signatures of models of strings: inputs with rank, -1 standing for the rows, and the outputs.
STRINGS: dict[str, tuple[dict[str, tuple[str, tuple[int, ...]]], list[str]]] = {
    "strings": ({"x": ("BYTES", (-1,))}, ["y"]),
    "named_b64": ({"b64": ("BYTES", (-1,))}, ["y"]),
    "bytes_both": ({"x": ("BYTES", (-1,))}, ["text", "raw_bytes", "size", "b"]),
    "bytes_mixed": ({"a": ("BYTES", (-1,)), "b": ("FP32", (-1, 2))}, ["a", "b"]),
    "bytes_matrix": ({"x": ("BYTES", (-1, 3))}, ["y"]),
    "bytes_fixed": ({"x": ("BYTES", (2, 2))}, ["y"]),
    "bytes_scalar": ({"x": ("BYTES", ())}, ["y"]),
}


def right(random_: random.Random, model: str, count: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield requests that are right, or nearly."""
    for _ in range(count):
        rows, binary, flat = random_.choice([1, 2, 3, 9]), random_.random() < 0.4, random_.random() < 0.8
        if model in STRINGS:
            inputs, names = STRINGS[model]
            tensors = []
            for name, (datatype, sizes) in inputs.items():
                shape: tuple[int, ...] = tuple(rows if size < 0 else size for size in sizes)
                if datatype == "BYTES":
                    entry = texts(random_, name, shape, binary=random_.random() < 0.5, flat=flat or not shape)
                else:
                    entry = tensor(name, numbers(random_, "float32", shape), binary=binary, flat=flat)
                tensors.append(entry)
            random_.shuffle(tensors)
            yield request(tensors, random_, **outputs(random_, names))
        elif model == "several":
            a, b = numbers(random_, "float32", (rows,)), numbers(random_, "int64", (rows, 2))
            tensors = [tensor("a", a, binary=binary), tensor("b", b, binary=random_.random() < 0.4, flat=flat)]
            random_.shuffle(tensors)
            yield request(tensors, random_, **outputs(random_, ["sum", "both", "above", "wide", 'é"\\\n', "absent"]))
        elif model == "types":
            yield request(
                [tensor("x", numbers(random_, "float32", (rows,)), binary=binary)], random_, **outputs(random_, ["y"])
            )
        else:
            shape = (rows,) if model == "infinite" else (rows, random_.choice([1, 2, 5]))
            x = numbers(random_, "float32", shape)
            x[random_.randrange(rows)] *= random_.choice([1, 0, -0.0])
            yield request([tensor("x", x, binary=binary, flat=flat)], random_, **outputs(random_, ["y"]))


def texts(
    random_: random.Random, name: str, shape: tuple[int, ...], *, binary: bool, flat: bool
) -> tuple[dict[str, Any], bytes]:
    """Return an input of strings: text and bytes, in JSON or each behind its length."""
    array = np.empty(shape, object)
    for index in np.ndindex(shape):
        size = random_.choice([0, 1, 2, 3, 15, 22, 23, 24, 100])
        text = "".join(random_.choices('aé€😀"\\\n\0/ 7', k=size)).encode()
        array[index] = text if random_.random() < 0.9 else random_.randbytes(size)
    entry: dict[str, Any] = {"name": name, "datatype": "BYTES", "shape": list(shape)}
    if binary:
        data = b"".join(struct.pack("<I", len(element)) + element for element in array.ravel())
        return {**entry, "parameters": {"binary_data_size": len(data)}}, data
    return {**entry, "data": in_json((array.ravel() if flat else array).tolist(), random_)}, b""


def in_json(value: Any, random_: random.Random) -> Any:
    if isinstance(value, list):
        return [in_json(element, random_) for element in value]
    try:
        if random_.random() < 0.8:
            return value.decode()
    except UnicodeDecodeError:
        pass
    return {"b64": base64.b64encode(value).decode()}


FLOATS = ["types", "shapes", "several", "infinite", "bytes_mixed"]  # models whose answers may hold NaN


@pytest.mark.parametrize(
    ("model", "non_finite"),
    [*((model, "tokens") for model in dict.fromkeys([*FLOATS, *STRINGS])), *((model, "null") for model in FLOATS)],
)
def test_random_requests_are_answered_alike(compare: Ask, model: str, non_finite: str) -> None:
    random_ = random.Random(f"{model} {non_finite}")
    requests = list(right(random_, model, rounds(300)))
    heads = [text for text, _ in requests]
    questions = [question(text, tail) for text, tail in requests]
    plain = len(questions)
    questions += [question(mutate(text, heads, random_, 4096), tail) for text, tail in requests]
    for text, tail in random_.sample(requests, 30):
        questions.append(question(text, tail[:-1] or b"1"))
        questions.append(question(text, tail + b"\0"))
        for size in (
            0,
            len(text) - 1,
            len(text) + 1,
            len(text + tail),
            len(text + tail) + 1,
            -1,
            "",
            "x",
            1 << 70,
            "+5",
            "٣",
        ):
            questions.append(question(text, tail, size=size))
    came = compare(build() / model, questions, path=PATH, NON_FINITE=non_finite)
    answered = sum(was_taken for _, was_taken in came[:plain])
    assert plain * 0.08 < answered
    assert any(was_taken and isinstance(body, tuple) and body[2] for body, was_taken in came)
    assert sum(was_taken for _, was_taken in came) < len(came) * 0.9


TENSORS = [
    '{"name":"x","datatype":"FP32","shape":[2],"data":[1,2.5]}',
    '{"data":[1,2.5],"shape":[2],"datatype":"FP32","name":"x"}',
    '{"name":"x","datatype":"FP32","shape":[2],"data":[[1],[2.5]]}',
    '{"name":"x","datatype":"FP32","shape":[2],"data":[[1,2.5]]}',
    '{"name":"x","datatype":"FP32","shape":[2],"data":[1]}',
    '{"name":"x","datatype":"FP32","shape":[2],"data":[1,2,3]}',
    '{"name":"x","datatype":"FP32","shape":[2],"data":[]}',
    '{"name":"x","datatype":"FP32","shape":[2],"data":1}',
    '{"name":"x","datatype":"FP32","shape":[0],"data":[]}',
    '{"name":"x","datatype":"FP32","shape":[-1],"data":[1]}',
    '{"name":"x","datatype":"FP32","shape":[1.0],"data":[1]}',
    '{"name":"x","datatype":"FP32","shape":["1"],"data":[1]}',
    '{"name":"x","datatype":"FP32","shape":[01],"data":[1]}',
    '{"name":"x","datatype":"FP32","shape":[-0],"data":[]}',
    '{"name":"x","datatype":"FP32","shape":[1e0],"data":[1]}',
    '{"name":"x","datatype":"FP32","shape":[18446744073709551617],"data":[1]}',
    '{"name":"x","datatype":"FP32","shape":[999999999999999999],"data":[1]}',
    '{"name":"x","datatype":"FP32","shape":[1,1],"data":[1]}',
    '{"name":"x","datatype":"FP32","shape":[],"data":[1]}',
    '{"name":"x","datatype":"FP32","shape":1,"data":[1]}',
    '{"name":"x","datatype":"FP32","data":[1]}',
    '{"name":"x","shape":[1],"data":[1]}',
    '{"datatype":"FP32","shape":[1],"data":[1]}',
    '{"name":"x","datatype":"FP64","shape":[1],"data":[1]}',
    '{"name":"x","datatype":"fp32","shape":[1],"data":[1]}',
    '{"name":"x","datatype":"INT32","shape":[1],"data":[1]}',
    '{"name":"x","datatype":"","shape":[1],"data":[1]}',
    '{"name":"y","datatype":"FP32","shape":[1],"data":[1]}',
    '{"name":"x","datatype":"FP32","shape":[1],"data":[1],"other":1}',
    '{"name":"x","datatype":"FP32","shape":[1],"data":[1],"parameters":{}}',
    '{"name":"x","datatype":"FP32","shape":[1],"data":[1],"parameters":null}',
    '{"name":"x","datatype":"FP32","shape":[1],"data":[1],"parameters":{"binary_data_size":4}}',
    '{"name":"x","datatype":"FP32","shape":[1],"parameters":{"binary_data_size":4}}',
    '{"name":"x","datatype":"FP32","shape":[1],"parameters":{"binary_data_size":0}}',
    '{"name":"x","datatype":"FP32","shape":[0],"parameters":{"binary_data_size":0}}',
    '{"name":"x","name":"x","datatype":"FP32","shape":[1],"data":[1]}',
    '{"name":"x","datatype":"FP32","shape":[1],"data":[1],"data":[1]}',
    '{"name":"x","datatype":"FP32","shape":[1],"data":[true]}',
    '{"name":"x","datatype":"FP32","shape":[1],"data":[null]}',
    '{"name":"x","datatype":"FP32","shape":[1],"data":["1"]}',
    '{"name":"x","datatype":"FP32","shape":[1],"data":[NaN]}',
    '{"name":"x","datatype":"FP32","shape":[1],"data":[1e39]}',
    '{"name":"x","datatype":"FP32","shape":[1],"data":[1e-400]}',
    '{"name":"x","datatype":"FP32","shape":[2],"data":[-0,-0.0]}',
]
AROUND = [
    '{"inputs":[T]}', ' { "inputs" : [ T ] } ', '{"id":"7","inputs":[T]}', '{"inputs":[T],"id":"7"}', '{"id":"","inputs":[T]}',
    '{"id":7,"inputs":[T]}', '{"id":null,"inputs":[T]}', '{"inputs":[T,T]}', '{"inputs":[]}', '{"inputs":T}', '{}',
    '{"inputs":[T],"inputs":[T]}', '{"inputs":[T],"outputs":[]}', '{"inputs":[T],"outputs":[{"name":"y"}]}',
    '{"outputs":[{"name":"y"}],"inputs":[T]}', '{"inputs":[T],"outputs":[{"name":"y"},{"name":"y"}]}',
    '{"inputs":[T],"outputs":[{"name":"z"}]}', '{"inputs":[T],"outputs":[{}]}', '{"inputs":[T],"outputs":null}',
    '{"inputs":[T],"outputs":[{"name":"y","parameters":{"binary_data":true}}]}',
    '{"inputs":[T],"outputs":[{"name":"y","parameters":{"binary_data":false}}]}',
    '{"inputs":[T],"outputs":[{"name":"y","parameters":{"binary_data":1}}]}',
    '{"inputs":[T],"outputs":[{"name":"y","parameters":{"classification":1}}]}',
    '{"inputs":[T],"parameters":{"binary_data_output":true}}', '{"parameters":{"binary_data_output":true},"inputs":[T]}',
    '{"inputs":[T],"parameters":{"binary_data_output":false}}', '{"inputs":[T],"parameters":{"binary_data_output":1}}',
    '{"inputs":[T],"parameters":{"binary_data_output":true},"outputs":[{"name":"y","parameters":{"binary_data":false}}]}',
    '{"parameters":{"signature_name":"float64"},"inputs":[T]}', '{"inputs":[T],"parameters":{"signature_name":"float64"}}',
    '{"parameters":{"signature_name":"int32","binary_data_output":true},"inputs":[T]}', '{"parameters":{"signature_name":7},"inputs":[T]}',
    '{"inputs":[T],"parameters":{"signature_name":"serving_default"}}', '{"parameters":{"signature_name":"absent"},"inputs":[T]}',
    '{"parameters":{"signature_name":"float64","signature_name":"int32"},"inputs":[T]}',
    '{"parameters":{"signature_name":"float64"},"outputs":[{"name":"y"}],"inputs":[T]}',
    '{"outputs":[{"name":"y"}],"parameters":{"signature_name":"float64"},"inputs":[T]}',
    '{"inputs":[T],"parameters":{"signature_name":"float32"}}', '{"inputs":[T],"parameters":{}}', '{"inputs":[T],"parameters":[]}',
    '{"inputs":[T],"other":1}', '{"inputs":[T]}x', '\ufeff{"inputs":[T]}', '{"inputs":[T]', '{"inputs":[T],}', '{"\\u0069nputs":[T]}',
]  # fmt: skip


def test_requests_written_by_hand(compare: Ask) -> None:
    texts = [around.replace("T", tensor_text).encode() for tensor_text in TENSORS for around in AROUND]
    came = compare(build() / "types", [*texts, *(question(body, b"\0\0\x80\x3f") for body in texts)], path=PATH)
    taken = {body if isinstance(body, bytes) else body[0] for body, was_taken in came if was_taken}
    assert any(body.endswith(b"\x80\x3f") for body in taken)
    assert {b'{"inputs":[%b]}' % tensor_text.encode() for tensor_text in TENSORS[:1]} <= taken
    assert any(b'"float64"' in body for body in taken)
    assert any(b'"int32"' in body for body in taken)
    assert len(taken) < len(came) / 3


LENGTHS = struct.Struct("<I")


def packed(*elements: bytes) -> bytes:
    return b"".join(LENGTHS.pack(len(element)) + element for element in elements)


# count, size, tail; way
BINARY_STRINGS: list[tuple[int, int | None, bytes, bool]] = [
    (1, None, packed(b"a"), True),
    (1, None, packed(b""), True),
    (3, None, packed(b"", b"", b""), True),
    (2, None, packed(b"a", b"\xff\xfe"), True),
    (2, None, packed(b"x" * 300, "é€😀\0\n".encode()), True),
    (1, None, packed(b"a", b"b"), False),
    (2, None, packed(b"a"), False),
    (1, None, packed(b"a") + b"b", False),
    (1, None, packed(b"a") + b"\0\0\0", False),
    (1, None, packed(b"a") + LENGTHS.pack(0), False),
    (1, None, packed(b"ab")[:-1], False),
    (1, None, b"", False),
    (1, None, b"\0", False),
    (1, None, b"\0\0\0", False),
    (1, None, b"a", False),
    (1, None, b"\xff\xff\xff\xff", False),
    (1, None, b"\xff\xff\xff\xffa", False),
    (1, None, b"\xff\xff\xff\x7fa", False),
    (1, None, b"\x00\x00\x00\x80a", False),
    (1, None, b"\x00\x00\x00\x01a", False),  # as another order of bytes would have it
    (2, None, LENGTHS.pack(5) + packed(b"a"), False),
    (2, None, LENGTHS.pack(6) + packed(b"a"), False),
    (1, 4, packed(b"a"), False),
    (1, 5, packed(b"a") + b"b", False),
    (1, 6, packed(b"a"), False),
    (1, 0, packed(b"a"), False),
    (1, -1, packed(b"a"), False),
    (1, -5, packed(b"a"), False),
    (1, 1 << 40, packed(b"a"), False),
    (1 << 40, None, packed(b"a"), False),
    (0, None, b"", False),
    (0, None, packed(b"a"), False),
]


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("model", ["strings", "bytes_both"])
def test_binary_strings_with_right_and_wrong_lengths(compare: Ask, model: str, binary: bool) -> None:
    questions, ways = [], []
    for count, size, tail, way in BINARY_STRINGS:
        declared = len(tail) if size is None else size
        entry = {"name": "x", "datatype": "BYTES", "shape": [count], "parameters": {"binary_data_size": declared}}
        body = {"parameters": {"binary_data_output": binary}, "inputs": [entry]}
        questions.append(question(json.dumps(body).encode(), tail, size=len(json.dumps(body))))
        ways.append(way and (binary or b"\xff" not in tail))
    came = compare(build() / model, questions, path=PATH)
    assert [pair for pair, way in zip(came, ways, strict=True) if pair[1] is not way] == []


def test_a_binary_tensor_of_strings_that_is_cut_anywhere(compare: Ask) -> None:
    """The head says all, or what is left; two tensors share the tail."""
    questions = []
    data = packed("é€😀".encode(), b"", b"\xff", b"abc")
    for size in range(len(data) + 1):
        for declared in {size, len(data)}:
            entry = {"name": "x", "datatype": "BYTES", "shape": [4], "parameters": {"binary_data_size": declared}}
            text = json.dumps({"parameters": {"binary_data_output": True}, "inputs": [entry]}).encode()
            questions.append(question(text, data[:size], size=len(text)))
    came = compare(build() / "bytes_both", questions, path=PATH)
    assert [was_taken for _, was_taken in came] == [False] * (len(came) - 1) + [True]


def test_every_string_in_json(compare: Ask) -> None:
    """In JSON, an answer that is not UTF-8 is refused by serving/; in binary it goes out."""
    questions, ways = [], []
    for text, way in bodies.STRINGS:
        for binary in ("true", "false"):
            for data, shape in ((f"[{text}]", "[1]"), (f'["a", {text} ]', "[2]")):
                body = (
                    f'{{"parameters":{{"binary_data_output":{binary}}},'
                    f'"inputs":[{{"name":"x","datatype":"BYTES","shape":{shape},"data":{data}}}]}}'
                )
                questions.append((body.encode("utf-8", "surrogateescape"), "", {}))
                ways.append(way and (binary == "true" or is_text(text)))
    came = compare(build() / "bytes_both", questions, path=PATH)
    assert [pair for pair, way in zip(came, ways, strict=True) if pair[1] is not way] == []


def is_text(element: str) -> bool:
    """Say whether an element of JSON is text, or base64 of text."""
    try:
        value = json.loads(element)
        return isinstance(value, str) or base64.b64decode(value["b64"]).decode() is not None
    except (ValueError, TypeError, KeyError):
        return False


# settings, model, the input without its data, data; way
NESTED = [
    ({"MAX_NESTING": "4"}, "strings", '"name":"x","datatype":"BYTES","shape":[1]', '["a"]'),
    ({"MAX_NESTING": "4"}, "strings", '"name":"x","datatype":"BYTES","shape":[1]', '[{"b64":"AA=="}]'),
    ({"MAX_NESTING": "5"}, "strings", '"name":"x","datatype":"BYTES","shape":[1]', '[{"b64":"AA=="}]'),
    ({"MAX_NESTING": "3"}, "bytes_scalar", '"name":"x","datatype":"BYTES","shape":[]', '["a"]'),
    ({"MAX_NESTING": "4"}, "bytes_scalar", '"name":"x","datatype":"BYTES","shape":[]', '[{"b64":"AA=="}]'),
    ({"MAX_NESTING": "4"}, "types", '"name":"x","datatype":"FP32","shape":[1]', "[1]"),
    ({"MAX_NESTING": "5"}, "shapes", '"name":"x","datatype":"FP32","shape":[1,1]', "[[1]]"),
    ({"MAX_NESTING": "3"}, "number_scalar", '"name":"x","datatype":"FP32","shape":[]', "[1]"),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "model", "entry", "data"), NESTED)
def test_limits_of_nesting(compare: Ask, settings: dict[str, str], model: str, entry: str, data: str) -> None:
    compare(build() / model, [f'{{"inputs":[{{{entry},"data":{data}}}]}}'.encode()], path=PATH, **settings)
    asked = '"outputs":[{"name":"y","parameters":{"binary_data":false}}]'
    compare(build() / model, [f'{{"inputs":[{{{entry},"data":{data}}}],{asked}}}'.encode()], path=PATH, **settings)


# settings, strings, way
LIMITS = [
    ({"MAX_STRING_BYTES": "8"}, (b"12345678",),               True),
    ({"MAX_STRING_BYTES": "8"}, (b"1234567", b"123456789"),   False),
    ({"MAX_STRING_BYTES": "8"}, ("éééé".encode(), b""),       True),
    ({"MAX_STRING_BYTES": "8"}, ("ééééa".encode(), b""),      False),
    ({"MAX_STRING_BYTES": "1000000"}, (b"x" * 1000000,),      True),
    ({"MAX_STRING_BYTES": "1000000"}, (b"x" * 1000001,),      False),
    ({"MAX_ELEMENTS": "2"},     (b"a", b"b"),                 True),
    ({"MAX_ELEMENTS": "2"},     (b"a", b"b", b"c"),           False),
    ({"MAX_ROWS": "2"},         (b"a", b"b"),                 True),
    ({"MAX_ROWS": "2"},         (b"a", b"b", b"c"),           False),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "strings", "way"), LIMITS)
def test_limits_of_strings(compare: Ask, settings: dict[str, str], strings: tuple[bytes, ...], way: bool) -> None:
    entry: dict[str, Any] = {"name": "x", "datatype": "BYTES", "shape": [len(strings)]}
    data = packed(*strings)
    binary = json.dumps({"inputs": [{**entry, "parameters": {"binary_data_size": len(data)}}]}).encode()
    text = json.dumps({"inputs": [{**entry, "data": [string.decode() for string in strings]}]}).encode()
    came = compare(build() / "strings", [question(binary, data), text], path=PATH, **settings)
    assert [was_taken for _, was_taken in came] == [way, way]
