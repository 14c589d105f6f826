"""The distributions that requirement files name, and their requirements."""

import re
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import Distribution
from pathlib import Path

from tools.image.elf import Refused


def normal(name: str) -> str:
    """Return a distribution's normalized name (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def distribution_of(requirement: str) -> str:
    """Return the normalized name of the distribution that a line of requirements names; raise Refused."""
    match = re.match(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)", requirement)
    if match is None:
        raise Refused(f"not a requirement: {requirement!r}")
    return normal(match[1])


def named(requirements: Iterable[Path]) -> Iterator[tuple[str, str]]:
    """Yield the distributions that requirement files name, with the line of each."""
    for file in requirements:
        for line in file.read_text().splitlines():
            if line and not line.startswith(("#", "-")):
                yield distribution_of(line), line


def with_requirements(names: set[str], installed: Mapping[str, Distribution]) -> set[str]:
    """Add what the distributions require, extras apart, where it is installed."""
    closure: set[str] = set()
    pending = set(names)
    while pending:
        name = pending.pop()
        closure.add(name)
        for line in installed[name].requires or ():
            requirement = distribution_of(line)
            if requirement in installed and not re.search(r"\bextra\s*==", line):
                pending |= {requirement} - closure
    return closure
