"""A SavedModel's signatures as one LiteRT file, by TensorFlow's converter, in a process of its own.

A crash of that process is a result, not the end. It is forked from one that has only imported TensorFlow: `prepare()`
starts that one, so that the import runs while the model is read.
"""

import atexit
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

from exporting.constant_shapes import with_constant_shapes
from exporting.graph import import_tensorflow
from exporting.refusal import Refusal

ROOT = Path(__file__).resolve().parent.parent


@lru_cache(maxsize=1)
def prepare() -> "subprocess.Popen[str]":
    """Start the process that imports TensorFlow, and forks for each conversion."""
    command = [sys.executable, "-c", "from exporting.conversion import keep; keep()"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            text=True,
        )
    except OSError as error:
        raise Refusal(f"no process can be started to convert the model in: {error}") from None
    atexit.register(_end, process)
    return process


def _end(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.communicate()


def convert(directory: Path, tags: Iterable[str], signatures: list[str], target: Path) -> str | None:
    """Write the signatures to `target`; return None, or why LiteRT cannot have all of them."""
    process = prepare()
    assert process.stdin
    assert process.stdout
    job = {"directory": str(directory), "tags": list(tags), "signatures": signatures, "target": str(target)}
    answer = ""
    with contextlib.suppress(OSError):
        print(json.dumps(job), file=process.stdin, flush=True)
        answer = process.stdout.readline()
    if not answer:
        prepare.cache_clear()
        raise Refusal("the process that converts models ended; try again")
    output, status = json.loads(answer)
    if status == 0:
        problem: str | None = json.loads(output)
        return problem
    return f"the converter died ({signal.Signals(-status).name if status < 0 else f'status {status}'})"


def keep() -> None:
    """Do the jobs on standard input, each in a fork; answer each with its output and status."""
    import_tensorflow()
    answers, silent = os.fdopen(os.dup(1), "w"), os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)  # what the converter prints is not part of the answer
    for line in sys.stdin:
        job = json.loads(line)
        outcome, child_end = os.pipe()
        child = os.fork()
        if not child:
            _in_child(job, child_end)
        os.close(child_end)
        with os.fdopen(outcome) as pipe:
            output = pipe.read()
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(json.dumps([output, status]), file=answers, flush=True)


def _in_child(job: Any, end: int) -> NoReturn:
    status = 1
    try:
        with os.fdopen(end, "w") as pipe:
            json.dump(_convert(**job), pipe)
        status = 0
    finally:
        os._exit(status)  # without the parent's clean-up, or waiting for TensorFlow's threads


def _convert(directory: str, tags: list[str], signatures: list[str], target: str) -> str | None:
    import tensorflow as tf

    try:
        converter = tf.lite.TFLiteConverter.from_saved_model(directory, signatures, set(tags))
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        model = with_constant_shapes(converter.convert())
    except Exception as error:  # the converter may raise anything
        return reason(str(error) or type(error).__name__)
    if len(model) >= 1 << 31:
        return f"it would take {len(model):,} bytes, and a LiteRT file holds less than 2 GB"
    try:
        Path(target).write_bytes(model)
    except OSError as error:
        return f"it cannot be written: {error.strerror}"
    return None


# In the converter's message: 'tf.AddV2' op is neither a custom op nor a flex op ... Details:
#     tf.AddV2(tensor<?xf64>, tensor<f64>) -> (tensor<?xf64>) : {device = ""}
LACKING = re.compile(r"'tf\.(\w+)' op is neither a custom op nor a flex op")
DETAIL = re.compile(r"^\s*tf\.(\w+)\((.*?)\) -> \((.*?)\) :", re.MULTILINE)
ELEMENT = re.compile(r"tensor<(?:[?*\d]+x)*(!?[\w.]+(?:<\w+>)?)>")
OTHERWISE = re.compile(r"'tf\.(\w+)' op requires ([^\n]*?)(?: during TF Lite transformation pass)?$", re.MULTILINE)
ELEMENTS = {
    "f16": "float16", "bf16": "bfloat16", "f32": "float32", "f64": "float64", "i1": "bool", "i8": "int8",
    "i16": "int16", "i32": "int32", "i64": "int64",
    "ui8": "uint8", "ui16": "uint16", "ui32": "uint32", "ui64": "uint64",
    "complex<f32>": "complex64", "complex<f64>": "complex128", "!tf_type.string": "strings",
}  # fmt: skip


def reason(message: str) -> str:
    """Return the reason in a message of the converter, which quotes the graph at length."""
    lacking = dict.fromkeys(LACKING.findall(message))
    if lacking:
        types = {op: dict.fromkeys(ELEMENT.findall(inputs)) for op, inputs, _ in DETAIL.findall(message)}
        missing = [f"{op}{_of([ELEMENTS.get(element, element) for element in types.get(op, ())])}" for op in lacking]
        return f"LiteRT has no {', '.join(missing)}"
    if needs := OTHERWISE.search(message):
        return f"LiteRT's {needs[1]} requires {needs[2]}"
    if "Unsupported type" in message and (kind := re.search(r"element type '(\w+)'", message)):
        return f"LiteRT has no type {kind[1]}"
    return f"the converter says: {' '.join(message.split())[:300]}"


def _of(types: list[str]) -> str:
    return f" of {' and '.join(types)}" if types else ""
