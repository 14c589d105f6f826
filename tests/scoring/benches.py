"""A served model, whose online answers and scored files are compared."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from serving import scoring
from tests.conftest import EMBEDDED, Serve
from tests.events.emulators import Line, Store

Score = Callable[..., list[Any]]
BOXES = ["in", "out"]


class Bench:
    """A served model, whose online answers and scored files are compared."""

    def __init__(self, serve: Serve, store: Store, name: str) -> None:
        self._serve, self.store, self.name = serve, store, name

    def start(self, directory: Path = EMBEDDED, through: Line | None = None, **environment: str) -> Callable[..., Any]:
        address = through.address if through else self.store.address
        places = {"EVENT_INPUT": "gs://inbox", "EVENT_OUTPUT": "gs://out/scored", "STORAGE_EMULATOR_HOST": address}
        more = {**places, **environment}
        return self._serve(directory, **more)

    def put(self, content: bytes, end: str = ".jsonl", kind: str = "", **described: Any) -> tuple[str, str]:
        name = f"{self.name}{end}"
        return f"gs://in/{name}", self.store.put("in", name, content, kind, **described)

    def score(self, content: bytes, end: str = ".jsonl", kind: str = "", **described: Any) -> list[Any]:
        """Return the lines that a file is answered with."""
        scored = scoring.score_object(*self.put(content, end, kind, **described))
        written = self.store.get(*scored.output.removeprefix("gs://").split("/", 1))
        lines = [json.loads(text) for text in written.splitlines()]
        assert (scored.rows, scored.failed) == (len(lines), sum("error" in line for line in lines))
        self.written = written
        return lines


def rows_of(count: int, shape: tuple[int, ...], seed: int = 7) -> list[Any]:
    made: list[Any] = np.random.default_rng(seed).normal(size=(count, *shape)).astype(np.float32).tolist()
    return made


def as_lines(rows: list[Any]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def prediction_of(written: bytes) -> bytes:
    match = re.fullmatch(rb'\{.*?"prediction":(.*)\}', written)
    assert match, written
    return match[1]


def online(ask: Callable[..., Any], instance: Any, name: str) -> bytes:
    """Return the bytes of the one prediction of an online answer."""
    answer = ask("POST", f"/?signature_name={name}", {"instances": [instance]})
    assert answer.status == 200, answer.body
    match = re.fullmatch(rb'\{"predictions":\[(.*)\]\}', answer.body)
    assert match
    return match[1]
