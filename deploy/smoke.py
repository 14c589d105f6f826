"""Test a deployed service: whether it is ready, predicts, and how fast.

`python -m deploy.smoke URL MODEL_DIR [SIGNATURE]` takes the token on standard input. The request is the example that
the exporter stored with the model; if its answer is stored too, the service must give the same.
"""

import http.client
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from serving.core.errors import LoadError
from serving.protocols import tensorflow_serving
from serving.savedmodel.signature import DEFAULT
from serving.savedmodel.source import Source
from serving.servers.commands.check import answers, deviation

REPETITIONS = 10
SECONDS = 300  # a cold instance may load its model first


class Failure(Exception):
    """The service does not work as expected; the message has the reason."""


Wrong = Callable[[bytes], str | None]


def smoke(url: str, body: bytes | None, token: str, wrong: Wrong) -> str:
    """Return a report of a few lines; raise Failure at the first problem.

    `wrong` returns where an answer differs from the exporter's, or None.
    """
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.netloc, timeout=SECONDS)
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})

    def ask(method: str, path: str, sent: bytes | None = None) -> tuple[bytes, float]:
        begin = time.perf_counter()
        try:
            connection.request(method, path, sent, headers)
            answer = connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise Failure(f"{method} {path}: {url} does not answer: {error}") from None
        if answer.status != 200:
            hint = {401: "; no token, or an expired one", 403: "; this account may not call it: roles/run.invoker"}
            message = content[:200].decode(errors="replace").strip()
            raise Failure(f"{method} {path}: expected 200, got {answer.status}{hint.get(answer.status, '')}: {message}")
        return content, 1000 * (time.perf_counter() - begin)

    try:
        _, ready = ask("GET", "/readyz")
        lines = [f"ready in {ready:.0f} ms (the first request, connection and perhaps a cold start included)"]
        if body is None:
            return "\n".join([*lines, "no example to send: the model is in a bucket"])
        answer, first = ask("POST", "/", body)
        try:
            if not {"predictions", "outputs"} & set(json.loads(answer)):
                raise ValueError
        except ValueError:
            raise Failure(f"POST /: expected predictions, got {answer[:200]!r}") from None
        if problem := wrong(answer):
            raise Failure(f"POST /: the service's answer differs from the exported model's: {problem}")
        again = statistics.median(ask("POST", "/", body)[1] for _ in range(REPETITIONS))
        shown = answer.decode() if len(answer) <= 400 else f"{answer[:400].decode(errors='replace')}..."
        return "\n".join([*lines, f"predicted in {first:.0f} ms, then {again:.1f} ms (median of {REPETITIONS})", shown])
    finally:
        connection.close()


def example(model: str, name: str = "") -> tuple[bytes | None, Wrong]:
    """Return the example request of a signature, None for a model in a bucket; and a function that checks an answer."""
    if model.startswith("gs://"):
        return None, lambda _: None
    source = Source(Path(model), "model")
    names = [name for name, entry in source.signatures.items() if entry.refusal is None]
    name = name if name in names else DEFAULT if DEFAULT in names else names[0]
    signature, saved = source.signatures[name], source.examples.get(name)
    right = None if saved is None else answers(source.directory).get(name)
    body = tensorflow_serving.example(signature, saved)
    return body, lambda answer: None if right is None else deviation(right, answer, signature)


def main(arguments: list[str]) -> int:
    """Run; return the exit status."""
    url, *model = arguments
    try:
        body, wrong = example(*model)
        print(smoke(url, body, sys.stdin.read().strip(), wrong))
    except (Failure, LoadError) as error:
        print(f"deploy.sh: smoke: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
