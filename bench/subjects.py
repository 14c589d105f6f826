"""What is measured: one row for each way of serving a model."""

import importlib.util
import os
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.models import ROOT, Model
from bench.prepared import accelerated, baked, bound, with_mosec

BENCH = ROOT / "bench"
BIN = Path(sys.executable).parent
TWO_BYTES = b"ok"

Environment = dict[str, str]


def nothing(model: Model) -> Environment:
    return {}


@dataclass(frozen=True)
class Subject:
    name: str
    title: str
    command: Callable[[Model, int], list[str]]  # of the model and the port
    folder: Path = ROOT  # where it is started
    serves: bool = True  # over HTTP; else its answer is a line of its output
    path: str = "/v1/models/model:predict"
    answers: Callable[[Model, bytes], bool] = Model.answers
    settings: Callable[[Model], Environment] = nothing  # made at first need; raises Skipped where it cannot be


def functions_framework(model: Model, port: int) -> list[str]:
    return [str(BIN / "functions-framework"), "--target", "predict", "--host", "127.0.0.1", "--port", str(port)]


def module(name: str) -> Callable[[Model, int], list[str]]:
    return lambda model, port: [sys.executable, "-m", name]


def mosec(model: Model, port: int) -> list[str]:
    return [os.environ["MOSEC_PYTHON"], "-m", "bench.mosec_server", "--address", "127.0.0.1", "--port", str(port)]


def bare_process(model: Model, port: int) -> list[str]:
    compiled = importlib.util.cache_from_source(str(BENCH / "floor.py"))
    return [sys.executable, compiled, str(model.saved_model), *model.floor_arguments]


def two_bytes(model: Model, body: bytes) -> bool:
    return body == TWO_BYTES


def bound_too(model: Model) -> Environment:
    return accelerated(model) | bound(model)


def baked_too(model: Model) -> Environment:
    return bound_too(model) | baked(model)


FAST = module("serving.granian")

# fmt: off
SUBJECTS = (
    Subject("naive",     "naive function: import tensorflow, saved_model.load", functions_framework, BENCH / "naive"),
    Subject("ours",      "this repository, functions-framework",                functions_framework),
    Subject("ours_quick", "functions-framework, accelerated",                  functions_framework, settings=accelerated),
    Subject("fast",      "this repository, Granian",                            FAST),
    Subject("quick",     "Granian, accelerated",                              FAST, settings=accelerated),
    Subject("bound",     "Granian, accelerated, TensorFlow's library bound",  FAST, settings=bound_too),
    Subject("baked",     "the same, and the model baked",                       FAST, settings=baked_too),
    Subject("mosec",     "mosec, a batching server, with saved_model.load",     mosec, path="/inference", settings=with_mosec),
    Subject("constant",  "functions-framework answering a constant",            functions_framework, BENCH / "constant"),
    Subject("two_bytes", "Granian answering two bytes",                         module("bench.two_bytes"), answers=two_bytes),
    Subject("floor",     "bare process: NumPy, C library, model, one run",      bare_process, serves=False),
)
# fmt: on
REFERENCES = ("constant", "two_bytes", "floor")  # these serve no model over HTTP
BY_NAME = {subject.name: subject for subject in SUBJECTS}


def environment(subject: Subject, model: Model, port: int) -> Environment:
    """What a subject is told; each reads what it knows."""
    told = {"MODEL_DIR": str(model.saved_model), "ANSWER": str(model.answer_file)}
    limits = {"MAX_WAIT": "60"}  # what is measured is not to be refused
    told["ACCELERATOR"] = "off"  # but for those that say otherwise
    return told | {"HOST": "127.0.0.1", "PORT": str(port)} | limits | subject.settings(model)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
