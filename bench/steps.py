"""Where the time of one request goes, step by step, inside one process and without a server.

    MODEL_DIR=... python -m bench.steps PATH BODY_FILE HEADERS_AS_JSON SECONDS

prints {step: microseconds}: the median of each step without the steps inside it, less what measuring it costs.
`whole` is the median of the plain, unmeasured request.
"""

import io
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from bench.forms import Body
from bench.models import CACHE
from bench.process import clean, output

STEPS = (  # as they come in a request; each without the ones inside it
    "route, headers", "read body", "parse", "decode", "check", "tensors in", "TF_SessionRun", "tensors out", "encode",
)  # fmt: skip


def split(settings: Mapping[str, str], body: Body, seconds: float, cores: set[int] | None = None) -> dict[str, float]:
    """Measure one kind of request in a process of its own, with these settings."""
    file = CACHE / "steps.body"
    file.write_bytes(body.content)
    command = [sys.executable, "-m", "bench.steps", body.path, str(file), json.dumps(dict(body.headers)), str(seconds)]
    found: dict[str, float] = json.loads(output(command, {**clean(), **settings}, cores))
    return found


class Clock:
    """Wraps functions; keeps for each step how long it took in this request, without the steps inside it."""

    def __init__(self) -> None:
        self.taken: dict[str, int] = defaultdict(int)
        self.own = self.around = 0  # nanoseconds that a measurement adds to a step, and to the one that it is inside of
        self._inside = [0]
        self._calibrate()

    def _calibrate(self) -> None:
        def inner() -> None: ...

        wrapped = self.wrap("inner", inner)
        outer = self.wrap("outer", lambda: wrapped())
        plain = self.wrap("plain", lambda: inner())
        samples = []
        for _ in range(2000):
            self.taken.clear()
            outer(), plain()
            samples.append(dict(self.taken))
        medians = {step: int(median(sample[step] for sample in samples)) for step in samples[0]}
        self.own = medians["inner"]
        self.around = max(medians["outer"] - medians["plain"], 0)

    def wrap(self, step: str, function: Callable[..., Any]) -> Callable[..., Any]:
        inside, taken, now = self._inside, self.taken, time.thread_time_ns

        def measured(*arguments: Any, **named: Any) -> Any:
            inside.append(0)
            began = now()
            try:
                return function(*arguments, **named)
            finally:
                lasted = now() - began
                taken[step] += max(lasted - inside.pop() - self.own, 0)
                inside[-1] += lasted + self.around

        return measured

    def note(self, step: str, lasted: int) -> None:
        """Take a step that was measured inside of the innermost one that is being measured."""
        self.taken[step] += lasted
        self._inside[-1] += lasted


def instrument(clock: Clock) -> None:
    """Put the clock around each step of the function."""
    from serving import accelerator, handler, model, settings, tensorflow_c, wsgi
    from serving.protocols import json_tensors, open_inference, tensorflow_serving

    tf = tensorflow_c.api(tensorflow_c.find(settings.current().tensorflow_library_dir))
    places: list[tuple[str, Any, str]] = [
        ("route, headers", wsgi, "app"),
        ("read body", handler, "receive_body"),
        ("parse", json_tensors, "_parse"),
        ("decode", tensorflow_serving, "decode"),
        ("decode", open_inference, "decode"),
        ("check", model.Model, "run"),
        ("tensors in", tensorflow_c, "to_tensor"),
        ("TF_SessionRun", tf, "run_unchecked"),
        ("tensors out", tensorflow_c, "from_tensor"),
        ("encode", tensorflow_serving, "encode"),
        ("encode", open_inference, "encode"),
    ]
    for step, owner, name in places:
        setattr(owner, name, clock.wrap(step, getattr(owner, name)))
    quick = accelerator.of(model.cache().get())
    quick.predict, quick.infer = (clock.wrap("check", accelerated(clock, one)) for one in (quick.predict, quick.infer))


def accelerated(clock: Clock, answer: Callable[..., Any]) -> Callable[..., Any]:
    """Take the steps that the accelerator measures itself."""

    def answered(*arguments: Any) -> Any:
        if found := answer(*arguments):
            *_, decoding, decoded, ran, encoded = found
            clock.note("decode", decoded - decoding)
            clock.note("TF_SessionRun", ran - decoded)
            clock.note("encode", encoded - ran)
        return found

    return answered


def main(path: str, body_file: str, headers: str, seconds: str) -> None:
    from serving import wsgi

    body = Path(body_file).read_bytes()
    environ = {
        "REQUEST_METHOD": "POST", "PATH_INFO": path, "QUERY_STRING": "", "CONTENT_LENGTH": str(len(body)),
        "CONTENT_TYPE": "application/json", "HTTP_HOST": "127.0.0.1",
        **{f"HTTP_{name.upper().replace('-', '_')}": value for name, value in json.loads(headers).items()},
    }  # fmt: skip
    answered: list[str] = []

    def ask() -> int:
        told = {**environ, "wsgi.input": io.BytesIO(body)}
        began = time.thread_time_ns()
        wsgi.app(told, lambda status, _headers: answered.append(status))
        return time.thread_time_ns() - began

    def repeat(lasting: float) -> list[int]:
        end = time.perf_counter() + lasting
        found = []
        while time.perf_counter() < end or len(found) < 5:
            found.append(ask())
        return found

    repeat(0.1 * float(seconds))
    whole = median(repeat(0.3 * float(seconds)))
    clock, samples = Clock(), []
    instrument(clock)
    end = time.perf_counter() + 0.6 * float(seconds)
    while time.perf_counter() < end or len(samples) < 5:
        clock.taken.clear()
        ask()
        samples.append(dict(clock.taken))
    if set(answered) != {"200 OK"}:
        sys.exit(f"not answered: {set(answered)}")

    medians = {step: median(sample.get(step, 0) for sample in samples) for step in STEPS}
    print(json.dumps({"whole": whole / 1000} | {step: value / 1000 for step, value in medians.items()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
