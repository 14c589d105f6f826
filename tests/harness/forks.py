"""Programs that import TensorFlow's Python package, each in a fork of one process that has imported it.

The import takes four seconds of CPU, a fork hundredths of one. `python` takes the arguments of Python's command line:

    python("-m", "tests.models.tricks", folder)
    python("-c", code, env=environment, input=text)

The program gets its own arguments, environment and standard streams, and ends as any other process does. What a variable decides
while TensorFlow is being imported (its log level, the devices) is the same for all: no logs below an error, no GPU.
"""

import atexit
import contextlib
import gc
import json
import os
import runpy
import subprocess
import sys
import tempfile
import threading
import traceback
import types
import warnings
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parents[2]
QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}


def python(
    *arguments: str | Path, env: Mapping[str, str] | None = None, input: str | bytes = b""
) -> "subprocess.CompletedProcess[str]":
    """Run `python ARGUMENTS` at the root of the repository, its environment being `env` or this process's.

    `arguments` begin with "-m" or "-c"; `input` is the program's standard input.
    """
    with tempfile.TemporaryDirectory() as folder:
        streams = [Path(folder) / name for name in ("input", "output", "errors")]
        streams[0].write_bytes(input.encode() if isinstance(input, str) else input)
        environment = dict(os.environ if env is None else env)
        job = {"arguments": list(map(str, arguments)), "environment": environment, "streams": list(map(str, streams))}
        status = _process().run(json.dumps(job))
        output, errors = (stream.read_text() if stream.exists() else "" for stream in streams[1:])
    return subprocess.CompletedProcess(list(arguments), status, output, errors)


class _Process:
    """The process that has imported TensorFlow; it ends with this one, or when its standard input is closed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # one program at a time
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__], cwd=ROOT, env={**os.environ, **QUIET}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        atexit.register(self.close)

    def run(self, job: str) -> int:
        """Run a program; return its status, negative for the signal that ended it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._lock:
            with contextlib.suppress(OSError):  # it has ended: there is no answer
                self._process.stdin.write(job + "\n")
                self._process.stdin.flush()
            answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the process that imports TensorFlow ended with status {self._process.wait()}")
        return int(answer)

    def close(self) -> None:
        """End it."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._process.wait()


@cache
def _process() -> _Process:
    return _Process()


def _serve() -> dict[str, Any] | None:
    """Fork for each line of standard input; return its job in the fork, and None in the parent at the end."""
    jobs, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    import keras  # noqa: F401
    import tensorflow  # noqa: F401

    warnings.filterwarnings("ignore", "This process .* is multi-threaded, use of fork", DeprecationWarning)
    gc.collect()
    gc.freeze()  # a fork's collections leave these objects alone, and their memory shared
    for line in jobs:
        if not (child := os.fork()):
            job: dict[str, Any] = json.loads(line)
            return job
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        answers.write(f"{status}\n")
        answers.flush()
    return None


def _run(arguments: list[str]) -> None:
    kind, program, *sys.argv[1:] = arguments
    if kind == "-m":
        sys.path[0] = str(ROOT)
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    else:
        sys.path[0], sys.argv[0] = "", "-c"
        sys.modules["__main__"] = main = types.ModuleType("__main__")
        exec(compile(program, "<string>", "exec"), main.__dict__)


def _become(arguments: list[str], environment: dict[str, str], streams: list[str]) -> NoReturn:
    """Go on as the program that `python ARGUMENTS` starts, and end as it would."""
    for number, (path, flags) in enumerate(zip(streams, (os.O_RDONLY, *[os.O_WRONLY | os.O_CREAT | os.O_APPEND] * 2))):
        file = os.open(path, flags)
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    warnings.resetwarnings()
    status: Any = 0
    try:
        _run(arguments)
    except SystemExit as end:
        status = end.code
    except BaseException:
        traceback.print_exc()
        status = 1
    if isinstance(status, str):
        print(status, file=sys.stderr)
        status = 1
    # Without what Python does at the very end: it visits every object, each in memory that is this process's own then.
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status or 0)


if __name__ == "__main__" and (job := _serve()):
    _become(**job)
