"""The figures as bars: one panel for each measure, lengths as ratios to the naive function, labelled with values."""

from pathlib import Path
from textwrap import fill
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from bench.budgets import ratio
from bench.models import PLANS
from bench.report import MEASURES, REFERENCE, Measure, Results, fraction
from bench.subjects import REFERENCES, SUBJECTS

SHOWN = ("start_seconds", "start_cpu_seconds", "private_mb", "p50_ms", "p99_ms", "requests_per_second")
COLOURS = {
    "naive": "#9aa5b1", "ours": "#79b8ff", "ours_quick": "#a5d0ff", "fast": "#1f6feb",
    "quick": "#0b3d91", "bound": "#6f42c1", "baked": "#2da44e",
    "mosec": "#e36f1e", "constant": "#d9a441", "two_bytes": "#f0cf65", "floor": "#5c6b7a",
}  # fmt: skip
LABEL: Any = {"textcoords": "offset points", "bbox": {"facecolor": "white", "edgecolor": "none", "pad": 0.5}}
UNITS = {"start_seconds": " s", "start_cpu_seconds": " s", "private_mb": " MB", "p50_ms": " ms", "p99_ms": " ms"}


def draw(results: Results, file: Path) -> None:
    measures = [measure for measure in MEASURES if measure.key in SHOWN]
    bars = sum(len(results.samples[model]) + 1 for model in results.samples)
    figure, grid = plt.subplots(2, 3, figsize=(15, 2.4 + 0.46 * bars), layout="constrained", sharey="row")
    for number, axes in enumerate(grid.flat):
        row = measures[number // 3 * 3 :][:3]
        panel(axes, measures[number], results, measured(results, row))
    shown = measured(results, measures)
    titles = {subject.name: subject.title for subject in SUBJECTS}
    figure.legend(
        handles=[Patch(color=colour, label=titles[name]) for name, colour in shown],
        loc="outside lower center",
        ncols=3,
        frameon=False,
    )
    about = results.about
    figure.suptitle(
        f"Bars and brackets: ratios to the naive function\n{about['machine']} · {about['date']}", fontsize=12
    )
    figure.savefig(file, dpi=110)
    plt.close(figure)


def measured(results: Results, row: list[Measure]) -> list[tuple[str, str]]:
    """Give the subjects, each with its colour, that have a bar in this row of panels."""
    known = {
        subject
        for subjects in results.samples.values()
        for subject, values in subjects.items()
        if any(measure.key in values for measure in row)
    }
    return [(subject.name, COLOURS[subject.name]) for subject in SUBJECTS if subject.name in known]


def panel(axes: Axes, measure: Measure, results: Results, subjects: list[tuple[str, str]]) -> None:
    lengths = {
        (model, subject): ratio(medians, subject, measure.key, REFERENCE)
        for model in results.samples
        for medians in [results.medians(model)]
        for subject in medians
    }
    # What serves a model sets the scale; a reference far beyond it is cut, and its label still says how long it is.
    longest = max(
        (length for (_, subject), length in lengths.items() if length and subject not in REFERENCES), default=1
    )

    place, ticks, names = 0.0, [], []
    for model in results.samples:
        medians = results.medians(model)
        top = place
        for subject, colour in subjects:
            if length := lengths.get((model, subject)):
                drawn = min(length, 1.05 * longest)
                value = measure.form.format(medians[subject][measure.key]) + UNITS.get(measure.key, "")
                compared = "" if subject == REFERENCE else f"  ({fraction(length)})"
                axes.barh(place, drawn, color=colour, height=0.84)
                label = f"{'▸ ' if drawn < length else ''}{value}{compared}"
                axes.annotate(label, (drawn, place), (5, 0), fontsize=10, va="center", **LABEL)
            place -= 1
        ticks.append((top + place + 1) / 2)
        names.append(fill(PLANS[model].title, 22))
        place -= 0.7
    axes.axvline(1, color="black", linewidth=0.8, linestyle=":", zorder=0)
    axes.set_xlim(0, 1.5 * longest)
    axes.set_yticks(ticks, names)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=8)
    axes.set_title(f"{measure.title}\n{'longer' if measure.more_is_better else 'shorter'} is better", fontsize=11)
    axes.spines[["top", "right", "left"]].set_visible(False)
