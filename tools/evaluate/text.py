"""A report as tables of text."""

from collections.abc import Mapping, Sequence
from typing import Any

MOST_CLASSES = 20  # in a table of the confusion

COUNTS = {
    # count                        the sentence about it
    "predictions_without_label": "predictions without a label",
    "without_key":               "predictions without a key",
    "repeated_keys":             "keys with several predictions, of which the last one counts",
    "contradicting_labels":      "keys with different labels, which are left out",
    "labels_without_prediction": "labels without a prediction",
    "other_lines":               "lines that are no predictions",
}  # fmt: skip


def as_text(report: Mapping[str, Any]) -> str:
    """Return the report as tables."""
    counts = report["counts"]
    of = f" of {report['positive']!r}" if "positive" in report else ""
    lines = [
        f"{counts['joined']} of {counts['predictions']} predictions have a label: signature {report['signature']!r}, "
        f"{report['task']} by {report['output']!r}{of}",
        f"from {report['from'][:19]} to {report['to'][:19]} UTC",
        *(f"  {text}: {counts[name]}" for name, text in COUNTS.items() if counts[name]),
        "",
        *columns([[name.replace("_", " "), number(value)] for name, value in _plain(report["all"]).items()]),
    ]
    if classes := report["all"].get("classes"):
        lines += ["", *columns([
            ["class", "labels", "precision", "recall", "F"],
            *([name, str(of_class["labels"]), *(number(of_class[key]) for key in ("precision", "recall", "f"))]
              for name, of_class in classes.items()),
        ])]  # fmt: skip
    lines += _confusion(report["confusion"])
    if report["calibration"]:
        what = f"of {report['positive']!r}" if "positive" in report else "right"
        lines += ["", *columns([
            ["score", "rows", "mean score", f"share {what}"],
            *([f"{bin['from']:g} - {bin['to']:g}", str(bin["rows"]), number(bin["mean_score"]), number(bin["right"])]
              for bin in report["calibration"]),
        ])]  # fmt: skip
    lines += _groups(report["period"], "from", report["over_time"])
    if len(report["by_model"]) > 1:
        lines += _groups("model", "digest", report["by_model"])
    return "\n".join(lines)


def _plain(measured: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in measured.items() if name not in ("classes", "from", "digest")}


def _confusion(confusion: Mapping[str, Any] | None) -> list[str]:
    if confusion is None:
        return []
    classes, matrix = confusion["classes"], confusion["matrix"]
    if len(classes) > MOST_CLASSES:
        return ["", f"confusion: {len(classes)} classes; --json has the matrix"]
    head = ["label \\ predicted", *classes]
    return ["", *columns([head, *([name, *map(str, row)] for name, row in zip(classes, matrix))])]


def _groups(title: str, field: str, groups: Sequence[Mapping[str, Any]]) -> list[str]:
    names = list(_plain(groups[0]))
    head = [title, *(name.replace("_", " ") for name in names)]
    return [
        "",
        *columns([head, *([group[field][:16], *(number(group.get(name)) for name in names)] for group in groups)]),
    ]


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows of texts as lines, the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))]).rstrip()
        for row in rows
    ]


def number(value: float | None) -> str:
    """Return a measure with four digits, - where it is not defined."""
    return "-" if value is None else str(value) if isinstance(value, int) else f"{value:.4g}"
