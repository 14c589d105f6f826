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


# The codes of what TensorFlow says of a run that the input spoilt. FAILED_PRECONDITION is none of them: a variable or a
# table that nothing has initialised is the model's fault.
CLIENTS_FAULT = frozenset({"INVALID_ARGUMENT", "OUT_OF_RANGE"})

# TensorFlow's messages speak of the graph and of the server's files; a client has never seen either. A message may
# quote a request's text: every pattern takes time that is linear in it.
_NAME = r"[\w.<>\\-]+"
_START = r"(?<![\w.<>\\/-])"  # of a name
_INSIDE = tuple((re.compile(pattern, re.MULTILINE), instead) for pattern, instead in (
    # [[{{node decode}}]], {{function_node __inference_12}}, [Op:__inference_12]
    (r"\[\[[\s\S]{,500}?\]\]|\{\{[\s\S]{,500}?\}\}|\[Op:[^\]\n]{,500}\]", ""),
    # Of a graph that Python runs: where each operation was made, and then the reason.
    (r"^Graph execution error:?[ \t]*$|^Detected at node .*$|^Node: .*$|^<stack traces unavailable>$", ""),
    (r'^[ \t]*File ".*", line \d+, in .*$(?:\n[ \t]{4,}(?!File ")\S.*$)?', ""),
    (r"\b(?:Stack trace for op|Traceback \(most)[\s\S]*", ""),
    (r"^\d+ root error\(s\) found\.|^\s{,20}\(\d+\) \w+:", ""),
    (rf" ?\({_NAME}(?:/{_NAME})*:\d+\)", ""),  # "x (strided_slice_1:0) = "
    (rf"{_START}{_NAME}(?:/{_NAME})+:\d+\b", "(a tensor)"),
    (rf"{_START}(?:localhost/{_NAME}(?:/{_NAME})*|(?:{_NAME}/)*N\d+tensorflow\w*E\b)", "(a resource)"),
    (rf"\b(node|variable|[Rr]esource|table) '?{_NAME}(?:/{_NAME})+'?", r"\1"),
    (r"\b(?:tensor )?_arg_\w+|\b__(?:inference|forward|backward)_[\w<>]+", "(a tensor)"),
))  # fmt: skip
LONGEST = 1 << 14  # characters of a message that are looked at
_PATH = re.compile(r"(?<![\w.])/(?:[\w.@%+~-]+/)+[\w.@%+~-]*")


def plain(message: str) -> str:
    """Return what a TensorFlow message says to somebody who knows neither the graph nor the server."""
    message = message[:LONGEST]
    for pattern, instead in _INSIDE:
        message = pattern.sub(instead, message)
    lines = [line.strip(" :\t") for line in _PATH.sub("(a file)", message).splitlines()]
    return "; ".join(dict.fromkeys(line for line in lines if line))[:500]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" where a known name is near, else what names there are."""
    return _nearest(name[:200], tuple(known))  # comparing takes time, and a client may send any name


@lru_cache(maxsize=64)
def _nearest(name: str, known: tuple[str, ...]) -> str:
    from difflib import get_close_matches  # only ever needed after a mistake

    near = get_close_matches(name, known, 1) or [other for other in known if other.lower() == name.lower()]
    return f"; did you mean {near[0]!r}?" if near else f"; there is {', '.join(map(repr, known[:20])) or 'none'}"
