"""A page of figures: a heading, where and with what was measured, tables and remarks."""

from collections.abc import Iterable, Mapping

from bench.models import ROOT

PAGES = ROOT / "docs" / "benchmarks"

Rows = list[list[str]]  # a table, its headings first
Part = str | Rows  # a paragraph or a table


def publish(name: str, title: str, about: Mapping[str, str], parts: Iterable[Part]) -> None:
    """Write docs/benchmarks/NAME and print its tables."""
    parts, file = list(parts), PAGES / name
    facts = "\n".join(f"- {key}: {value}" for key, value in about.items())
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n\n".join([f"# {title}", facts, *map(markdown, parts)]) + "\n")
    print("\n\n".join([facts, *map(terminal, parts)]) + f"\n\nwritten: {file.relative_to(ROOT)}", flush=True)


def markdown(part: Part) -> str:
    if isinstance(part, str):
        return part
    heading, *rest = ["| " + " | ".join(row) + " |" for row in part]
    return "\n".join([heading, "| " + " | ".join("---" for _ in part[0]) + " |", *rest])


def terminal(part: Part) -> str:
    if isinstance(part, str):
        return part
    widths = [max(map(len, column)) for column in zip(*part, strict=True)]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in part]
    return "\n".join(line.rstrip() for line in lines)


def word(met: bool) -> str:
    return "met" if met else "MISSED"


def fraction(value: float) -> str:
    """Write a ratio so that it can be read: 1/4.0, 0.75, 9.1."""
    return f"1/{1 / value:.1f}" if 0 < value < 0.5 else f"{value:.2f}"
