"""The exporter's requests sent to a running server, and its answers compared with those that TensorFlow gave.

assets.extra/examples.json and answers.json beside the model have them, by signature, in TensorFlow Serving's JSON.
"""

import json
import math
from collections.abc import Iterable, Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import Request, urlopen

from serving.core.errors import LoadError
from serving.savedmodel.folder import manifest

SECONDS = 120.0  # a cold start included
TOLERANCE = 1e-4  # of the largest number of an output; other CPUs round otherwise
SHOWN = 200  # characters of an answer


class ReplayError(Exception):
    """There is nothing to replay; the text says why."""


def replay(
    url: str, directory: Path, name: str, headers: Iterable[str] = (), tolerance: float = TOLERANCE
) -> Iterator[tuple[str, str | None]]:
    """Yield each signature with what is wrong with its answer, or None; raise ReplayError where there are no requests.

    `url` is where the server is, `name` that of its model, `headers` are more lines of a request.
    """
    if not url.startswith(("http://", "https://")):
        raise ReplayError(f"expected http://HOST:PORT or https://HOST, got {url!r}")
    more = dict(_header(line) for line in headers)
    asked, right = (_read(directory, file) for file in ("examples.json", "answers.json"))
    address = f"{url.rstrip('/')}/v1/models/{quote(name)}:predict"
    if not asked:
        raise ReplayError(f"{directory}: assets.extra/examples.json holds no request")
    for signature, body in asked.items():
        yield signature, _wrong(address, body, right.get(signature), more, tolerance)


def _header(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if not colon or not name.strip() or not value.strip().isprintable():
        raise ReplayError(f"a header: expected 'NAME: VALUE', got {line!r}")
    return name.strip(), value.strip()


def _read(directory: Path, file: str) -> dict[str, Any]:
    try:
        content = manifest.extra(directory, file)
        if content is None:
            raise ReplayError(f"{directory}: there is no assets.extra/{file}; export the model with examples=")
        found = json.loads(content)
    except (LoadError, ValueError) as error:
        raise ReplayError(f"{directory}: assets.extra/{file} cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise ReplayError(f"{directory}: assets.extra/{file}: expected an object by signature")
    return found


def _wrong(address: str, body: Any, right: Any, headers: dict[str, str], tolerance: float) -> str | None:
    if right is None:
        return "answers.json has no answer for it"
    data = json.dumps(body).encode()
    request = Request(address, data, {"Content-Type": "application/json", **headers})
    try:
        with urlopen(request, timeout=SECONDS) as answer:
            came = json.loads(answer.read())
    except HTTPError as error:
        said = error.read(SHOWN).decode(errors="replace").strip()
        return f"status {error.code}: {said}"
    except (URLError, OSError, HTTPException) as error:  # what is there may speak no HTTP
        return f"no answer from {address}: {getattr(error, 'reason', error)}"
    except ValueError:
        return "the answer is not JSON"
    return difference(right, came, tolerance)


def difference(right: Any, came: Any, tolerance: float, place: str = "", scale: float = 0.0) -> str | None:
    """Say where two JSON values differ; numbers may by `tolerance` of the largest beside them."""
    if isinstance(right, dict) and isinstance(came, dict):
        if right.keys() != came.keys():
            return f"{place or 'the answer'}: expected {', '.join(right)}, got {', '.join(came) or 'nothing'}"
        pairs = [(f"{place}.{key}".lstrip("."), value, came[key], 0.0) for key, value in right.items()]
    elif isinstance(right, list) and isinstance(came, list):
        if len(right) != len(came):
            return f"{place}: expected {len(right)} values, got {len(came)}"
        scale = max([scale, *(abs(number) for number in _numbers(right))])
        pairs = [(f"{place}[{index}]", *pair, scale) for index, pair in enumerate(zip(right, came))]
    elif (right == came and isinstance(right, bool) == isinstance(came, bool)) or (
        _is_number(right) and _is_number(came) and _near(right, came, tolerance, scale)
    ):
        return None
    else:
        return f"{place}: expected {json.dumps(right)[:SHOWN]}, got {json.dumps(came)[:SHOWN]}"
    return next((found for where, a, b, of in pairs if (found := difference(a, b, tolerance, where, of))), None)


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, list):
        for one in value:
            yield from _numbers(one)
    elif _is_number(value) and math.isfinite(value):
        yield value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _near(right: float, came: float, tolerance: float, scale: float) -> bool:
    if not (math.isfinite(right) and math.isfinite(came)):
        return math.isnan(right) and math.isnan(came)
    return abs(right - came) <= tolerance * max(scale, abs(right))
