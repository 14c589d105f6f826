"""The extension on a library that replaces TensorFlow's, and signatures for it."""

import ctypes
import importlib.machinery
import importlib.util
import random
from typing import Any

from serving.savedmodel.signature import Signature

MODELS = ("types", "shapes", "several", "strings", "named_b64", "ranked")
HEAD = b'{"model_name":"model","model_version":"1"'
LIMITS = (10_000, 16 << 20, 256, 8 << 20, -1, False)  # rows, elements, id, string, pixels, null
KEY = (b"key", b'"key":')
LABELS = (b"cat", 'é"\n'.encode(), b"")
X, Y = (b"x", b"FP32", 1, (-1,), 0, 0), (b"y", b'"y":', b"FP32", False, 1, -1, 0, 0)
WORD = (b"x", b"BYTES", 7, (-1,), 0, 0)
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
        *bounds, null = limits
        engine = ("tensorflow", self.library._handle, (1,))
        return self.module.Predictor(engine, signatures, HEAD, KEY, LABELS, tuple(bounds), null, self)

    def live(self) -> tuple[int, int, int]:
        """Return how many of the library's tensors, statuses and strings have not been deleted."""
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
            index,
        )
        for index, spec in enumerate(signature.inputs.values())
    )
    outputs = []
    for index, (name, datatype, code, *_) in enumerate(inputs):
        what = random_.choice([*range(10), 11, 12]) if random_.random() < strange else 0
        as_bytes = random_.random() < 0.2
        outputs.append((name, b'"%b":' % name, datatype, as_bytes, 10 if what == 4 else code, -1, what, index))
    return signature.name.encode(), inputs, tuple(outputs)


def plain(signature: Signature) -> bool:
    """Say whether the extension takes the signature."""
    shapes = [spec.shape for spec in signature.inputs.values()]
    return bool(shapes) and all(
        shape is not None and len(shape) <= 8 and spec.dtype.kind in "iufbS"
        for shape, spec in zip(shapes, signature.inputs.values())
    )


def echo(what: int = 0, *, as_bytes: bool = False) -> tuple[Any, ...]:
    """Return an output of strings, what the fake makes of the first input."""
    return (b"y", b'"y":', b"BYTES", as_bytes, 7, -1, what, 0)
