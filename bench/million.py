"""Predictions a second on one machine, the load included: `python -m bench.million`.

Rows come in batches, as binary tensors of the Open Inference Protocol, and each request is answered before its
connection sends the next. Server and load share all cores. Answers are compared with those of TensorFlow's Python
API before the load and after it.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from bench.client import ask, connect, post
from bench.compiled import compile_all
from bench.forms import Body, Input, binary
from bench.machine import about
from bench.measure import CORES, first_right_answer, started, under_load
from bench.models import CACHE, PLANS, TOLERANCE, Model, load
from bench.page import publish
from bench.prepared import Skipped
from bench.process import Failed, Running
from bench.report import Rows
from bench.steps import STEPS, split
from bench.subjects import BY_NAME, Subject, free_port

BATCHES = (64, 256, 1024, 4096, 16384)
CHECKED = 16  # answers, before the load and after it
WANTED = 1_000_000

Array = np.ndarray[Any, Any]


class Way(NamedTuple):
    """How many of what serve."""

    workers: int
    threads: int
    intra: int

    def __str__(self) -> str:
        return f"{self.workers} / {self.threads} / {self.intra}"


WAYS = (Way(1, 1, 1), Way(1, 2, 1), Way(1, 1, 2), Way(2, 1, 1), Way(2, 2, 1))


class Found(NamedTuple):
    rows_per_second: float
    cpu_us: float  # of the server, for each request
    idle_share: float


Table = dict[tuple[str, str, int], dict[Way, Found]]  # model, subject and rows a request → way → what was found


def served(name: str, model: Model, way: Way) -> Subject:
    """Give a subject that serves in this way."""
    subject = BY_NAME[name]
    settings = {"WORKERS": str(way.workers), "THREADS": str(way.threads), "INTRA_OP_THREADS": str(way.intra)}
    told = subject.settings(model) | settings
    return replace(subject, settings=lambda _: told)


def body_of(model: Model, inputs: Array) -> Body:
    assert model.rows
    return binary(Input(model.rows.input, inputs, model.rows.signature, (model.rows.output,)))


def measure(name: str, model: Model, way: Way, batches: list[int], seconds: float) -> Iterator[tuple[int, Found]]:
    """Start a server and give what it does with each size of batch; raise Failed at a wrong answer."""
    assert model.rows
    arrays, port, subject = np.load(model.rows.file), free_port(), served(name, model, way)
    inputs, outputs = arrays["inputs"], arrays["outputs"]
    with started(subject, model, port, set(CORES)) as process:
        request = post(port, subject.path, model.request_file.read_bytes())
        first_right_answer(process, port, request, subject, model)
        for batch in batches:
            body, file = body_of(model, inputs[:batch]), CACHE / f"{model.name}-{batch}.bin"
            file.write_bytes(body.content)
            check(process, port, model, batch, inputs, outputs)
            loaded = under_load(process, port, body.path, file, seconds, set(CORES), body.headers)
            check(process, port, model, batch, inputs, outputs)
            rate, each = loaded["requests_per_second"], 1e6 / loaded["requests_per_cpu_second"]
            yield batch, Found(batch * rate, each, loaded["idle_share"])


def check(process: Running, port: int, model: Model, batch: int, inputs: Array, outputs: Array) -> None:
    """Ask for different rows each time; the asked output is the end of the body."""
    for turn in range(CHECKED):
        start = turn * (len(inputs) - batch) // CHECKED
        body = body_of(model, inputs[start : start + batch])
        with connect(port) as connection:
            answer = ask(connection, post(port, body.path, body.content, body.headers))
        wanted = outputs[start : start + batch]
        got = np.frombuffer(answer[-wanted.nbytes :], wanted.dtype).reshape(wanted.shape)
        if not np.allclose(got, wanted, rtol=0, atol=TOLERANCE * np.abs(wanted).max()):
            raise process.failed(f"wrong answers for the rows from {start} on")


def sweep(names: list[str], models: list[Model], batches: list[int], seconds: float) -> Table:
    found: Table = {(model.name, name, batch): {} for model in models for name in names for batch in batches}
    for model, name, way in product(models, names, WAYS):
        try:
            for batch, one in measure(name, model, way, batches, seconds):
                found[model.name, name, batch][way] = one
                print(f"{model.name} {name} {batch} rows, {way}: {one.rows_per_second:,.0f}/s", flush=True)
        except (Skipped, Failed) as problem:
            print(f"{model.name} {name} {way} is left out: {problem}", flush=True)
    return {key: ways for key, ways in found.items() if ways}


def rates(found: Table) -> Rows:
    table = [["model", "served", "rows a request", *(str(way) for way in WAYS), "best, MB/s in"]]
    for (model, name, batch), ways in found.items():
        best = max(ways.values(), key=lambda one: one.rows_per_second)
        megabytes = best.rows_per_second * 64 * 4 / 1e6
        cells = [f"{ways[way].rows_per_second:,.0f}" if way in ways else "-" for way in WAYS]
        table.append([model, name, str(batch), *cells, f"{megabytes:.0f}"])
    return table


PARTS = {  # of the server's CPU time for a request
    "TF_SessionRun": ("TF_SessionRun",),
    "tensors in and out": ("tensors in", "tensors out"),
    "decode, encode": ("parse", "decode", "encode"),
    "route, check, read": ("route, headers", "read body", "check"),
}
assert {step for steps in PARTS.values() for step in steps} == set(STEPS)


def limits(found: Table, models: dict[str, Model], seconds: float) -> Rows:
    """Say where the server's time goes in the best way of each batch: the steps in one thread, HTTP what is left."""
    table = [
        [
            "model",
            "served",
            "rows a request",
            "best way",
            "CPU µs a request",
            *PARTS,
            "HTTP, Granian, waiting for a core",
            "cores idle",
        ]
    ]
    for (name, subject, batch), ways in found.items():
        model = models[name]
        way, best = max(ways.items(), key=lambda item: item[1].rows_per_second)
        assert model.rows
        body = body_of(model, np.load(model.rows.file)["inputs"][:batch])
        told = {"INTRA_OP_THREADS": "1", "MODEL_DIR": str(model.saved_model)} | BY_NAME[subject].settings(model)
        steps = split(told, body, seconds)
        shares = [sum(steps[step] for step in of) / best.cpu_us for of in PARTS.values()]
        table.append([
            name, subject, str(batch), str(way), f"{best.cpu_us:.0f}",
            *(f"{share:.0%}" for share in [*shares, max(1 - sum(shares), 0), best.idle_share]),
        ])  # fmt: skip
    return table


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.million", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=3.0, help="of load for each cell (default 3)")
    parser.add_argument("--models", nargs="+", choices=PLANS, default=["mlp", "digits"])
    parser.add_argument("--subjects", nargs="+", choices=BY_NAME, default=["fast", "baked"])
    parser.add_argument("--batches", nargs="+", type=int, default=list(BATCHES))
    options = parser.parse_args()
    compile_all()
    models = {name: load(name, print) for name in options.models}
    if unfit := [name for name, model in models.items() if model.rows is None]:
        sys.exit(f"bench.million: {', '.join(unfit)} has no signature that takes small rows")
    facts = about(1, "python -m bench.million")
    found = sweep(options.subjects, list(models.values()), options.batches, options.seconds)
    best = {
        name: max((one.rows_per_second for key in found if key[0] == name for one in found[key].values()), default=0.0)
        for name in models
    }
    said = [
        f"{PLANS[name].title.partition(',')[0]}: {rate:,.0f} predictions a second at best: a million is {'reached' if rate >= WANTED else 'not reached'}."
        for name, rate in best.items()
    ]
    publish("MILLION.md", "Predictions a second", facts, [
        " ".join((__doc__ or "").split("\n\n", 1)[1].split()),
        "\n".join(f"- {line}" for line in said),
        "Rows a second; the columns are workers / threads of each / threads for one operation.",
        rates(found),
        "Where the CPU time of the server goes, in the best way of each line:",
        limits(found, models, options.seconds),
    ])  # fmt: skip


if __name__ == "__main__":
    main()
