"""The requests that a model is verified with: those stored by its exporter, and some generated from its signatures.

A signature has dtypes and shapes, not the values that the model accepts: an index may have a limit, a string may have
to be a picture. So several ways to fill an input are tried, in a fixed order, until the server answers one.
"""

import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np

from serving.core import files
from serving.core.dtypes import DTYPES
from serving.protocols import requests
from serving.protocols.answers import has_rows
from serving.runtime import warmup
from serving.savedmodel import prediction_log
from serving.savedmodel.examples import Recipe, made, recipes
from serving.savedmodel.parsing import GUESSES
from serving.savedmodel.signature import Signature, TensorSpec
from serving.savedmodel.source import Source
from tools.verify.client import Answer, Case, Client, VerifyError

Array = np.ndarray[Any, Any]
Ask = Callable[[Case], Answer]

WARMUPS = 8
WARMUP_BYTES = 8 << 20
LARGEST = 4 << 20  # bytes of a body: half of what a server takes by default
MOST_BATCH = 3  # rows of a generated request for a signature without free rows


class Offer(NamedTuple):
    """A model as its clients see it, with its stored requests."""

    name: str
    signatures: Mapping[str, Signature]
    examples: Mapping[str, Any]
    warmups: tuple[prediction_log.Logged, ...]
    source: Source | None = None  # the model on this machine, or a copy of it

    def recipes(self, signature: Signature) -> Iterator[Recipe]:
        """Yield ways to fill a signature's inputs, the likeliest first."""
        return self.source.recipes(signature) if self.source else recipes(signature, GUESSES)


class Asked(NamedTuple):
    """The requests for one signature: `cases`, all of them, and `rows`, instances that are answered alone."""

    signature: Signature
    cases: list[Case]
    rows: list[Any]
    others: list[Case]  # further requests, whose answers are not compared
    problem: str = ""  # why there are none


def from_source(source: Source) -> Offer:
    """Return the offer of a model on disk."""
    logged = []
    with suppress(FileNotFoundError):
        file = files.opened(source.directory, warmup.PLACE, files.ANY)
        for record in itertools.islice(prediction_log.records(file, WARMUP_BYTES), WARMUPS):
            try:
                logged.append(prediction_log.request(record, source.signatures))
            except ValueError:
                continue  # the server reports what is wrong with it
    return Offer(source.name, source.signatures, source.examples, tuple(logged), source)


def from_server(client: Client, directory: Path | None = None) -> Offer:
    """Return a server's description of its model, with the examples of a copy in `directory`."""
    try:
        (name,) = json.loads(client.get("/v1/models").body)["models"]
        metadata = json.loads(client.get(f"/v1/models/{quote(name)}/metadata").body)
        described = metadata["metadata"]["signature_def"]["signature_def"]
        signatures = {key: _signature(key, value) for key, value in described.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise VerifyError(f"{client.url}: /v1/models and its metadata do not say what is served there") from None
    if directory is None:
        return Offer(name, signatures, {}, ())
    return from_source(Source(directory, name))._replace(name=name, signatures=signatures)


def _signature(name: str, described: Any) -> Signature:
    by_name = {dtype.name: dtype for dtype in DTYPES}

    def side(specs: Any) -> dict[str, TensorSpec]:
        side_specs = {}
        for key, info in (specs or {}).items():
            shape = info.get("tensor_shape") or {}
            sizes = [int(dimension.get("size", 0)) for dimension in shape.get("dim", [])]
            known = None if shape.get("unknown_rank") else tuple(None if size < 0 else size for size in sizes)
            side_specs[key] = TensorSpec(key, by_name[info["dtype"]], known, info.get("name", ""))
        return side_specs

    return Signature(
        name, side(described.get("inputs")), side(described.get("outputs")), described.get("method_name", "")
    )


def by_rows(signature: Signature) -> bool:
    """Return whether any number of rows is accepted."""
    specs = [*signature.inputs.values(), *signature.outputs.values()]
    return (
        bool(signature.inputs)
        and has_rows(signature)
        and all(not spec.shape or spec.shape[0] is None for spec in specs)
    )


def ask_for(offer: Offer, signature: Signature, ask: Ask, count: int, others: int) -> Asked:
    """Find the requests for one signature: the stored ones, `count` generated ones, and `others` not compared."""
    entry = Asked(signature, [], [], [])
    specs = [*signature.inputs.values(), *signature.outputs.values()]
    if signature.refusal:
        return entry._replace(problem=f"cannot be called: {signature.refusal}")
    if any(spec.dtype.kind == "c" for spec in specs):
        return entry._replace(problem="JSON has no complex numbers")
    path = f"/v1/models/{quote(offer.name)}:predict"
    problems = []

    def add(name: str, body: bytes, rows: list[Any], path: str = path) -> bool:
        case = Case(f"{signature.name}, {name}", signature.name, path, body)
        answer = ask(case)
        if answer.status != 200:
            problems.append(f"{name}: {answer.status} {answer.body[:300].decode(errors='replace')}")
            return False
        entry.cases.append(case)
        if by_rows(signature):
            entry.rows.extend(rows)
        return True

    saved = offer.examples.get(signature.name)
    if isinstance(saved, dict):
        rows = saved.get("instances")
        add("the example", json.dumps(saved).encode(), rows if isinstance(rows, list) else [])
    logged = [warmup_request.inputs for warmup_request in offer.warmups if warmup_request.signature == signature.name]
    for number, inputs in enumerate(logged):
        add(f"warm-up request {number}", *_body(signature, inputs))
    refused_examples, free = list(problems), by_rows(signature)
    recipe = next((recipe for recipe in offer.recipes(signature) if _works(signature, recipe, ask, path)), None)
    if recipe is not None:
        random = np.random.default_rng(2026)
        for number in range(count + others):
            generated = made(signature, recipe, 1 if free else 1 + number % MOST_BATCH, random)
            if generated is None:
                break  # too large in several rows
            inputs = generated
            body, rows = _body(signature, inputs)
            if number >= count:
                entry.others.append(Case(f"{signature.name}, other {number}", signature.name, path, body))
            else:
                add(f"generated {number}", body, rows)
        infer = f"/v2/models/{quote(offer.name)}/infer"
        if all(spec.dtype.v2_name for spec in specs):
            add("generated, in the Open Inference Protocol", requests.infer(signature, inputs), [], infer)
    if refused_examples:
        return entry._replace(problem=f"{refused_examples[0]} (it is beside the model, and is refused)")
    missing = "none of the ways to fill its inputs was answered; export it with examples="
    return entry if entry.cases else entry._replace(problem=missing)


def _works(signature: Signature, recipe: Recipe, ask: Ask, path: str) -> bool:
    inputs = made(signature, recipe, 1, np.random.default_rng(1))
    if inputs is None:
        return False
    body = requests.predict(signature, inputs)
    return len(body) <= LARGEST and ask(Case("", signature.name, path, body)).status == 200


def _body(signature: Signature, inputs: Mapping[str, Array]) -> tuple[bytes, list[Any]]:
    """Return the body of a request, and its rows, if any."""
    return requests.predict(signature, inputs), requests.rows_of(signature, inputs) or []
