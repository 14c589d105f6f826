"""What decoding a request and encoding its answer cost, without a server and without a model: `python -m bench.codecs`.

Every form of a body carries the same tensor. What it is compared with does no checks at all: `json.loads` and
`numpy.asarray` on the way in, `tolist` and `json.dumps` on the way out; and `memcpy`, a copy of the same bytes, as the
floor. A tensor is answered with itself: an encoded answer has the size of the request.
"""

import argparse
import base64
import gc
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from bench.forms import FORMS, INFER, Body, Input, dumps
from bench.machine import about
from bench.page import Rows, fraction, publish, word
from serving.core.dtypes import BY_CODE
from serving.core.http import BadRequest, Response
from serving.protocols import open_inference, tensorflow_serving
from serving.protocols.call import Call, Context
from serving.protocols.codec import Codec
from serving.savedmodel.signature import Signature, TensorSpec

FLOAT, STRING = BY_CODE[1], BY_CODE[7]
ROW, IMAGE = "1x64", "224x224x3"
SHAPES = {ROW: (1, 64), IMAGE: (1, 224, 224, 3)}
SLOW_ENOUGH = 2e-3  # seconds; of slower things fewer samples are taken

Array = np.ndarray[Any, Any]
Work = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    """One form of one tensor: our two directions, and what they are compared with."""

    form: str
    tensor: str
    size: int  # bytes of the request
    decode: Work
    encode: Work
    plain_decode: Work
    plain_encode: Work


@dataclass(frozen=True)
class Figures:
    """Microseconds."""

    p50: float
    p90: float


def signature(dtype: Any, shape: tuple[int, ...]) -> Signature:
    # The free dimensions of what people export: a batch of any size.
    specs = {side: TensorSpec(side, dtype, (None, *shape[1:]), f"{side}:0") for side in "xy"}
    return Signature("serving_default", {"x": specs["x"]}, {"y": specs["y"]}, "")


def protocol(body: Body) -> Codec:
    return open_inference if body.path == INFER else tensorflow_serving


def cases() -> list[Case]:
    made = []
    for tensor, shape in SHAPES.items():
        array = np.random.default_rng(1).random(shape).round(6).astype(np.float32)
        signatures = {"serving_default": signature(FLOAT, shape)}
        for form, write in FORMS.items():
            made.append(case(form, tensor, write(Input("x", array)), signatures, array))
        raw = array.tobytes()
        body = Body("", dumps({"instances": [{"b64": base64.b64encode(raw).decode()}]}))
        strings = np.array([raw], object)
        made.append(case("bytes as b64", tensor, body, {"serving_default": signature(STRING, (1,))}, strings))
    return made


def case(form: str, tensor: str, body: Body, signatures: dict[str, Signature], array: Array) -> Case:
    codec, context = protocol(body), Context(body.headers, "model", "1")
    decode = partial(codec.decode, body.content, signatures, context)
    call = decode()
    (came,) = call.inputs.values()
    if not np.array_equal(came, array):
        raise SystemExit(f"{form} {tensor}: decoded to something else")
    outputs = {"y": array}
    return Case(
        form, tensor, len(body.content), decode, partial(encode, codec, call, outputs),
        partial(plain_decode, body, array), partial(plain_encode, body, array),
    )  # fmt: skip


def encode(codec: Codec, call: Call, outputs: dict[str, Array]) -> Response:
    return codec.encode(call, outputs)


def plain_decode(body: Body, array: Array) -> Array:
    """What one writes by hand, for this form."""
    if body.headers:
        (size,) = map(int, body.headers.values())
        return np.frombuffer(body.content[size:], np.float32).reshape(
            json.loads(body.content[:size])["inputs"][0]["shape"]
        )
    root = json.loads(body.content)
    if body.path == INFER:
        (entry,) = root["inputs"]
        return np.asarray(entry["data"], np.float32).reshape(entry["shape"])
    values = root.get("instances", root.get("inputs"))
    if not isinstance(values[0], dict):
        return np.asarray(values, np.float32)
    if array.dtype == object:
        return np.array([base64.b64decode(row["b64"]) for row in values], object)
    return np.asarray([row["x"] for row in values], np.float32)


def plain_encode(body: Body, array: Array) -> bytes:
    if body.headers:
        return json.dumps({"outputs": [{"name": "y", "shape": array.shape}]}).encode() + array.tobytes()
    if array.dtype == object:
        return json.dumps({"predictions": [{"b64": base64.b64encode(value).decode()} for value in array]}).encode()
    return json.dumps({"predictions": array.tolist()}).encode()


def measure(works: dict[str, Work], seconds: float) -> dict[str, Figures]:
    """Time each, interleaved, for some seconds each."""
    samples: dict[str, list[int]] = {name: [] for name in works}
    end = time.perf_counter() + seconds * len(works)
    for work in works.values():
        work()
    gc.collect()
    while time.perf_counter() < end or not all(samples.values()):
        for name, work in works.items():
            began = time.perf_counter_ns()
            work()
            taken = time.perf_counter_ns() - began
            samples[name].append(taken)
            for _ in range(min(50, int(SLOW_ENOUGH * 1e9) // max(taken, 1))):
                began = time.perf_counter_ns()
                work()
                samples[name].append(time.perf_counter_ns() - began)
    return {
        name: Figures(*(float(q) / 1000 for q in np.percentile(times, (50, 90)))) for name, times in samples.items()
    }


def figures(case: Case, seconds: float) -> dict[str, Figures]:
    buffer, copied = np.ones(case.size, np.uint8), np.empty(case.size, np.uint8)
    return measure(
        {
            "decode": case.decode,
            "encode": case.encode,
            "plain decode": case.plain_decode,
            "plain encode": case.plain_encode,
            "memcpy": partial(np.copyto, copied, buffer),
        },
        seconds,
    )


HEADINGS = [
    "tensor", "form", "body kB", "decode p50 µs", "p90", "MB/s", "of json + asarray", "x memcpy",
    "encode p50 µs", "p90", "of tolist + json",
]  # fmt: skip


def row(case: Case, times: dict[str, Figures]) -> list[str]:
    decode, encode_ = times["decode"], times["encode"]
    return [
        case.tensor, case.form, f"{case.size / 1000:.1f}",
        f"{decode.p50:.1f}", f"{decode.p90:.1f}", f"{case.size / decode.p50:.0f}",
        fraction(decode.p50 / times["plain decode"].p50), f"{decode.p50 / times['memcpy'].p50:.1f}",
        f"{encode_.p50:.1f}", f"{encode_.p90:.1f}", fraction(encode_.p50 / times["plain encode"].p50),
    ]  # fmt: skip


def refuses_ragged() -> bool:
    """Say whether an image with one number less in one place is refused, in every JSON form of it."""
    nest = np.zeros(SHAPES[IMAGE]).tolist()
    nest[0][100][50].pop()
    signatures, context = {"serving_default": signature(FLOAT, SHAPES[IMAGE])}, Context()
    v2 = {"name": "x", "shape": SHAPES[IMAGE], "datatype": "FP32", "data": nest}
    bodies: list[tuple[Codec, Any]] = [(tensorflow_serving, {"instances": nest}), (tensorflow_serving, {"inputs": nest}),
              (tensorflow_serving, {"instances": [{"x": nest[0]}]}), (open_inference, {"inputs": [v2]})]  # fmt: skip
    return all(refused(partial(codec.decode, dumps(body), signatures, context)) for codec, body in bodies)


def refused(decode: Work) -> bool:
    try:
        decode()
    except BadRequest:
        return True
    return False


def budgets(measured: dict[tuple[str, str], dict[str, Figures]]) -> Rows:
    image, small = measured[IMAGE, "JSON rows"], measured[ROW, "JSON rows"]
    faster = image["plain decode"].p50 / image["decode"].p50
    even = image["decode"].p90 / image["decode"].p50
    both = small["decode"].p50 + small["encode"].p50
    ragged = refuses_ragged()
    return [
        ["budget", "promised", "measured", "verdict"],
        ["image, JSON rows: decode against json + asarray", "≥ 5 x faster", f"{faster:.1f}", word(faster >= 5)],
        ["image, JSON rows: decode, p90 of p50", "≤ 1.3 x", f"{even:.2f}", word(even <= 1.3)],
        ["image with a short row, every JSON form", "refused", "refused" if ragged else "taken", word(ragged)],
        ["1x64, JSON rows: decode + encode", "< 30 µs", f"{both:.1f} µs", word(both < 30)],
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.codecs", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=1.0, help="for each thing that is timed (default 1)")
    options = parser.parse_args()
    made = cases()
    gc.collect()
    gc.freeze()  # as the server does when its model is there
    measured = {(case.tensor, case.form): figures(case, options.seconds) for case in made}
    facts = about("1", "python -m bench.codecs")
    rows = [HEADINGS, *(row(case, measured[case.tensor, case.form]) for case in made)]
    explained = " ".join((__doc__ or "").split("\n\n", 1)[1].split())
    publish("codecs.md", "Codecs", facts, [explained, budgets(measured), rows])


if __name__ == "__main__":
    main()
