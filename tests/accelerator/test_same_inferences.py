"""The Open Inference Protocol with the accelerator and without it: the same answers, in JSON and in binary."""

import json
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.accelerator.conftest import Ask, Question
from tests.accelerator.models import DTYPES, build
from tests.fuzz.mutate import mutate

PATH = "/v2/models/model/infer"
NAMES = {"float32": "FP32", "float64": "FP64", **{name: name.upper() for name in DTYPES if name[0] != "f"}}


def tensor(
    name: str, array: Any, *, binary: bool = False, flat: bool = True, **more: Any
) -> tuple[dict[str, Any], bytes]:
    """Return an input as JSON has it, and its bytes where they follow the JSON."""
    found = {"name": name, "datatype": NAMES[str(array.dtype)], "shape": list(array.shape)}
    if binary:
        return {**found, "parameters": {"binary_data_size": array.nbytes}, **more}, array.tobytes()
    return {**found, "data": (array.ravel() if flat else array).tolist(), **more}, b""


def request(tensors: list[tuple[dict[str, Any], bytes]], random_: random.Random, **more: Any) -> tuple[bytes, bytes]:
    """Return the JSON of a request, its members in any order, and the bytes behind it."""
    members = list({"inputs": [one for one, _ in tensors], **more}.items())
    random_.shuffle(members)
    separators = random_.choice([None, (",", ":"), (" ,\n", "\t: ")])
    return json.dumps(dict(members), separators=separators).encode(), b"".join(data for _, data in tensors)


def question(text: bytes, tail: bytes, *, size: object = None) -> Question:
    headers = {"content-type": "application/octet-stream", "inference-header-content-length": str(len(text))}
    if size is not None:
        headers["inference-header-content-length"] = str(size)
    return (text + tail, "", headers) if tail or size is not None else (text, "", {})


def outputs(random_: random.Random, names: list[str]) -> dict[str, Any]:
    """Return what a request says of the answer."""
    more: dict[str, Any] = {}
    if random_.random() < 0.5:
        more["id"] = random_.choice(["", "a", "seven", "é", "x" * 300, "\\", '"', 7, None])
    if random_.random() < 0.3:
        more["parameters"] = random_.choice([{}, {"binary_data_output": True}, {"binary_data_output": False}, {"a": 1}])
    if random_.random() < 0.4:
        chosen = random_.choices(names, k=random_.randrange(1, len(names) + 1))
        more["outputs"] = [
            {"name": name, **random_.choice([{}, {}, {"parameters": {"binary_data": random_.random() < 0.7}}])}
            for name in chosen
        ]
    return more


def numbers(random_: random.Random, dtype: str, shape: tuple[int, ...]) -> Any:
    generator = np.random.default_rng(random_.getrandbits(32))
    if dtype[0] == "f":
        return (generator.normal(0, 1, shape) * 10.0 ** generator.integers(-9, 20, shape)).astype(dtype)
    info = np.iinfo(dtype)
    return generator.integers(info.min, info.max, shape, dtype, endpoint=True) >> np.array(
        random_.randrange(60) % info.bits
    ).astype(dtype)


def right(random_: random.Random, model: str, count: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield requests that are right, or nearly."""
    for _ in range(count):
        rows, binary, flat = random_.choice([1, 2, 3, 9]), random_.random() < 0.4, random_.random() < 0.8
        if model == "several":
            a, b = numbers(random_, "float32", (rows,)), numbers(random_, "int64", (rows, 2))
            tensors = [tensor("a", a, binary=binary), tensor("b", b, binary=random_.random() < 0.4, flat=flat)]
            random_.shuffle(tensors)
            yield request(tensors, random_, **outputs(random_, ["sum", "both", "above", "wide", 'é"\\\n', "nobody"]))
        elif model == "types":
            yield request(
                [tensor("x", numbers(random_, "float32", (rows,)), binary=binary)], random_, **outputs(random_, ["y"])
            )
        else:
            shape = (rows,) if model == "infinite" else (rows, random_.choice([1, 2, 5]))
            x = numbers(random_, "float32", shape)
            x[random_.randrange(rows)] *= random_.choice([1, 0, -0.0])
            yield request([tensor("x", x, binary=binary, flat=flat)], random_, **outputs(random_, ["y"]))


@pytest.mark.parametrize("model", ["types", "shapes", "several", "infinite"])
@pytest.mark.parametrize("non_finite", ["tokens", "null"])
def test_requests_made_by_chance(compare: Ask, model: str, non_finite: str) -> None:
    random_ = random.Random(f"{model} {non_finite}")
    found = list(right(random_, model, 900))
    texts = [text for text, _ in found]
    questions = [question(text, tail) for text, tail in found]
    plain = len(questions)
    questions += [question(mutate(text, texts, random_, 4096), tail) for text, tail in found]
    for text, tail in random_.sample(found, 100):
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
    '{"inputs":[T],"parameters":{"signature_name":"float32"}}', '{"inputs":[T],"parameters":{}}', '{"inputs":[T],"parameters":[]}',
    '{"inputs":[T],"other":1}', '{"inputs":[T]}x', '\ufeff{"inputs":[T]}', '{"inputs":[T]', '{"inputs":[T],}', '{"\\u0069nputs":[T]}',
]  # fmt: skip


def test_requests_written_by_hand(compare: Ask) -> None:
    bodies = [around.replace("T", one).encode() for one in TENSORS for around in AROUND]
    came = compare(build() / "types", [*bodies, *(question(body, b"\0\0\x80\x3f") for body in bodies)], path=PATH)
    taken = {body for body, was_taken in came if was_taken}
    assert {b'{"inputs":[%b]}' % one.encode() for one in TENSORS[:1]} <= taken
    assert len(taken) < len(came) / 3
