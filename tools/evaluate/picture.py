"""A report as a picture: the measures over time, the calibration, the confusion."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

MOST_NUMBERS = 15  # classes of a confusion whose numbers are written


def draw(report: Mapping[str, Any], file: Path) -> None:
    """Write the picture in the format of the file's suffix; raise ValueError for an unknown one, and OSError."""
    parts = [_over_time]
    parts += [_calibration] if report["calibration"] else []
    parts += [_confusion] if report["confusion"] else []
    figure, grid = plt.subplots(1, len(parts), figsize=(6 * len(parts), 5), layout="constrained", squeeze=False)
    for part, axes in zip(parts, grid[0]):
        part(report, axes)
    figure.suptitle(f"{report['signature']}: {report['counts']['joined']} predictions with labels")
    try:
        figure.savefig(file)
    finally:
        plt.close(figure)


def _over_time(report: Mapping[str, Any], axes: Axes) -> None:
    periods = report["over_time"]
    regression = report["task"] == "regression"
    names = ["mean_absolute_error"] if regression else ["accuracy", "precision", "recall", "f"]
    times = [period["from"] for period in periods]
    for name in names:
        values = [float("nan") if period[name] is None else period[name] for period in periods]
        axes.plot(times, values, marker="o", label=name.replace("_", " "))
    axes.tick_params(axis="x", rotation=45)
    axes.set_ylim(0, None if regression else 1.02)
    axes.set_title(f"by {report['period']}")
    axes.legend(frameon=False)


def _calibration(report: Mapping[str, Any], axes: Axes) -> None:
    bins = report["calibration"]
    axes.plot([0, 1], [0, 1], color="#9aa5b1", linewidth=1)
    axes.plot([bin["mean_score"] for bin in bins], [bin["right"] for bin in bins], marker="o")
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="mean score", ylabel="share that is right", title="calibration")


def _confusion(report: Mapping[str, Any], axes: Axes) -> None:
    classes, matrix = report["confusion"]["classes"], report["confusion"]["matrix"]
    axes.imshow(matrix, cmap="Blues")
    if len(classes) <= MOST_NUMBERS:
        axes.set_xticks(range(len(classes)), classes, rotation=45)
        axes.set_yticks(range(len(classes)), classes)
        largest = max(max(row) for row in matrix)
        for row, counts in enumerate(matrix):
            for column, count in enumerate(counts):
                colour = "white" if count > largest / 2 else "black"
                axes.text(column, row, str(count), ha="center", va="center", color=colour)
    axes.set(xlabel="predicted", ylabel="label", title="confusion")
