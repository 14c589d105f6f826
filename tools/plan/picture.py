"""A plan as a picture: traffic, instances and latency over time, and the cost of each alternative."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from tools.plan.outcome import BUCKETS, percentile
from tools.plan.plan import Plan
from tools.plan.report import name, number

COLOURS = ("#1f6feb", "#e36f1e", "#2da44e", "#6f42c1", "#9aa5b1")


def draw(plan: Plan, file: Path) -> None:
    """Write the picture in the format of the file's suffix."""
    figure, grid = plt.subplots(2, 2, figsize=(14, 8), layout="constrained")
    unit, long = ("h", 3600.0) if plan.traffic.seconds >= 3600 else ("s", 1.0)
    times = (np.arange(BUCKETS) + 0.5) / BUCKETS * plan.traffic.seconds / long
    line = plan.proposed.outcome.timeline

    _over_time(grid[0, 0], "Requests/s", unit)
    grid[0, 0].fill_between(times, line.requests / line.seconds, color=COLOURS[0], alpha=0.35, linewidth=0)

    _over_time(grid[0, 1], "Instances", unit)
    drawn: set[tuple[int, int]] = set()
    for choice in plan.choices:
        service = choice.service
        if (service.least, service.concurrency) not in drawn:
            colour = COLOURS[len(drawn) % len(COLOURS)]
            drawn.add((service.least, service.concurrency))
            label = f"min {service.least}, concurrency {service.concurrency}"
            grid[0, 1].plot(times, choice.outcome.timeline.instances, color=colour, label=label, linewidth=1.2)
    grid[0, 1].legend(frameon=False)

    _over_time(grid[1, 0], "Latency as proposed, ms", unit)
    for (label, at), colour in zip({"p50": 0.5, "p95": 0.95, "p99": 0.99}.items(), COLOURS):
        quantiles = [percentile(counts, at) * 1000 for counts in line.latency]
        grid[1, 0].plot(times, quantiles, color=colour, label=label, linewidth=1.2)
    grid[1, 0].set_yscale("log")
    grid[1, 0].legend(frameon=False)

    _costs(grid[1, 1], plan)
    figure.suptitle(f"{plan.measured.model}: {plan.traffic.label}")
    figure.savefig(file, dpi=110)
    plt.close(figure)


def _over_time(axes: Axes, title: str, unit: str) -> None:
    axes.set_title(title, fontsize=11)
    axes.set_xlabel(unit)
    axes.margins(x=0)
    axes.spines[["top", "right"]].set_visible(False)


def _costs(axes: Axes, plan: Plan) -> None:
    rows = np.arange(len(plan.choices))[::-1]
    values = np.nan_to_num([choice.cost.million for choice in plan.choices])
    axes.barh(rows, values, color=[COLOURS[0 if choice is plan.proposed else 4] for choice in plan.choices])
    for row, value, choice in zip(rows, values, plan.choices):
        label = f"{number(choice.cost.million)}  ({choice.cost.month_free:,.2f} a month)"
        axes.annotate(label, (value, row), (4, 0), textcoords="offset points", va="center")
    axes.set_yticks(rows, [name(choice.service, plan) for choice in plan.choices])
    axes.set_xlim(0, 1.6 * max(values.max(), 1e-9))
    axes.set_title(f"{plan.prices.currency} for a million predictions, before free use", fontsize=11)
    axes.spines[["top", "right", "left"]].set_visible(False)
