"""Offer a request for predictions to the native codec in C++, where it has been built (docs/performance.md).

It takes what most requests are, tensors of numbers and strings, and gives the same bytes as the rest of serving/ in a
third of the time. It declines everything else and whatever is wrong: nothing depends on it.
"""

import importlib.machinery
import importlib.util
import os
import threading
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from serving.core import settings
from serving.core.dtypes import by_code
from serving.core.http import to_json
from serving.core.settings import Settings
from serving.core.telemetry.log import log
from serving.pipeline import limits
from serving.runtime.model import Model, Source
from serving.savedmodel.signature import DEFAULT, Signature, TensorSpec

VERSION = 2  # of what the extension and this say to each other
MOST_SIGNATURES = 16  # the extension takes no more
AROUND = 5  # levels that a body has beside its tensors', at most: those of an infer body, base64, a scalar's list

# (answer, size of the JSON in it where binary tensors follow, else 0, place of the signature, size of the batch,
# decoding, decoded, ran, encoded), the times as in core.record; (code, message) where TensorFlow refuses; None for a
# request that is to go the whole way
Answer = tuple[bytes, int, int, int, int, int, int, int] | tuple[int, bytes] | None


class Quick:
    """What answers the plain requests to one model."""

    def __init__(self, served: Model, options: Settings) -> None:
        """Prepare the signatures that can be answered so."""
        self.served = served
        self.names: list[str] = []  # of the signatures, by their places
        # The last argument: where to write the shapes that are run, `inflight.address`.
        self.predict: Callable[..., Answer] = lambda _body, _note=0: None
        self.infer: Callable[..., Answer] = lambda _body, _size, _note=0: None
        module = _extension(options.accelerator)
        if module is None or options.batch_rows:
            return
        signatures: list[Any] = []
        predictor: Any = None
        head = to_json({"model_name": served.name, "model_version": served.version})[:-1]
        for name, pointers, described in _described(served, options):
            most = min(options.max_elements, limits.memory_share() // 16)  # the largest dtype has so many bytes
            bounds = (
                options.max_rows, most, options.max_id_length, options.max_string_bytes,
                options.max_pixels if served.source.pictures else -1,
            )  # fmt: skip
            null = options.non_finite == "null"
            try:
                predictor = module.Predictor(*pointers, (*signatures, described), head, *bounds, null, served)
            except ValueError:  # more than it takes: of a tensor's rank, of their number
                continue
            signatures.append(described)
            self.names.append(name)
        if self.names[:1] == [DEFAULT]:  # the first answers whoever names none
            self.predict, self.infer = predictor.predict, predictor.infer


def _described(served: Model, options: Settings) -> Iterator[tuple[str, tuple[int, int], Any]]:
    """Yield each signature that may be taken, the default one first: name, pointers, and what Predictor is told."""
    for name, signature in sorted(served.signatures.items(), key=lambda item: item[0] != DEFAULT)[:MOST_SIGNATURES]:
        found = served.addresses(signature)
        if name and found is not None and _is_plain(signature, served.source, options):
            inputs = tuple(
                (spec.name.encode(), _datatype(spec.dtype.code), spec.dtype.code, _sizes(spec), *feed)
                for spec, feed in zip(signature.inputs.values(), found.feeds, strict=True)
            )
            outputs = tuple(
                (output.encode(), to_json(output) + b":", _datatype(code), output.endswith("_bytes"), code, *fetch)
                for output, code, *fetch in found.fetches
            )
            yield name, (found.library, found.session), (name.encode(), inputs, outputs)


def _datatype(code: int) -> bytes:
    return (by_code(code).v2_name or "").encode()


def _sizes(spec: TensorSpec) -> tuple[int, ...]:
    return tuple(-1 if size is None else size for size in spec.shape or ())


def _is_plain(signature: Signature, source: Source, options: Settings) -> bool:
    if signature.refusal is not None or signature.name in source.parts:
        return False
    specs = signature.inputs.values()
    if any(spec.shape is None or len(spec.shape) + AROUND > options.max_nesting for spec in specs):
        return False
    # Pictures inside of other strings are looked for in serving/savedmodel/images.py.
    return source.pictures <= {"image"} or not any(spec.dtype.kind == "S" for spec in specs)


@lru_cache(maxsize=1)
def _extension(path: Path | None) -> Any:
    """Load the extension; None where there is none, or it cannot be loaded, which the log tells."""
    if path is None:
        return None
    loader = importlib.machinery.ExtensionFileLoader("_accelerator", str(path))
    spec = importlib.util.spec_from_file_location("_accelerator", path, loader=loader)
    assert spec is not None
    try:
        module = importlib.util.module_from_spec(spec)
        loader.exec_module(module)
        if (version := getattr(module, "VERSION", None)) != VERSION:
            raise ImportError(f"{path} is of version {version}, expected {VERSION}: build it again")
    except ImportError as error:
        log("WARNING", f"serving without the accelerator: {error}")
        return None
    return module


_quick: Quick | None = None
_lock = threading.Lock()


def of(served: Model) -> Quick:
    """Return what answers the plain requests to a model."""
    quick = _quick
    return quick if quick is not None and quick.served is served else _prepare(served)


def _prepare(served: Model) -> Quick:
    global _quick
    with _lock:
        if _quick is None or _quick.served is not served:
            _quick = Quick(served, settings.current())
        return _quick


def forget() -> None:
    """Begin anew, with nothing prepared."""
    global _quick, _lock
    _quick, _lock = None, threading.Lock()


os.register_at_fork(after_in_child=forget)  # another thread of the parent may have held the lock
