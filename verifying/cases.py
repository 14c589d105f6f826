"""The requests that a model is verified with: those its exporter left beside it, and some made from its signatures.

A signature says which dtypes and shapes are taken, not which values: an index may have a limit, a string may have to
be a picture. So a few ways to fill an input are tried, in a fixed order, until the server answers one.
"""

import base64
import itertools
import json
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np

from serving import files, prediction_log, warmup
from serving.dtypes import DTYPES
from serving.model import Source
from serving.protocols.tensorflow_serving import has_rows
from serving.signature import DEFAULT, Signature, TensorSpec
from verifying.client import Answer, Case, Client, VerifyError

Array = np.ndarray[Any, Any]
Ask = Callable[[Case], Answer]

WARMUPS = 8
WARMUP_BYTES = 8 << 20
LARGEST = 4 << 20  # bytes of a body: half of what a server takes by default
MOST_BATCH = 3  # rows of a generated request that does not go by rows


class Offer(NamedTuple):
    """A model as its clients see it, and what lies beside it."""

    name: str
    signatures: Mapping[str, Signature]
    examples: Mapping[str, Any]
    warmups: tuple[prediction_log.Logged, ...]


class Asked(NamedTuple):
    """The requests for one signature: `cases`, all of them, and `rows`, instances that are answered alone."""

    signature: Signature
    cases: list[Case]
    rows: list[Any]
    others: list[Case]  # more of them, that nothing is compared with
    problem: str = ""  # why there are none


def from_source(source: Source) -> Offer:
    """Return what a model on disk offers."""
    logged = []
    with suppress(FileNotFoundError):
        file = files.opened(source.directory, warmup.PLACE, files.ANY)
        for record in itertools.islice(prediction_log.records(file, WARMUP_BYTES), WARMUPS):
            try:
                logged.append(prediction_log.request(record, source.signatures))
            except ValueError:
                continue  # the server tells what is wrong with it
    return Offer(source.name, source.signatures, source.examples, tuple(logged))


def from_server(client: Client, directory: Path | None = None) -> Offer:
    """Return what a server says of its model, with the examples beside a copy of that in `directory`."""
    try:
        (name,) = json.loads(client.get("/v1/models").body)["models"]
        metadata = json.loads(client.get(f"/v1/models/{quote(name)}/metadata").body)
        told = metadata["metadata"]["signature_def"]["signature_def"]
        signatures = {key: _signature(key, value) for key, value in told.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise VerifyError(f"{client.url}: /v1/models and its metadata do not tell what is served there") from None
    if directory is None:
        return Offer(name, signatures, {}, ())
    return from_source(Source(directory, name))._replace(name=name, signatures=signatures)


def _signature(name: str, told: Any) -> Signature:
    by_name = {dtype.name: dtype for dtype in DTYPES}

    def side(specs: Any) -> dict[str, TensorSpec]:
        found = {}
        for key, info in (specs or {}).items():
            shape = info.get("tensor_shape") or {}
            sizes = [int(dimension.get("size", 0)) for dimension in shape.get("dim", [])]
            known = None if shape.get("unknown_rank") else tuple(None if size < 0 else size for size in sizes)
            found[key] = TensorSpec(key, by_name[info["dtype"]], known, info.get("name", ""))
        return found

    return Signature(name, side(told.get("inputs")), side(told.get("outputs")), told.get("method_name", ""))


class Fill(NamedTuple):
    """One way to fill inputs: the size of free dimensions behind the first, the rank of those without, the values."""

    size: int
    rank: int
    numbers: int  # floats are normal and integers below 100; floats below 1, integers below 10; zeros and ones
    strings: int  # an index into STRINGS


def _png(side: int, channels: int, random: np.random.Generator) -> bytes:
    """Return a picture of noise (RFC 2083)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    pixels = random.integers(0, 256, (side, side * channels), np.uint8)
    lines = b"".join(b"\0" + line.tobytes() for line in pixels)
    head = struct.pack(">IIBBBBB", side, side, 8, 0 if channels == 1 else 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


WORDS = ("the", "cat", "Straße", "日本", "dog", "a b c", "7", "", "unknown words, some of them twice twice")
STRINGS: tuple[Callable[[np.random.Generator], bytes], ...] = (
    lambda random: str(random.choice(WORDS)).encode(),
    lambda random: _png(8, 1, random),
    lambda random: _png(32, 3, random),
    lambda random: f"{random.standard_normal():.3f}".encode(),
    lambda _: b"",  # an example without features
)
RANKS, SIZES, NUMBERS = (1, 2, 0, 4), (4, 1, 8, 32, 224), (0, 1, 2)


def _fills(signature: Signature) -> Iterator[Fill]:
    specs = signature.inputs.values()
    free = any(spec.shape is None or None in spec.shape[1:] for spec in specs)
    unknown = any(spec.shape is None for spec in specs)
    texts = any(spec.dtype.kind == "S" for spec in specs)
    values = any(spec.dtype.kind in "fiu" for spec in specs)
    for fill in itertools.product(
        SIZES if free else SIZES[:1],
        RANKS if unknown else RANKS[:1],
        NUMBERS if values else NUMBERS[:1],
        range(len(STRINGS)) if texts else (0,),
    ):
        yield Fill(*fill)


def array(spec: TensorSpec, rows: int, fill: Fill, random: np.random.Generator) -> Array:
    """Return an input; its first dimension is `rows` where that is free."""
    shape = (None,) * fill.rank if spec.shape is None else spec.shape
    sizes = tuple((rows if place == 0 else fill.size) if size is None else size for place, size in enumerate(shape))
    kind = spec.dtype.kind
    if kind == "S":
        found = np.empty(sizes, object)
        found.ravel()[:] = [STRINGS[fill.strings](random) for _ in range(found.size)]
        return found
    if kind == "b":
        return random.random(sizes) < 0.5
    if kind in "iu":
        return random.integers(0, (100, 10, 2)[fill.numbers], sizes).astype(spec.dtype.numpy)
    values = (random.standard_normal(sizes), random.random(sizes), np.round(random.random(sizes)))[fill.numbers]
    return np.asarray(values).astype(spec.dtype.numpy)


def _plain(values: Any) -> Any:
    """Return an array, or a part of one, as JSON has it."""
    if isinstance(values, bytes):
        try:
            return values.decode()
        except UnicodeDecodeError:
            return {"b64": base64.b64encode(values).decode()}
    if isinstance(values, np.ndarray):
        if values.dtype == object:
            return [_plain(one) for one in values] if values.ndim else _plain(values.item())
        return values.astype(np.float64).tolist() if values.dtype.kind not in "biu" else values.tolist()
    return _plain(np.asarray(values))


def _named(signature: Signature) -> dict[str, Any]:
    return {} if signature.name == DEFAULT else {"signature_name": signature.name}


def rows_body(signature: Signature, rows: list[Any]) -> bytes:
    """Return the request for some instances."""
    return json.dumps({**_named(signature), "instances": rows}).encode()


def by_rows(signature: Signature) -> bool:
    """Say whether any number of rows is taken, one of them included."""
    specs = [*signature.inputs.values(), *signature.outputs.values()]
    return (
        bool(signature.inputs) and has_rows(signature) and all(not one.shape or one.shape[0] is None for one in specs)
    )


def _instances(signature: Signature, inputs: Mapping[str, Array]) -> list[Any]:
    count = len(next(iter(inputs.values())))
    rows = [{name: _plain(values[row]) for name, values in inputs.items()} for row in range(count)]
    return [next(iter(row.values())) for row in rows] if len(signature.inputs) == 1 else rows


def _body(signature: Signature, inputs: Mapping[str, Array]) -> tuple[bytes, list[Any]]:
    """Return a request, and its rows where it goes by them."""
    sizes = {one.shape[:1] for one in inputs.values()}
    if inputs and has_rows(signature) and len(sizes) == 1 and sizes != {()} and sizes != {(0,)}:
        rows = _instances(signature, inputs)
        return rows_body(signature, rows), rows
    return json.dumps({**_named(signature), "inputs": {key: _plain(one) for key, one in inputs.items()}}).encode(), []


V2 = {dtype.name: dtype.v2_name for dtype in DTYPES}


def _infer_body(signature: Signature, inputs: Mapping[str, Array]) -> bytes:
    """Return the same request for the Open Inference Protocol, answered in binary."""
    tensors = [
        {"name": name, "shape": list(one.shape), "datatype": signature.inputs[name].dtype.v2_name,
         "data": _plain(one.reshape(-1))}
        for name, one in inputs.items()
    ]  # fmt: skip
    return json.dumps({
        "inputs": tensors, "parameters": {**_named(signature), "binary_data_output": True},
    }).encode()  # fmt: skip


def ask_for(offer: Offer, signature: Signature, ask: Ask, count: int, others: int) -> Asked:
    """Find the requests for one signature: the given ones, `count` generated ones and `others` beside them."""
    asked = Asked(signature, [], [], [])
    if signature.refusal:
        return asked._replace(problem=f"cannot be called: {signature.refusal}")
    if any(spec.dtype.kind == "c" for side in (signature.inputs, signature.outputs) for spec in side.values()):
        return asked._replace(problem="JSON has no complex numbers")
    path = f"/v1/models/{quote(offer.name)}:predict"
    problems = []

    def add(name: str, body: bytes, rows: list[Any], path: str = path) -> bool:
        case = Case(f"{signature.name}, {name}", signature.name, path, body)
        answer = ask(case)
        if answer.status != 200:
            problems.append(f"{name}: {answer.status} {answer.body[:300].decode(errors='replace')}")
            return False
        asked.cases.append(case)
        if by_rows(signature):
            asked.rows.extend(rows)
        return True

    saved = offer.examples.get(signature.name)
    if isinstance(saved, dict):
        rows = saved.get("instances")
        add("the example", json.dumps(saved).encode(), rows if isinstance(rows, list) else [])
    logged = [one.inputs for one in offer.warmups if one.signature == signature.name]
    for number, inputs in enumerate(logged):
        add(f"warm-up request {number}", *_body(signature, inputs))
    given = list(problems)
    free = by_rows(signature)
    fill = next((fill for fill in _fills(signature) if _works(signature, fill, ask, path)), None)
    if fill is not None:
        random = np.random.default_rng(2026)
        for number in range(count + others):
            size = 1 if free else 1 + number % MOST_BATCH
            inputs = {name: array(spec, size, fill, random) for name, spec in signature.inputs.items()}
            body, rows = _body(signature, inputs)
            if number >= count:
                asked.others.append(Case(f"{signature.name}, other {number}", signature.name, path, body))
            else:
                add(f"generated {number}", body, rows)
        infer = f"/v2/models/{quote(offer.name)}/infer"
        if all(spec.dtype.v2_name for side in (signature.inputs, signature.outputs) for spec in side.values()):
            add("generated, in the Open Inference Protocol", _infer_body(signature, inputs), [], infer)
    if given:
        return asked._replace(problem=f"{given[0]} (it lies beside the model, and is refused)")
    if not asked.cases:
        return asked._replace(problem="none of the ways to fill its inputs was answered; export it with examples=")
    return asked


def _works(signature: Signature, fill: Fill, ask: Ask, path: str) -> bool:
    random = np.random.default_rng(1)
    inputs = {name: array(spec, 1, fill, random) for name, spec in signature.inputs.items()}
    body, _ = _body(signature, inputs)
    return len(body) <= LARGEST and ask(Case("", signature.name, path, body)).status == 200
