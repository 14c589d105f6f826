"""Send the exporter's example requests to a running server, and compare its answers with TensorFlow's.

They are in assets.extra/examples.json and answers.json of the model, by signature, in TensorFlow Serving's JSON.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import Request, urlopen

from serving.core import settings
from serving.core.comparison import SHOWN, TOLERANCE, difference
from serving.core.errors import LoadError
from serving.savedmodel.folder import manifest, versions

SECONDS = 120.0  # a cold start included
EPILOG = """\
example:  python -m serving replay http://localhost:8080 model/
          python -m serving replay https://HOST --header "Authorization: Bearer $(gcloud auth print-identity-token)"
exit status:  0 all answers are the recorded ones, 1 some differ, 2 the model has no example requests"""


class ReplayError(Exception):
    """Nothing can be replayed; the message has the reason."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command."""
    parser.formatter_class, parser.epilog = argparse.RawDescriptionHelpFormatter, EPILOG
    parser.add_argument("url", metavar="URL", help="the server: http://localhost:8080")
    parser.add_argument(
        "directory", type=Path, nargs="?", metavar="DIR",
        help="the model that is served there, or a copy of it (default: MODEL_DIR)",
    )  # fmt: skip
    parser.add_argument("--name", default="model", help="the MODEL_NAME of the server (default: model)")
    parser.add_argument("--header", action="append", default=[], metavar="'NAME: VALUE'", help=(
        "a header field of every request; may be repeated"))  # fmt: skip


def main(options: argparse.Namespace) -> int:
    """Replay a model's requests, and print a line for each; return the exit status."""
    status = 0
    try:
        directory = versions.chosen(settings.folder(options.directory)).directory
        for signature, problem in replay(options.url, directory, options.name, options.header):
            status = 1 if problem else status
            print(f"{signature}: {problem or 'answered as by TensorFlow'}", flush=True)
    except (ReplayError, LoadError, settings.SettingError) as error:
        print(f"serving: {error}", file=sys.stderr)
        return 2
    return status


def replay(
    url: str, directory: Path, name: str, headers: Iterable[str] = (), tolerance: float = TOLERANCE
) -> Iterator[tuple[str, str | None]]:
    """Yield each signature with the problem of its answer, or None; raise ReplayError where there are no requests.

    `url` is the server's, `name` that of its model, `headers` are further header lines, `tolerance` is relative to the
    largest number of an output.
    """
    if not url.startswith(("http://", "https://")):
        raise ReplayError(f"expected http://HOST:PORT or https://HOST, got {url!r}")
    more = dict(_header(line) for line in headers)
    examples, right = (_read(directory, file) for file in ("examples.json", "answers.json"))
    address = f"{url.rstrip('/')}/v1/models/{quote(name)}:predict"
    if not examples:
        raise ReplayError(f"{directory}: assets.extra/examples.json holds no request")
    for signature, body in examples.items():
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
        by_signature = json.loads(content)
    except (LoadError, ValueError) as error:
        raise ReplayError(f"{directory}: assets.extra/{file} cannot be read: {error}") from None
    if not isinstance(by_signature, dict):
        raise ReplayError(f"{directory}: assets.extra/{file}: expected an object by signature")
    return by_signature


def _wrong(address: str, body: Any, right: Any, headers: dict[str, str], tolerance: float) -> str | None:
    if right is None:
        return "answers.json has no answer for it"
    data = json.dumps(body).encode()
    request = Request(address, data, {"Content-Type": "application/json", **headers})
    try:
        with urlopen(request, timeout=SECONDS) as answer:
            result = json.loads(answer.read())
    except HTTPError as error:
        message = error.read(SHOWN).decode(errors="replace").strip()
        return f"status {error.code}: {message}"
    except (URLError, OSError, HTTPException) as error:  # the server may not speak HTTP
        return f"no answer from {address}: {getattr(error, 'reason', error)}"
    except ValueError:
        return "the answer is not JSON"
    return difference(right, result, tolerance)
