"""The extension, compiled once; and the same requests asked with it and without it."""

import os
import sysconfig
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn, TypeVar

import pytest

from serving.core.http import Request, Response
from serving.core.record import Record
from serving.pipeline import handler, layers
from serving.pipeline.exchange import Exchange
from serving.pipeline.handler import handle
from serving.pipeline.native import build
from tests.conftest import Serve

Built = TypeVar("Built")
Question = bytes | tuple[bytes, str, dict[str, str]]  # a body; or a body, a query and headers


class Answer(NamedTuple):
    """All that a client sees of an answer, and what is logged about a successful one."""

    status: int
    body: bytes
    content_type: str
    headers: tuple[tuple[str, str], ...]
    seen: tuple[str | None, int] | None  # the signature, and the size of the batch


class Fields:
    """Header fields by name, in any case."""

    def __init__(self, fields: dict[str, str]) -> None:
        """Take fields whose names are in lower case."""
        assert all(name.islower() for name in fields)
        self.fields = fields

    def get(self, name: str, /) -> str | None:
        return self.fields.get(name.lower())


Ask = Callable[..., list[tuple[Question, bool]]]


def missing(reason: str) -> NoReturn:
    """End a test that needs what this machine lacks: it fails under CI, which has it all, and is skipped elsewhere."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI is to have it: {reason}")
    pytest.skip(reason)


def built(build_: Callable[[], Built]) -> Built:
    """Return what is built, or end the test as `missing` does."""
    try:
        return build_()
    except build.Refused as refused:
        missing(str(refused))


@pytest.fixture
def headers() -> None:
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        missing("Python's headers are not installed")


@pytest.fixture(scope="session")
def extension() -> Path:
    return built(build.cached)


@pytest.fixture
def compare(serve: Serve, extension: Path, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Ask a model with and without the extension and assert equal answers; return which requests the extension answered."""
    natively = layers.natively
    taken = ran = False

    def watched(exchange: Exchange) -> Response | None:
        nonlocal taken, ran
        response = natively(exchange)
        ran = response is not None
        taken = ran or exchange.failure is not None
        return response

    monkeypatch.setattr(layers, "natively", watched)

    def ask(questions: Iterable[Question], path: str) -> Iterable[tuple[Answer, bool]]:
        nonlocal taken, ran
        for question in questions:
            body, query, headers = (question, "", {}) if isinstance(question, bytes) else question
            record = Record()
            taken = ran = False
            response = handler.answer(Request("POST", path, query, Fields(headers), body, record=record))
            seen = (record.signature, record.rows) if response.status == 200 else None
            yield Answer(*response, seen), taken

    def compared(
        folder: Path, questions: Sequence[Question], *, path: str = "/v1/models/model:predict", **settings: str
    ) -> list[tuple[Question, bool]]:
        serve(folder, MODEL_NAME="model", ACCELERATOR="off", **settings)
        slowly = [answer for answer, _ in ask(questions, path)]
        serve(folder, MODEL_NAME="model", ACCELERATOR=str(extension), **settings)
        assert handle(Request("GET", "/v1/models/model")).status == 200
        outcomes = []
        for question, slow, (quick, was_taken) in zip(questions, slowly, ask(questions, path), strict=True):
            assert quick == slow, f"{question!r:.2000}"
            assert slow.status == 200 or not ran
            outcomes.append((question, was_taken))
        return outcomes

    return compared
