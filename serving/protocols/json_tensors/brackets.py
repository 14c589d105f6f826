"""The brackets of a JSON body: how deep they nest, and whether each nest of lists is rectangular.

Both are determined without parsing, from the skeleton of a body, which is the body without its numbers and white space:
1 ms for an image of 224 × 224 × 3, where Python lists take 40 ms.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar

import numpy as np

from serving.core.http import BadRequest
from serving.protocols.sizes import Limits

MAX_RANK = 32  # NumPy 1's limit, and deeper than any tensor
CACHED_BYTES = 8192  # of a skeleton whose facts are cached
HEAD = 1024  # bytes by which a body shows what it holds


_NUMBERS = b"0123456789+-.eE \t\r\n"  # what numbers are written with, and white space
_NO_NEST = bytes(ord(" ") if code not in b"[]," else code for code in range(256))
_NO_BRACKETS = bytes(set(range(256)) - set(b'[]{}"'))
_SQUARE = bytes.maketrans(b"{}", b"[]")

Fact = TypeVar("Fact")


def skeleton_of(body: bytes) -> bytes:
    """Return a body without the characters of numbers and without white space."""
    return body.translate(None, _NUMBERS)


def without_numbers(body: bytes) -> bytes:
    """Return the skeleton of a body that begins with numbers, and any other body as it is.

    The skeleton of numbers is quickly made and short; that of text takes longer than a parser.
    """
    head = skeleton_of(body[:HEAD])
    if len(body) <= HEAD:
        return head
    return skeleton_of(body) if len(head) < HEAD // 2 else body


def openings(body: bytes) -> int:
    """Return how many brackets and braces open in a body, those in strings included."""
    if len(body) < CACHED_BYTES:
        return body.count(b"[") + body.count(b"{")
    # The two differ by one bit. A quarter of the time of counting each, for a body of a megabyte.
    return int(np.count_nonzero(np.frombuffer(body, np.uint8) | (ord("[") ^ ord("{")) == ord("{")))


def check_nesting(body: bytes, limits: Limits) -> None:
    """Raise BadRequest where a body, or its skeleton, has more levels than MAX_NESTING; uses no recursion."""
    most = limits.max_nesting
    if openings(body) > most and _depth(body) > most:
        message = f"body: nested too deep: expected at most {most} levels (MAX_NESTING), got more"
        raise BadRequest(message, example=False)


def _cached(find: Callable[[bytes], Fact]) -> Callable[[bytes], Fact]:
    """Cache a fact about short skeletons: the requests to one model have few forms, and a lookup takes a tenth."""
    cached = lru_cache(maxsize=256)(find)
    return lambda skeleton: (cached if len(skeleton) <= CACHED_BYTES else find)(skeleton)


@_cached
def _depth(body: bytes) -> int:
    """Return how deep a JSON parser may recurse in a body, which need not be JSON."""
    if b"\\" in body:
        body = body.replace(b"\\\\", b"").replace(b'\\"', b"")  # an escaped quote ends no string
    brackets = b"".join(body.translate(_SQUARE, _NO_BRACKETS).split(b'"')[::2])  # those outside of strings
    steps = ord("\\") - np.frombuffer(brackets, np.int8)  # [ and ] are its neighbours in ASCII: 1 and -1
    return int(np.cumsum(steps, dtype=np.int32).max(initial=0))


@_cached
def rectangular(skeleton: bytes) -> bool:
    """Return whether every nest of lists is rectangular: no row longer, shorter or deeper than its neighbours.

    A string that holds brackets may make it False, never True.
    """
    runs = set(skeleton.translate(_NO_NEST).split())  # of brackets and commas, each once: most rows are alike
    nests = {run[run.find(b"[") : run.rfind(b"]") + 1] for run in runs if b"[" in run}
    return all(_is_rectangle(nest) for nest in nests if nest)


def _is_rectangle(nest: bytes) -> bool:
    """Return whether a nest is rectangular and no deeper than a tensor. An empty row looks like one with one number."""
    depth = len(nest[: MAX_RANK + 1]) - len(nest[: MAX_RANK + 1].lstrip(b"["))
    if depth > MAX_RANK:
        return False
    item = b""
    for level in range(depth, 0, -1):  # the first innermost row, the first row of such rows, ..., the whole
        closing = b"]" * (depth - level + 1)
        row = nest[level - 1 : nest.find(closing) + len(closing)]
        count = (len(row) - 1) // (len(item) + 1)
        if not row or row != b"[" + (item + b",") * (count - 1) + item + b"]":
            return False
        item = row
    return item == nest
