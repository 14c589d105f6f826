"""The result of an audit, as values, as text and as JSON; and the progress of long work."""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from exporting.trial import VERDICTS, Trial

# fmt: off
KINDS = {  # kind → (says no, what it is)
    "state":        (True,  "writes state"),
    "random":       (True,  "random"),
    "files":        (True,  "files"),
    "network":      (True,  "network"),
    "python":       (True,  "Python"),
    "unknown":      (True,  "not on the list of pure operations"),
    "unregistered": (True,  "cannot run here"),
    "outside":      (True,  "outside the folder"),
    "missing":      (True,  "missing"),
    "tried":        (True,  "tried"),
    "training":     (False, "training state"),
    "prints":       (False, "prints"),
    "custom":       (False, "custom operation"),
    "rank":         (False, "cannot be checked"),
    "signature":    (False, "cannot be called"),
    "unused":       (False, "unused"),
}
# fmt: on


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding; `says_no` if the model is not a pure function because of it."""

    kind: str  # a key of KINDS
    text: str
    signature: str | None = None
    op: str | None = None
    node: str | None = None
    function: str | None = None
    variable: str | None = None

    @property
    def says_no(self) -> bool:
        return KINDS[self.kind][0]


@dataclass(frozen=True, slots=True)
class Cost:
    """The parts that make a start of the model expensive."""

    variables: int
    variable_bytes: int
    functions: int
    nodes: int
    reached_nodes: int  # by signatures and by loading
    file_bytes: int


@dataclass(frozen=True, slots=True)
class Report:
    """The audit of one SavedModel."""

    directory: Path
    tags: tuple[str, ...]
    tensorflow_version: str
    signatures: tuple[str, ...]
    baked: bool
    findings: tuple[Finding, ...]
    cost: Cost
    trials: tuple[Trial, ...] | None  # None: not tried

    @property
    def pure(self) -> bool:
        """Return whether no finding says no."""
        return not any(finding.says_no for finding in self.findings)


def as_json(report: Report) -> str:
    """Return the report as JSON."""
    fields = {"pure": report.pure} | asdict(report) | {"directory": str(report.directory)}
    fields["findings"] = [{"says_no": finding.says_no} | asdict(finding) for finding in report.findings]
    return json.dumps(fields, indent=2, default=str)


def as_text(report: Report) -> str:
    """Return the report for people."""
    return "\n".join(_lines(report))


def _lines(report: Report) -> Iterator[str]:
    against = [finding for finding in report.findings if finding.says_no]
    verdict = "a pure function" if report.pure else f"not a pure function, for {_count(len(against), 'reason')}"
    yield f"{report.directory}: {verdict}"
    for finding in against:
        yield f"  no    {KINDS[finding.kind][1]}: {finding.text}"
    for finding in report.findings:
        if not finding.says_no:
            yield f"  note  {KINDS[finding.kind][1]}: {finding.text}"
    for trial in report.trials or ():
        if trial.verdict in ("same", "refused"):
            yield f"  tried {trial.signature}: {VERDICTS[trial.verdict]} ({trial.detail})"
    if report.trials is None:
        yield "  not tried"
    cost = report.cost
    yield (
        f"  start {_count(cost.variables, 'variable')} of {size(cost.variable_bytes)}, "
        f"{_count(cost.functions, 'function')}, {_count(cost.nodes, 'node')} of which {cost.reached_nodes:,} are "
        f"needed, {size(cost.file_bytes)} of files{', baked' if report.baked else ''}"
    )


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def progress(command: str, text: str) -> None:
    """Print the current step, where that does not mix with the output."""
    print(f"{command}: {text}", file=sys.stderr, flush=True)


def size(number: int) -> str:
    """Return a number of bytes as text."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= scale:
            return f"{number / scale:.3g} {unit}"
    return f"{number} bytes"
