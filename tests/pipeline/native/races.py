"""What runs in a process of its own under ThreadSanitizer: several callers at once, each through real models.

python -m tests.pipeline.native.races EXTENSION CHECK
"""

import ctypes
import json
import os
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from serving.core import settings
from serving.pipeline import accelerator
from serving.runtime import loading
from tests.conftest import EMBEDDED, ROOT
from tests.exporting import twins
from tests.fuzz import rounds
from tests.pipeline.native import sanitizers
from tests.pipeline.native.bodies import Writer, plain_body
from tests.pipeline.native.models import build

EXAMPLES = EMBEDDED / "assets.extra" / "examples.json"
CALLERS = 8
MODELS = ("types", "shapes", "several", "strings", "unlike")
TWINS = ("images", "rows")


def serve(folder: Path, native: str, **variables: str) -> accelerator.Quick:
    """Load a model as a server does, and return what answers its plain requests."""
    for variable in settings.VARIABLES:
        os.environ.pop(variable, None)
    os.environ |= {"MODEL_DIR": str(folder), "MODEL_NAME": "model", "ACCELERATOR": native, **variables}
    settings.current.cache_clear()
    loading.forget()
    return accelerator.of(loading.cache().get())


def infers(count: int) -> list[bytes]:
    """Return infer bodies for an input `x` of floats, JSON alone: right ones, wrong ones and cut ones."""
    random_, bodies = random.Random("infers"), list[bytes]()
    for _ in range(count):
        rows = random_.choice([1, 2, 400])
        shape = random_.choice([rows, rows, rows + 1])
        data = b",".join(b"%d.5" % random_.randrange(100) for _ in range(rows))
        body = b'{"inputs":[{"name":"x","shape":[%d],"datatype":"FP32","data":[%b]}]}' % (shape, data)
        bodies.append(body[: random_.choice([None, None, None, len(body) // 2])])
    return bodies


def large(count: int) -> list[bytes]:
    """Return predict bodies that take longer than a caller's turn at Python's lock, every other one wrong at its end."""
    rows = b",".join(b"%d.5" % (number % 1000) for number in range(3000))
    return [b'{"inputs":[%b,%b]}' % (rows, b"x" if number % 2 else b"%d" % number) for number in range(count)]


def seen(answer: Any) -> Any:
    """Return of an answer what does not depend on the time."""
    return answer if isinstance(answer, str) else answer[:4]


def together(quick: accelerator.Quick, bodies: list[bytes], *, infer: bool = False, rounds: int = 1) -> None:
    """Ask every body from each caller, in another order each; assert that each answer is as when asked alone.

    The callers come first, so that they also make TensorFlow prepare the signatures.
    """

    def ask(body: bytes, note: int) -> Any:
        answer = quick.infer(body, len(body), note) if infer else quick.predict(body, note)
        return answer if isinstance(answer, str) else answer[:4]  # times differ

    def call(number: int) -> list[tuple[int, Any]]:
        note = ctypes.create_string_buffer(512)
        order = list(range(len(bodies))) * rounds
        random.Random(number).shuffle(order)
        return [(index, ask(bodies[index], ctypes.addressof(note))) for index in order]

    with ThreadPoolExecutor(CALLERS) as pool:
        answers = [pair for caller in pool.map(call, range(CALLERS)) for pair in caller]
    alone = [ask(body, 0) for body in bodies]
    for index, answer in answers:
        assert answer == alone[index], (bodies[index][:300], answer, alone[index])
    assert any(isinstance(answer, str) for answer in alone)
    assert any(len(answer) == 4 for answer in alone if not isinstance(answer, str))


def share(quick: accelerator.Quick, bodies: list[bytes]) -> None:
    """Ask every body from each caller; those that wait for a run share the next one."""

    def call(number: int) -> list[tuple[int, Any]]:
        order = list(range(len(bodies)))
        random.Random(number).shuffle(order)
        return [(index, seen(quick.answer(bodies[index], -1))) for index in order]

    assert quick.shares_runs
    with ThreadPoolExecutor(CALLERS) as pool:
        answers = [pair for caller in pool.map(call, range(CALLERS)) for pair in caller]
    alone = [seen(quick.answer(body, -1)) for body in bodies]
    assert [bodies[index] for index, answer in answers if answer != alone[index]] == []


def clean(native: str) -> None:
    """All that a server does at once."""
    for name in ("types", "unlike"):
        share(serve(build() / name, native, BATCH_ROWS="8"), Writer(build() / name, "shared").bodies(rounds(80)))
    for name in MODELS:
        quick = serve(build() / name, native)
        together(quick, Writer(build() / name, "races").bodies(rounds(80)))
        if name == "types":
            together(quick, infers(rounds(80)), infer=True)
            together(quick, large(20))
    quick = serve(EMBEDDED, native)
    examples = [json.dumps(example).encode() for example in json.loads(EXAMPLES.read_bytes()).values()]
    together(quick, [*examples, *(example[:-2] for example in examples)], rounds=10)
    twin(native)


def twin(native: str) -> None:
    """Twins: callers take turns at a few compiled models, which are made while others run."""
    for name in TWINS:
        quick = serve(twins.build() / name, native, THREADS=str(CALLERS))
        assert not quick.reason
        plain = [plain_body(twins.build() / name, key, rows) for key in quick.names for rows in (1, 5, 2)]
        fails = [b'{"signature_name":"looked_up","inputs":[%d]}' % key for key in (1, 9)]  # a run of "rows"
        together(quick, [*plain, *fails, *Writer(twins.build() / name, "races").bodies(rounds(80))])


def race(native: str) -> None:
    """A race on purpose, in what the extension writes: all callers have one note."""
    quick = serve(build() / "types", native)
    note = ctypes.create_string_buffer(512)
    body = b'{"inputs":[%b]}' % b",".join([b"1.5"] * 2000)

    def call(_: int) -> None:
        for _ in range(200):
            quick.predict(body, ctypes.addressof(note))

    with ThreadPoolExecutor(CALLERS) as pool:
        list(pool.map(call, range(CALLERS)))


def extension(folder: Path) -> Path:
    """Compile the extension for ThreadSanitizer into a folder; raise Refused."""
    return sanitizers.extension(sanitizers.THREAD, folder)


def run(check: str, native: Path) -> "subprocess.CompletedProcess[str]":
    """Run a check of what ThreadSanitizer watches in a process of its own; its status is 66 for a race. Raise Refused."""
    build(), twins.build()  # here: what makes them is not to be watched
    command = [sys.executable, "-m", "tests.pipeline.native.races", str(native), check]
    environment = sanitizers.environment(sanitizers.THREAD)
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


if __name__ == "__main__":
    {"clean": clean, "twin": twin, "race": race}[sys.argv[2]](sys.argv[1])
    print("done")
