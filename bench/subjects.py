"""What is measured: one row for each way of serving a model."""

import importlib.util
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.models import ROOT, Model

BENCH = ROOT / "bench"
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Subject:
    name: str
    title: str
    command: Callable[[Model, int], list[str]]  # of the model and the port
    folder: Path = ROOT  # where it is started
    serves: bool = True  # over HTTP; else its answer is a line of its output
    path: str = "/v1/models/model:predict"


def functions_framework(model: Model, port: int) -> list[str]:
    return [str(BIN / "functions-framework"), "--target", "predict", "--host", "127.0.0.1", "--port", str(port)]


def bare_process(model: Model, port: int) -> list[str]:
    compiled = importlib.util.cache_from_source(str(BENCH / "floor.py"))
    return [sys.executable, compiled, str(model.saved_model), *model.floor_arguments]


# fmt: off
SUBJECTS = (
    Subject("naive",    "naive function: import tensorflow, saved_model.load", functions_framework, BENCH / "naive"),
    Subject("ours",     "this repository, functions-framework",                functions_framework),
    Subject("constant", "functions-framework answering a constant",            functions_framework, BENCH / "constant"),
    Subject("floor",    "bare process: NumPy, C library, model, one run",      bare_process, serves=False),
)
# fmt: on


def environment(model: Model) -> dict[str, str]:
    """What every subject is told; each reads what it knows."""
    return {"MODEL_DIR": str(model.saved_model), "ANSWER": str(model.answer_file)}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
