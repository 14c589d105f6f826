"""What many tests share: a served model, in this process or behind a real server."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from serving.core import settings
from serving.core.http import Request, Response
from serving.pipeline import admission, predictions, routes
from serving.pipeline.handler import handle
from serving.runtime import loading
from tests.harness.ends import (  # noqa: F401 - pytest finds them here
    _no_run_is_left,
    pytest_configure,
    pytest_testnodedown,
    pytest_unconfigure,
)

ROOT = Path(__file__).parent.parent
EMBEDDED = ROOT / "model"

Serve = Callable[..., Callable[..., Response]]


# Files that take more than 10 seconds of CPU each, longest first: at the end of a run, one of them would keep one core busy
# alone. The first makes the models that many others need; the two behind it need none of them.
LONGEST = (
    "exporting/test_audit.py", "tools/image/test_dockerfile.py", "docs/test_examples.py", "scoring/test_spark.py",
    "exporting/test_litert.py", "clients/test_schemathesis.py", "pipeline/native/test_same_answers.py",
    "product/test_table.py", "pipeline/native/test_memory.py", "pipeline/native/test_races.py", "product/test_workers.py",
    "savedmodel/test_guarding.py", "servers/commands/test_score.py", "events/test_chain.py",
    "tools/image/test_bind_tensorflow.py", "tools/image/test_prune.py", "harness/test_chaos.py", "tools/image/test_bind.py",
    "clients/test_generated_clients.py", "servers/standalone/test_server.py", "exporting/test_bake.py",
    "exporting/test_export.py", "pipeline/native/test_same_inferences.py", "core/telemetry/test_observe.py",
    "servers/test_functions_framework.py", "deploy/test_staging.py", "servers/test_abuse.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that take longest first; all other files keep their order."""
    rank = {ROOT / "tests" / name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path, len(rank)))


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name a case with a binary body by its number: packed bodies hold the time at which they were made."""
    return argname if isinstance(val, bytes) and not val.isascii() else None


def forget() -> None:
    """Reset: settings and model are read again."""
    settings.current.cache_clear()
    routes.find.cache_clear()
    admission.forget()
    predictions.forget()
    loading.forget()


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Serve a folder in this process: `ask = serve(folder, MODEL_NAME="x")`, then `ask("POST", "/", b"...")`."""

    def start(directory: Path = EMBEDDED, **environment: str) -> Callable[..., Response]:
        for variable in settings.VARIABLES:
            monkeypatch.delenv(variable, raising=False)
        for variable, value in {"MODEL_DIR": str(directory), **environment}.items():
            monkeypatch.setenv(variable, value)
        forget()

        def ask(method: str, path: str, body: Any = b"", **headers: str) -> Response:
            path, _, query = path.partition("?")
            if not isinstance(body, bytes):
                body = json.dumps(body).encode()
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            return handle(Request(method, path, query, named, body))

        return ask

    yield start
    forget()


@pytest.fixture(scope="session")
def examples() -> dict[str, Any]:
    """Return the requests that the embedded model's exporter left beside it."""
    content: dict[str, Any] = json.loads((EMBEDDED / "assets.extra" / "examples.json").read_bytes())
    return content


@pytest.fixture(scope="session")
def answers() -> dict[str, Any]:
    """Return TensorFlow's own answers to them."""
    content: dict[str, Any] = json.loads((EMBEDDED / "assets.extra" / "answers.json").read_bytes())
    return content


def plain_environment(**more: str) -> dict[str, str]:
    """Return the environment without our variables, for a process of its own."""
    kept = {name: value for name, value in os.environ.items() if name not in settings.VARIABLES}
    return {**kept, **more}
