"""What is measured: one row for each way of serving a model."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench import prepared
from bench.environments import FUNCTIONS, UPLOAD
from bench.models import Model
from bench.prepared import Settings

TWO_BYTES = b"ok"


def nothing(model: Model) -> Settings:
    return {}


@dataclass(frozen=True)
class Subject:
    name: str
    title: str
    environment: str  # of bench/environments.py
    command: Callable[[Path, Model, int], list[str]]  # of the environment's Python, the model and the port
    folder: Path  # where it is started
    settings: Callable[[Model], Settings] = nothing  # made at first need; raises Unavailable
    path: str = "/v1/models/model:predict"
    answers: Callable[[Model, bytes], bool] = Model.answers
    serves_model: bool = True  # else it is a reference: it answers a constant or, without a path, prints one line


def functions_framework(interpreter: Path, model: Model, port: int) -> list[str]:
    program = interpreter.with_name("functions-framework")
    return [str(program), "--target", "predict", "--host", "127.0.0.1", "--port", str(port)]


def standalone(interpreter: Path, model: Model, port: int) -> list[str]:
    return [str(interpreter), "-m", "serving.servers.standalone"]


def module(interpreter: Path, model: Model, port: int) -> list[str]:
    return [str(interpreter), "-m", "main"]  # as a module, since Python caches no bytecode of a script


def two_bytes_server(interpreter: Path, model: Model, port: int) -> list[str]:
    return [str(interpreter), str(FUNCTIONS / "two_bytes" / "main.py")]


def mosec(interpreter: Path, model: Model, port: int) -> list[str]:
    return [*module(interpreter, model, port), "--address", "127.0.0.1", "--port", str(port)]


def bare_process(interpreter: Path, model: Model, port: int) -> list[str]:
    return [*module(interpreter, model, port), str(model.saved_model), *model.floor_arguments]


def two_bytes(model: Model, body: bytes) -> bool:
    return body == TWO_BYTES


def unbatched(model: Model) -> Settings:
    return prepared.as_serve_fast(model) | {"BATCH_ROWS": "0"}


def batching(model: Model) -> Settings:
    return prepared.as_serve_fast(model) | {"BATCH_ROWS": "16", "THREADS": "16"}


# fmt: off
SUBJECTS = (
    Subject("naive",       "naive function: import tensorflow, saved_model.load",   "naive",    functions_framework, FUNCTIONS / "naive"),
    Subject("litert",      "LiteRT behind functions-framework, its .tflite file",   "litert",   functions_framework, FUNCTIONS / "litert", prepared.twin),
    Subject("mosec",       "mosec, a batching server, with saved_model.load",       "mosec",    mosec, FUNCTIONS / "mosec", path="/inference"),
    Subject("ours",        "functions-framework, as deployed from source",          "uploaded", functions_framework, UPLOAD),
    Subject("ours_python", "the same without the native codec",                     "uploaded", functions_framework, UPLOAD, prepared.python_alone),
    Subject("ours_baked",  "the same with the model baked (`deploy.sh --bake yes`)", "uploaded", functions_framework, UPLOAD, prepared.baked_alone),
    Subject("fast_python", "our server without the native codec, library not bound", "source",   standalone, UPLOAD, prepared.python_alone),
    Subject("fast",        "our server, `make serve-fast`: native codec, bound library", "source",   standalone, UPLOAD, prepared.as_serve_fast),
    Subject("unbatched",   "`make serve-fast` with BATCH_ROWS=0",                   "source",   standalone, UPLOAD, unbatched),
    Subject("batching",    "`make serve-fast` with BATCH_ROWS=16",                  "source",   standalone, UPLOAD, batching),
    Subject("baked",       "`make serve-fast` with the model baked",                "source",   standalone, UPLOAD, prepared.baked),
    Subject("twin",        "our server, light twin, no TensorFlow",                 "twin",     standalone, UPLOAD, prepared.native_twin),
    Subject("twin_python", "the same without the native codec",                     "twin",     standalone, UPLOAD, prepared.python_twin),
    Subject("constant",    "functions-framework answering a constant",              "constant", functions_framework, FUNCTIONS / "constant", serves_model=False),
    Subject("two_bytes",   "our server answering two bytes",                        "source",   two_bytes_server, UPLOAD, answers=two_bytes, serves_model=False),
    Subject("floor",       "bare process: NumPy, C library, model, one run",        "source",   bare_process, FUNCTIONS / "floor", path="", serves_model=False),
)
# fmt: on
BY_NAME = {subject.name: subject for subject in SUBJECTS}


def variables(subject: Subject, model: Model, port: int) -> Settings:
    """Return what a subject is started with; each reads the variables that it knows."""
    address = {"HOST": "127.0.0.1", "PORT": str(port)}
    wait = {"MAX_WAIT": "60"}  # the load is to be answered, not refused
    return (
        {"MODEL_DIR": str(model.saved_model), "ANSWER": str(model.answer_file)}
        | address
        | wait
        | subject.settings(model)
    )
