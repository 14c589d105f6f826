"""What test_memory.py runs in a process of its own, where AddressSanitizer watches the extension.

python -m tests.accelerator.memory EXTENSION FAKE_TENSORFLOW CHECK
"""

import ctypes
import importlib.machinery
import importlib.util
import json
import random
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from serving.signature import Signature, read
from tests.accelerator.bodies import Writer
from tests.accelerator.models import build
from tests.fuzz.mutate import mutate

MODELS = ("types", "shapes", "several")
HEAD = b'{"model_name":"model","model_version":"1"'
LIMITS = (10_000, 16 << 20, 256, 8 << 20, -1, False)  # rows, elements, id, string, pixels, null
X, Y = (b"x", b"FP32", 1, (-1,), 0, 0), (b"y", b'"y":', b"FP32", False, 1, 0, 0)
LONG = (b"x", b"INT64", 9, (-1,), 0, 0)


class Fake:
    """The extension over the library that stands in for TensorFlow's."""

    def __init__(self, extension: str, library: str) -> None:
        """Load both."""
        loader = importlib.machinery.ExtensionFileLoader("_accelerator", extension)
        spec = importlib.util.spec_from_loader("_accelerator", loader)
        assert spec is not None
        self.module = importlib.util.module_from_spec(spec)
        loader.exec_module(self.module)
        self.library = ctypes.CDLL(library)
        for name in ("live_tensors", "live_statuses", "live_strings", "count_runs"):
            getattr(self.library, name).restype = ctypes.c_int64

    def predictor(self, *signatures: tuple[Any, ...], limits: tuple[Any, ...] = LIMITS) -> Any:
        """Return a predictor for signatures in the extension's own form."""
        return self.module.Predictor(self.library._handle, 1, signatures, HEAD, *limits, self)

    def live(self) -> tuple[int, int, int]:
        """Return how many of the library's tensors, statuses and strings nobody has deleted."""
        return self.library.live_tensors(), self.library.live_statuses(), self.library.live_strings()


def of(signature: Signature, random_: random.Random, strange: float) -> tuple[Any, ...]:
    """Return a signature in the extension's form, with outputs that are inputs again, or what a fake makes of them."""
    inputs = tuple(
        (
            spec.name.encode(),
            (spec.dtype.v2_name or "").encode(),
            spec.dtype.code,
            tuple(-1 if size is None else size for size in spec.shape or ()),
            0,
            place,
        )
        for place, spec in enumerate(signature.inputs.values())
    )
    outputs = []
    for place, (name, datatype, code, *_) in enumerate(inputs):
        what = random_.choice([*range(10), 11, 12]) if random_.random() < strange else 0
        as_bytes = random_.random() < 0.2
        outputs.append((name, b'"%b":' % name, datatype, as_bytes, 10 if what == 4 else code, what, place))
    return signature.name.encode(), inputs, tuple(outputs)


def plain(signature: Signature) -> bool:
    """Say whether the extension takes the signature."""
    shapes = [spec.shape for spec in signature.inputs.values()]
    return bool(shapes) and all(
        shape is not None and len(shape) <= 8 and spec.dtype.kind in "iufS"
        for shape, spec in zip(shapes, signature.inputs.values())
    )


def bodies(fake: Fake) -> None:
    """Bodies of every kind, with every kind of output."""
    answered = refused = 0
    random_ = random.Random("bodies")
    for name in MODELS:
        found = Writer(build() / name, "memory").bodies(2500)
        signatures = [one for one in read(build() / name).signatures.values() if plain(one)]
        for strange, limits in (
            (0.0, LIMITS),
            (0.3, LIMITS),
            (0.0, (2, 4, 8, 3, -1, True)),
            (0.9, (10_000, 1 << 20, 256, 1 << 20, 100, True)),
        ):
            predictor = fake.predictor(*(of(one, random_, strange) for one in signatures), limits=limits)
            for body in found:
                answer = predictor.predict(body)
                if answer == (3, b"not today"):
                    refused += 1
                elif answer is not None:
                    answered += 1
                    json.loads(answer[0])
                assert fake.live() == (0, 0, 0), body
    assert answered > 5000, answered
    assert refused > 100, refused
    assert fake.library.count_runs() > answered + refused


def large(fake: Fake) -> None:
    """Bodies that make every buffer grow, one whose tensor cannot be had, and every cut of one."""
    signature = (b"serving_default", ((b"x", b"FP32", 1, (-1, -1), 0, 0),), (Y, (b"z", b'"z":', b"FP32", False, 1, 2, 0)))
    predictor = fake.predictor(signature, limits=(10**9, 10**9, 256, 10**9, -1, False))
    for count in [*range(1, 300), 1000, 5000, 100_000]:
        row = b"[%b]" % b",".join([b"-1.2345678e-30"] * count)
        answer = predictor.predict(b'{"inputs":[%b]}' % row)
        assert answer[0] == b'{"outputs":{"y":[%b],"z":-1.2345678e-30}}' % row
        answer = predictor.predict(b'{"inputs":[%b]}' % b",".join([b"[1.5]"] * count))
        assert answer[3] == count
    assert predictor.predict(b'{"inputs":[[%b]]}' % b",".join([b"1"] * 300_000)) is None
    body = (
        b' { "signature_name" : "serving_default" , "instances" : [ { "x" : [ 1.5e3 , -2 ] } , { "x" : [ 0 , 1 ] } ] } '
    )
    for size in range(len(body) - 2):
        assert predictor.predict(body[:size]) is None
        assert predictor.predict(body[size:]) is None or not size
    for body in (b"", b"{", b'{"', b'{"inputs":', b"[" * 100_000, b'{"inputs":' + b"[" * 100_000, b'{"inputs":[[' + b"1" * 100_000,
                 b'{"inputs":[[1.' + b"1" * 100_000, b'{"inputs":[[1e' + b"1" * 100_000, b'{"' * 100_000, b" " * 100_000):  # fmt: skip
        assert predictor.predict(body) is None
    assert predictor.predict(b'{"inputs":[[1.' + b"1" * 100_000 + b"]]}")[0].startswith(
        b'{"outputs":{"y":[[1.1111112]]'
    )
    assert fake.live() == (0, 0, 0)


def without_one(value: Any) -> Iterator[Any]:
    """Yield a JSON value without one of its members or elements, each at any depth in its turn."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield {name: other for name, other in value.items() if name != key}
            yield from ({**value, key: less} for less in without_one(inner))
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield value[:place] + value[place + 1 :]
            yield from ([*value[:place], less, *value[place + 1 :]] for less in without_one(inner))


def infers(fake: Fake) -> None:
    """Requests of the Open Inference Protocol, binary tensors among them, and what chance makes of them."""
    random_ = random.Random("infers")
    double = (b"a", b"FP64", 2, (-1, 2), 0, 1)
    outputs = (Y, (b"a", b'"a":', b"FP64", False, 2, 0, 1))
    predictors = [
        fake.predictor((b"s", (X, double), outputs)),
        fake.predictor((b"s", (X, double), (Y, (b"z", b'"z":', b"FP32", False, 1, 7, 0)))),
        fake.predictor((b"s", (X, double), outputs), limits=(2, 4, 3, 3, -1, True)),
    ]
    seeds: list[tuple[bytes, bytes]] = []
    for rows in (1, 2, 5):
        for binary_x, binary_a, binary_y in ((0, 0, 0), (1, 0, 1), (0, 1, 0), (1, 1, 1)):
            tail, tensors = b"", []
            for name, datatype, size, shape, binary in (
                ("x", "FP32", 4 * rows, [rows], binary_x), ("a", "FP64", 16 * rows, [rows, 2], binary_a)
            ):  # fmt: skip
                tensor: dict[str, Any] = {"name": name, "datatype": datatype, "shape": shape}
                if binary:
                    tensor["parameters"] = {"binary_data_size": size}
                    tail += random_.randbytes(size)
                else:
                    tensor["data"] = [0.5] * (size // (4 if name == "x" else 8))
                tensors.append(tensor)
            body: dict[str, Any] = {
                "id": "seven",
                "inputs": tensors,
                "parameters": {"binary_data_output": bool(binary_y)},
            }
            wanted = [{"name": "y", "parameters": {"binary_data": bool(binary_y)}}]
            for one in (body, {"inputs": tensors}, {"inputs": tensors, "outputs": wanted}):
                seeds.append((json.dumps(one, separators=random_.choice([None, (",", ":")])).encode(), tail))
    texts = [text for text, _ in seeds]
    answered = 0
    for text, tail in seeds:
        cases = [(text, tail), *((mutate(text, texts, random_, 4096), tail) for _ in range(60))]
        cases += [(json.dumps(less).encode(), tail) for less in without_one(json.loads(text))]
        cases += [(text, tail[:size]) for size in range(len(tail))] + [(text, tail + b"1")]
        cases += [(text.replace(b'e":', b'e":1', 1), tail), (text.replace(b'e":', b'e":-', 1), tail)]
        for text_, tail_ in cases:
            body_ = text_ + tail_
            sizes = {len(text_), len(body_), 0, -1, len(body_) + 1, random_.randrange(len(body_) + 1), (1 << 63) - 1}
            for predictor in predictors:
                for size in sizes:
                    answer = predictor.infer(body_, size)
                    answered += answer is not None and len(answer) > 2
                    assert fake.live() == (0, 0, 0), (body_, size)
    assert answered > 50, answered


def threads(fake: Fake) -> None:
    """Many calls of one predictor at once: each has its own answer."""
    signature = (b"serving_default", (LONG,), ((b"y", b'"y":', b"INT64", False, 9, 0, 0),))
    failing = (b"failing", (LONG,), ((b"y", b'"y":', b"INT64", False, 9, 0, 0), (b"z", b'"z":', b"INT64", False, 9, 7, 0)))
    predictor = fake.predictor(signature, failing)

    def call(number: int) -> None:
        numbers = list(range(number, number + 1 + number % 97 * 20))
        answer = predictor.predict(json.dumps({"inputs": numbers}).encode())
        assert json.loads(answer[0]) == {"outputs": numbers}
        refused = predictor.predict(json.dumps({"signature_name": "failing", "inputs": numbers}).encode())
        assert refused == (3, b"not today")
        assert predictor.predict(json.dumps({"inputs": [numbers]}).encode()) is None

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(call, range(1000)))
    assert fake.live() == (0, 0, 0)


FINE = (b"s", (X,), (Y,))
BAD: list[tuple[type[Exception], tuple[Any, ...]]] = [
    (ValueError, ((), HEAD, 1, 1, 1, 1, 1, False, None)),
    (ValueError, ((FINE,) * 17, HEAD, 1, 1, 1, 1, 1, False, None)),
    (ValueError, (((b"s", (), (Y,)),), HEAD, 1, 1, 1, 1, 1, False, None)),
    (ValueError, (((b"s", (X,), ()),), HEAD, 1, 1, 1, 1, 1, False, None)),
    (ValueError, (((b"s", (X,) * 17, (Y,)),), HEAD, 1, 1, 1, 1, 1, False, None)),
    (ValueError, (((b"s", (X,), (Y,) * 17),), HEAD, 1, 1, 1, 1, 1, False, None)),
    (ValueError, (((b"s", ((b"x", b"FP32", 10, (-1,), 0, 0),), (Y,)),), HEAD, 1, 1, 1, 1, 1, False, None)),
    (ValueError, (((b"s", ((b"x", b"FP16", 19, (-1,), 0, 0),), (Y,)),), HEAD, 1, 1, 1, 1, 1, False, None)),
    (ValueError, (((b"s", ((b"x", b"FP32", -1, (-1,), 0, 0),), (Y,)),), HEAD, 1, 1, 1, 1, 1, False, None)),
    (ValueError, (((b"s", ((b"x", b"FP32", 1, (-1,) * 33, 0, 0),), (Y,)),), HEAD, 1, 1, 1, 1, 1, False, None)),
    (ValueError, (((b"s", (X,), ((b"y", b'"y":', b"FP16", False, 19, 0, 0),)),), HEAD, 1, 1, 1, 1, 1, False, None)),
    (TypeError, (((b"s", ((b"x", b"FP32", 1, ("1",), 0, 0),), (Y,)),), HEAD, 1, 1, 1, 1, 1, False, None)),
    (TypeError, (((b"s", ((b"x", b"FP32", 1, [1], 0, 0),), (Y,)),), HEAD, 1, 1, 1, 1, 1, False, None)),
    (TypeError, ((("s", (X,), (Y,)),), HEAD, 1, 1, 1, 1, 1, False, None)),
    (TypeError, (((b"s", (("x", b"FP32", 1, (-1,), 0, 0),), (Y,)),), HEAD, 1, 1, 1, 1, 1, False, None)),
    (TypeError, (((b"s", (X,), ((b"y", "y", b"FP32", False, 1, 0, 0),)),), HEAD, 1, 1, 1, 1, 1, False, None)),
    (TypeError, (((b"s", (X,)),), HEAD, 1, 1, 1, 1, 1, False, None)),
    (TypeError, ([FINE], HEAD, 1, 1, 1, 1, 1, False, None)),
    (TypeError, ((FINE,), HEAD, "1", 1, 1, 1, 1, False, None)),
    (TypeError, ((FINE,), HEAD, 1, 1, 1, 1, 1, False)),
    (OverflowError, ((FINE,), HEAD, 1 << 70, 1, 1, 1, 1, False, None)),
    (OverflowError, (((b"s", ((b"x", b"FP32", 1, (1 << 70,), 0, 0),), (Y,)),), HEAD, 1, 1, 1, 1, 1, False, None)),
    (TypeError, ((FINE,), HEAD, 1, 1, 1, "1", 1, False, None)),
    (TypeError, ((FINE,), HEAD, 1, 1, 1, 1, None, False, None)),
    (OverflowError, ((FINE,), HEAD, 1, 1, 1, 1 << 70, 1, False, None)),
    (OverflowError, ((FINE,), HEAD, 1, 1, 1, 1, 1 << 70, False, None)),
    (TypeError, (((b"s", (X,), ((b"y", b'"y":', b"FP32", 1, 0, 0),)),), HEAD, 1, 1, 1, 1, 1, False, None)),
    (TypeError, ((FINE,), "{", 1, 1, 1, 1, 1, False, None)),
]  # fmt: skip


def leaks(fake: Fake) -> None:
    """Whatever is made is freed: what AddressSanitizer counts as allocated does not grow."""
    allocated = ctypes.CDLL(None).__sanitizer_get_current_allocated_bytes
    allocated.restype = ctypes.c_size_t
    small = ctypes.CDLL(None)
    failing = (b"failing", (X,), (Y, (b"z", b'"z":', b"FP32", False, 1, 7, 0)))
    wrong = (b"wrong", (X,), (Y, (b"z", b'"z":', b"FP32", False, 1, 6, 0)))
    predictor = fake.predictor(FINE, failing, wrong)
    good = b"[%b]" % b",".join([b"0.5"] * 2000)

    def refuses(error: type[Exception], arguments: tuple[Any, ...], handle: int | None = None) -> None:
        try:
            fake.module.Predictor(fake.library._handle if handle is None else handle, 1, *arguments)
        except error:
            return
        raise AssertionError(f"taken: {arguments}")

    def makes() -> None:
        made = fake.predictor(FINE, FINE)
        assert made.predict(b'{"inputs":[1]}')

    def asks(body: Any) -> None:
        try:
            predictor.predict(body)
        except TypeError:
            assert not isinstance(body, bytes)

    deeds: list[Callable[[], None]] = [
        makes,
        lambda: asks(b'{"inputs":%b}' % good),
        lambda: asks(b'{"signature_name":"failing","inputs":%b}' % good),
        lambda: asks(b'{"signature_name":"wrong","inputs":%b}' % good),
        lambda: asks(b'{"inputs":%b' % good),
        lambda: asks("{}"),
        lambda: asks(bytearray(b"{}")),
        lambda: asks(None),
        lambda: refuses(ValueError, ((FINE,), HEAD, 1, 1, 1, 1, 1, False, None), small._handle),
        *(lambda case=case: refuses(*case) for case in BAD),
    ]
    references = sys.getrefcount(FINE), sys.getrefcount(fake), sys.getrefcount(fake.module.Predictor)
    for number, deed in enumerate(deeds):
        for _ in range(50):
            deed()
        before = allocated()
        for _ in range(500):
            deed()
        assert allocated() - before < 8000, (number, allocated() - before)
    assert (sys.getrefcount(FINE), sys.getrefcount(fake), sys.getrefcount(fake.module.Predictor)) == references
    assert fake.live() == (0, 0, 0)


def overrun(fake: Fake) -> None:
    """A fault on purpose, in what the extension reads, which must end the process: that it is watched."""
    predictor = fake.predictor((b"s", ((b"x", b"FP64", 2, (-1,), 0, 0),), ((b"y", b'"y":', b"FP64", False, 2, 10, 0),)))
    predictor.predict(b'{"inputs":[1,2,3,4]}')


if __name__ == "__main__":
    CHECKS = {check.__name__: check for check in (bodies, large, infers, threads, leaks, overrun)}
    CHECKS[sys.argv[3]](Fake(sys.argv[1], sys.argv[2]))
    print("done")
