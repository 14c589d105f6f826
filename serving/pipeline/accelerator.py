"""Offer a request for predictions to the native codec in C++, where it has been built (docs/performance.md).

It answers most requests, tensors of numbers and strings, with the same bytes as the rest of serving/ in a third of the
time. It declines all other requests and all wrong ones, which Python then answers: nothing depends on it.
"""

import importlib.machinery
import importlib.util
import os
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from serving.core import inflight, machine, settings
from serving.core.dtypes import by_code
from serving.core.plain_json import to_text
from serving.core.settings import Settings
from serving.core.telemetry import metrics
from serving.core.telemetry.log import log
from serving.protocols.sizes import MAX_ID_LENGTH
from serving.runtime.batching import Sizes
from serving.runtime.model import Model
from serving.savedmodel.signature import DEFAULT, Signature, TensorSpec
from serving.savedmodel.source import Source

VERSION = 7  # of the interface between the extension and this
MAX_SIGNATURES = 16  # the extension accepts no more
AROUND = 5  # levels that a body has beside its tensors', at most: those of an infer body, base64, a scalar's list
ACCELERATED, REFUSED = "accelerated", "refused"  # outcomes of a request; the others are the reasons why Python answers
OFF, MODEL, PROTOCOL, QUERY, LOGGED = "off", "model", "protocol", "query", "logged"


class Answer(NamedTuple):
    """A response; the times are those of `core.record`."""

    body: bytes
    json_size: int  # where binary tensors follow the JSON, else 0
    signature: int  # its position in `Quick.names`
    rows: int  # the size of the batch
    decoding: int
    decoded: int
    ran: int
    encoded: int


class Refusal(NamedTuple):
    """TensorFlow's status where it refuses a request."""

    code: int
    message: bytes


Options = tuple[bytes | None, int, bytes | None]  # of an address: signature_name, top_k, scores
Result = Answer | Refusal | str  # the last: one of the extension's DECLINES, for a request that Python is to answer
NO_OPTIONS: Options = (None, 0, None)
Asks = tuple[bytes, int, Options]  # body, and the size of an infer request's JSON, -1 for a predict request


class Prepared(NamedTuple):
    """The result of a shared run for one request, before the request is handled."""

    quick: "Quick"
    asks: Asks
    result: Result
    is_final: bool  # an answer to a request that no layer would refuse or change before the run


class Quick:
    """Answers the plain requests to one model.

    `predict(body, note=0, options=None)` and `infer(body, json_size, note=0, options=None)` answer one; `note` is where
    to write the shapes that are run, `inflight.address`.
    """

    predict: Callable[..., Result]
    infer: Callable[..., Result]

    def __init__(self, served: Model, options: Settings) -> None:
        """Prepare the signatures that the native codec can answer."""
        self.served = served
        self.names: list[str] = []  # of the signatures, by their positions
        self.reason = ""  # why it answers no request
        batching = served.batching
        self.sizes: Mapping[str, Sizes] = batching.sizes if batching else {}
        predictor = self._predictor(served, options)
        if predictor is not None:
            self.predict, self.infer, self._together = predictor.predict, predictor.infer, predictor.together
        else:
            self.predict = self.infer = lambda *_: self.reason
        self.shares_runs = any(self.sizes.get(name) for name in self.names)

    def answer(self, body: bytes, json_size: int, options: Options = NO_OPTIONS) -> Result:
        """Answer a request, in a run shared with others where the signature is batched."""
        batching = self.served.batching if self.shares_runs else None
        if batching and len(body) <= batching.largest_body:
            result: Result = batching.queue.run(self.together, (body, json_size, options))
            return result
        return self.alone(body, json_size, options)

    def alone(self, body: bytes, json_size: int, options: Options = NO_OPTIONS) -> Result:
        """Answer a request in a run of its own."""
        slot = inflight.begin("the native codec")  # which writes a better text
        try:
            if json_size < 0:
                return self.predict(body, inflight.address(slot), options)
            return self.infer(body, json_size, inflight.address(slot), options)
        finally:
            inflight.end(slot)

    def together(self, requests: Sequence[Asks]) -> Sequence[Result]:
        """Answer concurrent requests in as few runs as possible."""
        slot = inflight.begin("the native codec")
        try:
            results: Sequence[Result] = self._together(tuple(requests), inflight.address(slot))
            return results
        finally:
            inflight.end(slot)

    def _predictor(self, served: Model, options: Settings) -> Any:
        module, predictor = _extension(options.accelerator), None
        if module is None:
            self.reason = OFF
            return None
        signatures: list[Any] = []
        head = to_text({"model_name": served.name, "model_version": served.version})[:-1].encode()
        key = options.key_field.encode(), f"{to_text(options.key_field)}:".encode()
        class_names = tuple(label.encode() for label in served.source.labels)
        for name, engine, described in _described(served, options, self.sizes):
            most = min(options.max_elements, machine.memory_share() // 16)  # the largest dtype has so many bytes
            bounds = (
                options.max_rows, most, MAX_ID_LENGTH, options.max_string_bytes,
                options.max_pixels if served.source.pictures else -1,
            )  # fmt: skip
            null = options.non_finite == "null"
            try:
                predictor = module.Predictor(
                    engine, (*signatures, described), head, key, class_names, bounds, null, served
                )  # fmt: skip
            except ValueError:  # more than it takes: of a tensor's rank, of their number
                continue
            signatures.append(described)
            self.names.append(name)
        if self.names[:1] == [DEFAULT]:  # the first answers where a request names none
            return predictor
        self.reason = MODEL
        return None


class Tally:
    """Counts requests by their outcome; once a minute at most, the log says how many were accelerated.

    Counting takes no lock: it is done for every request, and a count that two threads lose does no harm.
    """

    PERIOD = 60_000_000_000  # nanoseconds

    def __init__(self) -> None:
        """Begin at zero; the first line is logged a period after the first request."""
        self._counts: dict[str, int] = defaultdict(int)
        self._since = self._due = 0
        self._lock = threading.Lock()

    def add(self, outcome: str, now: int) -> None:
        """Count a request, by the time of `perf_counter_ns`."""
        self._counts[outcome] += 1
        if metrics.on:
            metrics.count_native(outcome)
        if now >= self._due:
            self._log(now)

    def _log(self, now: int) -> None:
        with self._lock:
            if now < self._due:
                return
            began, self._since, self._due = self._since, now, now + self.PERIOD
            if not began:
                return
            counts, self._counts = self._counts, defaultdict(int)
        counts.pop(OFF, 0)
        if not counts:
            return
        total, answered = sum(counts.values()), counts.pop(ACCELERATED, 0)
        others = dict(sorted(counts.items(), key=lambda item: -item[1]))
        log(
            "INFO", f"the native codec answered {answered} of {total} predictions",
            seconds=round((now - began) / 1e9, 1), others=others,
        )  # fmt: skip


tally = Tally()


def _described(
    served: Model, options: Settings, sizes: Mapping[str, Sizes]
) -> Iterator[tuple[str, tuple[Any, ...], Any]]:
    """Yield each supported signature, the default one first: name, engine, its form for Predictor."""
    for name, signature in sorted(served.signatures.items(), key=lambda item: item[0] != DEFAULT)[:MAX_SIGNATURES]:
        pointers = served.addresses(signature)
        if name and pointers is not None and _is_plain(signature, served.source, options):
            inputs = tuple(
                (spec.name.encode(), _datatype(spec.dtype.code), spec.dtype.code, _sizes(spec), *feed)
                for spec, feed in zip(signature.inputs.values(), pointers.feeds, strict=True)
            )
            outputs = tuple(
                (
                    output.encode(),
                    f"{to_text(output)}:".encode(),
                    _datatype(code),
                    output.endswith("_bytes"),
                    code,
                    _rank(signature.outputs[output]),
                    *fetch,
                )
                for output, code, *fetch in pointers.fetches
            )
            smallest = served.batching.smallest.get(name, 1) if served.batching else 1
            described = (name.encode(), inputs, outputs, sizes.get(name, ()), smallest)
            yield name, pointers.engine, described


def _datatype(code: int) -> bytes:
    return (by_code(code).v2_name or "").encode()


def _rank(spec: TensorSpec) -> int:
    return -1 if spec.shape is None else len(spec.shape)


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


@lru_cache(maxsize=256)
def options_of(query: str, *, predicts: bool) -> Options | None:
    """Return the options in a query, for a predict request or an infer request; None where Python is to read them."""
    from serving.core.http import HttpError
    from serving.protocols import answers  # brings NumPy, which a request without a query does without
    from serving.protocols.call import Context
    from serving.protocols.options import from_query

    try:
        options = from_query(query)
        name, scores = options.pop("signature_name", None), options.get("scores")
        top_k = answers.top_k(Context(query=options))
    except HttpError:
        return None
    if not options.keys() <= ({"top_k", "scores"} if predicts else set()):
        return None
    return None if name is None else name.encode(), top_k, None if scores is None else scores.encode()


@lru_cache(maxsize=1)
def _extension(path: Path | None) -> Any:
    """Load the extension; None where there is none, or it cannot be loaded, which is logged."""
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
    """Return the object that answers the plain requests to a model."""
    quick = _quick
    return quick if quick is not None and _is_current(quick, served) else _prepare(served)


def _is_current(quick: Quick, served: Model) -> bool:
    return quick.served is served and (served.batching is None or quick.sizes is served.batching.sizes)


def _prepare(served: Model) -> Quick:
    global _quick
    with _lock:
        if _quick is None or not _is_current(_quick, served):
            _quick = Quick(served, settings.current())
        return _quick


def forget() -> None:
    """Reset: prepare and count again."""
    global _quick, _lock, tally
    _quick, _lock, tally = None, threading.Lock(), Tally()


os.register_at_fork(after_in_child=forget)  # another thread of the parent may have held the lock
