"""Requests of the Open Inference Protocol for the tests of the native codec."""

import json
import random
from typing import Any

import numpy as np

from tests.pipeline.native.conftest import Question
from tests.pipeline.native.models import DTYPES

PATH = "/v2/models/model/infer"
NAMES = {"float32": "FP32", "float64": "FP64", **{name: name.upper() for name in DTYPES if name[0] != "f"}}


def tensor(
    name: str, array: Any, *, binary: bool = False, flat: bool = True, **more: Any
) -> tuple[dict[str, Any], bytes]:
    """Return an input as JSON has it, and its bytes where they follow the JSON."""
    entry = {"name": name, "datatype": NAMES[str(array.dtype)], "shape": list(array.shape)}
    if binary:
        return {**entry, "parameters": {"binary_data_size": array.nbytes}, **more}, array.tobytes()
    return {**entry, "data": (array.ravel() if flat else array).tolist(), **more}, b""


def request(tensors: list[tuple[dict[str, Any], bytes]], random_: random.Random, **more: Any) -> tuple[bytes, bytes]:
    """Return the JSON of a request, its members in any order, and the bytes behind it."""
    members = list({"inputs": [entry for entry, _ in tensors], **more}.items())
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
        more["parameters"] = random_.choice(
            [
                {}, {"binary_data_output": True}, {"binary_data_output": False}, {"a": 1}, {"signature_name": ""},
                {"signature_name": "serving_default", "binary_data_output": True}, {"signature_name": "absent"},
                {"binary_data_output": False, "signature_name": random_.choice(["serving_default", "float64", "deep", ""])},
            ]
        )  # fmt: skip
    if random_.random() < 0.4:
        chosen = random_.choices(names, k=random_.randrange(1, len(names) + 1))
        more["outputs"] = [
            {
                "name": name,
                **random_.choice(
                    [
                        {},
                        {},
                        {"parameters": {"binary_data": random_.random() < 0.7}},
                        {
                            "parameters": {
                                "classification": random_.randrange(4),
                                **random_.choice([{}, {"binary_data": True}]),
                            }
                        },
                    ]
                ),
            }
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
