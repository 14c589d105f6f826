"""A page of figures: a heading, where and with what was measured, tables and remarks; and what it prints meanwhile."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from bench.models import ROOT
from bench.report import Rows, aligned, piped

Part = str | Rows  # a paragraph or a table, its headings first


def publish(name: str, title: str, about: Mapping[str, str], parts: Iterable[Part]) -> None:
    """Write bench/NAME and print its tables."""
    parts = list(parts)
    file = ROOT / "bench" / name
    facts = "\n".join(f"- {key}: {value}" for key, value in about.items())
    file.write_text("\n\n".join([f"# {title}", facts, *map(markdown, parts)]) + "\n")
    print("\n\n".join(map(terminal, parts)) + f"\n\nwritten: {relative(file)}", flush=True)


def markdown(part: Part) -> str:
    return part if isinstance(part, str) else "\n".join(piped(part))


def terminal(part: Part) -> str:
    return part if isinstance(part, str) else "\n".join(aligned(part))


def relative(file: Path) -> str:
    return str(file.relative_to(ROOT))


def word(met: bool) -> str:
    return "met" if met else "MISSED"
