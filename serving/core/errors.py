"""What can go wrong with a model, apart from any protocol."""

import re
from collections.abc import Iterable
from functools import lru_cache


class LoadError(Exception):
    """The model cannot be served; the text says why, without a path, and may be shown to a client."""


class InputError(Exception):
    """An input does not fit its spec; the text names the input, what was expected and what it got."""


class DeadlineError(Exception):
    """The time for a request had passed before the model began; the text may be shown to a client."""


class LoadingError(DeadlineError):
    """The same, because the model was still being loaded: a later request will find it."""


class RunError(Exception):
    """TensorFlow refused a run; `code` is its canonical status, such as "INVALID_ARGUMENT"."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


# TensorFlow's status codes for a run that failed because of its inputs. FAILED_PRECONDITION is not among them: an
# uninitialised variable or table is the model's fault.
CLIENTS_FAULT = frozenset({"INVALID_ARGUMENT", "OUT_OF_RANGE"})

# TensorFlow's messages name graph nodes and files of the server, which a client must not see. A message may quote text
# of a request, so every pattern takes linear time.
_NAME = r"[\w.<>\\-]+"
_START = r"(?<![\w.<>\\/-])"  # of a name
_INSIDE = (  # compiled at their first use
    # [[{{node decode}}]], {{function_node __inference_12}}, [Op:__inference_12]
    (r"\[\[[\s\S]{,500}?\]\]|\{\{[\s\S]{,500}?\}\}|\[Op:[^\]\n]{,500}\]", ""),
    # From TensorFlow's Python runtime: the source line of each operation, before the reason.
    (r"^Graph execution error:?[ \t]*$|^Detected at node .*$|^Node: .*$|^<stack traces unavailable>$", ""),
    (r'^[ \t]*File ".*", line \d+, in .*$(?:\n[ \t]{4,}(?!File ")\S.*$)?', ""),
    (r"(?:in function library)?:? ?goo\.gle/debug\w*[\s\S]*", ""),  # a whole message of protobuf as text
    (r"\b(?:Stack trace for op|Traceback \(most)[\s\S]*", ""),
    (r"^\d+ root error\(s\) found\.|^\s{,20}\(\d+\) \w+:", ""),
    (rf" ?\({_NAME}(?:/{_NAME})*:\d+\)", ""),  # "x (strided_slice_1:0) = "
    (rf"{_START}{_NAME}(?:/{_NAME})+:\d+\b", "(a tensor)"),
    (rf"{_START}(?:localhost/{_NAME}(?:/{_NAME})*|(?:{_NAME}/)*N\d+tensorflow\w*E\b)", "(a resource)"),
    (rf"\b(node|variable|[Rr]esource|table) '?{_NAME}(?:/{_NAME})+'?", r"\1"),
    (r"\b(?:tensor )?_arg_\w+|\b__(?:inference|forward|backward)_[\w<>]+", "(a tensor)"),
)  # fmt: skip
LONGEST = 1 << 14  # characters of a message that are read
# A failed check that serving.savedmodel.safety.guarding added to a graph: its message, and the values.
_GUARD = r"assertion failed: \[(the model takes [^\[\]]*)\](?: (\[[\d\s.\[\]einfa+-]*\]))?"
_PATH = r"(?<![\w.])/(?:[\w.@%+~-]+/)+[\w.@%+~-]*"


def plain(message: str) -> str:
    """Return a TensorFlow message for a client, at most 500 characters, without graph nodes, paths and traces."""
    message = message[:LONGEST]
    if guard := re.search(_GUARD, message):
        return guard[1] + (f", got {guard[2]}" if guard[2] else "")
    for pattern, replacement in _INSIDE:
        message = re.sub(pattern, replacement, message, flags=re.MULTILINE)
    lines = [line.strip(" :\t") for line in re.sub(_PATH, "(a file)", message).splitlines()]
    return "; ".join(dict.fromkeys(line for line in lines if line))[:500]


LONGEST_SLIP = 32  # characters
SHORT, LONG = 7, 12  # letters


def slip_of(name: str, known: Iterable[str]) -> str | None:
    """Return the known name of which `name` is probably a misspelling, None where it resembles none.

    It may be in another style (`topK`), lack the last word (`signature`), or have a letter wrong, missing, added or
    swapped, two of them in a long name. A name that is a different word is ignored, since another program may have
    added it (`Signature` in a signed address, `instance_id`). So in a short name a wrong letter is no misspelling: it
    makes another word (`top_p`, `content`).
    """
    if len(name) > LONGEST_SLIP:
        return None
    bare = _bare(name)
    for known_name in known:
        bare_known = _bare(known_name)
        if bare == bare_known or (len(name) >= 3 and known_name.rpartition("_")[0] == name):
            return known_name
        short = len(bare_known) <= SHORT
        if len(bare_known) <= 3 or (short and len(bare) == len(bare_known) and sorted(bare) != sorted(bare_known)):
            continue
        most = 1 if len(bare_known) < LONG else 2
        if abs(len(bare) - len(bare_known)) <= most and _edits(bare, bare_known) <= most:
            return known_name
    return None


def _bare(name: str) -> str:
    return "".join(filter(str.isalnum, name)).lower()


def _edits(first: str, second: str) -> int:
    """Return how many letters are wrong, missing, added, or swapped: the optimal string alignment distance."""
    before: list[int] = []
    last = list(range(len(second) + 1))
    for row, letter in enumerate(first, 1):
        line = [row]
        for column, expected in enumerate(second, 1):
            least = min(last[column] + 1, line[-1] + 1, last[column - 1] + (letter != expected))
            if row > 1 and column > 1 and letter == second[column - 2] and expected == first[row - 2]:
                least = min(least, before[column - 2] + 1)
            line.append(least)
        before, last = last, line
    return last[-1]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" where a known name is similar, else a list of at most 20 known names.

    Comparing two names takes quadratic time, so long names are not compared.
    """
    known = tuple(known)
    if near := nearest(name, known):
        return f"; did you mean {near!r}?"
    return f"; there is {', '.join(map(repr, known[:20])) or 'none'}"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the most similar known name, None where none is similar."""
    return _nearest(name[: LONGEST_COMPARED + 1], tuple(known))


LONGEST_COMPARED = 64  # characters
MOST_COMPARED = 1000  # names


@lru_cache(maxsize=64)
def _nearest(name: str, known: tuple[str, ...]) -> str | None:
    from difflib import get_close_matches  # only needed for error messages

    short = [known_name for known_name in known[:MOST_COMPARED] if len(known_name) <= LONGEST_COMPARED]
    near = get_close_matches(name, short, 1) if len(name) <= LONGEST_COMPARED else []
    near = near or [known_name for known_name in short if known_name.lower() == name.lower()]
    return near[0] if near else None
