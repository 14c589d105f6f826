"""Predictions a second on one machine, the load included: `python -m bench.million`.

Rows come in batches, as binary tensors of the Open Inference Protocol, and each request is answered before its
connection sends the next. Server and load share all cores. Answers are compared with those of TensorFlow's Python
API before the load and after it.
"""

import argparse
import sys
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from bench import environments
from bench.environments import Unavailable
from bench.forms import Body, Input, binary
from bench.machine import about
from bench.measure import CORES, first_right_answer, started, under_load
from bench.models import CACHE, PLANS, Model, load
from bench.page import Rows, publish
from bench.process import Failed, Running
from bench.subjects import BY_NAME
from exporting.compare import TOLERANCE, difference
from tools.client import ask, connect, post
from tools.server import free_port

BATCHES = (64, 1024, 4096)
CHECKED = 16  # answers, before the load and after it

Array = np.ndarray[Any, Any]


class Way(NamedTuple):
    """How many of what serve."""

    workers: int
    threads: int
    intra_op: int

    def __str__(self) -> str:
        return f"{self.workers} / {self.threads} / {self.intra_op}"

    def settings(self) -> dict[str, str]:
        return {"WORKERS": str(self.workers), "THREADS": str(self.threads), "INTRA_OP_THREADS": str(self.intra_op)}


WAYS = (Way(1, 1, 1), Way(1, 2, 1), Way(1, 1, 2), Way(2, 1, 1), Way(2, 2, 1))

Rates = dict[tuple[str, str, int], dict[Way, float]]  # model, subject and rows a request → way → rows a second


def body_of(model: Model, inputs: Array) -> Body:
    assert model.rows
    return binary(Input(model.rows.input, inputs, model.rows.signature, (model.rows.output,)))


def measure(name: str, model: Model, way: Way, batch: int, seconds: float) -> float:
    """Return the rows a second of one start with one size of batch; raise Failed at a wrong answer."""
    assert model.rows
    arrays, port, subject = np.load(model.rows.file), free_port(), BY_NAME[name]
    inputs, outputs = arrays["inputs"], arrays["outputs"]
    with started(subject, model, port, set(CORES), way.settings()) as process:
        request = post(port, subject.path, model.request_file.read_bytes())
        first_right_answer(process, port, request, lambda body: subject.answers(model, body))
        body, file = body_of(model, inputs[:batch]), CACHE / f"{model.name}-{batch}.bin"
        file.write_bytes(body.content)
        check(process, port, model, batch, inputs, outputs)
        loaded = under_load(
            process, port, body.path, file, seconds, frozenset(CORES), connections=16, headers=body.headers
        )
        check(process, port, model, batch, inputs, outputs)
        return batch * loaded["requests_per_second"]


def check(process: Running, port: int, model: Model, batch: int, inputs: Array, outputs: Array) -> None:
    """Ask for different rows each time; the asked output is the end of the body."""
    assert model.rows
    for turn in range(CHECKED):
        start = turn * (len(inputs) - batch) // CHECKED
        body = body_of(model, inputs[start : start + batch])
        with connect(port) as connection:
            answer = ask(connection, post(port, body.path, body.content, body.headers))
        wanted = outputs[start : start + batch]
        got = np.frombuffer(answer[-wanted.nbytes :], wanted.dtype).reshape(wanted.shape)
        if problem := difference({model.rows.output: wanted}, {model.rows.output: got}, TOLERANCE)[1]:
            raise process.failed(f"wrong answers for the rows from {start} on: {problem}")


def table(rates: Rates) -> Rows:
    rows = [["model", "subject", "rows a request", *(str(way) for way in WAYS)]]
    for (model, name, batch), ways in rates.items():
        rows.append([model, name, str(batch), *(f"{ways[way]:,.0f}" for way in WAYS)])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.million", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=3.0, help="of load for each cell (default 3)")
    parser.add_argument("--models", nargs="+", choices=PLANS, default=["mlp", "digits"])
    parser.add_argument("--subjects", nargs="+", choices=BY_NAME, default=["fast", "baked"])
    parser.add_argument("--batches", nargs="+", type=int, default=list(BATCHES))
    options = parser.parse_args()
    environments.alone()
    models = [load(name, print) for name in options.models]
    if unfit := [model.name for model in models if model.rows is None]:
        sys.exit(f"bench.million: {', '.join(unfit)} has no signature that takes small rows")
    facts, rates = about("1", "python -m bench.million"), Rates()
    try:
        environments.upload()
        for name in options.subjects:
            environments.make(BY_NAME[name].environment, print)
        for model, name, batch, way in product(models, options.subjects, options.batches, WAYS):
            rate = measure(name, model, way, batch, options.seconds)
            rates.setdefault((model.name, name, batch), {})[way] = rate
            print(f"{model.name} {name} {batch} rows, {way}: {rate:,.0f}/s", flush=True)
    except (Unavailable, Failed) as problem:
        sys.exit(f"bench.million: {problem}")
    best = {
        model.name: max(rate for key, ways in rates.items() if key[0] == model.name for rate in ways.values())
        for model in models
    }
    publish("million.md", "Predictions a second", facts, [
        " ".join((__doc__ or "").split("\n\n", 1)[1].split()),
        "\n".join(f"- {PLANS[name].title.partition(',')[0]}: {rate:,.0f} predictions a second at best" for name, rate in best.items()),
        "Rows a second; the columns are workers / threads of each / threads for one operation.",
        table(rates),
    ])  # fmt: skip


if __name__ == "__main__":
    main()
