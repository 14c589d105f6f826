"""The figures of `python -m bench` as the tables of docs/benchmarks/results.md."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from operator import ge
from statistics import median

from bench.budgets import Medians, Verdict, verdicts
from bench.models import BATCH, PLANS
from bench.page import Part, fraction
from bench.subjects import SUBJECTS

REFERENCE = "naive"
MARGIN = 0.1  # of a core


@dataclass(frozen=True)
class Measure:
    key: str
    title: str
    heading: str
    form: str


def of_load(connections: int) -> tuple[Measure, ...]:
    at = f"{connections} connection{'s' if connections > 1 else ''}"
    rate = Measure(f"requests_per_second@{connections}", f"requests/s on one core, {at}", f"req/s, {at}", "{:.0f}")
    if connections == 1:
        return (rate,)
    return (
        rate,
        Measure(f"load_p99_ms@{connections}", f"p99 latency, {at}", f"p99 ms, {at}", "{:.2f}"),
        Measure(f"cpu_us@{connections}", f"CPU of a request, {at}", f"CPU µs a request, {at}", "{:.0f}"),
    )


def measures(connections: Iterable[int]) -> tuple[Measure, ...]:
    """Return the columns of a table, in order."""
    return (
        Measure("start_seconds", "start → first right answer", "start s", "{:.3f}"),
        Measure("start_cpu_seconds", "start → first right answer, CPU", "start CPU s", "{:.3f}"),
        Measure("private_mb", "private memory", "private MB", "{:.0f}"),
        Measure("p50_ms", "median latency, 1 connection", "p50 ms", "{:.2f}"),
        Measure("p99_ms", "p99 latency, 1 connection", "p99 ms", "{:.2f}"),
        *(measure for count in connections for measure in of_load(count)),
        Measure("rows_per_second", f"rows/s on one core, {BATCH} a request", f"rows/s, {BATCH} a request", "{:.0f}"),
    )


NOTES = (
    "In brackets: the ratio to the naive function, 1/4.0 for a quarter. Ratios hold from machine to machine, seconds do not.",
    "Each subject runs in an environment of its own, made from its requirements alone (bench/environments.py), with "
    "bytecode compiled. Ours from source is a folder of exactly the files that a deploy uploads.",
    "start s: from the start of the process to the first answer over HTTP that is right, compared with what TensorFlow's "
    "Python API answers; files are in the page cache. The floor's answer comes over a pipe.",
    "start CPU s: user and system time of the process tree until then.",
    "private MB: anonymous pages of the whole process tree after the requests on one connection: what one more instance costs.",
    "p50, p99 ms: one keep-alive connection, a request after the other, all cores.",
    "req/s: keep-alive connections, each with a request at a time; the server on one core from its start, the load on another.",
    f"rows/s: {BATCH} rows of JSON a request, 16 connections, one core.",
)


@dataclass(frozen=True)
class Results:
    samples: dict[str, dict[str, dict[str, list[float]]]] = field(
        default_factory=dict
    )  # model → subject → key → values
    failures: dict[str, dict[str, str]] = field(default_factory=dict)  # model → subject → reason

    def add(self, model: str, subject: str, measured: dict[str, float]) -> None:
        values = self.samples.setdefault(model, {}).setdefault(subject, {})
        for key, value in measured.items():
            values.setdefault(key, []).append(value)

    def fail(self, model: str, subject: str, reason: str) -> None:
        self.failures.setdefault(model, {})[subject] = reason

    def medians(self) -> dict[str, dict[str, dict[str, float]]]:
        return {
            model: {
                subject: {key: median(values) for key, values in measured.items()}
                for subject, measured in subjects.items()
            }
            for model, subjects in self.samples.items()
        }


def parts(results: Results, connections: Iterable[int]) -> Iterator[Part]:
    """Give the page: subjects, budgets, a table for each model with its remarks, where the time goes, how to read it."""
    connections, medians = tuple(connections), results.medians()
    yield "\n".join(f"- **{subject.name}**: {subject.title}" for subject in SUBJECTS)
    yield "## Budgets"
    titles = {measure.key: measure.title for measure in measures(connections)}
    yield list(budget_rows(verdicts(medians), titles))
    for model in dict.fromkeys([*medians, *results.failures]):
        yield f"## {PLANS[model].title}"
        if model in medians:
            yield list(figures(medians[model], measures(connections)))
            yield from (list(steps(medians[model], kind)) for kind in ("start", "request"))
        yield "\n".join(f"- {remark}" for remark in remarks(results, model))
    yield "## How to read it"
    yield "\n".join(f"- {note}" for note in NOTES)


def figures(medians: Medians, columns: tuple[Measure, ...]) -> Iterator[list[str]]:
    """Give one row a subject, the headings first; a column that no subject has is left out."""
    columns = tuple(measure for measure in columns if any(measure.key in of for of in medians.values()))
    yield ["", *(measure.heading for measure in columns)]
    for subject in SUBJECTS:
        if subject.name in medians:
            yield [subject.name, *(cell(medians, subject.name, measure) for measure in columns)]


def cell(medians: Medians, subject: str, measure: Measure) -> str:
    value, reference = (medians.get(name, {}).get(measure.key) for name in (subject, REFERENCE))
    if value is None:
        return "-"
    compared = f" ({fraction(value / reference)})" if reference and subject != REFERENCE else ""
    return measure.form.format(value) + compared


def steps(medians: Medians, kind: str) -> Iterator[list[str]]:
    """Give the milliseconds of each step of a start or a request, of the subjects that report them (Server-Timing)."""
    prefix = f"{kind}: "
    reported = {
        name: {key: value for key, value in values.items() if key.startswith(prefix)}
        for name, values in medians.items()
    }
    names = list(dict.fromkeys(key for values in reported.values() for key in values))
    yield [f"ms of a {kind}", *(name.removeprefix(prefix) for name in names)]
    for subject, values in reported.items():
        if values:
            yield [subject, *(f"{values[name]:.3g}" if name in values else "-" for name in names)]


def budget_rows(judged: Iterable[Verdict], titles: dict[str, str]) -> Iterator[list[str]]:
    yield ["model", "budget", "promised", "measured", "verdict"]
    for verdict in judged:
        budget = verdict.budget
        sign = "≥" if budget.holds is ge else "≤"
        limit = f"1/{1 / budget.limit:g}" if budget.limit < 0.5 else f"{budget.limit:g} ×"
        other = f"{budget.of}'s with {budget.of_model}" if budget.of_model else budget.of
        measured = "-" if verdict.ratio is None else fraction(verdict.ratio)
        title = titles.get(budget.measure, budget.measure)
        yield [budget.model, f"{budget.subject}: {title}", f"{sign} {limit} {other}", measured, verdict.word]


def remarks(results: Results, model: str) -> Iterator[str]:
    """Say what limits the figures: subjects that failed, cores that were idle or shared with other processes."""
    yield from (f"{subject}: {reason}" for subject, reason in results.failures.get(model, {}).items())
    for subject, measured in results.medians().get(model, {}).items():
        busy, idle = measured.get("busy_share@16", 1), measured.get("idle_share@16", 0)
        if idle > MARGIN:
            yield f"{subject}: its core was idle for {idle:.0%} of the load of 16 connections: it can do more than its req/s"
        if 1 - busy - idle > MARGIN:
            yield f"{subject}: other processes used {1 - busy - idle:.0%} of its core: its req/s are too low"
