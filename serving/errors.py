"""What can go wrong with a model, apart from any protocol."""

import re
from collections.abc import Iterable
from functools import lru_cache


class LoadError(Exception):
    """The model cannot be served; the text says why, without a path, and may be shown to a client."""


class InputError(Exception):
    """An input does not fit its spec; the text names the input, what was expected and what came."""


class DeadlineError(Exception):
    """The time for a request had passed before the model began; the text may be shown to a client."""


class RunError(Exception):
    """TensorFlow refused a run; `code` is its canonical status, such as "INVALID_ARGUMENT"."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


# The codes of what TensorFlow says of a run that the input spoilt.
CLIENTS_FAULT = frozenset({"INVALID_ARGUMENT", "OUT_OF_RANGE", "FAILED_PRECONDITION"})

# TensorFlow's messages speak of the graph and of the server's files; a client has never seen either.
_INSIDE = re.compile(
    r"\[\[.*?\]\]"  # [[{{node decode}}]]
    r"|\{\{.*?\}\}"  # {{function_node __inference_serve_12}}
    r"|\bDetected at node.*|\bStack trace for op.*|\bTraceback \(most.*"
    r"|\[Op:\w+\]"
    r"|^\d+ root error\(s\) found\.|^\s*\(\d+\) \w+:",
    re.DOTALL | re.MULTILINE,
)
_PATH = re.compile(r"(?<![\w.])/(?:[\w.@%+~-]+/)+[\w.@%+~-]*")


def plain(message: str) -> str:
    """Return what a TensorFlow message says to somebody who knows neither the graph nor the server."""
    lines = [line.strip(" :\t") for line in _PATH.sub("(a file)", _INSIDE.sub("", message)).splitlines()]
    return "; ".join(dict.fromkeys(line for line in lines if line))[:500]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" where a known name is near, else what names there are."""
    return _nearest(name[:200], tuple(known))  # comparing takes time, and a client may send any name


@lru_cache(maxsize=64)
def _nearest(name: str, known: tuple[str, ...]) -> str:
    from difflib import get_close_matches  # only ever needed after a mistake

    near = get_close_matches(name, known, 1) or [other for other in known if other.lower() == name.lower()]
    return f"; did you mean {near[0]!r}?" if near else f"; there is {', '.join(map(repr, known[:20])) or 'none'}"
