"""Run a SavedModel in the server's runtime, in a process of its own: a crash there is a result, not the end.

`ask(job)` runs a Job and returns its Answers. The process does not import TensorFlow's Python package, so times are
those of a server.
"""

import atexit
import contextlib
import gc
import io
import os
import pickle
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

from exporting.inputs import Inputs
from exporting.refusal import Refusal
from serving.core import settings
from serving.core.errors import LoadError, RunError
from serving.runtime import litert, tensorflow_c
from serving.runtime.batch_sizes import smallest_runs
from serving.runtime.model import Model, Session
from serving.runtime.sessions import explained
from serving.savedmodel.safety.rewrite import with_each_asset_once
from serving.savedmodel.signature import Signature, check
from serving.savedmodel.source import Source

ONEDNN = "TF_ENABLE_ONEDNN_OPTS"
ROOT = Path(__file__).resolve().parent.parent

FEWEST, ENOUGH = 3, 2.0  # repeated calls, and seconds after which no other begins
UNCALLABLE = "UNCALLABLE"  # an error code of ours: the runtime cannot make a function of the signature


@dataclass(frozen=True, slots=True)
class Job:
    directory: Path
    calls: list[tuple[str, Inputs]]  # signature, inputs; in this order
    optimized: bool = False  # the graph is optimized already: TensorFlow does not optimize it again
    repeat: int = 0  # how often the first call is repeated, as long as that takes less than ENOUGH
    onednn: str | None = None  # "0" or "1": TensorFlow's oneDNN kernels off or on; None: as the machine has it
    batches: bool = False  # also find `smallest_runs`


@dataclass(frozen=True, slots=True)
class Answer:
    outputs: Inputs | None
    error: str | None = None  # TensorFlow's status
    message: str = ""


@dataclass(slots=True)
class Answers:
    load: float = 0.0  # seconds
    first: float = 0.0  # seconds of the first call
    steady: float = 0.0  # median seconds of the repeated calls
    smallest_runs: dict[str, int] = field(default_factory=dict)  # see serving.runtime.batch_sizes
    answers: list[Answer] = field(default_factory=list)
    failure: str | None = None  # why there are none, or fewer than calls
    late: bool = False  # the load or a call took too long


def ask(job: Job, timeout: int = 0) -> Answers:
    """Return the answers of the runtime; where the process dies, those until then, and how it died.

    The process is ended where the load or a call takes more than `timeout` seconds, RUN_TIMEOUT if that is 0.
    """
    limit = timeout or settings.current().run_timeout
    output, status = _keeper(job.onednn).work(pickle.dumps((limit, job)))
    answers = Answers()
    for name, value in _pieces(io.BytesIO(output)):
        if name == "answer":
            answers.answers.append(value)
        else:
            setattr(answers, name, value)
    if status == -signal.SIGALRM:
        action = "a run" if answers.load else "loading it"
        answers.failure = f"{action} took more than {limit} s{'' if timeout else ' (RUN_TIMEOUT)'}"
        answers.late = True
    elif status and not answers.failure:
        died = signal.Signals(-status).name if status < 0 else f"status {status}"
        answers.failure = f"the process died ({died})"
    return answers


class Keeper:
    """A process that has opened the library, and forks for each job: a fork costs a tenth of a start.

    It opens no session itself, because TensorFlow's threads do not survive a fork.
    """

    def __init__(self, onednn: str | None) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
        environment |= {ONEDNN: onednn} if onednn else {}
        command = [sys.executable, "-c", "from exporting.runner import keep; keep()"]
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
            )
        except OSError as error:
            raise Refusal(f"no process can be started to try the model in: {error}") from None

    def work(self, job: bytes) -> tuple[bytes, int]:
        """Return the output of the job's process, and its status: negative for the signal that ended it."""
        assert self._process.stdin
        assert self._process.stdout
        try:
            self._process.stdin.write(len(job).to_bytes(8, "big") + job)
            self._process.stdin.flush()
            head = self._process.stdout.read(16)
            output = self._process.stdout.read(int.from_bytes(head[:8], "big"))
        except OSError:
            head = output = b""
        if len(head) < 16:
            self.close()
            raise Refusal("the process that tries models ended; try again")
        return output, int.from_bytes(head[8:], "big", signed=True)

    def close(self) -> None:
        """End the process; the next job starts another."""
        _keeper.cache_clear()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._process.wait()


@lru_cache(maxsize=3)
def _keeper(onednn: str | None) -> Keeper:
    keeper = Keeper(onednn)
    atexit.register(keeper.close)
    return keeper


def _pieces(stream: io.BytesIO) -> Iterator[tuple[str, Any]]:
    while True:
        try:
            yield pickle.load(stream)
        except (EOFError, pickle.UnpicklingError):  # the process may have died in the middle of one
            return


def keep() -> None:
    """Do the jobs on standard input, each in a fork; answer each with (size, status, output)."""
    path = tensorflow_c.find(settings.read(os.environ).tensorflow_library_dir)
    if path:  # what each fork would do itself, for a quarter of its time
        tensorflow_c.unregistered(tensorflow_c.api(path), ())  # TensorFlow registers its operations
    gc.collect()
    gc.freeze()
    source, target = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is not part of the answer
    while len(head := source.read(8)) == 8:
        job = source.read(int.from_bytes(head, "big"))
        outcome, child_end = os.pipe()
        child = os.fork()
        if not child:
            os.close(outcome)
            _in_child(job, child_end)
        os.close(child_end)
        with os.fdopen(outcome, "rb") as pipe:
            output = pipe.read()
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        target.write(len(output).to_bytes(8, "big") + status.to_bytes(8, "big", signed=True) + output)
        target.flush()


def _in_child(job: bytes, end: int) -> NoReturn:
    status = 1
    try:
        limit, request = pickle.loads(job)
        with os.fdopen(end, "wb", buffering=0) as out:

            def send(name: str, value: Any) -> None:
                piece = memoryview(pickle.dumps((name, value)))
                while piece:  # a pipe takes a part at a time
                    piece = piece[out.write(piece) :]

            try:
                _work(request, send, lambda: signal.alarm(limit))
            except (LoadError, RunError) as error:
                send("failure", " ".join(str(error).split()))
        status = 0
    finally:
        os._exit(status)  # without the parent's clean-up


def _work(job: Job, send: Any, limited: Callable[[], object]) -> None:
    """Load the model and make the calls; `limited` starts the time limit of each."""
    limited()
    source = Source(job.directory, "model")
    options = settings.read(os.environ)
    load = _lite(source, options) if source.light else _full(source, options, job.optimized)
    begin = time.perf_counter()
    session = load()
    functions = {}
    for name in {name for name, _ in job.calls} | {s.name for s in source.signatures.values() if s.refusal is None}:
        try:
            functions[name] = session.function(source.signatures[name])
        except LoadError as error:  # two inputs that are one tensor, a tensor that the graph does not have
            functions[name] = _uncallable(str(error))
    send("load", time.perf_counter() - begin)
    for position, (name, inputs) in enumerate(job.calls):
        limited()
        begin = time.perf_counter()
        answer = _call(functions[name], source.signatures[name], inputs)
        if position == 0:
            send("first", time.perf_counter() - begin)
        send("answer", answer)
    if job.calls and job.repeat:
        name, inputs = job.calls[0]
        times: list[float] = []
        while len(times) < job.repeat and (len(times) < FEWEST or sum(times) < ENOUGH):
            limited()
            begin = time.perf_counter()
            functions[name](inputs)
            times.append(time.perf_counter() - begin)
        send("steady", statistics.median(times))
    if job.batches:
        limited()
        send("smallest_runs", smallest_runs(Model(source, session)))


def _full(source: Source, options: settings.Settings, optimized: bool) -> Callable[[], Session]:
    path = tensorflow_c.find(options.tensorflow_library_dir)
    if path is None:
        raise LoadError(f"{tensorflow_c.NAME} is not installed")
    tf = tensorflow_c.api(path)
    tensorflow_c.load_custom_ops(tf, options.custom_op_libraries)
    config = tensorflow_c.config(options.intra_op_threads, options.inter_op_threads, optimize=not optimized)

    def opened() -> Session:
        with explained(source), with_each_asset_once(source.directory) as directory:
            return tensorflow_c.Session(tf, directory, source.contents.tags, config, source.initialization)

    return opened


def _lite(source: Source, options: settings.Settings) -> Callable[[], Session]:
    litert.open_library()
    return lambda: litert.Session(source.directory, options.intra_op_threads)


def _uncallable(reason: str) -> Any:
    def refuse(_: Inputs) -> Any:
        raise RunError(UNCALLABLE, reason)

    return refuse


def _call(function: Any, signature: Signature, inputs: Inputs) -> Answer:
    for name, spec in signature.inputs.items():  # as serving.runtime.model does: a wrong rank would end the process
        if check(spec, inputs[name].shape) or inputs[name].dtype != spec.dtype.numpy:
            return Answer(None, "NOT_THE_SPEC", f"{name} does not fit the signature")
    try:
        return Answer(function(inputs))
    except RunError as error:
        return Answer(None, error.code, str(error))
