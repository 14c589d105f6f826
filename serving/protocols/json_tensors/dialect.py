"""JSON by Python's own parser: for TensorFlow Serving's additions, and for error messages with a line and a column.

The additions: the tokens NaN, Infinity and -Infinity, and a byte-order mark before the body.
"""

import json
import math
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from serving.core.http import BadRequest
from serving.protocols.json_tensors.brackets import check_nesting
from serving.protocols.sizes import MAX_NUMBER_LENGTH, Limits


class _NotJson(ValueError): ...


def parse_carefully(body: bytes, limits: Limits) -> Any:
    """Return any JSON value as Python objects; raise BadRequest that says what is wrong, and where."""
    if not body.strip():
        raise BadRequest("body: expected a JSON object, got nothing")
    check_nesting(body, limits)
    try:
        text = body.removeprefix(b"\xef\xbb\xbf").decode()
        value = _decoder().decode(text)
        if re.search(r"\\u[dD][89a-fA-F]", text):
            json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair is no text
    except UnicodeEncodeError:
        raise BadRequest("body: not JSON: half a surrogate pair in a string") from None
    except UnicodeDecodeError as error:
        raise BadRequest(f"body: not JSON: not UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise BadRequest("body: nested too deep") from None
    except json.JSONDecodeError as error:
        raise BadRequest(f"body: not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    except _NotJson as error:
        raise BadRequest(f"body: {error}") from None
    return value


def parse_short(text: bytes, limits: Limits) -> Any:
    """Return a short JSON value; raise ValueError for text that is none, and for text that needs `parse_carefully`."""
    line = text.decode().strip(" \t\r\n")
    if len(line) > limits.max_nesting or "\\u" in line:
        raise ValueError
    value, end = _decoder().raw_decode(line)
    if end < len(line):
        raise ValueError
    return value


def first_repeated(names: Sequence[str]) -> str | None:
    """Return the first name that is in a list twice, cut for a message; None where there is none."""
    seen = set[str]()
    return next((name[:200] for name in names if name in seen or seen.add(name)), None)  # type: ignore[func-returns-value]


@lru_cache(maxsize=1)
def _decoder() -> json.JSONDecoder:
    """Return a parser that refuses long numbers, numbers too large for a double, and a key that appears twice."""

    # Python takes time quadratic in the digits of an integer; what simdjson reads itself, it reads in linear time.
    def bounded(token: str) -> str:
        if len(token) > MAX_NUMBER_LENGTH:
            raise _NotJson(f"a number of {len(token)} digits, expected at most {MAX_NUMBER_LENGTH}")
        return token

    def integer(token: str) -> int:
        return int(bounded(token))

    def decimal(token: str) -> float:
        number = float(bounded(token))
        if math.isinf(number):
            raise _NotJson(f"the number {token[:40]} is too large for a double")
        return number

    return json.JSONDecoder(parse_int=integer, parse_float=decimal, object_pairs_hook=_unique)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise _NotJson(f"the key {first_repeated([name for name, _ in pairs])!r} appears twice")
    return members
