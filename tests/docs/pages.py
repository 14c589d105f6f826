"""What the Markdown pages of the repository contain: their links, code blocks and commands."""

import re
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from tests.conftest import ROOT

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
LINK = re.compile(r"\]\(([^)\s]+)\)")
ANSWERS = ("json", "jsonl", "http")  # languages of the blocks that show what the block before them prints


class Example(NamedTuple):
    """A block of shell commands, and the block behind it that shows their output."""

    page: str
    commands: str
    language: str
    output: str


def pages() -> list[Path]:
    """Return every Markdown file that git tracks or would track."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if listed.returncode:  # a copy without git
        hidden = {".venv", ".cache", "node_modules"}
        return sorted(path for path in ROOT.rglob("*.md") if not hidden & set(path.relative_to(ROOT).parts))
    return sorted(ROOT / name for name in set(listed.stdout.splitlines()) if (ROOT / name).is_file())


def written_by_hand() -> list[Path]:
    """Return the pages that speak of this version: not those that record a run of a benchmark, nor the change log."""
    records = {ROOT / "bench", ROOT / "docs" / "benchmarks"}
    return [page for page in pages() if page.name != "CHANGELOG.md" and not records & set(page.parents)]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def links(page: Path) -> list[str]:
    """Return the targets of a page's links, without those in code."""
    text = re.sub(r"`[^`\n]*`", "", FENCE.sub("", page.read_text()))
    return LINK.findall(text)


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ +(.+)$", FENCE.sub("", page.read_text()), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def shell(page: Path) -> str:
    """Return what a page gives to a shell: its blocks of commands, and the commands in a sentence."""
    text = page.read_text()
    blocks = [body for language, body in FENCE.findall(text) if language == "sh"]
    return "\n".join([*blocks, *re.findall(r"`([^`\n]+)`", FENCE.sub("", text))])


def examples(page: Path) -> list[Example]:
    """Return the examples of a page: shell blocks with an output directly behind them."""
    blocks = list(FENCE.finditer(page.read_text()))
    return [
        Example(name(page), first[2], second[1], second[2])
        for first, second in pairwise(blocks)
        if first[1] == "sh" and second[1] in ANSWERS and second.start() - first.end() <= 2
    ]


def python_blocks(page: Path) -> list[str]:
    return [body for language, body in FENCE.findall(page.read_text()) if language == "python"]
