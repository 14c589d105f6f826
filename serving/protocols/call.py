"""One decoded request, and the context in which every protocol decodes it."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from serving.core.errors import did_you_mean, nearest
from serving.core.http import BadRequest, Headers, TooLarge
from serving.protocols.json_tensors.document import kind
from serving.protocols.options import from_parameters
from serving.protocols.sizes import DEFAULTS, Limits
from serving.savedmodel.signature import DEFAULT, Signature

Arrays = Mapping[str, np.ndarray[Any, Any]]


class Context(NamedTuple):
    """The input of a protocol besides the body and the signatures; it may depend on nothing else."""

    headers: Headers = {}  # noqa: RUF012 - never written to
    name: str = ""  # the model's
    version: str = ""
    query: Mapping[str, str] = {}
    key: str = "key"  # the field of an instance that is not given to the model
    null: bool = False  # write null for NaN and the infinities
    labels: Sequence[str] = ()  # the names of the classes, from the exporter
    limits: Limits = DEFAULTS

    def with_parameters(self, parameters: Any) -> "Context":
        """Return the context with the options in a body's "parameters" added to those in the address.

        Raise BadRequest where the two differ.
        """
        given = from_parameters(parameters)
        for name, value in given.items():
            if self.query.get(name, value) != value:
                values = f"{self.query[name][:40]!r} in the address and {value[:40]!r} in the parameters"
                raise BadRequest(f"{name}: expected one value, got {values}", example=False)
        return self._replace(query={**self.query, **given})


NOTHING = Context()


class Call(NamedTuple):
    """A decoded request: a signature, its inputs by name, and what its protocol needs to write the answer.

    `failed`: why rows of the request are not among the inputs, by their index; the inputs hold the others in order.
    """

    signature: Signature
    inputs: Arrays
    form: Any = None
    context: Context = NOTHING
    keys: Sequence[Any] | None = None  # one a row, MISSING where it had none
    failed: Mapping[int, str] = {}
    sent: Any = None  # the original rows or columns, for an answer that repeats them


class Missing:
    """The key of a row without one."""


MISSING = Missing()


def choose(signatures: Mapping[str, Signature], name: Any, place: str) -> Signature:
    """Return the signature of that name, the default one for an empty name; `place` is where a request names it.

    Raise BadRequest for a name that is unknown, or of a signature that cannot be called.
    """
    if not isinstance(name, str):
        raise BadRequest(f"{place}: expected a string, got {kind(name)}")
    given, name = bool(name), name or DEFAULT
    signature = signatures.get(name)
    if signature is None:
        known = [other.name for other in signatures.values() if other.refusal is None]
        name = name[:200]
        near = nearest(name, known) if given else None
        # An example for the nearest signature names it; one for the default names none: the address may name another.
        shown = near is not None and near != DEFAULT
        message = f"{place}: the model has no signature {name!r}{did_you_mean(name, known)}"
        raise BadRequest(message, near, example=shown or not given)
    if signature.refusal:
        raise BadRequest(f"{place}: {signature.name!r} cannot be called: {signature.refusal}")
    return signature


def signature_named(given: Mapping[str, Any], context: Context, place: str) -> Any:
    """Return the signature that a request names: in its body, whose `place` says where, or in its address.

    The answer is empty where it names none, and what the body has where that is no string; `choose` refuses it. Raise
    BadRequest where the two name different ones.
    """
    asked = option(context, "signature_name")
    name = given.get("signature_name", asked)
    if asked and isinstance(name, str) and (name or DEFAULT) != asked:
        values = f"{name[:40]!r} in the body and {asked[:40]!r} in the address or the parameters"
        raise BadRequest(f"{place}: expected one value, got {values}", example=False)
    return name


def row_errors(context: Context) -> bool:
    """Return whether a bad row fails alone and not the request, `?on_error=row`; raise BadRequest for other values."""
    value = context.query.get("on_error", "request")
    if value not in ("row", "request"):
        raise BadRequest(f"on_error: expected row or request, got {value[:40]!r}", example=False)
    return value == "row"


MOST_ROWS_APART = 10_000  # of a request with on_error=row: a bad row takes a hundred times a good one's time


def check_rows_apart(context: Context, count: int, place: str) -> None:
    """Raise TooLarge for too many rows with on_error=row, before they are decoded."""
    if count > MOST_ROWS_APART and row_errors(context):
        raise TooLarge(f"{place}: expected at most {MOST_ROWS_APART} rows with on_error=row, got {count}")


def option(context: Context, name: str) -> str:
    """Return an option from the request's address or parameters, empty where it is absent."""
    return context.query.get(name, "")
