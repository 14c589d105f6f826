"""One decoded request, and what every protocol needs to make it."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from serving.errors import did_you_mean
from serving.http import BadRequest, Headers
from serving.protocols.json_tensors import kind
from serving.signature import DEFAULT, Signature


class Context(NamedTuple):
    """What a protocol may need beside the body and the signatures."""

    headers: Headers = {}  # noqa: RUF012 - never written to
    name: str = ""  # the model's
    version: str = ""


NOTHING = Context()


class Call(NamedTuple):
    """A signature, its inputs by name, and what its protocol must remember to write the answer."""

    signature: Signature
    inputs: Mapping[str, np.ndarray[Any, Any]]
    form: Any = None


def choose(signatures: Mapping[str, Signature], name: Any, place: str) -> Signature:
    """Return the signature of that name, the default one for an empty name; `place` is where a request names it."""
    if not isinstance(name, str):
        raise BadRequest(f"{place}: expected a string, got {kind(name)}")
    name = name or DEFAULT
    signature = signatures.get(name)
    if signature is None:
        known = [other.name for other in signatures.values() if other.refusal is None]
        name = name[:200]
        raise BadRequest(f"{place}: the model has no signature {name!r}{did_you_mean(name, known)}")
    if signature.refusal:
        raise BadRequest(f"{place}: {signature.name!r} cannot be called: {signature.refusal}")
    return signature
