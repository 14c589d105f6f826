"""The options of a request, in its address or in its body.

    ?top_k=3                     "parameters": {"top_k": 3}

A name that is nearly an option's is refused, with the option that may be meant. A name that resembles none belongs to
another program (an API gateway's key, a client's marker) and is ignored.
"""

from collections.abc import Collection, Iterable, Set
from itertools import islice
from typing import Any

from serving.core.errors import slip_of
from serving.core.http import BadRequest
from serving.protocols.json_tensors.document import kind

OPTIONS = frozenset({"signature_name", "on_error", "top_k", "scores", "arrays", "instances"})
MOST_PARAMETERS = 64
MOST_LOOKED_AT = 64  # unknown names that are compared with ours


# Names are looked at in their order in the request: the order of a set is another one in each process.
def refuse_slips(names: Iterable[str], known: Set[str], place: str) -> None:
    """Raise BadRequest where a name is nearly one of the known ones."""
    for name in islice((name for name in names if name not in known), MOST_LOOKED_AT):
        if meant := slip_of(name, known):
            raise BadRequest(f"{place}: there is no {name!r}; did you mean {meant!r}?", example=False)


def from_query(query: str, *, place: str = "query", strict: bool = False) -> dict[str, str]:
    """Return the options in an address's query, by name; with `strict`, raise BadRequest for every other name."""
    if not query:
        return {}
    from urllib.parse import parse_qsl  # most requests have none

    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=MOST_PARAMETERS, errors="strict")
    except ValueError:  # more than that, or not UTF-8
        raise BadRequest(f"{place}: expected at most {MOST_PARAMETERS} parameters in UTF-8", example=False) from None
    options: dict[str, str] = {}
    for name, value in pairs:
        if name in OPTIONS:
            if name in options:
                raise BadRequest(f"{place}: {name!r} appears twice", example=False)
            options[name] = value
        elif strict and not slip_of(name, OPTIONS):
            raise BadRequest(f"{place}: there is no option {name[:40]!r}; there is {_listed(OPTIONS)}", example=False)
    refuse_slips((name for name, _ in pairs), OPTIONS, place)
    return options


def from_parameters(parameters: Any) -> dict[str, str]:
    """Return the options in a body's "parameters", by name; none if these are not an object."""
    if not hasattr(parameters, "items"):
        return {}
    refuse_slips(parameters, OPTIONS, "parameters")
    return {name: _text(name, parameters[name]) for name in parameters if name in OPTIONS}


def refuse_others(given: Iterable[str], taken: Set[str], protocol: str) -> None:
    """Raise BadRequest for an option of predict that another protocol does not have."""
    for name in given:
        if name in OPTIONS and name not in taken:
            raise BadRequest(f"{name}: an option of predict, which {protocol} does not have", example=False)


def _text(name: str, value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # Vertex AI has doubles alone
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise BadRequest(f"parameters.{name}: expected text or a whole number, got {kind(value)}", example=False)
    return str(value)


def _listed(names: Collection[str]) -> str:
    return ", ".join(map(repr, sorted(names)))
