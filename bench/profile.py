"""Where the time goes, as two pictures: `python -m bench.profile`.

cold_start.png   from the start of the process to the first right answer, phase by phase, of each way of serving
request.png      one request on the fast door, step by step
"""

import argparse
import re
import time
from statistics import median
from textwrap import fill
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from bench.client import post
from bench.compiled import compile_all
from bench.forms import Body, Input, binary
from bench.machine import about
from bench.measure import CORES, LOAD, SERVER, first_right_answer, started, under_load
from bench.models import CACHE, PLANS, ROOT, Model, load
from bench.page import publish
from bench.prepared import Skipped
from bench.process import Failed, Running
from bench.report import Rows
from bench.steps import STEPS, split
from bench.subjects import BY_NAME, Subject, free_port

Parts = dict[str, float]  # milliseconds of a start, microseconds of a request; in order

# fmt: off
PHASES = {  # of a cold start: what the function calls it → what a reader sees, and its colour
    "interpreter": ("Python, functions-framework",            "#9aa5b1"),
    "imports":     ("imports",                                "#d9a441"),
    "library":     ("TensorFlow opened (naive: imported)",    "#e36f1e"),
    "model":       ("model loaded",                           "#1f6feb"),
    "run":         ("first run",                              "#6f42c1"),
    "rest":        ("fork, first request, answer",            "#2da44e"),
}
SHADES = {  # of a request
    "Granian":        "#9aa5b1",
    "route, headers": "#d9a441",
    "read body":      "#f0cf65",
    "parse":          "#79b8ff",
    "decode":         "#1f6feb",
    "check":          "#5c6b7a",
    "tensors in":     "#e5a3ff",
    "TF_SessionRun":  "#6f42c1",
    "tensors out":    "#b08be0",
    "encode":         "#2da44e",
    "threads, body":  "#e36f1e",
}
# fmt: on
MEANING = {
    "Granian": "answering two bytes takes this",
    "route, headers": "the WSGI door around the rest",
    "check": "the signature, what is around the calls into C",
    "threads, body": "what the server takes beyond all that",
}
SETTLE = 1.0  # seconds in which a server answers what the load before has left
STARTED = ("naive", "ours", "fast", "bound", "baked")


def cold_start(subject: Subject, model: Model) -> Parts:
    """Start once; give the phases that the subject tells of, and the rest."""
    port = free_port()
    with started(subject, model, port, set(CORES)) as process:
        request = post(port, subject.path, model.request_file.read_bytes())
        head = first_right_answer(process, port, request, subject, model)
        whole = 1000 * (time.perf_counter() - process.started)
        told = told_by_header(head.decode()) or told_by_print(process)
    known = sum(told[phase] for phase in told if phase != "rest")
    return {**told, "rest": max(whole - known, 0.0)}


def told_by_header(head: str) -> Parts:
    """Read `Server-Timing: interpreter;dur=20.0, imports;dur=91.2, ...`."""
    line = re.search(r"(?im)^server-timing: (.*)$", head)
    found = re.findall(r"([a-z]+);dur=([0-9.]+)", line[1]) if line else []
    return {phase: float(value) for phase, value in found if phase in PHASES}


def told_by_print(process: Running) -> Parts:
    """Read the naive function's own prints: `phase library ended at 12.34`, on the clock of this process."""
    found, before = {}, process.started
    for phase, stamp in re.findall(r"(?m)^phase ([a-z]+) ended at ([0-9.]+)", process.log.read_text(errors="replace")):
        found[phase] = 1000 * (float(stamp) - before)
        before = float(stamp)
    return found


def medians(samples: list[Parts]) -> Parts:
    keys = list(dict.fromkeys(key for sample in samples for key in sample))
    return {key: median([sample.get(key, 0.0) for sample in samples]) for key in keys}


def stacked(axes: Axes, bars: dict[str, Parts], colours: dict[str, str], form: str) -> None:
    longest = max(sum(parts.values()) for parts in bars.values())
    for place, parts in enumerate(bars.values()):
        left = 0.0
        for key, colour in colours.items():
            width = parts.get(key, 0.0)
            axes.barh(-place, width, left=left, color=colour, height=0.62, edgecolor="white", linewidth=0.6)
            if width > 0.05 * longest:
                label = form.format(width)
                axes.text(left + width / 2, -place, label, ha="center", va="center", fontsize=9, color=ink(colour))
            left += width
        axes.text(left + 0.01 * longest, -place, form.format(left), va="center", fontsize=11, weight="bold")
    axes.set_yticks([-place for place in range(len(bars))], [fill(name, 24) for name in bars], fontsize=11)
    axes.set_xlim(0, 1.06 * longest)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)


def ink(colour: str) -> str:
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return "white" if 0.3 * red + 0.59 * green + 0.11 * blue < 140 else "black"


def draw_starts(bars: dict[str, dict[str, Parts]], facts: dict[str, str]) -> None:
    figure, grid = plt.subplots(
        len(bars), 1, figsize=(13, 1.6 + 0.62 * sum(len(one) + 1 for one in bars.values())), layout="constrained",
        squeeze=False, height_ratios=[len(one) + 1 for one in bars.values()],
    )  # fmt: skip
    for axes, (title, one) in zip(grid.flat, bars.items(), strict=True):
        stacked(axes, one, {phase: colour for phase, (_, colour) in PHASES.items()}, "{:.0f}")
        axes.set_title(title, fontsize=11, loc="left")
    grid.flat[-1].set_xlabel("milliseconds from the start of the process to the first right answer")
    save(figure, "cold_start.png", "What a cold start is made of", facts, dict(PHASES.values()))


def draw_requests(bars: dict[str, Parts], facts: dict[str, str]) -> None:
    figure, grid = plt.subplots(len(bars), 1, figsize=(13, 2.6 + 1.15 * len(bars)), layout="constrained", squeeze=False)
    for axes, (name, parts) in zip(grid.flat, bars.items(), strict=True):
        stacked(axes, {name: parts}, SHADES, "{:.0f}")
    grid.flat[-1].set_xlabel("microseconds of CPU; each bar has a scale of its own")
    shown = {f"{step}: {MEANING[step]}" if step in MEANING else step: colour for step, colour in SHADES.items()
             if any(step in parts for parts in bars.values())}  # fmt: skip
    save(figure, "request.png", "One request on the fast door, where every microsecond goes", facts, shown)


def save(figure: Any, name: str, title: str, facts: dict[str, str], legend: dict[str, str]) -> None:
    handles = [Patch(color=colour, label=label) for label, colour in legend.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=10)
    figure.suptitle(f"{title}\n{facts['machine']} · {facts['date']}", fontsize=13)
    figure.savefig(ROOT / "bench" / name, dpi=110, bbox_inches="tight")
    plt.close(figure)


def table(bars: dict[str, Parts], keys: list[str], form: str) -> Rows:
    rows = [["", *keys, "sum"]]
    for name, parts in bars.items():
        cells = [form.format(parts[key]) if key in parts else "-" for key in keys]
        rows.append([name, *cells, form.format(sum(parts.values()))])
    return rows


def starts(models: list[Model], repeat: int) -> dict[str, dict[str, Parts]]:
    samples: dict[str, dict[str, list[Parts]]] = {model.name: {} for model in models}
    skipped: set[tuple[str, str]] = set()
    for _ in range(repeat):
        for model in models:
            for name in STARTED:
                if (model.name, name) in skipped:
                    continue
                try:
                    BY_NAME[name].settings(model)
                    samples[model.name].setdefault(name, []).append(cold_start(BY_NAME[name], model))
                except (Skipped, Failed) as problem:
                    skipped.add((model.name, name))
                    print(f"{model.name} {name} is left out: {problem}", flush=True)
    titles = {model.name: PLANS[model.name].title for model in models}
    return {
        titles[name]: {subject: medians(some) for subject, some in found.items()} for name, found in samples.items()
    }


def requests(models: list[Model], repeat: int, seconds: float) -> dict[str, Parts]:
    """Take turns with every kind of request; the whole on the server is measured beside its steps."""
    fast, quick, two_bytes = BY_NAME["fast"], BY_NAME["quick"], BY_NAME["two_bytes"]
    small = models[0]
    bodies = [
        (f"{PLANS[model.name].title}{'' if subject is fast else ', accelerated'}", model,
         Body(fast.path, model.request_file.read_bytes()), subject)
        for model in models for subject in (fast, quick)
    ]  # fmt: skip
    if small.rows:
        inputs = np.load(small.rows.file)["inputs"][:1]
        row = binary(Input(small.rows.input, inputs, small.rows.signature))
        bodies[2:2] = [
            (f"the same, v2 binary{'' if subject is fast else ', accelerated'}", small, row, subject)
            for subject in (fast, quick)
        ]
    samples: dict[str, list[Parts]] = {}
    for _ in range(repeat):
        least = cpu_us(two_bytes, small, bodies[0][2], seconds * small.plan.seconds)
        for name, model, body, subject in bodies:
            whole = cpu_us(subject, model, body, seconds * model.plan.seconds)
            settings = {"MODEL_DIR": str(model.saved_model), "INTRA_OP_THREADS": "1", **subject.settings(model)}
            steps = split(settings, body, seconds, {SERVER})
            parts = {"Granian": least, **{step: steps[step] for step in STEPS}}
            parts["threads, body"] = max(whole - sum(parts.values()), 0.0)
            samples.setdefault(name, []).append(parts)
    return {name: medians(some) for name, some in samples.items()}


def cpu_us(subject: Subject, model: Model, body: Body, seconds: float) -> float:
    """Give the CPU microseconds that a server on one core takes for a request, of 16 connections."""
    port, file = free_port(), CACHE / "profile.body"
    file.write_bytes(body.content)
    with started(subject, model, port, {SERVER}) as process:
        request = post(port, subject.path, model.request_file.read_bytes())
        first_right_answer(process, port, request, subject, model)
        under_load(process, port, body.path, file, seconds / 2, {LOAD}, body.headers)
        time.sleep(SETTLE)
        found = under_load(process, port, body.path, file, seconds, {LOAD}, body.headers)
    return 1e6 / found["requests_per_cpu_second"]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.profile", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeat", type=int, default=5, help="repetitions, interleaved (default 5)")
    parser.add_argument(
        "--seconds",
        type=float,
        default=1.0,
        help="for each kind of request (default 1); under load twice that, or more",
    )
    parser.add_argument("--models", nargs="+", choices=PLANS, default=["mlp", "digits", "mobilenet"])
    options = parser.parse_args()
    compile_all()
    facts = about(options.repeat, "python -m bench.profile")
    models = [load(name, print) for name in options.models]
    cold = starts(models, options.repeat)
    draw_starts(cold, facts)
    steps = requests(models, options.repeat, options.seconds)
    draw_requests(steps, facts)
    parts: list[Any] = []
    for title, bars in cold.items():
        parts += [f"## A cold start: {title}", "Milliseconds.", table(bars, list(PHASES), "{:.0f}")]
    parts += ["![Cold starts as bars](cold_start.png)", "## One request on the fast door", "Microseconds of CPU.",
              table(steps, list(SHADES), "{:.1f}"), "![A request as bars](request.png)",
              "\n".join(f"- {step}: {meaning}" for step, meaning in MEANING.items())]  # fmt: skip
    publish("PROFILE.md", "Where the time goes", facts, parts)


if __name__ == "__main__":
    main()
