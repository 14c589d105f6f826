"""The figures as text: for the terminal, and as Markdown for RESULTS.md."""

from collections.abc import Iterable
from dataclasses import dataclass
from operator import ge
from statistics import median
from textwrap import fill

from bench.budgets import MODEL, Medians, Verdict, ratio, verdicts
from bench.models import PLANS
from bench.subjects import SUBJECTS

REFERENCE = "naive"
MARGIN = 0.1  # of a core


@dataclass(frozen=True)
class Measure:
    key: str
    title: str
    heading: str
    form: str
    more_is_better: bool = False


# fmt: off
MEASURES = (
    Measure("start_seconds",       "start → first right answer, wall",  "start s",     "{:.2f}"),
    Measure("start_cpu_seconds",   "start → first right answer, CPU",   "start CPU s", "{:.2f}"),
    Measure("private_mb",          "private memory",                    "private MB",  "{:.0f}"),
    Measure("uss_mb",              "worker's USS",                      "USS MB",      "{:.0f}"),
    Measure("pss_mb",              "worker's PSS",                      "PSS MB",      "{:.0f}"),
    Measure("rss_mb",              "worker's resident memory",          "RSS MB",      "{:.0f}"),
    Measure("p50_ms",              "median latency, one connection",    "p50 ms",      "{:.2f}"),
    Measure("p99_ms",              "p99 latency, one connection",       "p99 ms",      "{:.2f}"),
    Measure("requests_per_second", "requests/s on one core",            "req/s",       "{:.0f}", more_is_better=True),
    Measure("requests_per_cpu_second", "requests a CPU second",         "req/CPU s",   "{:.0f}", more_is_better=True),
)
# fmt: on
TITLES = {measure.key: measure.title for measure in MEASURES}

NOTES = (
    "In brackets: the ratio to the naive function, 1/4.0 for a quarter.",
    "start: from the start of the process to the first answer that is right (compared with what TensorFlow's Python "
    "API answers), over HTTP; the floor's over a pipe. CPU: user and system time of the process tree until then.",
    "private MB: anonymous pages of the whole process tree after the requests on one connection, which is what one "
    "more instance costs. The worker's own USS says less: gunicorn forks it from a parent that has imported "
    "everything, what they share counts for neither, and the library's file pages count or not depending on who else "
    "maps them.",
    "p50, p99: one keep-alive connection, a request after the other.",
    "req/s: 16 connections, the server on one core from its start, the load on another. req/CPU s: the same, divided "
    "by what the server used of its core, which suffers less when others use that core too.",
)

Samples = dict[str, dict[str, dict[str, list[float]]]]  # model → subject → measure → one value a repetition


@dataclass(frozen=True)
class Results:
    about: dict[str, str]
    samples: Samples
    failures: dict[str, dict[str, str]]  # model → subject → why

    def medians(self, model: str) -> Medians:
        return {
            subject: {measure: median(values) for measure, values in measures.items()}
            for subject, measures in self.samples.get(model, {}).items()
        }


Rows = list[list[str]]


def fraction(value: float) -> str:
    """Write a ratio so that it can be read: 1/4.0, 0.75, 9.1."""
    return f"1/{1 / value:.1f}" if 0 < value < 0.5 else f"{value:.2f}"


def limit(value: float) -> str:
    return f"{value:g} x" if value >= 1 else f"{value:g} of" if value >= 0.5 else f"1/{1 / value:g} of"


def figures(results: Results, model: str) -> Rows:
    """Give one row a subject, the headings first."""
    medians = results.medians(model)
    rows = [["", *(measure.heading for measure in MEASURES)]]
    for subject in SUBJECTS:
        if subject.name in medians:
            rows.append([subject.name, *(cell(medians, subject.name, measure) for measure in MEASURES)])
    return rows


def cell(medians: Medians, subject: str, measure: Measure) -> str:
    value = medians[subject].get(measure.key)
    if value is None:
        return "-"
    against = ratio(medians, subject, measure.key, REFERENCE)
    compared = f" ({fraction(against)})" if against and subject != REFERENCE else ""
    return measure.form.format(value) + compared


def budget_rows(judged: Iterable[Verdict]) -> Rows:
    rows = [["budget", "promised", "measured", "verdict"]]
    for verdict in judged:
        budget = verdict.budget
        sign = "≥" if budget.holds is ge else "≤"
        measured = "-" if verdict.ratio is None else fraction(verdict.ratio)
        promised = f"{sign} {limit(budget.limit)} {budget.of}"
        rows.append([f"{budget.subject}: {TITLES[budget.measure]}", promised, measured, verdict.word])
    return rows


def remarks(results: Results, model: str) -> list[str]:
    """Say what a reader must know before believing the figures."""
    said = [f"{subject}: {why}" for subject, why in results.failures.get(model, {}).items()]
    for subject, measures in results.medians(model).items():
        busy, idle = measures.get("busy_share", 1), measures.get("idle_share", 0)
        others = 1 - busy - idle
        if idle > MARGIN:
            said.append(
                f"{subject}: its core was idle for {idle:.0%} of the load, so it can do more than its req/s say"
            )
        if others > MARGIN:
            said.append(f"{subject}: others had {others:.0%} of its core, so its req/s are too low (req/CPU s less so)")
    return said


def terminal(results: Results) -> str:
    parts = [f"{name}: {value}" for name, value in results.about.items()]
    for model in results.samples:
        parts += ["", PLANS[model].title, *aligned(figures(results, model)), *remarks(results, model)]
    parts += ["", f"Budgets ({PLANS[MODEL].title})", *aligned(budget_rows(verdicts(results.medians(MODEL)))), ""]
    parts += [fill(note, 118, subsequent_indent="    ") for note in NOTES]
    return "\n".join(parts)


def markdown(results: Results, picture: str) -> str:
    parts = ["# Results", "", "Written by `make bench`; ratios hold from machine to machine, seconds do not.", ""]
    parts += [f"- {name}: {value}" for name, value in results.about.items()]
    parts += ["", "## Subjects", "", *(f"- **{subject.name}**: {subject.title}" for subject in SUBJECTS)]
    parts += ["", f"## Budgets: {PLANS[MODEL].title}", "", *piped(budget_rows(verdicts(results.medians(MODEL))))]
    for model in results.samples:
        parts += ["", f"## {PLANS[model].title}", "", *piped(figures(results, model))]
        if said := remarks(results, model):
            parts += ["", *(f"- {remark}" for remark in said)]
    parts += ["", f"![The same as bars]({picture})", "", "## How to read it", "", *(f"- {note}" for note in NOTES)]
    return "\n".join(parts) + "\n"


def aligned(rows: Rows) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def piped(rows: Rows) -> list[str]:
    heading, *rest = ["| " + " | ".join(row) + " |" for row in rows]
    return [heading, "| " + " | ".join("---" for _ in rows[0]) + " |", *rest]
