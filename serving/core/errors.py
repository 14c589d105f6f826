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
# What serving.savedmodel.safety.guarding puts into a graph, as the Assert says it: its message, and the values.
_GUARD = re.compile(r"assertion failed: \[(the model takes [^\[\]]*)\](?: (\[[\d\s.\[\]einfa+-]*\]))?")
_PATH = re.compile(r"(?<![\w.])/(?:[\w.@%+~-]+/)+[\w.@%+~-]*")


def plain(message: str) -> str:
    """Return what a TensorFlow message says to somebody who knows neither the graph nor the server."""
    message = message[:LONGEST]
    if guard := _GUARD.search(message):
        return guard[1] + (f", got {guard[2]}" if guard[2] else "")
    for pattern, instead in _INSIDE:
        message = pattern.sub(instead, message)
    lines = [line.strip(" :\t") for line in _PATH.sub("(a file)", message).splitlines()]
    return "; ".join(dict.fromkeys(line for line in lines if line))[:500]


LONGEST_SLIP = 32  # characters
SHORT, LONG = 7, 12  # letters


def slip_of(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that `name` was meant to be, None where it resembles none.

    It may be written in another style (`topK`), be the known one without its last word (`signature`), or have a letter
    wrong, missing, added or swapped; two of them in a long name. A name that is a word of its own is ignored: it is
    another program's (`Signature` in a signed address, `instance_id`). So in a short name a wrong letter is no slip: it
    makes another word (`top_p`, `content`).
    """
    if len(name) > LONGEST_SLIP:
        return None
    bare = _bare(name)
    for other in known:
        wanted = _bare(other)
        if bare == wanted or (len(name) >= 3 and other.rpartition("_")[0] == name):
            return other
        if len(wanted) <= 3 or (len(wanted) <= SHORT and len(bare) == len(wanted) and sorted(bare) != sorted(wanted)):
            continue
        most = 1 if len(wanted) < LONG else 2
        if abs(len(bare) - len(wanted)) <= most and _edits(bare, wanted) <= most:
            return other
    return None


def _bare(name: str) -> str:
    return "".join(filter(str.isalnum, name)).lower()


def _edits(one: str, other: str) -> int:
    """Return how many letters are wrong, missing, added, or swapped with their neighbour."""
    before: list[int] = []
    last = list(range(len(other) + 1))
    for row, letter in enumerate(one, 1):
        line = [row]
        for column, wanted in enumerate(other, 1):
            least = min(last[column] + 1, line[-1] + 1, last[column - 1] + (letter != wanted))
            if row > 1 and column > 1 and letter == other[column - 2] and wanted == one[row - 2]:
                least = min(least, before[column - 2] + 1)
            line.append(least)
        before, last = last, line
    return last[-1]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" where a known name is near, else what names there are.

    Comparing two names takes time quadratic in their length, so long names are near no other.
    """
    known = tuple(known)
    if near := nearest(name, known):
        return f"; did you mean {near!r}?"
    return f"; there is {', '.join(map(repr, known[:20])) or 'none'}"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is nearest, None where none is near."""
    return _nearest(name[: LONGEST_COMPARED + 1], tuple(known))


LONGEST_COMPARED = 64  # characters
MOST_COMPARED = 1000  # names


@lru_cache(maxsize=64)
def _nearest(name: str, known: tuple[str, ...]) -> str | None:
    from difflib import get_close_matches  # only ever needed after a mistake

    short = [other for other in known[:MOST_COMPARED] if len(other) <= LONGEST_COMPARED]
    near = get_close_matches(name, short, 1) if len(name) <= LONGEST_COMPARED else []
    near = near or [other for other in short if other.lower() == name.lower()]
    return near[0] if near else None
